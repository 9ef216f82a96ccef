package instancetest

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var tailing = []obligation{
	{"tail tells what is printed from before it was called until the end", func(s *scene) {
		id := s.run(s.spec())
		t := s.tail(s.ctx, id, 10)
		s.eventually("the first line is told", func() bool { return t.starts() == 1 })
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(t.end(), "tailing to the end")
	}},
	{"tail tells lines as they come", func(s *scene) {
		id := s.create(s.spec("TEST_MODE=slow", "TEST_DELAY=1s"))
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		t := s.tail(s.ctx, id, 10)
		s.eventually("the line that comes late is told", func() bool { return t.starts() == 1 })
	}},
	{"tail tells the lines of the present run alone", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(s.Runtime.Start(s.ctx, id), "starting again")
		s.answers(spec)
		t := s.tail(s.ctx, id, 10)
		s.eventually("the line of this run is told", func() bool { return t.starts() >= 1 })
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(t.end(), "tailing to the end")
		if n := t.starts(); n != 1 {
			s.t.Errorf("%d lines of starts are told, want that of this run: %q", n, t.all())
		}
	}},
	{"tail tells no more of what came before than was asked for", func(s *scene) {
		id := s.run(s.spec())
		t := s.tail(s.ctx, id, 0)
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(t.end(), "tailing to the end")
		if n := t.starts(); n != 0 {
			s.t.Errorf("told %q, want nothing of before", t.all())
		}
	}},
	{"tail of a container that does not run is nothing", func(s *scene) {
		id := s.create(s.spec())
		s.must(s.Runtime.Tail(s.ctx, id, 10, func(line string) { s.t.Errorf("told %q", line) }), "tailing one that never ran")
		exits := s.create(s.spec("TEST_MODE=exit"))
		s.must(s.Runtime.Start(s.ctx, exits), "starting")
		s.ended(exits)
		s.must(s.Runtime.Tail(s.ctx, exits, 10, func(line string) { s.t.Errorf("told %q", line) }), "tailing one that ended")
	}},
	{"tail ends when ctx does", func(s *scene) {
		id := s.run(s.spec())
		ctx, cancel := context.WithCancel(s.ctx)
		t := s.tail(ctx, id, 10)
		s.eventually("it tails", func() bool { return t.starts() == 1 })
		cancel()
		s.fails(t.end(), instance.Timeout, "tailing")
	}},
	{"tail of a container that says nothing ends with it", func(s *scene) {
		id := s.create(s.spec("TEST_MODE=slow", "TEST_DELAY=1m"))
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		t := s.tail(s.ctx, id, 10)
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(t.end(), "tailing to the end")
	}},
}

// tail is one call of Tail that goes on.
type tail struct {
	scene *scene
	mu    sync.Mutex
	lines []string
	err   error
	ended chan struct{}
}

func (s *scene) tail(ctx context.Context, id string, lines int) *tail {
	t := &tail{scene: s, ended: make(chan struct{})}
	go func() {
		defer close(t.ended)
		t.err = s.Runtime.Tail(ctx, id, lines, t.tell)
	}()
	return t
}

func (t *tail) tell(line string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
}

func (t *tail) all() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.lines)
}

// starts counts the lines that a server says when it listens.
func (t *tail) starts() (n int) {
	for _, line := range t.all() {
		if strings.Contains(line, "listening on") {
			n++
		}
	}
	return n
}

// end is what it ended with, once it has.
func (t *tail) end() error {
	t.scene.t.Helper()
	select {
	case <-t.ended:
	case <-time.After(patience):
		t.scene.t.Fatal("Tail goes on")
	}
	return t.err
}
