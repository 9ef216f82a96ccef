package instance

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// How much is asked of the engine at once. It starts about eight containers a
// second on two cores, however many are asked for, so more in flight would
// only make each of them late; whoever finds the queue full is told at once.
const (
	maxInFlight = 8
	maxWaiting  = 64
)

// gate lets maxInFlight engine operations run and maxWaiting wait.
type gate struct {
	slots chan struct{}
	queue atomic.Int64 // operations that have the engine's work before them
}

func newGate() *gate { return &gate{slots: make(chan struct{}, maxInFlight)} }

// join takes a place in the queue, before anything is promised or written. The
// returned func gives it up, when the engine's work is done or will not be.
func (g *gate) join() (quit func(), err error) {
	if g.queue.Add(1) > maxInFlight+maxWaiting {
		g.queue.Add(-1)
		return func() {}, &Error{
			Kind:       Overloaded,
			Message:    "too many operations wait for Docker: try again in a few seconds",
			RetryAfter: 5 * time.Second,
		}
	}
	return sync.OnceFunc(func() { g.queue.Add(-1) }), nil
}

// do runs work when there is room in the engine.
func (g *gate) do(ctx context.Context, work func() error) error {
	select {
	case g.slots <- struct{}{}:
		defer func() { <-g.slots }()
		return work()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
