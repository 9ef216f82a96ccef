package test

import (
	"errors"
	"fmt"
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

func poll(limit time.Duration, check func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(limit); ; <-tick.C {
		err := check()
		if err == nil {
			return nil
		}
		if final, ok := errors.AsType[stopPolling](err); ok {
			return final.error
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not within %s: %w", limit, err)
		}
	}
}
