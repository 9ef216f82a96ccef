package instancetest

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"testing"
)

// Test ports lie below the kernel's range of ephemeral ports, which begins at
// 32768: a port in that range is taken now and then by an outgoing connection.
const (
	firstTestPort = 20000
	lastTestPort  = 32767
)

// handedOut holds the ports given to tests of this process that still run, so
// that no two get the same one while neither listens yet.
var handedOut = struct {
	sync.Mutex
	ports map[int]bool
}{ports: map[int]bool{}}

// FreePort returns a port of 127.0.0.1 that nobody listens on and that no
// other running test of this process was given.
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)
}

// FreePorts returns the first of n consecutive ports, each as of [FreePort].
func FreePorts(t testing.TB, n int) (first int) {
	t.Helper()
	handedOut.Lock()
	defer handedOut.Unlock()
	for range 1000 {
		first := firstTestPort + rand.IntN(lastTestPort-firstTestPort-n+2)
		if !allFreeLocked(first, n) {
			continue
		}
		for port := first; port < first+n; port++ {
			handedOut.ports[port] = true
		}
		t.Cleanup(func() { takeBack(first, n) })
		return first
	}
	t.Fatalf("no %d consecutive free ports found from %d to %d", n, firstTestPort, lastTestPort)
	return 0
}

func takeBack(first, n int) {
	handedOut.Lock()
	defer handedOut.Unlock()
	for port := first; port < first+n; port++ {
		delete(handedOut.ports, port)
	}
}

func allFreeLocked(first, n int) bool {
	for port := first; port < first+n; port++ {
		if handedOut.ports[port] {
			return false
		}
		listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return false
		}
		_ = listener.Close()
	}
	return true
}
