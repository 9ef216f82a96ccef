package instance

import (
	"sync"
	"time"
)

// Lease is one request or open WebSocket in progress to an instance.
type Lease struct {
	Prefix   string
	Port     int
	Template string
	// ContainerPort is the one that the request is for, beside the dev server's;
	// zero: the dev server's.
	ContainerPort int
	// Held: the request waited for the instance to start, perhaps with many others.
	Held bool

	entry    *entry
	manager  *Manager
	template Mode // as configured when the lease was taken
	release  sync.Once
	resting  bool // guarded by entry.mu
	noUse    bool // see AcquireResting
}

// Acquire takes a lease on a running, ready instance, without any I/O. port is
// the container port that is wanted, zero for the dev server's. Whoever gets a
// lease must release it. Errors: NotFound, NoSuchPort, NotRunning, NotOpen.
func (m *Manager) Acquire(prefix string, port int) (*Lease, error) {
	return m.acquire(prefix, port, false)
}

// AcquireResting is Acquire for a request that is no use of the instance, as
// that of a machine is none: it is served, but keeps nothing awake, whatever
// passes, and is cut where the instance ends for idleness meanwhile.
func (m *Manager) AcquireResting(prefix string, port int) (*Lease, error) {
	return m.acquire(prefix, port, true)
}

func (m *Manager) acquire(prefix string, port int, resting bool) (*Lease, error) {
	e, err := m.find(prefix)
	if err != nil {
		return nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.rec.serves(port) {
		return nil, noSuchPort(port)
	}
	if e.endpoint == nil {
		return nil, e.notRunningLocked()
	}
	if port == e.rec.ContainerPort {
		port = 0
	}
	if !resting {
		e.leases++
		e.lastActive = time.Now()
	}
	return &Lease{
		Prefix: prefix, Port: e.rec.Port, Template: e.rec.Template, ContainerPort: port,
		entry: e, manager: m, resting: resting, noUse: resting, template: m.settings.Load().Templates[e.rec.Template].Mode,
	}, nil
}

// Endpoint returns where the instance can be dialled now; nil when it no
// longer runs. It may differ from one call to the next.
func (l *Lease) Endpoint() *Endpoint {
	l.entry.mu.Lock()
	defer l.entry.mu.Unlock()
	return l.entry.endpoint
}

// Touch tells that the instance is used.
func (l *Lease) Touch() {
	if !l.noUse {
		l.entry.touch()
	}
}

func (e *entry) touch() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.lastActive = time.Now()
}

// Rest lets the instance become idle although the lease goes on: an open
// WebSocket is no use of it, only what passes over it. See Touch.
func (l *Lease) Rest() {
	l.entry.mu.Lock()
	defer l.entry.mu.Unlock()
	if !l.resting {
		l.resting = true
		l.entry.leases--
	}
}

// Release ends the lease; further calls do nothing.
func (l *Lease) Release() {
	l.release.Do(func() {
		l.entry.mu.Lock()
		defer l.entry.mu.Unlock()
		if l.resting { // its end is no use of the instance either
			return
		}
		l.entry.leases--
		if l.entry.endpoint != nil { // else its end has cut the request
			l.entry.lastActive = time.Now()
		}
	})
}

// NotAnswering is said of an instance whose container runs while its dev
// server does not answer, yet or any more.
const NotAnswering = "the instance is running, but its dev server does not answer"

// notRunningLocked is said to a visitor of e. One that is being woken starts,
// for him, whatever has to end first, and though it may not be written yet.
func (e *entry) notRunningLocked() error {
	sleeps := e.rec.Status == Stopped || e.rec.Status == Paused
	if e.waking == nil && !(sleeps && e.comingUpLocked() != nil) {
		return notRunning(e.rec)
	}
	rec := *e.rec
	rec.Status, rec.Reason = Starting, ""
	return notRunning(&rec)
}

func notRunning(r *Record) error {
	err := &Error{
		Kind:       NotRunning,
		Message:    "the instance is " + string(r.Status),
		Details:    map[string]any{"status": r.Status, "reason": r.Reason},
		RetryAfter: 5 * time.Second,
	}
	switch r.Status {
	case Creating, Starting:
		err.Message = "the instance is starting"
		err.RetryAfter = time.Second
	case Running:
		err.Message = NotAnswering
		err.RetryAfter = time.Second
	case Stopped, Paused, Failed:
		if r.Reason != "" {
			err.Message += " (" + r.Reason + ")"
		}
	}
	return err
}
