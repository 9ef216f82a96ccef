package caddymodule

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
)

// signals are those that programs take as a request of some kind.
var signals = map[string]syscall.Signal{
	"HUP": syscall.SIGHUP, "INT": syscall.SIGINT, "QUIT": syscall.SIGQUIT, "TERM": syscall.SIGTERM,
	"USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2, "WINCH": syscall.SIGWINCH,
}

func signalNames() string { return strings.Join(slices.Sorted(maps.Keys(signals)), ", ") }

// signal sends number to the process that pidFile names at that time.
func signal(number syscall.Signal, pidFile string) reaction {
	return func(context.Context, []string) error {
		pid, err := readPID(pidFile)
		if err != nil {
			return err
		}
		process, err := os.FindProcess(pid)
		if err != nil {
			return fmt.Errorf("finding process %d: %w", pid, err)
		}
		defer func() { _ = process.Release() }()
		err = process.Signal(number)
		if errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("there is no process %d: %s is stale, or its program is just starting", pid, pidFile)
		}
		if err != nil {
			return fmt.Errorf("sending a signal to process %d: %w", pid, err)
		}
		return nil
	}
}

// readPID returns the process id in the first line of path. Ids below 2 are
// refused, for they are init and whole groups, and so is our own.
func readPID(path string) (int, error) {
	content, err := readFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, fmt.Errorf("the pid file %s does not exist: its program does not run", path)
	}
	if err != nil {
		return 0, fmt.Errorf("reading the pid file: %w", err)
	}
	line, _, _ := strings.Cut(string(content), "\n")
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return 0, fmt.Errorf("the pid file %s has no number in its first line, but %q", path, request.Shorten(line))
	}
	if pid <= 1 || pid == os.Getpid() {
		return 0, fmt.Errorf("the pid file %s has %d, which gets no signal from here", path, pid)
	}
	return pid, nil
}

// command runs argv. It ends when argv's own process does; that may leave
// others behind.
func command(dir string, argv []string) reaction {
	// hangOn is for output of what the command left behind, and for the
	// kernel to end what was killed.
	const hangOn = time.Second
	return func(ctx context.Context, files []string) error {
		var output tail
		cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
		cmd.Env = append(os.Environ(), "SANDBOX_STATE_DIR="+dir, "SANDBOX_FILE="+strings.Join(files, " "))
		cmd.Stdout, cmd.Stderr = &output, &output
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
		cmd.WaitDelay = hangOn
		err := cmd.Run()
		switch {
		case err == nil, errors.Is(err, exec.ErrWaitDelay):
			return nil
		case ctx.Err() != nil:
			err = errors.New("it took too long and was killed")
		}
		if said := bytes.TrimSpace(output.end); len(said) > 0 {
			return fmt.Errorf("running the command: %w; its last output: %s", err, said)
		}
		return fmt.Errorf("running the command: %w", err)
	}
}

// tail keeps the end of what is written to it.
type tail struct{ end []byte }

func (t *tail) Write(p []byte) (int, error) {
	const enough = 1 << 10
	t.end = append(t.end, p...)
	t.end = t.end[max(0, len(t.end)-enough):]
	return len(p), nil
}

// hookClient takes an answer for what it is, and follows no redirect.
var hookClient = &http.Client{
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}

// post sends the names of the changed files to target.
func post(target string) reaction {
	return func(ctx context.Context, files []string) error {
		body, err := json.Marshal(map[string][]string{"files": files})
		if err != nil {
			return err
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
		if err != nil {
			return errors.New("making the request: the URL is malformed")
		}
		req.Header.Set("Content-Type", "application/json")
		req.Close = true // the next one may be hours away
		res, err := hookClient.Do(req)
		if err != nil {
			if failed, ok := errors.AsType[*url.Error](err); ok {
				err = failed.Err // without the URL, which may have a secret in it
			}
			return fmt.Errorf("sending the request: %w", err)
		}
		res.Body.Close()
		if res.StatusCode < 200 || res.StatusCode > 299 {
			return fmt.Errorf("the answer is %s, not 2xx", res.Status)
		}
		return nil
	}
}
