package instance_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

func (b *bench) startOnBoot() {
	settings := b.settings()
	settings.StartOnBoot = true
	b.manager.Use(settings)
}

func TestWhatEndedWithTheEngineComesBackWithAVisit(t *testing.T) {
	for name, restart := range map[string]func(*bench){
		"engine": func(b *bench) { b.engine.Restart() },
		"machine": func(b *bench) {
			if err := b.manager.Close(); err != nil {
				b.Fatal(err)
			}
			b.engine.Restart()
			b.open()
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2)
			b.create("ranonabc")
			b.create("stopped0")
			if _, err := b.manager.Stop(t.Context(), "stopped0"); err != nil {
				t.Fatal(err)
			}
			restart(b)
			in := b.awaitStatus("ranonabc", instance.Stopped, instance.ReasonEngine)
			if !in.Wakes() {
				t.Error("no visitor can wake it")
			}
			b.awaitStatus("stopped0", instance.Stopped, instance.ReasonUser)
		})
	}
}

// The days that a machine is off are none of those after which what was stopped
// is deleted.
func TestNobodyIsDeletedForATimeWithoutTheEngine(t *testing.T) {
	b := newBench(t, 1)
	b.create("ranonabc")
	b.update("ranonabc", func(l *instance.Lifetime) { l.DeleteAfterStopped = new(instance.Duration(time.Hour)) })
	if err := b.manager.Close(); err != nil {
		t.Fatal(err)
	}
	b.engine.Restart()
	off := time.Now()
	b.eventually("a while has gone by", func() bool { return time.Since(off) > 20*time.Millisecond })
	back := time.Now().Truncate(time.Millisecond)
	b.open()
	in := b.awaitStatus("ranonabc", instance.Stopped, instance.ReasonEngine)
	if in.StoppedAt.Before(back) || in.DeleteAt.Before(back.Add(time.Hour)) {
		t.Errorf("stopped at %v, deleted at %v; we are back since %v", in.StoppedAt, in.DeleteAt, back)
	}
}

// An engine that goes down tells of the ends of its containers, as if each had
// been stopped by hand, until it is gone itself.
func TestWhatTheEngineStopsBeforeItGoesDownEndedWithIt(t *testing.T) {
	instancetest.Retry(t, func() error {
		b := newBench(t, 2)
		begun := time.Now()
		for _, prefix := range []string{"stopped0", "stopped1"} {
			in := b.create(prefix)
			b.engine.StopByHand(in.ContainerID)
			b.awaitStatus(prefix, instance.Stopped, instance.ReasonOutside)
		}
		b.engine.Restart()
		const together = 20 * time.Second
		if took := time.Since(begun); took >= together {
			return instancetest.Blame(errors.New("some ended long before the others"), took, together)
		}
		b.awaitStatus("stopped0", instance.Stopped, instance.ReasonEngine)
		b.awaitStatus("stopped1", instance.Stopped, instance.ReasonEngine)
		return nil
	})
}

// Only the connection broke: who was stopped meanwhile was stopped by hand. An
// engine that does not tell since when it is up shows it by what runs on.
func TestAConnectionThatBrokeIsNoRestartOfTheEngine(t *testing.T) {
	for name, beside := range map[string]func(*bench){
		"nothing else runs":                      func(*bench) {},
		"an engine that does not tell its start": func(b *bench) { b.engine.HideStart(); b.create("ranonabc") },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2)
			byHand := b.create("stopped0")
			beside(b)
			b.engine.DropEvents(true)
			b.engine.StopByHand(byHand.ContainerID)
			b.engine.DropEvents(false)
			b.engine.Reconnect()
			b.awaitStatus("stopped0", instance.Stopped, instance.ReasonOutside)
		})
	}
}

// A restart of ours alone makes no end the engine's: neither of those that we have
// seen, nor of those meanwhile.
func TestOurRestartIsNoRestartOfTheEngine(t *testing.T) {
	b := newBench(t, 3)
	crashed := b.create("crashed0")
	if _, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/exit?code=3", crashed.Port)); err != nil {
		t.Logf("its last answer: %v", err)
	}
	b.awaitStatus("crashed0", instance.Failed, "exited 3")
	in := b.create("stopped0")
	b.engine.StopByHand(in.ContainerID)
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonOutside)
	meanwhile := b.create("whileweb")
	if err := b.manager.Close(); err != nil {
		t.Fatal(err)
	}
	b.engine.StopByHand(meanwhile.ContainerID)
	b.open()
	b.awaitStatus("whileweb", instance.Stopped, instance.ReasonOutside) // decided about after the other
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonOutside)
	b.awaitStatus("crashed0", instance.Failed, "exited 3")
}

func TestAnEngineThatDoesNotTellItsStartIsSeenToRestart(t *testing.T) {
	b := newBench(t, 2)
	b.engine.HideStart()
	b.create("abcdefgh")
	in := b.create("stopped0")
	b.engine.StopByHand(in.ContainerID)
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonOutside)
	b.engine.Restart()
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonEngine)
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonEngine)
}

