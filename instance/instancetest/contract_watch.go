package instancetest

import (
	"context"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var watching = []obligation{
	{"watch starts with a zero event", func(s *scene) {
		s.watch()
	}},
	{"watch tells of a start within 2 s", func(s *scene) {
		spec := s.spec()
		id := s.create(spec)
		events := s.watch()
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		s.told(events, spec.Prefix)
	}},
	{"watch tells of a stop by hand within 2 s", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		events := s.watch()
		s.StopByHand(s.t, id)
		s.told(events, spec.Prefix)
	}},
	{"watch tells of a removal by hand within 2 s", func(s *scene) {
		spec := s.spec()
		id := s.create(spec)
		events := s.watch()
		s.RemoveByHand(s.t, id)
		s.told(events, spec.Prefix)
	}},
	{"watch tells of a container that ends by itself within 2 s", func(s *scene) {
		spec := s.spec()
		s.run(spec)
		events := s.watch()
		s.ask(spec, "/exit?code=7")
		s.told(events, spec.Prefix)
	}},
	{"watch ends when its ctx ends", func(s *scene) {
		ctx, cancel := context.WithCancel(s.ctx)
		defer cancel()
		connected, ended := make(chan struct{}, 16), make(chan struct{})
		go func() {
			defer close(ended)
			s.Runtime.Watch(ctx, func(instance.Event) { connected <- struct{}{} })
		}()
		within(s.t, 5*time.Second, "the first event", connected)
		cancel()
		within(s.t, 2*time.Second, "the end of Watch", ended)
	}},
}

// watch watches until the test ends and returns once the zero event came.
func (s *scene) watch() (events <-chan instance.Event) {
	s.t.Helper()
	all := make(chan instance.Event, 256)
	ctx, cancel := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Runtime.Watch(ctx, func(event instance.Event) {
			select {
			case all <- event:
			default: // notify must not block
			}
		})
	}()
	s.t.Cleanup(func() {
		cancel()
		within(s.t, 5*time.Second, "the end of Watch", ended)
	})
	if first := within(s.t, 5*time.Second, "the first event", all); first != (instance.Event{}) {
		s.t.Fatalf("the first event is %+v, want a zero one", first)
	}
	return all
}

// within receives from c, which gives something or is closed in time.
func within[T any](t *testing.T, timeout time.Duration, what string, c <-chan T) (received T) {
	t.Helper()
	select {
	case received = <-c:
	case <-time.After(timeout):
		t.Fatalf("not within %v: %s", timeout, what)
	}
	return received
}

// told waits for an event about prefix. A zero event, though it covers prefix
// as well, does not count: it would hide that nothing is told.
func (s *scene) told(events <-chan instance.Event, prefix string) {
	s.t.Helper()
	deadline := time.After(2 * time.Second)
	for {
		select {
		case event := <-events:
			if event.Prefix == prefix {
				return
			}
		case <-deadline:
			s.t.Fatalf("no event about %s within 2 s", prefix)
		}
	}
}
