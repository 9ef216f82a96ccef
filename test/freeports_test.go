package test

import (
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
)

// portRange is a range of ports, both ends included.
type portRange struct{ first, last int }

func (r portRange) String() string { return fmt.Sprintf("%d-%d", r.first, r.last) }

// Ports are taken below 32768, where the kernel picks none for outgoing
// connections, and checked: two Caddys on one port do not fail but share the
// requests.
const lowestPort, highestPort = 10_000, 32_000

var handedOut struct {
	sync.Mutex
	ports map[int]bool
}

// freePort returns a port that nobody uses and that no test gets again.
func freePort() int { return freeRange(1).first }

// freeRange returns n such ports in a row.
func freeRange(n int) portRange {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports = map[int]bool{}
	}
	for {
		first := lowestPort + rand.IntN(highestPort-lowestPort-n)
		if !allFree(first, n) {
			continue
		}
		for port := first; port < first+n; port++ {
			handedOut.ports[port] = true
		}
		return portRange{first, first + n - 1}
	}
}

func allFree(first, n int) bool {
	for port := first; port < first+n; port++ {
		if handedOut.ports[port] || !bindable(port) {
			return false
		}
	}
	return true
}

func bindable(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}
