package testports

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"testing"
)

// TestMain lets the test binary be another process that takes ports.
func TestMain(m *testing.M) {
	var first, n int
	if _, err := fmt.Sscan(os.Getenv("TAKE"), &first, &n); err == nil {
		fmt.Println(Take(first, n))
		_, _ = bufio.NewReader(os.Stdin).ReadByte() // until the test ends it
		return
	}
	os.Exit(m.Run())
}

// elsewhere takes ports in another process, which keeps them until the test ends
// it by the function returned.
func elsewhere(t *testing.T, first, n int) (taken bool, end func()) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("TAKE=%d %d", first, n), "GORACE=atexit_sleep_ms=0")
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fscan(out, &taken); err != nil {
		t.Fatal(err)
	}
	return taken, func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
}

// take takes n ports anywhere and returns the first.
func take(t *testing.T, n int) int {
	t.Helper()
	for first := 9000; first < 10000; first++ { // below those that other tests look at
		if Take(first, n) {
			t.Cleanup(func() { GiveBack(first, n) })
			return first
		}
	}
	t.Fatal("no free ports")
	return 0
}

func TestAPortIsTakenOnce(t *testing.T) {
	first := take(t, 3)
	if Take(first+2, 2) {
		t.Error("a port was taken twice")
	}
	taken, end := elsewhere(t, first+2, 1)
	end()
	if taken {
		t.Error("another process took it, too")
	}
	GiveBack(first, 3)
	taken, end = elsewhere(t, first, 3)
	if !taken {
		t.Error("another process did not get what was given back")
	}
	if Take(first+1, 1) {
		t.Error("took what another process has")
	}
	end()
	if !Take(first, 3) {
		t.Error("what an ended process had is not free")
	}
}

func TestAPortInUseIsNotTaken(t *testing.T) {
	first := take(t, 2)
	l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", first+1))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	GiveBack(first, 2)
	if Take(first, 2) {
		t.Error("took a port that somebody listens on")
	}
	l.Close()
	if !Take(first, 2) {
		t.Error("the refused Take kept its ports")
	}
}
