package instance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// sleepByHand has an instance sleep, as it does when its container is stopped
// past us.
func (b *bench) sleepByHand(prefix string) {
	b.Helper()
	b.engine.StopByHand(instance.ContainerName(prefix))
	b.awaitStatus(prefix, instance.Stopped, instance.ReasonOutside)
}

// block lets calls of method pass only once goOn is called; entered is closed
// when the first one is there.
func (b *bench) block(method string) (entered <-chan struct{}, goOn func()) {
	came, open := make(chan struct{}), make(chan struct{})
	arrive, goOn := sync.OnceFunc(func() { close(came) }), sync.OnceFunc(func() { close(open) })
	b.Cleanup(goOn)
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call != method {
			return nil
		}
		arrive()
		select {
		case <-open:
		case <-ctx.Done():
		}
		return nil
	})
	return came, goOn
}

func TestVisitorsDoNotMakeAnInstanceFlap(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	begun := time.Now()
	var wakes, permits, starts int
	var err error
	for err == nil {
		b.sleepByHand("abcdefgh")
		starts = b.engine.Calls("Start")
		if _, err = b.manager.Wake(t.Context(), "abcdefgh", func() error { permits++; return nil }); err == nil {
			wakes++
		}
	}
	if most := 11 + int(time.Since(begun)/(6*time.Second)); wakes < 10 || wakes > most || permits != wakes {
		t.Errorf("woken %d times, want from 10 to %d; visitors' own budgets were asked %d times", wakes, most, permits)
	}
	if e := b.failure(err, instance.RateLimited); e.RetryAfter <= 0 || e.RetryAfter > time.Minute || e.Details["limit"] != "10/minute" {
		t.Errorf("got %+v", e)
	}
	if n := b.engine.Calls("Start") - starts; n != 0 {
		t.Errorf("%d starts", n)
	}
	if _, err := b.manager.Start(t.Context(), "abcdefgh", ""); err != nil {
		t.Errorf("a start that is no visitor's: %v", err)
	}
}

// What is back in milliseconds may come and go.
func TestAPausedInstanceWakesAsOftenAsItIsVisited(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.update("abcdefgh", func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), new(instance.IdlePause) })
	for n := range 12 {
		b.awaitStatus("abcdefgh", instance.Paused, instance.ReasonIdle)
		if _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); err != nil {
			t.Fatalf("wake %d: %v", n+1, err)
		}
	}
}

func TestAWakeThatIsNotPermittedBeginsNothing(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.sleepByHand("abcdefgh")
	refused := errors.New("not you")
	starts := b.engine.Calls("Start")
	for range 20 { // and costs the instance nothing
		if _, err := b.manager.Wake(t.Context(), "abcdefgh", func() error { return refused }); !errors.Is(err, refused) {
			t.Fatalf("got %v", err)
		}
	}
	if n := b.engine.Calls("Start") - starts; n != 0 {
		t.Errorf("%d starts", n)
	}
	entered, goOn := b.block("Start")
	woken := make(chan error, 2)
	go func() { _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); woken <- err }()
	<-entered
	go func() {
		_, err := b.manager.Wake(t.Context(), "abcdefgh", func() error { t.Error("asked who joins"); return refused })
		woken <- err
	}()
	goOn()
	for range 2 {
		if err := <-woken; err != nil {
			t.Error(err)
		}
	}
}

func TestOnlyAStartThatIsUnderWayIsAwaited(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	if _, err := b.manager.AwaitStart(t.Context(), "abcdefgh"); err != nil {
		t.Errorf("of one that runs: %v", err)
	}
	b.sleepByHand("abcdefgh")
	_, err := b.manager.AwaitStart(t.Context(), "abcdefgh")
	b.fails(err, instance.NotRunning)
	entered, goOn := b.block("Start")
	go func() { _, _ = b.manager.Start(t.Context(), "abcdefgh", "") }()
	<-entered
	awaited := make(chan error, 1)
	go func() { _, err := b.manager.AwaitStart(t.Context(), "abcdefgh"); awaited <- err }()
	goOn()
	if err := <-awaited; err != nil {
		t.Error(err)
	}
}

