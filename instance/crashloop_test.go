package instance

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestStartsOfACrashLoopAreHeldBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var l crashLoop
		if left, err := l.wait(); left > 0 || err != nil {
			t.Fatalf("held back without a failure: %s, %v", left, err)
		}
		for _, seconds := range []int{1, 2, 4, 8, 16, 32, 60, 60} {
			l.failed(time.Second)
			hold := time.Duration(seconds) * time.Second
			left, err := l.wait()
			if refused := KindOf(err) == Overloaded; refused != (hold > patience) || !refused && left != hold {
				t.Fatalf("after %d failures: wait %s, %v; want %s", l.failures, left, err, hold)
			}
			time.Sleep(hold)
			if left, err := l.wait(); left > 0 || err != nil {
				t.Fatalf("after %d failures it was held back longer than %s: %s, %v", l.failures, hold, left, err)
			}
		}
		l.failed(stable)
		if left, err := l.wait(); left != firstHold || err != nil {
			t.Errorf("a failure after a long run counts as one more of the same: %s, %v", left, err)
		}
	})
}
