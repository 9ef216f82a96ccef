package instance_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// restartEngine takes the engine down, with all that runs on it, and up again.
func (b *bench) restartEngine() {
	b.Helper()
	b.stopEngine()
	b.engine.Fault(nil)
	b.startEngine()
}

// stopEngine takes the engine down: it answers nothing until there is another
// fault.
func (b *bench) stopEngine() {
	b.Helper()
	b.engine.DropEvents(true)
	b.engine.Fault(func(context.Context, string, string) error {
		return &instance.Error{Kind: instance.EngineDown, Message: "down"}
	})
	for _, c := range b.engine.Containers() {
		b.engine.StopByHand(c.ID)
	}
}

func (b *bench) startEngine() {
	b.engine.DropEvents(false)
	b.engine.Reconnect()
}

func (b *bench) startOnBoot() {
	settings := b.settings()
	settings.StartOnBoot = true
	b.manager.Use(settings)
}

func TestWhatEndedWithTheEngineComesBackWithAVisit(t *testing.T) {
	for name, restart := range map[string]func(*bench){
		"engine": (*bench).restartEngine,
		"machine": func(b *bench) {
			if err := b.manager.Close(); err != nil {
				b.Fatal(err)
			}
			b.restartEngine()
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
		b.restartEngine()
		const together = 20 * time.Second
		if took := time.Since(begun); took >= together {
			return instancetest.Blame(errors.New("some ended long before the others"), took, together)
		}
		b.awaitStatus("stopped0", instance.Stopped, instance.ReasonEngine)
		b.awaitStatus("stopped1", instance.Stopped, instance.ReasonEngine)
		return nil
	})
}

// Only the connection broke: who was stopped meanwhile was stopped by hand.
func TestAConnectionThatBrokeIsNoRestartOfTheEngine(t *testing.T) {
	b := newBench(t, 2)
	b.create("ranonabc")
	byHand := b.create("stopped0")
	b.engine.DropEvents(true)
	b.engine.StopByHand(byHand.ContainerID)
	b.engine.DropEvents(false)
	b.engine.Reconnect()
	b.awaitStatus("stopped0", instance.Stopped, instance.ReasonOutside)
	b.awaitStatus("ranonabc", instance.Running, "")
}

// What a user paused must not be startable by visitors because Docker restarted.
func TestAPauseOutlivesTheEngine(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	if _, err := b.manager.Pause(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	b.restartEngine()
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
	b.stopEngine()
	b.engine.Fault(hold)
	b.startEngine()

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
	b.stopEngine()
	_, goOn := b.block("Start")
	b.startEngine()
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
	b.restartEngine()
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
	b.stopEngine()
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call == "Start" {
			starting <- struct{}{}
			<-ctx.Done()
		}
		return nil
	})
	b.startEngine()
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
