package instancetest

import (
	"errors"
	"sync"
	"testing"
	"time"
)

// StoodStill is the outcome of a try that says nothing, for the machine stood
// still for longer in it than the try allows.
type StoodStill struct{ error }

// Blame is err, as the machine's fault if it stood still for most or longer.
func Blame(err error, still, most time.Duration) error {
	if err != nil && still >= most {
		return StoodStill{err}
	}
	return err
}

// Retry runs try again where it says nothing; any other error fails the test.
func Retry(t testing.TB, try func() error) {
	t.Helper()
	for n := 1; ; n++ {
		err := try()
		if err == nil {
			return
		}
		if _, still := errors.AsType[StoodStill](err); !still || n == 10 {
			t.Fatal(err)
		}
		t.Logf("once more, for the machine stood still: %v", err)
	}
}

// Pulse tells for how long what should happen all the time did not. The zero
// value has not begun. Safe for concurrent use.
type Pulse struct {
	mu      sync.Mutex
	last    time.Time
	longest time.Duration
}

// Beat says that it happens now.
func (p *Pulse) Beat() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest, p.last = p.stillLocked(), time.Now()
}

// Still is the longest time without a beat since the first one; zero before.
func (p *Pulse) Still() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stillLocked()
}

func (p *Pulse) stillLocked() time.Duration {
	if p.last.IsZero() {
		return 0
	}
	return max(p.longest, time.Since(p.last))
}