// What an operation holds while everything is looked at ended with the engine no
// less.
func TestWhatAnOperationHeldEndedWithTheEngineToo(t *testing.T) {
	for name, test := range map[string]struct {
		onBoot bool
		status instance.Status
		reason string
	}{
		"and comes back with a visit": {false, instance.Stopped, instance.ReasonEngine},
		"and is started on boot":      {true, instance.Running, ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 2)
			if test.onBoot {
				b.startOnBoot()
			}
			held, was := b.create("pausing0"), b.create("ranonabc")
			is := func(prefix string, before instance.Instance) func() bool {
				return func() bool {
					in, err := b.manager.Get(prefix)
					return err == nil && in.Status == test.status && in.Reason == test.reason &&
						(!test.onBoot || in.StartedAt.After(*before.StartedAt))
				}
			}
			pausing, end := make(chan struct{}), make(chan struct{})
			b.engine.Fault(func(_ context.Context, call, _ string) error {
				if call != "Pause" {
					return nil
				}
				close(pausing)
				<-end
				return instance.Errorf(instance.EngineFailed, "container is not running")
			})
			paused := make(chan error)
			go func() {
				_, err := b.manager.Pause(t.Context(), "pausing0")
				paused <- err
			}()
			<-pausing
			b.engine.Restart()
			b.eventually("everything was looked at", is("ranonabc", was))
			close(end)
			b.fails(<-paused, instance.EngineFailed)
			b.eventually("it is looked at, too", is("pausing0", held))
		})
	}
}

// What a user paused must not be startable by visitors because Docker restarted.
func TestAPauseOutlivesTheEngine(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	if _, err := b.manager.Pause(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	b.engine.Restart()
	if in := b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonUser); in.Wakes() {
		t.Error("a visitor can start what a user paused")
	}
}

func TestStartOnBootBringsBackWhatRan(t *testing.T) {
	const running = 12
	b := newBench(t, running+3)
	b.startOnBoot()
	for n := range running {
		b.create(fmt.Sprintf("running%02d", n))
	}
	for prefix, put := range map[string]func(string){
		"stopped0": func(p string) { _, _ = b.manager.Stop(t.Context(), p) },
		"paused00": func(p string) { _, _ = b.manager.Pause(t.Context(), p) },
		"idle0000": func(p string) { b.update(p, idleAfter(short)) },
	} {
		b.create(prefix)
		put(prefix)
	}
	b.awaitStatus("idle0000", instance.Stopped, instance.ReasonIdle)
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonUser)
	b.awaitStatus("paused00", instance.Paused, instance.ReasonUser)
	last, err := b.manager.Touch("running05")
	if err != nil {
		t.Fatal(err)
	}

	// The first ones stay in the engine until it is seen how many they are.
	var mu sync.Mutex
	var order []string
	atOnce, most := 0, 0
	goOn := make(chan struct{})
	hold := func(ctx context.Context, call, name string) error {
		if call != "Start" {
			return nil
		}
		mu.Lock()
		order = append(order, name)
		atOnce++
		most = max(most, atOnce)
		mu.Unlock()
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		mu.Lock()
		atOnce--
		mu.Unlock()
		if name == "sandbox-running03" {
			return instance.Errorf(instance.EngineFailed, "no space left on device")
		}
		return nil
	}
	b.engine.Fault(hold)
	b.engine.Restart()

	const parallel = 4
	b.eventually("as many as may be start", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return atOnce == parallel
	})
	mu.Lock()
	if !slices.Contains(order, instance.ContainerName(last.Prefix)) {
		t.Errorf("the one that was used last is not among the first: %v", order)
	}
	mu.Unlock()
	close(goOn)
	for n := range running {
		if n != 3 {
			b.answers(b.awaitStatus(fmt.Sprintf("running%02d", n), instance.Running, ""))
		}
	}
	b.awaitStatus("running03", instance.Stopped, instance.ReasonEngine) // a visitor may try again
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonUser)
	b.awaitStatus("paused00", instance.Stopped, instance.ReasonUser)
	b.awaitStatus("idle0000", instance.Stopped, instance.ReasonIdle)
	if most != parallel || len(order) != running {
		t.Errorf("%d starts, %d at once", len(order), most)
	}
}

// Who changes an instance in the moment that it is to be started does not keep it
// from being so.
func TestStartOnBootWaitsForAChange(t *testing.T) {
	const parallel = 4
	b := newBench(t, parallel+1)
	b.startOnBoot()
	b.create("changing")
	for n := range parallel {
		b.create(fmt.Sprintf("others%02d", n))
		if _, err := b.manager.Touch(fmt.Sprintf("others%02d", n)); err != nil { // so they are started first
			t.Fatal(err)
		}
	}
	_, goOn := b.block("Start")
	b.engine.Restart()
	b.awaitStatus("changing", instance.Stopped, instance.ReasonEngine)
	ctx, stop := context.WithCancel(t.Context())
	var changes sync.WaitGroup
	changes.Go(func() {
		for ctx.Err() == nil {
			_, _ = b.manager.Update(ctx, "changing", idleAfter(instance.Duration(time.Hour)))
		}
	})
	goOn()
	b.awaitStatus("changing", instance.Running, "")
	stop()
	changes.Wait()
}

// What was not started yet when we went down is started when we are back.
func TestStartOnBootGoesOnAfterARestart(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.engine.Restart()
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonEngine)
	if err := b.manager.Close(); err != nil {
		t.Fatal(err)
	}
	settings := b.settings()
	settings.StartOnBoot = true
	b.manager = instance.New(b.dir, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil })
	b.manager.Use(settings)
	if err := b.manager.Open(); err != nil {
		t.Fatal(err)
	}
	b.answers(b.awaitStatus("abcdefgh", instance.Running, ""))
}

// A start on boot ends with the Manager.
func TestAStartOnBootIsCutShortByClose(t *testing.T) {
	b := newBench(t, 1)
	b.startOnBoot()
	b.create("abcdefgh")
	starting := make(chan struct{}, 10)
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call == "Start" {
			starting <- struct{}{}
			<-ctx.Done()
		}
		return nil
	})
	b.engine.Restart()
	<-starting
	closed := make(chan error)
	go func() { closed <- b.manager.Close() }()
	select {
	case err := <-closed:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("Close waits for a start on boot")
	}
}
