package instance

import (
	"context"
	"time"
)

const (
	firstHold = time.Second
	maxHold   = time.Minute
	// patience is how much of that a caller spends waiting for the answer; for
	// more he is sent away.
	patience = 2 * time.Second
	// stable is how long an instance has to have run for its failure to be a
	// new one, and not the last one again.
	stable = time.Minute
)

// crashLoop holds the starts of an instance back that fails again and again:
// each costs the engine and the machine more than it costs the caller. It
// lives in memory; after a restart of ours the count begins anew.
type crashLoop struct {
	failures int
	until    time.Time
}

// failed counts one more failure, of a container that ran for so long.
func (l *crashLoop) failed(ran time.Duration) {
	if ran >= stable {
		l.failures = 0
	}
	hold := maxHold
	if l.failures < 6 { // 2^6 s are more than maxHold
		hold = firstHold << l.failures
	}
	l.failures++
	l.until = time.Now().Add(hold)
}

// wait is how long a start has to wait; one that has to for long is refused.
func (l *crashLoop) wait() (time.Duration, error) {
	left := time.Until(l.until)
	if left <= patience {
		return left, nil
	}
	err := Errorf(Overloaded, "the instance has failed %d times in a row: see why in its reason and its log, and start it again in %s",
		l.failures, left.Round(time.Second/10))
	err.RetryAfter = left
	return 0, err.With("failures", l.failures)
}

// awaitTurn returns when e may be started, as far as its failures tell. It
// holds nothing meanwhile: whoever deletes e need not wait.
func (e *entry) awaitTurn(ctx context.Context) error {
	e.mu.Lock()
	failed := e.rec.Status == Failed
	left, err := e.crashes.wait()
	e.mu.Unlock()
	if !failed || err == nil && left <= 0 {
		return nil
	}
	if err != nil {
		return err
	}
	select {
	case <-time.After(left):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
