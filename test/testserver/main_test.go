package main

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

// asServer makes the test binary run main instead of the tests, so that the
// program is tried as a process, with real signals.
const asServer = "TESTSERVER_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asServer) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestSIGTERMEndsIt(t *testing.T) {
	process, firstLine := startServer(t, "TEST_MODE=hello", "PORT=0")
	if !strings.Contains(firstLine, "listening on") {
		t.Errorf("first line %q does not say that it listens", firstLine)
	}
	sent := time.Now()
	if err := process.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	code := exitCode(t, process.Wait())
	// Docker kills what is still there after 5 s.
	if took := time.Since(sent); took > 3*time.Second {
		t.Errorf("ended after %v, want at most 3 s", took)
	}
	if code != devserver.Terminated {
		t.Errorf("exit code %d, want %d", code, devserver.Terminated)
	}
}

func TestModeExitEndsWithTheWantedCode(t *testing.T) {
	process, firstLine := startServer(t, "TEST_MODE=exit", "TEST_EXIT_CODE=42")
	if firstLine != devserver.ExitLines[0] {
		t.Errorf("first line %q, want %q", firstLine, devserver.ExitLines[0])
	}
	if code := exitCode(t, process.Wait()); code != 42 {
		t.Errorf("exit code %d, want 42", code)
	}
}

// startServer starts the program and waits for its first line of output.
func startServer(t *testing.T, env ...string) (process *exec.Cmd, firstLine string) {
	t.Helper()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = read.Close() })
	process = exec.Command(os.Args[0])
	process.Env = append(os.Environ(), append(env, asServer+"=1")...)
	process.Stdout, process.Stderr = write, write
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = process.Process.Kill() })
	_ = write.Close()
	line, err := bufio.NewReader(read).ReadString('\n')
	if err != nil {
		t.Fatalf("reading the first line: %v", err)
	}
	return process, strings.TrimSuffix(line, "\n")
}

func exitCode(t *testing.T, err error) int {
	t.Helper()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return exit.ExitCode()
	}
	if err != nil {
		t.Fatal(err)
	}
	return 0
}
