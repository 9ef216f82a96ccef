package instance_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
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

// From the wake on, all who ask are told that it starts, until it runs.
func TestWhoeverComesAfterAWakeIsToldThatItStarts(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	left, leave := context.WithCancel(t.Context())
	leave()
	for range 5 {
		b.sleepByHand("abcdefgh")
		_, _ = b.manager.Wake(left, "abcdefgh", nil)
		b.eventually("it runs", func() bool {
			for range 1000 { // without a pause
				lease, err := b.manager.Acquire("abcdefgh", 0)
				if err == nil {
					lease.Release()
					return true
				}
				if status := b.failure(err, instance.NotRunning).Details["status"]; status != instance.Starting {
					t.Fatalf("it is %s", status)
				}
			}
			return false
		})
	}
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
		if _, err = b.manager.Wake(t.Context(), "abcdefgh", func() (func(), error) { permits++; return func() {}, nil }); err == nil {
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
	b.eventually("a start that is no visitor's", func() bool {
		_, err := b.manager.Start(t.Context(), "abcdefgh", "")
		return instance.KindOf(err) != instance.Busy // with having noted that it was stopped
	})
	b.awaitStatus("abcdefgh", instance.Running, "")
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
		if _, err := b.manager.Wake(t.Context(), "abcdefgh", refuse(refused)); !errors.Is(err, refused) {
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
		_, err := b.manager.Wake(t.Context(), "abcdefgh", func() (func(), error) { t.Error("asked who joins"); return nil, refused })
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

// purse is a visitor's budget.
type purse struct{ spent, back atomic.Int64 }

func (p *purse) permit() (giveBack func(), err error) {
	p.spent.Add(1)
	return func() { p.back.Add(1) }, nil
}

func refuse(err error) instance.Permit { return func() (func(), error) { return nil, err } }

func TestAStartThatDoesNotBeginIsGivenBack(t *testing.T) {
	b := newBench(t, 300)
	b.create("abcdefgh")
	b.sleepByHand("abcdefgh")
	var p purse
	b.engine.Fault(func(context.Context, string, string) error { return errDown })
	for n := range int64(3) {
		_, err := b.manager.Wake(t.Context(), "abcdefgh", p.permit)
		b.fails(err, instance.EngineDown)
		if spent, back := p.spent.Load(), p.back.Load(); spent != n+1 || back != spent {
			t.Errorf("an engine that is down: %d spent, %d given back", spent, back)
		}
	}
	entered, goOn := b.block("Create")
	var creates sync.WaitGroup
	var full atomic.Int64
	for range 80 { // 72 may work and wait
		creates.Go(func() {
			if _, err := b.manager.Create(t.Context(), request("")); instance.KindOf(err) == instance.Overloaded {
				full.Add(1)
			}
		})
	}
	<-entered
	b.eventually("the queue is full", func() bool { return full.Load() == 8 })
	_, err := b.manager.Wake(t.Context(), "abcdefgh", p.permit)
	b.fails(err, instance.Overloaded)
	if spent, back := p.spent.Load(), p.back.Load(); spent != 4 || back != 4 {
		t.Errorf("a queue that is full: %d spent, %d given back", spent, back)
	}
	goOn()
	creates.Wait()
	b.engine.Fault(nil)
	if _, err := b.manager.Wake(t.Context(), "abcdefgh", p.permit); err != nil {
		t.Fatal(err)
	}
	if spent, back := p.spent.Load(), p.back.Load(); spent != 5 || back != 4 {
		t.Errorf("a start that began: %d spent, %d given back", spent, back)
	}
}

// A user's stop comes before the start has its turn.
func TestAStartThatGivesWayIsGivenBack(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh", "TEST_MODE", "exit")
	req.Wait = instance.WaitNone
	if _, err := b.manager.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	b.eventually("it has failed", func() bool {
		in, err := b.manager.Get("abcdefgh")
		return err == nil && in.Status == instance.Failed
	})
	var p purse
	b.eventually("a start waits for its turn", func() bool { // the create has ended, too
		if err := b.manager.Retry(t.Context(), "abcdefgh", p.permit); err != nil {
			t.Fatal(err)
		}
		return p.spent.Load() == 1
	})
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	_, err := b.manager.AwaitStart(t.Context(), "abcdefgh")
	b.fails(err, instance.NotRunning)
	if spent, back := p.spent.Load(), p.back.Load(); spent != 1 || back != 1 {
		t.Errorf("%d spent, %d given back", spent, back)
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
