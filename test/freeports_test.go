package test

import (
	"fmt"
	"math/rand/v2"
	"sync"

	"github.com/aie-sandbox/caddy-sandbox/test/testports"
)

// portRange is a range of ports, both ends included.
type portRange struct{ first, last int }

func (r portRange) String() string { return fmt.Sprintf("%d-%d", r.first, r.last) }

// Ports are taken below 32768, where the kernel picks none for outgoing
// connections, and never given back: two Caddys on one port do not fail but share
// the requests.
//
// Single ports come from above the ranges, which they would leave no room for.
const lowestPort, lowestSingle, highestPort = 10_000, 27_000, 32_000

// ranges is where the next range is looked for, from lowestPort on.
var ranges = struct {
	sync.Mutex
	next int
}{next: rand.IntN(1000)}

// freePort returns a port that nobody uses and that no test gets again.
func freePort() int { return freeRange(1).first }

// freeRange returns n such ports in a row.
func freeRange(n int) portRange {
	ranges.Lock()
	defer ranges.Unlock()
	from, to := lowestPort, lowestSingle
	start := ranges.next // one behind the other, so that long ones find room, too
	if n == 1 {
		from, to = lowestSingle, highestPort
		start = rand.IntN(to - from) // anywhere, since other runs look for ports as well
	}
	for i := range to - from {
		first := from + (start+i)%(to-from)
		if !testports.Take(first, n) {
			continue
		}
		if n > 1 {
			ranges.next = first + n - from
		}
		return portRange{first, first + n - 1}
	}
	panic(fmt.Sprintf("there are no %d free ports in a row between %d and %d", n, from, to))
}

func bindable(port int) bool { return testports.Bindable(port) }
