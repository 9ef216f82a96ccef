package instance

import (
	"context"
	"time"
)

// maxWaiters bounds who waits for one instance to wake.
const maxWaiters = 256

// Wakes reports whether a request may start the instance of in: it sleeps, and
// nobody wanted it to.
func (in Instance) Wakes() bool {
	switch in.Status {
	case Stopped, Paused:
		return in.Reason != ReasonUser
	case Creating, Starting, Stopping:
		return in.Reason != ReasonUser // it is on its way, or will be
	}
	return false
}

// Wake starts an instance that sleeps, because somebody visits it, and returns
// once it is ready; all who come meanwhile wait for the same start, which goes
// on without them. One that a user stopped or that failed stays as it is:
// NotRunning. Too many who wait: Overloaded.
func (m *Manager) Wake(ctx context.Context, prefix string) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	in := m.view(e)
	switch {
	case in.Status == Running && in.Ready:
		return in, nil
	case !in.Wakes():
		return Instance{}, notRunning(e.record())
	}
	leave, err := e.wait()
	if err != nil {
		return Instance{}, err
	}
	defer leave()
	if op := e.bringingUp(); op != nil {
		return m.await(ctx, e, op, WaitReady)
	}
	return m.Start(ctx, prefix, WaitReady)
}

// bringingUp is the operation that makes e run, if one is at work.
func (e *entry) bringingUp() *operation {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.op != nil {
		switch e.op.name {
		case "create", "start", "restart":
			return e.op
		}
	}
	return nil
}

// wait takes one of the places of those who wait for e.
func (e *entry) wait() (leave func(), err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.waiters >= maxWaiters {
		return nil, &Error{
			Kind:       Overloaded,
			Message:    "too many visitors wait for this instance: try again in a few seconds",
			RetryAfter: 2 * time.Second,
		}
	}
	e.waiters++
	return func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.waiters--
	}, nil
}
