package instancetest

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestMemoryKeepsTheContract(t *testing.T) {
	Contract(t, func(t *testing.T) Fixture { return memoryFixture(NewEngine(t)) })
}

func memoryFixture(e *Engine) Fixture {
	return Fixture{
		Runtime:      e.Runtime("one"),
		Other:        e.Runtime("two"),
		Reopen:       func(*testing.T) instance.Runtime { return e.Runtime("one") },
		Image:        Image,
		StopByHand:   func(_ *testing.T, ref string) { e.StopByHand(ref) },
		RemoveByHand: func(_ *testing.T, ref string) { e.RemoveByHand(ref) },
	}
}

func memoryScene(t *testing.T) (*Engine, *scene) {
	e := NewEngine(t)
	return e, &scene{Fixture: memoryFixture(e), t: t, ctx: t.Context()}
}

func TestAFaultFailsTheCallAndDoesNothing(t *testing.T) {
	e, s := memoryScene(t)
	id := s.create(s.spec())
	e.Fault(func(_ context.Context, call, name string) error {
		if call == "Start" && strings.HasPrefix(name, "sandbox-") {
			return errors.New("no")
		}
		return nil
	})
	s.fails(s.Runtime.Start(s.ctx, id), instance.EngineFailed, "starting with a fault")
	if s.inspect(id).Running {
		t.Error("it runs")
	}
	e.Fault(nil)
	s.must(s.Runtime.Start(s.ctx, id), "starting without a fault")
	if n := e.Calls("Start"); n != 2 {
		t.Errorf("%d calls of Start counted, want 2", n)
	}
}

func TestAFaultKeepsItsKind(t *testing.T) {
	e, s := memoryScene(t)
	e.Fault(func(context.Context, string, string) error { return instance.Errorf(instance.EngineDown, "down") })
	_, err := s.Runtime.List(s.ctx)
	s.fails(err, instance.EngineDown, "listing")
}

func TestALostAnswerHidesASuccess(t *testing.T) {
	e, s := memoryScene(t)
	spec := s.spec()
	hang := func(ctx context.Context, _, _ string) error { <-ctx.Done(); return ctx.Err() }
	e.LoseAnswer(hang)
	e.SetDeadline(50 * time.Millisecond)
	_, err := s.Runtime.Create(s.ctx, spec)
	s.fails(err, instance.Timeout, "creating without an answer")
	e.LoseAnswer(nil)
	e.SetDeadline(time.Minute)
	s.inspect(instance.ContainerName(spec.Prefix))
}

func TestDroppedEventsAreNotToldAndReconnectIs(t *testing.T) {
	e, s := memoryScene(t)
	spec := s.spec()
	events := s.watch()
	e.DropEvents(true)
	id := s.run(spec)
	e.StopByHand(id)
	e.DropEvents(false)
	e.Reconnect()
	if first := <-events; first != (instance.Event{}) {
		t.Errorf("%+v was told", first)
	}
	s.must(e.StartByHand(id), "starting by hand")
	s.told(events, spec.Prefix)
}

func TestImagesThatTheEngineHas(t *testing.T) {
	e, s := memoryScene(t)
	spec := s.spec()
	e.SetImages("other")
	_, err := s.Runtime.Create(s.ctx, spec)
	s.fails(err, instance.ImageMissing, "creating from an image that was taken away")
	spec.Image = "other:latest"
	s.create(spec)
}

func TestNoGoroutineOutlivesTheContainers(t *testing.T) {
	e, s := memoryScene(t)
	before := runtime.NumGoroutine()
	for _, mode := range []string{"hello", "silent", "slow", "exit", "stubborn", "oom"} {
		s.must(s.Runtime.Start(s.ctx, s.create(s.spec("TEST_MODE="+mode))), "starting")
	}
	for _, c := range e.Containers() {
		e.RemoveByHand(c.ID)
	}
	s.eventually("all goroutines end", func() bool { return runtime.NumGoroutine() <= before })
}