// While an instance is being stopped for idleness, a visitor comes, and so does
// a user's stop. Whoever is first: a stop by a user is not undone.
func TestAUsersStopIsNotUndoneByWhoWaitsToWake(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	for range 8 {
		entered, goOn := b.block("Stop")
		b.update("abcdefgh", idleAfter(short))
		<-entered
		stopped := make(chan error, 1)
		go func() { _, err := b.manager.Stop(t.Context(), "abcdefgh"); stopped <- err }()
		woken := make(chan error, 1)
		go func() { _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); woken <- err }()
		goOn()
		wakeErr, stopErr := <-woken, <-stopped
		switch {
		case stopErr == nil && wakeErr != nil:
			b.fails(wakeErr, instance.NotRunning)
			b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonUser)
		case stopErr == nil: // it was stopped after it had been woken
			b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonUser)
		case wakeErr != nil:
			t.Fatalf("the stop: %v; the wake: %v", stopErr, wakeErr)
		default:
			b.fails(stopErr, instance.Busy)
		}
		b.update("abcdefgh", idleAfter(0))
		if _, err := b.manager.Start(t.Context(), "abcdefgh", ""); err != nil {
			t.Fatal(err)
		}
	}
}

// A visitor presses the button of an instance that failed just now, which has the
// start wait for a moment; meanwhile its user stops it.
func TestAUsersStopIsNotUndoneByTheButton(t *testing.T) {
	instancetest.Retry(t, func() error {
		b := newBench(t, 1)
		req := request("abcdefgh", "TEST_MODE", "exit")
		req.Wait = instance.WaitNone
		if _, err := b.manager.Create(t.Context(), req); err != nil {
			return err
		}
		b.eventually("it has failed", func() bool {
			in, err := b.manager.Get("abcdefgh")
			return err == nil && in.Status == instance.Failed
		})
		failed, _ := b.manager.Get("abcdefgh")
		before := b.engine.Calls("Start")
		if err := b.manager.Retry(t.Context(), "abcdefgh", nil); err != nil {
			return err
		}
		_, err := b.manager.Stop(t.Context(), "abcdefgh")
		const hold = time.Second
		if n := b.engine.Calls("Start") - before; err != nil || n != 0 {
			return instancetest.Blame(fmt.Errorf("%d starts, and the stop: %w", n, err), time.Since(*failed.StoppedAt), hold)
		}
		_, err = b.manager.AwaitStart(t.Context(), "abcdefgh")
		b.fails(err, instance.NotRunning)
		b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonUser)
		b.fails(b.manager.Retry(t.Context(), "abcdefgh", nil), instance.NotRunning)
		if n := b.engine.Calls("Start") - before; n != 0 {
			t.Errorf("%d starts", n)
		}
		return nil
	})
}

// The visitor who began it has left before the stop for idleness has ended.
func TestAWakeThatWaitsForAStopOutlivesItsVisitor(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	entered, goOn := b.block("Stop")
	b.update("abcdefgh", idleAfter(short))
	<-entered
	ctx, leave := context.WithCancel(t.Context())
	leave()
	if _, err := b.manager.Wake(ctx, "abcdefgh", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	_, err := b.manager.Acquire("abcdefgh", 0)
	if e := b.failure(err, instance.NotRunning); e.Details["status"] != instance.Starting {
		t.Errorf("a visitor is told %+v", e)
	}
	starts := b.engine.Calls("Start")
	goOn()
	b.eventually("it is started", func() bool { return b.engine.Calls("Start") > starts }) // and idle again in a second
}

func TestAWakeThatFailsIsHeldBack(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.sleepByHand("abcdefgh")
	broken := instance.Errorf(instance.EngineFailed, "no")
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Start" {
			return broken
		}
		return nil
	})
	instancetest.Retry(t, func() error {
		b.eventually("a start is tried", func() bool {
			_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
			return instance.KindOf(err) == instance.EngineFailed
		})
		starts, failed := b.engine.Calls("Start"), time.Now()
		_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
		const hold = time.Second // or more, of one that failed before
		if e, ok := errors.AsType[*instance.Error](err); !ok || e.Kind != instance.Overloaded || e.RetryAfter <= 0 {
			return instancetest.Blame(fmt.Errorf("got %w", err), time.Since(failed), hold)
		}
		if n := b.engine.Calls("Start") - starts; n != 0 {
			return fmt.Errorf("%d starts", n)
		}
		return nil
	})
	b.engine.Fault(nil)
	b.eventually("it wakes", func() bool {
		_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
		return err == nil
	})
}

