package instancetest

import (
	"context"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var pausing = []obligation{
	{"a paused container stands still and goes on where it was", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		pid := s.ask(spec, "/pid")
		s.must(s.Runtime.Pause(s.ctx, id), "pausing")
		if c := s.inspect(id); !c.Paused || !c.Running {
			s.t.Errorf("paused: running %v, paused %v", c.Running, c.Paused)
		}
		ctx, cancel := context.WithTimeout(s.ctx, 300*time.Millisecond)
		defer cancel()
		if body, err := get(ctx, hostURL(spec)+"/pid"); err == nil {
			s.t.Errorf("a paused server answers %q", body)
		}
		s.must(s.Runtime.Start(s.ctx, id), "resuming")
		if c := s.inspect(id); c.Paused {
			s.t.Error("it is still paused")
		}
		if now := s.ask(spec, "/pid"); now != pid {
			s.t.Errorf("process %s became %s", pid, now)
		}
	}},
	{"pausing a paused container is no error", func(s *scene) {
		id := s.run(s.spec())
		s.must(s.Runtime.Pause(s.ctx, id), "pausing")
		s.must(s.Runtime.Pause(s.ctx, id), "pausing it again")
	}},
	{"pausing a container that does not run is EngineFailed", func(s *scene) {
		s.fails(s.Runtime.Pause(s.ctx, s.create(s.spec())), instance.EngineFailed, "pausing")
	}},
	{"pausing a missing container is NotFound", func(s *scene) {
		s.fails(s.Runtime.Pause(s.ctx, "sandbox-nosuchone"), instance.NotFound, "pausing")
	}},
	{"a paused container can be stopped", func(s *scene) {
		id := s.run(s.spec())
		s.must(s.Runtime.Pause(s.ctx, id), "pausing")
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		if c := s.inspect(id); c.Running || c.Paused {
			s.t.Errorf("stopped: running %v, paused %v", c.Running, c.Paused)
		}
	}},
	{"a paused container can be removed", func(s *scene) {
		id := s.run(s.spec())
		s.must(s.Runtime.Pause(s.ctx, id), "pausing")
		s.must(s.Runtime.Remove(s.ctx, id), "removing")
		_, err := s.Runtime.Inspect(s.ctx, id)
		s.fails(err, instance.NotFound, "inspecting")
	}},
}
