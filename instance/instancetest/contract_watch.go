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
		id := s.run(spec)
		events := s.watch()
		s.ask(spec, "/exit?code=7")
		s.ended(id) // the engine may notice late; the 2 s are of what it knows
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
		received(s.t, "the first event", connected)
		cancel()
		received(s.t, "the end of Watch", ended)
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
		received(s.t, "the end of Watch", ended)
	})
	if first := received(s.t, "the first event", all); first != (instance.Event{}) {
		s.t.Fatalf("the first event is %+v, want a zero one", first)
	}
	return all
}

// patience is longer than a machine in use keeps anybody waiting.
const patience = 30 * time.Second

// received is from c, which gives something or is closed before long.
func received[T any](t *testing.T, what string, c <-chan T) (something T) {
	t.Helper()
	select {
	case something = <-c:
	case <-time.After(patience):
		t.Fatalf("not within %v: %s", patience, what)
	}
	return something
}

// told waits for an event about prefix. A zero event, though it covers prefix
// as well, does not count: it would hide that nothing is told.
func (s *scene) told(events <-chan instance.Event, prefix string) {
	s.t.Helper()
	for looks := 0; looks < 100; { // not the time: the machine may stand still
		select {
		case event := <-events:
			if event.Prefix == prefix {
				return
			}
		case <-time.After(20 * time.Millisecond):
			looks++
		}
	}
	s.t.Fatalf("no event about %s within 2 s", prefix)
}
