package caddymodule

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestCertificatesAreMadeAheadFewAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex // guards the following
		var made []string
		now, most := 0, 0
		count := func(by int) {
			mu.Lock()
			defer mu.Unlock()
			now += by
			most = max(most, now)
		}
		m := newAheadMaker(func(_ context.Context, host string) {
			count(+1)
			time.Sleep(time.Second) // of the bubble's clock, as all here
			count(-1)
			mu.Lock()
			made = append(made, host)
			mu.Unlock()
		})
		const wanted = aheadWorkers + aheadQueue + 50
		for i := range wanted {
			m.want(fmt.Sprintf("host%04d", i))
			if i < aheadWorkers {
				synctest.Wait() // a worker has it, so it does not wait
			}
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		slices.Sort(made)
		if n := len(made); n != aheadWorkers+aheadQueue || slices.Contains(made, fmt.Sprintf("host%04d", wanted-1)) {
			t.Errorf("%d made, want the %d for which there was room", n, aheadWorkers+aheadQueue)
		}
		if most != aheadWorkers {
			t.Errorf("%d at a time, want %d", most, aheadWorkers)
		}
		m.want("late") // after all workers have gone
		time.Sleep(time.Minute)
		synctest.Wait()
		if !slices.Contains(made, "late") {
			t.Error("none was made after the others were done")
		}
		m.close()
	})
}

func TestWhatIsMadeAheadEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan time.Duration, 1)
		begun := time.Now()
		m := newAheadMaker(func(ctx context.Context, _ string) {
			<-ctx.Done()
			ended <- time.Since(begun)
		})
		m.want("slow")
		if took := <-ended; took != aheadTimeout {
			t.Errorf("it ended after %v, want %v", took, aheadTimeout)
		}
		begun = time.Now()
		m.want("slow")
		synctest.Wait()
		m.close() // waits for all
		if took := <-ended; took != 0 {
			t.Errorf("it ended %v after the engine", took)
		}
		m.want("late")
		synctest.Wait()
		if len(ended) != 0 {
			t.Error("one was made after the end")
		}
	})
}
