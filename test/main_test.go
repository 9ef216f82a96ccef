package test

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/client"
)

// What all tests share; TestMain makes it.
var (
	runDir      string         // of this run; readable by other users, for tests that need one
	caddyBinary string         // Caddy with this plugin
	engine      *client.Client // the Docker Engine, seen past the product
	serverImage string         // testserver in an image, made for this run
)

func TestMain(m *testing.M) {
	flag.Parse()
	if testing.Short() {
		fmt.Println("package test: end-to-end tests need Docker and minutes; -short skips them all")
		return
	}
	os.Exit(run(m))
}

// run is TestMain where deferred calls still happen.
func run(m *testing.M) int {
	tearDown, err := setUp()
	defer tearDown()
	if err != nil {
		fmt.Fprintln(os.Stderr, "package test: setting up:", err)
		return 1
	}
	return m.Run()
}

func setUp() (tearDown func(), err error) {
	var undo []func()
	tearDown = func() {
		stopSharedCaddy()
		for _, f := range undo {
			f()
		}
	}
	if runDir, err = os.MkdirTemp("", "caddy-sandbox-test-"); err != nil {
		return tearDown, err
	}
	undo = append(undo, func() { os.RemoveAll(runDir) })
	if err := os.Chmod(runDir, 0o755); err != nil {
		return tearDown, err
	}
	if engine, err = connectDocker(); err != nil {
		return tearDown, err
	}
	caddyBinary = filepath.Join(runDir, "caddy")
	if err := buildCaddy(caddyBinary); err != nil {
		return tearDown, err
	}
	serverImage = fmt.Sprintf("caddy-sandbox/testserver:run-%d", os.Getpid())
	if err := buildServerImage(serverImage); err != nil {
		return tearDown, err
	}
	undo = append(undo, func() { removeImage(serverImage) })
	return tearDown, nil
}

// soaking (SANDBOX_SOAK=1, make soak) has the tests of chance take ten times as
// many of them.
func soaking() bool { return os.Getenv("SANDBOX_SOAK") != "" }

// buildCaddy builds cmd/caddy with the race detector. Benchmarks go without:
// they compare speeds, and the detector is not what users run.
func buildCaddy(binary string) error {
	args := []string{"build", "-o", binary}
	if !benchmarking() {
		args = append(args, "-race")
	}
	cmd := exec.Command("go", append(args, "./cmd/caddy")...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	return nil
}

// plainCaddy is Caddy without the race detector, for tests that start it
// hundreds of times, or send it gigabytes. It has failpoints, which do nothing
// without SANDBOX_FAILPOINT.
func plainCaddy(t testing.TB) string {
	t.Helper()
	binary, err := buildPlain()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

var buildPlain = sync.OnceValues(func() (string, error) {
	binary := filepath.Join(runDir, "caddy-plain")
	cmd := exec.Command("go", "build", "-tags", "failpoints", "-o", binary, "./cmd/caddy")
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy without the race detector: %w\n%s", err, out)
	}
	return binary, nil
})

func benchmarking() bool {
	bench := flag.Lookup("test.bench")
	return bench != nil && bench.Value.String() != ""
}

func connectDocker() (*client.Client, error) {
	docker, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := docker.Ping(ctx); err != nil {
		return nil, fmt.Errorf("no Docker Engine answers at %s (make test starts one where it can): %w", docker.DaemonHost(), err)
	}
	return docker, nil
}
