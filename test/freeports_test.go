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
//
// Single ports come from above the ranges, which they would leave no room for.
const lowestPort, lowestSingle, highestPort = 10_000, 27_000, 32_000

var handedOut struct {
	sync.Mutex
	ports  map[int]bool
	ranges int // where the next range is looked for, from lowestPort on
}

// freePort returns a port that nobody uses and that no test gets again.
func freePort() int { return freeRange(1).first }

// freeRange returns n such ports in a row.
func freeRange(n int) portRange {
	handedOut.Lock()
	defer handedOut.Unlock()
	if handedOut.ports == nil {
		handedOut.ports, handedOut.ranges = map[int]bool{}, rand.IntN(1000)
	}
	from, to := lowestPort, lowestSingle
	start := handedOut.ranges // one behind the other, so that long ones find room, too
	if n == 1 {
		from, to = lowestSingle, highestPort
		start = rand.IntN(to - from) // anywhere, since other runs look for ports as well
	}
	for i := range to - from {
		first := from + (start+i)%(to-from)
		if !allFree(first, n) {
			continue
		}
		for port := first; port < first+n; port++ {
			handedOut.ports[port] = true
		}
		if n > 1 {
			handedOut.ranges = first + n - from
		}
		return portRange{first, first + n - 1}
	}
	panic(fmt.Sprintf("there are no %d free ports in a row between %d and %d", n, from, to))
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
