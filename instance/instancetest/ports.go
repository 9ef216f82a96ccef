package instancetest

import (
	"math/rand/v2"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/test/testports"
)

// Test ports lie below the kernel's range of ephemeral ports, which begins at
// 32768: a port in that range is taken now and then by an outgoing connection.
const (
	firstTestPort = 20000
	lastTestPort  = 32767
)

// FreePort returns a port of 127.0.0.1 that nobody listens on and that no
// other running test was given.
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)
}

// FreePorts returns the first of n consecutive ports, each as of [FreePort].
func FreePorts(t testing.TB, n int) (first int) {
	t.Helper()
	for range 1000 {
		first := firstTestPort + rand.IntN(lastTestPort-firstTestPort-n+2)
		if testports.Take(first, n) {
			t.Cleanup(func() { testports.GiveBack(first, n) })
			return first
		}
	}
	t.Fatalf("no %d consecutive free ports found from %d to %d", n, firstTestPort, lastTestPort)
	return 0
}
