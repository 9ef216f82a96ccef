package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	ossignal "os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// lines waits until the file at path has n lines or more, and returns them.
func lines(t *testing.T, path string, n int) []string {
	t.Helper()
	var got []string
	eventually(t, func() error {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if got = strings.Split(strings.TrimSuffix(string(content), "\n"), "\n"); len(got) < n || !bytes.HasSuffix(content, []byte("\n")) {
			return fmt.Errorf("%s has %q, want %d lines", path, content, n)
		}
		return nil
	})
	return got
}

// The way of the system before this one: the proxy reads its routes again on
// SIGHUP.
func TestReloadHookSignalsTheProcessOfAPIDFile(t *testing.T) {
	s := newServer(t)
	// Under nohup, a shell could not trap it: what is ignored here is so in children.
	heard := make(chan os.Signal, 1)
	ossignal.Notify(heard, syscall.SIGHUP)
	t.Cleanup(func() { ossignal.Stop(heard) })
	proxy := exec.Command("sh", "-c", `cd "$0"; trap 'cat state/config/subdomain-proxy.json >>seen' HUP
		echo $$ >proxy.pid; while :; do sleep 0.05; done`, s.dir)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = proxy.Process.Kill(), proxy.Wait() })
	lines(t, filepath.Join(s.dir, "proxy.pid"), 1)
	if err := s.load(t, config{sandbox: "reload_hook {\n signal HUP {dir}/proxy.pid\n files config/subdomain-proxy.json\n }"}); err != nil {
		t.Fatal(err)
	}
	s.create(t, "keepsake")
	eventually(t, func() error {
		seen, err := os.ReadFile(filepath.Join(s.dir, "seen"))
		if err == nil && !bytes.Contains(seen, []byte(`"keepsake":{"target":"http://127.0.0.1:`)) {
			err = fmt.Errorf("the proxy has seen %s", seen)
		}
		return err
	})
}

func TestReloadHookRunsACommand(t *testing.T) {
	s := startServer(t, config{sandbox: `reload_hook {
		command sh -c "echo \"$SANDBOX_STATE_DIR $SANDBOX_FILE\" >>\"$0\"" {dir}/out
		files config/subdomain-proxy.json
	}`})
	s.create(t, "keepsake")
	if got, want := lines(t, filepath.Join(s.dir, "out"), 1)[0], s.state()+" config/subdomain-proxy.json"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestReloadHookPostsAndTriesAgain(t *testing.T) {
	var mu sync.Mutex
	var bodies []string
	hooked := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		if bodies = append(bodies, string(body)); len(bodies) == 1 {
			w.WriteHeader(http.StatusBadGateway)
		}
	}))
	defer hooked.Close()
	s := startServer(t, config{sandbox: "reload_hook {\n post " + hooked.URL + "\n files config/subdomain-proxy.json\n debounce 500ms\n }"})
	s.create(t, "keepsake")
	eventually(t, func() error {
		if log := s.log(t); !strings.Contains(log, "reload hook ran") {
			return errors.New("it has not run")
		}
		return nil
	})
	mu.Lock()
	defer mu.Unlock()
	want := `{"files":["config/subdomain-proxy.json"]}`
	if len(bodies) < 2 || bodies[0] != want || bodies[1] != want {
		t.Errorf("got %q", bodies)
	}
	if log := s.log(t); !strings.Contains(log, "502 Bad Gateway, not 2xx") {
		t.Error("the log does not tell of the failure")
	}
}

func TestReloadHookDelaysNoCallOfTheAPI(t *testing.T) {
	s := startServer(t, config{sandbox: `reload_hook {
		command sh -c "cd \"$0\"; echo started >>started; until [ -e release ]; do sleep 0.05; done; echo finished >>finished" {dir}
		debounce 1ms
		timeout 1m
	}`})
	release := func() { _ = os.WriteFile(filepath.Join(s.dir, "release"), nil, 0o600) }
	t.Cleanup(release)
	s.create(t, "firstone")
	lines(t, filepath.Join(s.dir, "started"), 1)
	s.create(t, "secondone")
	s.call(t, http.MethodDelete, "/api/instances/firstone", "").expect(t, http.StatusOK, 0)
	if _, err := os.Stat(filepath.Join(s.dir, "finished")); err == nil {
		t.Fatal("the command has finished, so this shows nothing")
	}
	if got := lines(t, filepath.Join(s.dir, "started"), 1); len(got) != 1 {
		t.Errorf("%d runs at once", len(got))
	}
	release()
	lines(t, filepath.Join(s.dir, "finished"), 2) // one more for the changes meanwhile
}

