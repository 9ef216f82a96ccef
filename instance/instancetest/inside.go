package instancetest

import (
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// inside is the network of one run of a container.
type inside struct {
	address netip.Addr // its own; invalid: it has none
	port    *published

	mu        sync.Mutex // guards the following
	listeners []instance.Listener
	open      []net.Listener // of the further ports
}

func randomAddress() netip.Addr {
	octet := func() byte { return byte(1 + rand.IntN(254)) }
	return netip.AddrFrom4([4]byte{127, octet(), octet(), octet()})
}

// listen opens the port that is published.
func (n *inside) listen(port int) (net.Listener, error) {
	if n.address.IsValid() {
		listener, err := net.Listen("tcp", netip.AddrPortFrom(n.address, uint16(port)).String())
		if err != nil {
			return nil, err
		}
		if err := n.port.lead(listener); err != nil {
			return nil, err
		}
	}
	n.note(instance.Listener{Port: port}, nil)
	return n.port.listenInside()
}

// listenOn opens one more port. One on 127.0.0.1, or of a container without an
// address, is reached by nobody.
func (n *inside) listenOn(address string) (net.Listener, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	loopback := host == "127.0.0.1"
	bound := "127.0.0.1:0"
	if !loopback && n.address.IsValid() {
		bound = netip.AddrPortFrom(n.address, uint16(port)).String()
	}
	listener, err := net.Listen("tcp", bound)
	if err == nil {
		n.note(instance.Listener{Port: port, Loopback: loopback}, listener)
	}
	return listener, err
}

func (n *inside) note(l instance.Listener, open net.Listener) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.listeners = append(n.listeners, l)
	if open != nil {
		n.open = append(n.open, open)
	}
}

// listening tells what was opened, by port.
func (n *inside) listening() []instance.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := slices.Clone(n.listeners)
	slices.SortFunc(all, func(a, b instance.Listener) int { return a.Port - b.Port })
	return all
}

func (n *inside) close() {
	_ = n.port.Close()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, listener := range n.open {
		_ = listener.Close()
	}
}
