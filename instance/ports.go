package instance

import (
	"errors"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// PortRange is a range of host ports, both ends included.
type PortRange struct{ First, Last int }

func (r PortRange) contains(port int) bool { return r.First <= port && port <= r.Last }

func (r PortRange) String() string { return strconv.Itoa(r.First) + "-" + strconv.Itoa(r.Last) }

// portQuarantine is how long a port rests after its instance was deleted, so
// that a client that is still connected does not end up at the next one.
const portQuarantine = 30 * time.Second

// badTime is how long a port is passed over that the engine refuses for no
// reason that can be seen.
const badTime = 10 * time.Minute

// ports allots host ports. Safe for concurrent use.
//
// A probe by binding is only advice, since another process can take the port
// before the engine does; the engine's bind is the truth, see createContainer.
type ports struct {
	mu    sync.Mutex
	taken map[int]time.Time // until when; zero: until freed
	bad   map[int]time.Time // until when none is taken that is not needed
	next  int               // where the search starts
}

// newPorts begins its search at next. resting are ports whose quarantine was
// not over when the state was written; no clock makes it longer.
func newPorts(next int, resting map[int]time.Time) *ports {
	p := &ports{taken: map[int]time.Time{}, bad: map[int]time.Time{}, next: next}
	for port, until := range resting {
		if left := time.Until(until); left > 0 {
			p.restFor(port, min(left, portQuarantine))
		}
	}
	return p
}

// take allots the port that is wanted, or else the next free one of r.
func (p *ports) take(wanted *int, r PortRange) (int, error) {
	if wanted == nil {
		return p.takeNext(r)
	}
	want := *wanted
	if !r.contains(want) {
		return 0, p.refuse(r, "port %d is outside the range %s", want, r)
	}
	if !p.mark(want) {
		return 0, p.refuse(r, "port %d is taken", want)
	}
	if !canBind(want) {
		p.free(want)
		return 0, p.refuse(r, "port %d is taken by another process", want)
	}
	return want, nil
}

// refuse is the error for a port that the caller asked for, with the next
// free one where there is one.
func (p *ports) refuse(r PortRange, format string, args ...any) error {
	err := Errorf(PortTaken, format, args...).With("range", r.String())
	if free, takeErr := p.takeNext(r); takeErr == nil {
		p.free(free)
		p.rewind(free)
		err.Message += "; port " + strconv.Itoa(free) + " is free"
		return err.With("suggested_port", free)
	}
	return err
}

func (p *ports) takeNext(r PortRange) (int, error) {
	// Twice around: somebody else's probe may have held a port for a moment, and
	// a bad one is better than none.
	count := r.Last - r.First + 1
	for i := range 2 * count {
		port := p.advance(r)
		if i < count && p.isBad(port) || !p.mark(port) {
			continue
		}
		if canBind(port) {
			return port, nil
		}
		p.free(port)
	}
	return 0, &Error{
		Kind:       NoFreePort,
		Message:    "no port of the range " + r.String() + " is free: delete instances or widen `ports`",
		Details:    map[string]any{"range": r.String()},
		RetryAfter: portQuarantine,
	}
}

// advance returns the port to try and moves on, around the end of r.
func (p *ports) advance(r PortRange) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	port := p.next
	if !r.contains(port) {
		port = r.First
	}
	p.next = port + 1
	return port
}

// rewind lets the next search begin at port, which was only looked at.
func (p *ports) rewind(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next = port
}

// mark takes port and reports whether it was free.
func (p *ports) mark(port int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, taken := p.taken[port]
	if taken && (until.IsZero() || time.Now().Before(until)) {
		return false
	}
	p.taken[port] = time.Time{}
	return true
}

func (p *ports) free(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
}

// refused frees port, which the engine could not bind. If nobody has it, the
// engine itself has lost track of it, as after a crash of its own, and will not
// bind it for some time.
func (p *ports) refused(port int) {
	leaked := canBind(port)
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.taken, port)
	if leaked {
		p.bad[port] = time.Now().Add(badTime)
	}
}

func (p *ports) isBad(port int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	until, bad := p.bad[port]
	if bad && time.Now().After(until) {
		delete(p.bad, port)
		return false
	}
	return bad
}

// rest frees port once its quarantine is over.
func (p *ports) rest(port int) { p.restFor(port, portQuarantine) }

func (p *ports) restFor(port int, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[port] = time.Now().Add(pause)
}

// hold takes port whatever its state: it belongs to a record after all.
func (p *ports) hold(port int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.taken[port] = time.Time{}
}

// state is what the state file keeps: where the next search begins, and the
// ports in quarantine.
func (p *ports) state() (next int, resting map[int]time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	resting = map[int]time.Time{}
	for port, until := range p.taken {
		if time.Now().Before(until) {
			resting[port] = until.UTC().Truncate(time.Millisecond)
		}
	}
	return p.next, resting
}

// canBind reports whether nobody is seen to have port now. Where it cannot be
// tried, for want of file descriptors say, the engine will see.
func canBind(port int) bool {
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err == nil {
		l.Close()
	}
	return !errors.Is(err, syscall.EADDRINUSE) && !errors.Is(err, syscall.EACCES)
}
