package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestSignalsThatCannotBeSent(t *testing.T) {
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for name, row := range map[string]struct{ content, want string }{
		"stale":      {fmt.Sprint(gone.Process.Pid), "is stale"},
		"no number":  {"nginx\n", `has no number in its first line, but "nginx"`},
		"empty":      {"", "has no number"},
		"an option":  {"-9\n", "has -9, which gets no signal"},
		"a group":    {"-1", "has -1, which gets no signal"},
		"everybody":  {"0", "has 0, which gets no signal"},
		"init":       {"1\n", "has 1, which gets no signal"},
		"ourselves":  {strconv.Itoa(os.Getpid()), "which gets no signal"},
		"two values": {"12 13\n", "has no number"},
		"very long":  {strings.Repeat("9", 100), "has no number"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, []byte(row.content), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := signal(syscall.SIGHUP, path)(t.Context(), nil); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
	if err := signal(syscall.SIGHUP, filepath.Join(dir, "missing"))(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "does not exist") {
		t.Errorf("missing: got %v", err)
	}
	if err := signal(syscall.SIGHUP, dir)(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "is not a file") {
		t.Errorf("a folder: got %v", err)
	}
}

func TestCommandGetsItsWordsAndItsContext(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	run := command("/the/state", []string{"sh", "-c", `printf '%s|' "$SANDBOX_STATE_DIR" "$SANDBOX_FILE" "$@" >"$0"`, out, "$(no shell)", "", "a b"})
	if err := run(t.Context(), []string{routesProjection, composeProjection}); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if want := "/the/state|config/subdomain-proxy.json docker-compose.yml|$(no shell)||a b|"; string(got) != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCommandsThatFail(t *testing.T) {
	for want, argv := range map[string][]string{
		"exit status 3; its last output: one\ntwo": {"sh", "-c", "echo one; echo two >&2; exit 3"},
		"exit status 4":             {"sh", "-c", "exit 4"},
		"executable file not found": {"there-is-no-such-command"},
		"its last output: " + strings.Repeat("y\n", 511) + "y": {"sh", "-c", "yes | head -c 100000; exit 1"},
	} {
		if err := command("/state", argv)(t.Context(), nil); err == nil || !strings.HasSuffix(err.Error(), want) && !strings.Contains(err.Error(), want+" in $PATH") {
			t.Errorf("%q: got %v, want %q", argv, err, want)
		}
	}
}

// processEnds waits until the process whose id is in path runs no more.
func processEnds(t *testing.T, path string) {
	t.Helper()
	pid, err := readPID(path)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))     // none: it is gone
		if len(stat) > 0 && !strings.Contains(string(stat), ") Z ") { // Z: nobody has asked how it ended
			return fmt.Errorf("process %d of %s still runs", pid, filepath.Base(path))
		}
		return nil
	})
}

func TestHangingCommandIsKilledWithItsChildren(t *testing.T) {
	dir := t.TempDir()
	ctx, timeIsUp := context.WithCancel(t.Context())
	defer timeIsUp()
	ended := make(chan error, 1)
	go func() {
		ended <- command(dir, []string{"sh", "-c", `cd "$0"; echo $$ >parent; trap "" TERM HUP; sleep 1000 & echo $! >child; echo hanging; : >hangs; wait`, dir})(ctx, nil)
	}()
	eventually(t, func() error {
		_, err := os.Stat(filepath.Join(dir, "hangs"))
		return err
	})
	timeIsUp()
	err := <-ended
	if err == nil || !strings.Contains(err.Error(), "took too long and was killed; its last output: hanging") {
		t.Fatalf("got %v", err)
	}
	processEnds(t, filepath.Join(dir, "parent"))
	processEnds(t, filepath.Join(dir, "child"))
}

func TestCommandMayLeaveAProcessBehind(t *testing.T) {
	dir := t.TempDir()
	if err := command(dir, []string{"sh", "-c", `cd "$0"; sleep 1000 & echo $! >left`, dir})(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	left, err := readPID(filepath.Join(dir, "left"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(left, syscall.SIGKILL); err != nil {
		t.Errorf("what it left behind does not run: %v", err)
	}
}

func TestPostTellsTheFiles(t *testing.T) {
	type request struct{ method, kind, body string }
	got := make(chan request, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- request{r.Method, r.Header.Get("Content-Type"), string(body)}
		w.WriteHeader(http.StatusNoContent)
	}))
	defer server.Close()
	if err := post(server.URL+"/reload")(t.Context(), []string{routesProjection}); err != nil {
		t.Fatal(err)
	}
	if r, want := <-got, (request{"POST", "application/json", `{"files":["config/subdomain-proxy.json"]}`}); r != want {
		t.Errorf("got %v, want %v", r, want)
	}
}

func TestPostsThatFail(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/moved":
			http.Redirect(w, r, "/fine", http.StatusFound)
		case "/broken":
			w.WriteHeader(http.StatusInternalServerError)
		case "/slow":
			_, _ = io.Copy(io.Discard, r.Body) // else the server does not see that the client leaves
			<-r.Context().Done()
		}
	}))
	defer server.Close()
	nobody := httptest.NewServer(nil)
	nobody.Close()
	for target, row := range map[string]struct {
		limit time.Duration
		want  string
	}{
		server.URL + "/moved":  {time.Minute, "302 Found, not 2xx"},
		server.URL + "/broken": {time.Minute, "500 Internal Server Error, not 2xx"},
		server.URL + "/slow":   {300 * time.Millisecond, "deadline exceeded"},
		nobody.URL + "/fine":   {time.Minute, "connection refused"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), row.limit)
		err := post(target+"?token=secret")(ctx, nil)
		cancel()
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: got %v, want %q", target, err, row.want)
		}
		if strings.Contains(fmt.Sprint(err), "secret") {
			t.Errorf("the error gives the URL away: %v", err)
		}
	}
}
