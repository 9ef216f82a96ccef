package instancetest

import (
	"slices"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

var ending = []obligation{
	{"stop asks the container to end and returns when it has", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		c := s.inspect(id)
		if c.Running || c.ExitCode != devserver.Terminated || c.FinishedAt.Before(c.StartedAt) {
			s.t.Errorf("after Stop the container is %+v, want exit code %d", c, devserver.Terminated)
		}
		s.occupy(spec.Port) // its port is free at once
	}},
	{"stop kills a container that does not end by itself after 5 s", func(s *scene) {
		id := s.run(s.spec("TEST_MODE=stubborn"))
		began := time.Now()
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		if took := time.Since(began); took < 4*time.Second { // or longer, where Docker is slow; the call has its deadline
			s.t.Errorf("Stop took %v", took)
		}
		if c := s.inspect(id); c.Running || c.ExitCode != devserver.Killed {
			s.t.Errorf("after Stop the container is %+v, want exit code %d", c, devserver.Killed)
		}
	}},
	{"stopping a container that does not run is no error", func(s *scene) {
		id := s.create(s.spec())
		s.must(s.Runtime.Stop(s.ctx, id), "stopping one that never ran")
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(s.Runtime.Stop(s.ctx, id), "stopping again")
	}},
	{"remove kills a running container and frees its name and port", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		s.must(s.Runtime.Remove(s.ctx, id), "removing")
		_, err := s.Runtime.Inspect(s.ctx, id)
		s.fails(err, instance.NotFound, "inspecting what was removed")
		if again := s.run(spec); again == id {
			s.t.Errorf("the new container has the id of the old one")
		}
	}},
	{"remove of a gone container is no error", func(s *scene) {
		spec := s.spec()
		id := s.create(spec)
		s.RemoveByHand(s.t, id)
		s.must(s.Runtime.Remove(s.ctx, id), "removing by id")
		s.must(s.Runtime.Remove(s.ctx, instance.ContainerName(spec.Prefix)), "removing by name")
	}},
	{"parallel removes all return when the container is gone", func(s *scene) {
		id := s.run(s.spec())
		s.inParallel(5, func(int) error {
			if err := s.Runtime.Remove(s.ctx, id); err != nil {
				return err
			}
			if _, err := s.Runtime.Inspect(s.ctx, id); instance.KindOf(err) != instance.NotFound {
				s.t.Errorf("inspecting after Remove: %v", err)
			}
			return nil
		})
	}},
	{"a missing container is NotFound", func(s *scene) {
		spec := s.spec()
		gone := s.create(spec)
		s.must(s.Runtime.Remove(s.ctx, gone), "removing")
		for _, ref := range []string{gone, instance.ContainerName(spec.Prefix)} {
			for _, call := range callsOn(s.Runtime, ref) {
				if call.name != "Remove" {
					s.fails(call.do(s.ctx), instance.NotFound, call.name+" "+ref)
				}
			}
		}
	}},
	{"a name does as well as an id", func(s *scene) {
		spec := s.spec()
		id := s.create(spec)
		name := instance.ContainerName(spec.Prefix)
		s.must(s.Runtime.Start(s.ctx, name), "starting")
		s.answers(spec)
		if c := s.inspect(name); c.ID != id || !c.Running {
			s.t.Errorf("inspecting %s gives %+v, want id %s, running", name, c, id)
		}
		if _, err := s.Runtime.Logs(s.ctx, name, 1); err != nil {
			s.t.Errorf("reading logs: %v", err)
		}
		s.must(s.Runtime.Stop(s.ctx, name), "stopping")
		s.must(s.Runtime.Remove(s.ctx, name), "removing")
		_, err := s.Runtime.Inspect(s.ctx, id)
		s.fails(err, instance.NotFound, "inspecting what was removed")
	}},
	{"exit code and last log lines are readable after the end", func(s *scene) {
		id := s.create(s.spec("TEST_MODE=exit", "TEST_EXIT_CODE=42"))
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		if c := s.ended(id); c.ExitCode != 42 || c.OOMKilled {
			s.t.Errorf("the container ended as %+v, want exit code 42", c)
		}
		s.logs(id, 10, devserver.ExitLines)
		s.logs(id, 1, devserver.ExitLines[1:])
	}},
	{"a container that ran out of memory says so", func(s *scene) {
		id := s.create(s.spec("TEST_MODE=oom"))
		var c instance.Container
		// Docker learns of the want and of the end by two events, and forgets
		// the first if it comes second; so it may take more than one run.
		for range 5 {
			s.must(s.Runtime.Start(s.ctx, id), "starting")
			if c = s.ended(id); c.ExitCode != devserver.Killed {
				s.t.Fatalf("the container ended as %+v, want exit code %d", c, devserver.Killed)
			}
			if c.OOMKilled {
				return
			}
		}
		s.t.Errorf("the container ended as %+v, want it said that it was for want of memory", c)
	}},
}

func (s *scene) logs(ref string, lines int, want []string) {
	s.t.Helper()
	got, err := s.Runtime.Logs(s.ctx, ref, lines)
	s.must(err, "reading logs")
	if !slices.Equal(got, want) {
		s.t.Errorf("the last %d lines are %q, want %q", lines, got, want)
	}
}
