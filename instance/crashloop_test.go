package instance

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStartsOfACrashLoopAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l crashLoop
		if err := l.check(); err != nil {
			t.Fatalf("refused without a failure: %v", err)
		}
		for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
			l.failed(time.Second)
			hold := time.Duration(seconds) * time.Second
			time.Sleep(hold - time.Millisecond)
			if KindOf(l.check()) != Overloaded {
				t.Fatalf("after %d failures it was let go before %s", l.failures, hold)
			}
			time.Sleep(time.Millisecond)
			if err := l.check(); err != nil {
				t.Fatalf("after %d failures it was held back longer than %s: %v", l.failures, hold, err)
			}
		}
		l.failed(stable)
		if time.Sleep(firstHold); l.check() != nil {
			t.Error("a failure after a long run counts as one more of the same")
		}
	})
}
