package instance

import (
	"context"
	"io"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

const (
	// crowd is how many of those who waited for an instance reach it at once. It
	// has just begun, and its queue is short: a Node server's holds 511.
	crowd = 64
	// turnPatience is how long one waits for its turn: those before it may be
	// answered late on purpose.
	turnPatience = 2 * time.Second
)

// Endpoint is one container's way in, from one start of it to its end. A
// connection belongs to the endpoint that it was dialled for and to no other:
// the next container may get the same address. Safe for concurrent use.
type Endpoint struct {
	ContainerID string
	Direct      netip.AddrPort // the container's own address; invalid where the host does not reach it
	Published   netip.AddrPort // 127.0.0.1 and the host port
	Port        int            // where the dev server listens inside the container

	key   string
	turns chan struct{} // has an element for each of the crowd
	mu    sync.Mutex
	ended bool
	conns map[io.Closer]struct{}
}

func newEndpoint(r *Record) *Endpoint {
	direct, _ := netip.ParseAddrPort(r.Address) // empty or invalid: not reachable
	return &Endpoint{
		ContainerID: r.ContainerID,
		Direct:      direct,
		Published:   published(r.Port),
		Port:        r.ContainerPort,
		key:         r.ContainerID + "." + strconv.FormatInt(startTime(r).UnixMilli(), 36),
		turns:       make(chan struct{}, crowd),
		conns:       map[io.Closer]struct{}{},
	}
}

// TakeTurn returns when a request that waited for the instance to start may go
// on to it. The returned func ends the turn; call it once there is an answer.
func (e *Endpoint) TakeTurn(ctx context.Context) (answered func()) {
	impatient := time.NewTimer(turnPatience)
	defer impatient.Stop()
	select {
	case e.turns <- struct{}{}:
		return func() { <-e.turns }
	case <-impatient.C:
	case <-ctx.Done():
	}
	return func() {}
}

// At is where the container itself is dialled for one of its ports, zero for
// the dev server's; invalid where the host does not reach it.
func (e *Endpoint) At(port int) netip.AddrPort {
	if port == 0 || !e.Direct.IsValid() {
		return e.Direct
	}
	return netip.AddrPortFrom(e.Direct.Addr(), uint16(port))
}

func published(port int) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
}

func startTime(r *Record) time.Time {
	if r.StartedAt == nil {
		return time.Time{}
	}
	return *r.StartedAt
}

// Key names the container and its start, and so this endpoint among all of
// all times. It has the form of a host name.
func (e *Endpoint) Key() string { return e.key }

// Track has c closed when the endpoint ends, at once if it already has. The
// returned func forgets c; call it when c is closed.
func (e *Endpoint) Track(c io.Closer) (forget func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		c.Close()
		return func() {}
	}
	e.conns[c] = struct{}{}
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.conns, c)
	}
}

// end closes every connection to the container; there will be no new ones.
func (e *Endpoint) end() {
	e.mu.Lock()
	conns := e.conns
	e.ended, e.conns = true, nil
	e.mu.Unlock()
	for c := range conns { // unlocked: closing c calls forget
		c.Close()
	}
}