func TestFailingReloadHookFailsNoCallOfTheAPI(t *testing.T) {
	s := startServer(t, config{sandbox: "reload_hook {\n signal HUP {dir}/missing.pid\n }"})
	s.create(t, "keepsake")
	eventually(t, func() error {
		if log := s.log(t); !strings.Contains(log, "missing.pid does not exist") {
			return errors.New("the log does not tell of the failure")
		}
		return nil
	})
	s.serves(t, "keepsake", defaultPrefixLength)
}

const patientHook = `reload_hook {
	command sh -c "echo \"$1\" >>\"$0\"" {dir}/out %s
	files config/subdomain-proxy.json
	debounce %s
}`

func TestReloadLeavesAnUnchangedHookToItsWork(t *testing.T) {
	const debounce = "5s" // the reloads take far less, even if the machine stands still
	s := startServer(t, config{sandbox: fmt.Sprintf(patientHook, "same", debounce)})
	s.create(t, "keepsake")
	for n := range 3 {
		if err := s.load(t, config{sandbox: fmt.Sprintf("prefix_length %d\n", 20+n) + fmt.Sprintf(patientHook, "same", debounce)}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(s.dir, "out")); err == nil {
		t.Error("the reload made it run early")
	}
	if got := lines(t, filepath.Join(s.dir, "out"), 1); len(got) != 1 {
		t.Errorf("%d runs, want 1", len(got))
	}
	s.create(t, "another1")              // the last configuration's hook is told
	if err := caddy.Stop(); err != nil { // which hurries it
		t.Fatal(err)
	}
	lines(t, filepath.Join(s.dir, "out"), 2)
}

func TestReloadDoesNotLoseThePendingRunOfAHookItTakesAway(t *testing.T) {
	s := startServer(t, config{sandbox: fmt.Sprintf(patientHook, "old", "1h")})
	s.create(t, "keepsake")
	if err := s.load(t, config{sandbox: fmt.Sprintf(patientHook, "new", "1ms")}); err != nil {
		t.Fatal(err)
	}
	if got := lines(t, filepath.Join(s.dir, "out"), 1); got[0] != "old" {
		t.Errorf("ran %q", got)
	}
	s.create(t, "another1")
	if got := lines(t, filepath.Join(s.dir, "out"), 2); got[len(got)-1] != "new" {
		t.Errorf("ran %q", got)
	}
}

func TestStoppingDoesNotLoseThePendingRun(t *testing.T) {
	s := startServer(t, config{sandbox: fmt.Sprintf(patientHook, "last", "1h")})
	s.create(t, "keepsake")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	lines(t, filepath.Join(s.dir, "out"), 1)
}

func TestFailedReloadKeepsTheHooks(t *testing.T) {
	s := startServer(t, config{sandbox: fmt.Sprintf(patientHook, "kept", "1ms")})
	for range 4 { // Caddy starts the apps in random order
		if err := caddy.Load(s.withBrittle(t, config{sandbox: fmt.Sprintf(patientHook, "never", "1ms")}, brittleApp{FailStart: true}), true); err == nil {
			t.Fatal("the reload was to fail")
		}
	}
	s.create(t, "keepsake")
	if got := lines(t, filepath.Join(s.dir, "out"), 1); got[0] != "kept" {
		t.Errorf("ran %q", got)
	}
}

func TestBadReloadHookFailsTheConfiguration(t *testing.T) {
	s := newServer(t)
	err := s.load(t, config{sandbox: "reload_hook {\n command true\n }\n reload_hook {\n signal KILL /run/x.pid\n }"})
	if err == nil || !strings.Contains(err.Error(), `reload_hook 2: signal: "KILL" is not one of`) {
		t.Errorf("got %v", err)
	}
}

// A deadline ends what hangs, and the next try begins.
func TestHangingReloadHookIsKilledAndTriedAgain(t *testing.T) {
	s := startServer(t, config{sandbox: `reload_hook {
		command sh -c "cd \"$0\"; echo $$ >>pids; [ -e second ] || { touch second; sleep 1000; }; echo done >>out" {dir}
		timeout 300ms
	}`})
	begin := time.Now()
	s.create(t, "keepsake")
	lines(t, filepath.Join(s.dir, "out"), 1)
	if took := time.Since(begin); took < time.Second {
		t.Errorf("it took %s, so nothing hung", took)
	}
	processEnds(t, filepath.Join(s.dir, "pids")) // the first
}
