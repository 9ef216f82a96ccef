package test

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// eventually waits until check returns nil, and fails the test with its last
// error when that takes longer than limit.
func eventually(t testing.TB, limit time.Duration, check func() error) {
	t.Helper()
	if err := poll(limit, check); err != nil {
		t.Fatal(err)
	}
}

// stopPolling ends a poll at once: the condition can never come true.
type stopPolling struct{ error }

// poll gives up once so much time has passed in which it could look: a machine
// that stands still, or does other things besides, has ten times as much.
func poll(limit time.Duration, check func() error) error {
	const pause = 20 * time.Millisecond
	tick := time.NewTicker(pause)
	defer tick.Stop()
	begun := time.Now()
	for looks := int(limit / pause); ; <-tick.C {
		err := check()
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[stopPolling](err); ok {
			return final.error
		}
		looks--
		if passed := time.Since(begun); passed > limit && looks <= 0 || passed > 10*limit {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}

// endsWithin is the error of f, or says that f takes longer than limit. As with
// poll, that a machine stands still does not count.
func endsWithin(limit time.Duration, f func() error) error {
	ended := make(chan error, 1)
	go func() { ended <- f() }()
	var err error
	late := poll(limit, func() error {
		select {
		case err = <-ended:
			return nil
		default:
			return errors.New("it goes on")
		}
	})
	return errors.Join(late, err)
}

// pulse tells for how long what should happen all the time did not. The zero value
// has not begun. Safe for concurrent use.
type pulse struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

func (p *pulse) beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.last = p.stillLocked(), time.Now()
}

func (p *pulse) stillLocked() time.Duration {
	if p.last.IsZero() {
		return 0
	}
	return max(p.longest, time.Since(p.last))
}

// stoodStill is the outcome of a try that says nothing, for the machine stood
// still for longer in it than the try allows.
type stoodStill struct{ error }

// blame is err, as the machine's fault if there was no beat for most or longer.
func (p *pulse) blame(err error, most time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err != nil && p.stillLocked() >= most {
		return stoodStill{err}
	}
	return err
}

// retry runs try again where it says nothing; any other error fails the test.
func retry(t testing.TB, try func() error) {
	t.Helper()
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return
		}
		if _, still := errors.AsType[stoodStill](err); !still || n == 10 {
			t.Fatal(err)
		}
		t.Logf("once more, for the machine stood still: %v", err)
	}
}