func TestClosingEndsWhoWaits(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	entered, _ := b.block("Stop")
	b.update("abcdefgh", idleAfter(short))
	<-entered
	woken := make(chan error, 1)
	go func() { _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); woken <- err }()
	b.eventually("the wake waits", func() bool {
		_, err := b.manager.Acquire("abcdefgh", 0)
		var e *instance.Error
		return errors.As(err, &e) && e.Details["status"] == instance.Starting
	})
	if err := b.manager.Close(); err != nil {
		t.Error(err)
	}
	b.fails(<-woken, instance.Overloaded)
	_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
	b.fails(err, instance.Overloaded)
}

// Many visit while the instance is paused whenever nobody uses it for a second,
// and by a user now and then.
func TestVisitsAndPausesRace(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.update("abcdefgh", func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), new(instance.IdlePause) })
	ctx, end := context.WithTimeout(t.Context(), 4*time.Second)
	defer end()
	var all sync.WaitGroup
	for range 32 {
		all.Go(func() {
			for ctx.Err() == nil {
				_, err := b.manager.Wake(ctx, "abcdefgh", nil)
				switch instance.KindOf(err) {
				case instance.NotRunning, instance.Overloaded: // a user's pause
				case instance.Internal:
					if err != nil && ctx.Err() == nil {
						t.Error(err)
					}
				default:
					t.Error(err)
				}
				if lease, err := b.manager.Acquire("abcdefgh", 0); err == nil {
					_ = lease.Endpoint()
					lease.Release()
				}
			}
		})
	}
	all.Go(func() {
		for ctx.Err() == nil {
			_, _ = b.manager.Pause(ctx, "abcdefgh")
			_, _ = b.manager.Start(ctx, "abcdefgh", "")
		}
	})
	all.Wait()
	var in instance.Instance
	b.eventually("it starts, after the last pause", func() bool {
		var err error
		in, err = b.manager.Start(t.Context(), "abcdefgh", "")
		return err == nil
	})
	b.answers(in)
}

func TestVisitorsWhoWaitAreBounded(t *testing.T) {
	const places, more = 1024, 50
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.sleepByHand("abcdefgh")
	entered, goOn := b.block("Start")
	outcomes := make(chan error, places+more)
	for range places + more {
		go func() { _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); outcomes <- err }()
	}
	<-entered
	for range more { // they do not wait
		if e := b.failure(<-outcomes, instance.Overloaded); e.RetryAfter <= 0 {
			t.Errorf("got %+v", e)
		}
	}
	goOn()
	for range places {
		if err := <-outcomes; err != nil {
			t.Error(err)
		}
	}
}

func TestARestingLeaseIsNoUse(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	lease, err := b.manager.AcquireResting("abcdefgh", 0)
	if err != nil {
		t.Fatal(err)
	}
	before := b.update("abcdefgh", idleAfter(short)).LastActiveAt
	lease.Touch()
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
	if lease.Endpoint() != nil {
		t.Error("it still leads to the container")
	}
	lease.Release()
	lease.Release()
	in, err := b.manager.Get("abcdefgh")
	if err != nil || (in.LastActiveAt == nil) != (before == nil) || before != nil && !in.LastActiveAt.Equal(*before) {
		t.Errorf("used at %v, before the lease at %v (%v)", in.LastActiveAt, before, err)
	}
}
