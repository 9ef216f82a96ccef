package instance

import "time"

const (
	firstHold = time.Second
	maxHold   = time.Minute
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

// check refuses a start that comes too soon.
func (l *crashLoop) check() error {
	left := time.Until(l.until)
	if left <= 0 {
		return nil
	}
	err := Errorf(Overloaded, "the instance has failed %d times in a row: see why in its reason and its log, and start it again in %s",
		l.failures, left.Round(time.Second/10))
	err.RetryAfter = left
	return err.With("failures", l.failures)
}
