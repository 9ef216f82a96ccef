package dockerops

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/build"
	"github.com/docker/docker/api/types/container"
	dockerimage "github.com/docker/docker/api/types/image"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// hand acts on the engine past any Client.
type hand struct{ *client.Client }

// needDocker returns a hand on the engine that tests run on: that of
// DOCKER_HOST, else the default one. Without it the test fails; -short skips
// it.
func needDocker(t *testing.T) hand {
	t.Helper()
	if testing.Short() {
		t.Skip("needs a Docker Engine; left out by -short")
	}
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = engine.Close() })
	if _, err := engine.Ping(t.Context()); err != nil {
		t.Fatalf("this test needs a Docker Engine (go test -short leaves it out): %v", err)
	}
	return hand{engine}
}

// newOwner is a random uuid.
func newOwner() string {
	var b [16]byte
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}

// newClient returns a client of an owner of its own on the engine of h. What
// that owner has there is removed when the test ends.
func newClient(t *testing.T, h hand) *Client {
	t.Helper()
	c := clientOf(t, newOwner())
	t.Cleanup(func() { h.removeAllOf(t, c) })
	return c
}

func clientOf(t *testing.T, owner string) *Client {
	t.Helper()
	c, err := New(Options{Owner: owner})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (h hand) removeAllOf(t *testing.T, c *Client) {
	ctx := context.Background() // t's has ended
	eventually(t, "its containers are gone", func() bool {
		left, err := h.ContainerList(ctx, container.ListOptions{All: true, Filters: c.ownContainers()})
		must(t, err)
		for _, each := range left {
			h.remove(t, each.ID)
		}
		return len(left) == 0
	})
	if err := h.NetworkRemove(ctx, c.networkName()); err != nil && !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

// remove returns when the container is gone, also where somebody else is
// removing it.
func (h hand) remove(t *testing.T, ref string) {
	t.Helper()
	eventually(t, "container "+ref+" is removed", func() bool {
		err := h.ContainerRemove(context.Background(), ref, container.RemoveOptions{Force: true, RemoveVolumes: true})
		if err != nil && !errdefs.IsNotFound(err) && !errdefs.IsConflict(err) {
			t.Error(err)
		}
		return !errdefs.IsConflict(err)
	})
}

func (h hand) removeImage(t *testing.T, name string) {
	t.Helper()
	if _, err := h.ImageRemove(context.Background(), name, dockerimage.RemoveOptions{Force: true, PruneChildren: true}); err != nil && !errdefs.IsNotFound(err) {
		t.Error(err)
	}
}

func (h hand) stop(t *testing.T, ref string) {
	t.Helper()
	if err := h.ContainerStop(t.Context(), ref, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
}

func (h hand) inspect(t *testing.T, ref string) container.InspectResponse {
	t.Helper()
	found, err := h.ContainerInspect(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// testSpec is a container of the test server that listens on a free host port.
func testSpec(t *testing.T) instance.Spec {
	t.Helper()
	prefix := strings.ToLower(rand.Text()[:16])
	return instance.Spec{
		Prefix: prefix, Port: instancetest.FreePort(t), Template: "test", Generation: 1,
		Image: testImage(t), Pull: instance.PullNever, ContainerPort: 5174,
		Env:    map[string]string{"PORT": "5174", "SANDBOX_PREFIX": prefix},
		Memory: 64 << 20, CPUs: 1, Pids: 64,
	}
}

// testImage is the name of an image of program testserver alone, from scratch,
// so that no registry is needed. It is built once and kept: its name says what
// is in it.
func testImage(t *testing.T) string {
	t.Helper()
	name, err := builtImage()
	if err != nil {
		t.Fatal(err)
	}
	return name
}

var builtImage = sync.OnceValues(func() (name string, err error) {
	dir, err := os.MkdirTemp("", "testserver")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary := filepath.Join(dir, "testserver")
	compile := exec.Command("go", "build", "-trimpath", "-o", binary, "../test/testserver")
	compile.Env = append(os.Environ(), "CGO_ENABLED=0")
	if output, err := compile.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building the test server: %w\n%s", err, output)
	}
	program, err := os.ReadFile(binary)
	if err != nil {
		return "", err
	}
	name = fmt.Sprintf("caddy-sandbox/test-server:%x", sha256.Sum256(program))[:len("caddy-sandbox/test-server:")+12]
	return name, buildImage(name, map[string][]byte{
		"Dockerfile": []byte("FROM scratch\nCOPY testserver /testserver\nENTRYPOINT [\"/testserver\"]\n"),
		"testserver": program,
	})
})

func buildImage(name string, files map[string][]byte) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	engine, err := client.NewClientWithOpts(client.FromEnv, client.WithAPIVersionNegotiation())
	if err != nil {
		return err
	}
	defer func() { _ = engine.Close() }()
	if _, err := engine.ImageInspect(ctx, name); err == nil {
		return nil
	}
	archive, err := tarOf(files)
	if err != nil {
		return err
	}
	answer, err := engine.ImageBuild(ctx, archive, build.ImageBuildOptions{Tags: []string{name}, Remove: true, ForceRemove: true})
	if err != nil {
		return err
	}
	defer func() { _ = answer.Body.Close() }()
	for messages := json.NewDecoder(answer.Body); ; {
		var message struct{ Error string }
		if err := messages.Decode(&message); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if message.Error != "" {
			return fmt.Errorf("building image %s: %s", name, message.Error)
		}
	}
}

func tarOf(files map[string][]byte) (io.Reader, error) {
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for name, content := range files {
		if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(content); err != nil {
			return nil, err
		}
	}
	return &archive, w.Close()
}

// eventually waits for check to hold. It counts its looks, not the time: the
// machine may stand still.
func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	const looks = 2000
	for range looks {
		if check() {
			return
		}
		time.Sleep(10 * time.Millisecond) // between two looks at the condition
	}
	t.Fatalf("not within %d looks: %s", looks, what)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// wantKind ends the test unless err is one of kind.
func wantKind(t *testing.T, err error, kind instance.Kind) {
	t.Helper()
	_ = wantError(t, err, kind)
}

// wantError does the same and returns err for a closer look.
func wantError(t *testing.T, err error, kind instance.Kind) *instance.Error {
	t.Helper()
	known, ok := errors.AsType[*instance.Error](err)
	if !ok || known.Kind != kind {
		t.Fatalf("error %v, want one of kind %q", err, kind)
	}
	return known
}
