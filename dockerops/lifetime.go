package dockerops

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sync/singleflight"
)

// errClosed is what background work answers after Close.
var errClosed = errors.New("the Docker client is closed")

// lifetime holds the goroutines that outlive the calls that began them.
type lifetime struct {
	ctx context.Context // ends with the client
	end context.CancelFunc

	mu      sync.Mutex // orders running.Add before running.Wait
	closed  bool
	running sync.WaitGroup
}

func newLifetime() *lifetime {
	ctx, end := context.WithCancel(context.Background())
	return &lifetime{ctx: ctx, end: end}
}

// enter has close wait until leave is called; not ok after close.
func (l *lifetime) enter() (leave func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, false
	}
	l.running.Add(1)
	return l.running.Done, true
}

// close ends the context and waits for all that entered.
func (l *lifetime) close() {
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.end()
	l.running.Wait()
}

// flights shares work among all who ask for the same thing at the same time.
type flights[T any] struct{ group singleflight.Group }

// do has work done once for all concurrent callers of one key. It runs for as
// long as the client lives, whoever leaves: a caller that gives up must not
// fail the others.
func (f *flights[T]) do(ctx context.Context, l *lifetime, key string, work func(context.Context) (T, error)) (T, error) {
	done := f.group.DoChan(key, func() (any, error) {
		leave, ok := l.enter()
		if !ok {
			return *new(T), errClosed
		}
		defer leave()
		return work(l.ctx)
	})
	select {
	case r := <-done:
		return r.Val.(T), r.Err
	case <-ctx.Done():
		return *new(T), context.Cause(ctx)
	}
}
