package dockerops

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/docker/docker/api/types/events"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// eventStream is the event stream of a fake engine.
type eventStream struct {
	opens  chan struct{}
	lines  chan string
	cuts   chan struct{}
	filter chan map[string]map[string]bool
}

func (f *fakeEngine) events() *eventStream {
	s := &eventStream{
		opens: make(chan struct{}, 100), lines: make(chan string), cuts: make(chan struct{}),
		filter: make(chan map[string]map[string]bool, 100),
	}
	f.HandleFunc("GET /events", func(w http.ResponseWriter, r *http.Request) {
		var filter map[string]map[string]bool
		_ = json.Unmarshal([]byte(r.FormValue("filters")), &filter)
		s.filter <- filter
		stream := http.NewResponseController(w)
		_ = stream.Flush()
		s.opens <- struct{}{}
		for {
			select {
			case line := <-s.lines:
				_, _ = fmt.Fprint(w, line)
				_ = stream.Flush()
			case <-s.cuts:
				return
			case <-r.Context().Done():
				return
			}
		}
	})
	return s
}

func (s *eventStream) opened(t *testing.T) {
	t.Helper()
	select {
	case <-s.opens:
	case <-time.After(patience):
		t.Fatalf("the event stream was not opened within %v", patience)
	}
}

func (s *eventStream) tell(action, prefix string) {
	s.lines <- fmt.Sprintf(`{"Type":"container","Action":%q,"Actor":{"ID":"c1","Attributes":{"sandbox.manager":%q,"sandbox.prefix":%q}}}`,
		action, testOwner, prefix)
}

func (s *eventStream) cut() { s.cuts <- struct{}{} }

// watch watches until the test ends.
func watch(t *testing.T, c *Client) <-chan instance.Event {
	t.Helper()
	seen := make(chan instance.Event, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		c.Watch(ctx, func(e instance.Event) { seen <- e })
	}()
	t.Cleanup(func() {
		cancel()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("Watch did not end with its ctx")
		}
	})
	return seen
}

func next(t *testing.T, seen <-chan instance.Event) instance.Event {
	t.Helper()
	select {
	case event := <-seen:
		return event
	case <-time.After(patience):
		t.Fatalf("no event within %v", patience)
		return instance.Event{}
	}
}

func TestWatchTellsOfEventsByPrefix(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	stream := engine.events()
	seen := watch(t, clientOn(t, engine.host()))
	if first := next(t, seen); first != (instance.Event{}) {
		t.Errorf("first event %+v, want the zero one", first)
	}
	stream.tell("die", "abcdefgh")
	if event := next(t, seen); event.Prefix != "abcdefgh" {
		t.Errorf("event %+v", event)
	}
}

func TestWatchAsksOnlyForOwnContainersAndTheirChanges(t *testing.T) {
	engine := newFakeEngine(t)
	stream := engine.events()
	c := clientOn(t, engine.host())
	watch(t, c)
	stream.opened(t)
	filter := <-stream.filter
	if !filter["label"]["sandbox.manager="+c.owner] || !filter["type"]["container"] {
		t.Errorf("filter %v", filter)
	}
	for _, action := range []string{"create", "start", "die", "stop", "kill", "oom", "destroy", "pause", "unpause", "rename"} {
		if !filter["event"][action] {
			t.Errorf("does not ask for %s", action)
		}
	}
	if filter["event"][string(events.ActionExecCreate)] {
		t.Error("asks for every exec")
	}
}

func TestWatchComesBackAfterEveryCut(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	stream := engine.events()
	seen := watch(t, clientOn(t, engine.host()))
	for range 3 {
		if event := next(t, seen); event != (instance.Event{}) {
			t.Errorf("event %+v, want the zero one: anything may have happened meanwhile", event)
		}
		stream.tell("start", "abcdefgh")
		if event := next(t, seen); event.Prefix != "abcdefgh" {
			t.Errorf("event %+v", event)
		}
		stream.cut()
	}
}

func TestWatchWaitsForAnEngineThatIsNotThereYet(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	engine.events()
	engine.close()
	seen := watch(t, clientOn(t, engine.host()))
	select {
	case event := <-seen:
		t.Errorf("event %+v from no engine", event)
	case <-time.After(2 * firstReconnect):
	}
	engine.open(t)
	if event := next(t, seen); event != (instance.Event{}) {
		t.Errorf("event %+v, want the zero one", event)
	}
}

// A stream that is accepted and never opened must not hold Watch for ever.
func TestWatchGivesUpOnAStreamThatDoesNotOpen(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	engine.HandleFunc("GET /events", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	c := clientOn(t, engine.host())
	c.Deadlines.List = soon
	seen := watch(t, c)
	eventually(t, "it tries again", func() bool { return engine.requests("GET /events") > 2 })
	if len(seen) > 0 {
		t.Errorf("event %+v though no stream was open", <-seen)
	}
}

func TestWatchEndsWithItsContextOnASilentEngine(t *testing.T) {
	noGoroutineLeft(t)
	c := clientOn(t, newSilentEngine(t))
	c.Deadlines.List = time.Hour
	watch(t, c) // its cleanup checks
}

func TestStatusFollowsWithin2s(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	spec := testSpec(t)
	id, err := c.Create(t.Context(), spec)
	must(t, err)
	seen := watch(t, c)
	next(t, seen)
	for _, change := range []struct {
		name string
		make func()
	}{
		{"a start", func() { must(t, c.Start(t.Context(), id)) }},
		{"a pause", func() { must(t, h.ContainerPause(t.Context(), id)) }},
		{"an unpause", func() { must(t, h.ContainerUnpause(t.Context(), id)) }},
		{"a rename", func() { must(t, h.ContainerRename(t.Context(), id, instance.ContainerName(spec.Prefix)+"-moved")) }},
		{"a kill", func() { must(t, h.ContainerKill(t.Context(), id, "KILL")) }},
		{"a removal", func() { h.remove(t, id) }},
	} {
		drain(seen)
		change.make()
		for nextWithin2s(t, seen, change.name).Prefix != spec.Prefix {
		}
	}
}

// nextWithin2s is the next event after a change. It counts its looks, not the
// time: the machine may stand still.
func nextWithin2s(t *testing.T, seen <-chan instance.Event, change string) instance.Event {
	t.Helper()
	for range 100 {
		select {
		case event := <-seen:
			return event
		case <-time.After(20 * time.Millisecond):
		}
	}
	t.Fatalf("%s was not told within 2 s", change)
	return instance.Event{}
}

func drain(seen <-chan instance.Event) {
	for {
		select {
		case <-seen:
		default:
			return
		}
	}
}
