package instance

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
)

// Listening is a Runtime that can look at what listens in its containers.
type Listening interface {
	// Listening returns the TCP ports of a running container that something
	// listens on, in order, each once. What the engine itself runs in there is
	// left out. It may return no more than the first [MaxListeners]. Errors
	// are those of [Runtime]: EngineFailed where this host cannot look into
	// the container, and if it does not run.
	Listening(ctx context.Context, ref string) ([]Listener, error)
}

// MaxListeners bounds what is told of one container, which may listen on all
// its ports.
const MaxListeners = 100

// Listener is one port that something in a container listens on.
type Listener struct {
	Port int
	// Loopback tells that it can only be reached from inside the container.
	Loopback bool
}

// OpenPort is one port of an instance, as a visitor of another port may learn
// of it.
type OpenPort struct {
	Port     int    `json:"port"`
	Loopback bool   `json:"loopback"` // only reached from inside the container
	URL      string `json:"url"`      // empty: not declared, or not reached
}

const (
	// lookPause is how long what was seen holds. Pages that load again do so
	// every two seconds.
	lookPause = time.Second
	// parallelLooks bounds the looks at a time, into whatever instances, so
	// that strangers do not keep the engine busy. Who would have to wait goes
	// without.
	parallelLooks = 2
	lookDeadline  = 2 * time.Second
	// dialPatience is plenty on this machine.
	dialPatience = 200 * time.Millisecond
)

// look is one look at what listens in an instance's container; several callers
// may share it.
type look struct {
	endpoint *Endpoint
	done     chan struct{} // closed at the end; then the following are set
	until    time.Time     // how long it holds
	seen     []Listener
	known    bool // false: nobody could look
}

// holds reports whether l, which may be nil, serves who asks about endpoint
// now: it goes on, or has ended just before.
func (l *look) holds(endpoint *Endpoint) bool {
	if l == nil || l.endpoint != endpoint {
		return false
	}
	select {
	case <-l.done:
		return time.Now().Before(l.until)
	default:
		return true
	}
}

// OpenPorts tells what listens in the instance's container, as it was at most
// a second ago; known is false where that cannot be seen now. It is cheap
// enough to be asked by strangers: see lookPause and parallelLooks.
func (m *Manager) OpenPorts(ctx context.Context, prefix string) (open []OpenPort, known bool) {
	e := m.lookup(prefix)
	if e == nil {
		return nil, false
	}
	rec, l := m.lookInto(e)
	if l == nil {
		return nil, false
	}
	select {
	case <-l.done:
	case <-ctx.Done():
		return nil, false
	}
	endpoint, s := l.endpoint, m.settings.Load()
	for _, each := range l.seen {
		port := OpenPort{Port: each.Port, Loopback: each.Loopback}
		switch {
		case each.Port == rec.ContainerPort:
			port.URL, port.Loopback = s.url(prefix), false // it answers, however it is reached
		case !each.Loopback && rec.declares(each.Port) && endpoint.Direct.IsValid():
			port.URL = s.portURL(prefix, each.Port)
		}
		open = append(open, port)
	}
	return open, l.known
}

// lookInto returns the look that holds for e, begun now if there is none; nil
// if e does not run, or too many others look.
func (m *Manager) lookInto(e *entry) (rec *Record, l *look) {
	rec, l, begin := m.claimLook(e)
	if !begin {
		return rec, l
	}
	end := func() { <-m.looks; close(l.done) }
	began := m.spawn(func() {
		defer end()
		ctx, cancel := context.WithTimeout(m.ctx, lookDeadline)
		defer cancel()
		l.seen, l.known = m.listeners(ctx, rec, l.endpoint)
		l.until = time.Now().Add(lookPause)
	})
	if !began { // closing: there is nothing to see
		end()
	}
	return rec, l
}

// claimLook is the deciding half of lookInto; begin tells that the caller has
// to begin l, which has its place among the looks.
func (m *Manager) claimLook(e *entry) (rec *Record, l *look, begin bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.endpoint == nil:
		return nil, nil, false
	case e.look.holds(e.endpoint):
		return e.rec, e.look, false
	}
	select {
	case m.looks <- struct{}{}:
	default:
		return nil, nil, false
	}
	e.look = &look{endpoint: e.endpoint, done: make(chan struct{})}
	return e.rec, e.look, true
}

// listeners looks into the container; where that does not work, it tries the
// declared ports, if they can be dialled.
func (m *Manager) listeners(ctx context.Context, rec *Record, endpoint *Endpoint) (seen []Listener, known bool) {
	if runtime, ok := m.runtime.(Listening); ok {
		seen, err := runtime.Listening(ctx, rec.ContainerID)
		if err == nil {
			return seen, true
		}
		m.log().Debug("looking at what listens in a container; trying the declared ports instead",
			zap.String("prefix", rec.Prefix), zap.Error(err))
	}
	if !endpoint.Direct.IsValid() {
		return nil, false
	}
	return dialEach(ctx, endpoint, append([]int{rec.ContainerPort}, rec.ContainerPorts...)), false
}

// dialEach returns those of ports that accept connections, in their order.
func dialEach(ctx context.Context, endpoint *Endpoint, ports []int) (open []Listener) {
	accepts := make([]bool, len(ports))
	var dials sync.WaitGroup
	for i, port := range ports {
		dials.Go(func() { accepts[i] = accepting(ctx, endpoint.At(port)) })
	}
	dials.Wait()
	for i, port := range ports {
		if accepts[i] {
			open = append(open, Listener{Port: port})
		}
	}
	return open
}

func accepting(ctx context.Context, address netip.AddrPort) bool {
	dialer := net.Dialer{Timeout: dialPatience}
	conn, err := dialer.DialContext(ctx, "tcp", address.String())
	if err != nil {
		return false
	}
	conn.Close()
	return true
}
