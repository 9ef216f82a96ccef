package instancetest

import (
	"fmt"
	"net"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var starting = []obligation{
	{"a started container answers on its host port of 127.0.0.1 and nowhere else", func(s *scene) {
		spec := s.spec()
		s.run(spec)
		conn, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.2:%d", spec.Port), 2*time.Second)
		if err == nil {
			_ = conn.Close()
			s.t.Errorf("port %d is open on 127.0.0.2 as well", spec.Port)
		}
	}},
	{"an address, where there is one, leads to the running container", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		if address := s.inspect(id).Address; address.IsValid() {
			body, err := get(s.ctx, "http://"+address.String()+"/")
			s.must(err, "asking the server at its own address")
			if want := s.ask(spec, "/"); body != want {
				s.t.Errorf("at %s answers %q, want %q", address, body, want)
			}
		}
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		if address := s.inspect(id).Address; address.IsValid() {
			s.t.Errorf("a stopped container has the address %s", address)
		}
	}},
	{"starting a running container is no error", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		pid := s.ask(spec, "/pid")
		s.must(s.Runtime.Start(s.ctx, id), "starting it again")
		if now := s.ask(spec, "/pid"); now != pid {
			s.t.Errorf("process %s became %s", pid, now)
		}
	}},
	{"parallel starts of one container run it once", func(s *scene) {
		spec := s.spec()
		id := s.create(spec)
		s.inParallel(5, func(int) error { return s.Runtime.Start(s.ctx, id) })
		s.answers(spec)
	}},
	{"start does not wait for the server to listen", func(s *scene) {
		id := s.create(s.spec("TEST_MODE=slow", "TEST_DELAY=1m"))
		began := time.Now()
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		if took := time.Since(began); took > 20*time.Second {
			s.t.Errorf("Start took %v", took)
		}
		if !s.inspect(id).Running {
			s.t.Error("the container does not run")
		}
	}},
	{"starting a container that ends at once is no error", func(s *scene) {
		id := s.create(s.spec("TEST_MODE=exit"))
		for range 2 {
			s.must(s.Runtime.Start(s.ctx, id), "starting")
			s.ended(id)
		}
	}},
	{"stop then start keeps the id", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		before := s.inspect(id)
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(s.Runtime.Start(s.ctx, id), "starting again")
		s.answers(spec)
		after := s.inspect(instance.ContainerName(spec.Prefix))
		if after.ID != id || !after.Running || !after.StartedAt.After(before.StartedAt) {
			s.t.Errorf("before the stop %+v, after the start %+v", before, after)
		}
	}},
	{"a taken host port is PortTaken and removing the leftover frees the name", func(s *scene) {
		spec := s.spec()
		s.occupy(spec.Port)
		id := s.create(spec)
		s.fails(s.Runtime.Start(s.ctx, id), instance.PortTaken, "starting on a taken port")
		if s.inspect(id).Running {
			s.t.Error("the container runs without its port")
		}
		s.must(s.Runtime.Remove(s.ctx, id), "removing the leftover")
		spec.Port = FreePort(s.t)
		s.run(spec)
	}},
	{"a container that found its port taken starts once the port is free", func(s *scene) {
		spec := s.spec()
		release := s.occupy(spec.Port)
		id := s.create(spec)
		s.fails(s.Runtime.Start(s.ctx, id), instance.PortTaken, "starting on a taken port")
		release()
		s.must(s.Runtime.Start(s.ctx, id), "starting on the port that is free again")
		s.answers(spec)
	}},
	{"a host port taken by another container is PortTaken", func(s *scene) {
		first := s.spec()
		s.run(first)
		second := s.spec()
		second.Port = first.Port
		s.fails(s.Runtime.Start(s.ctx, s.create(second)), instance.PortTaken, "starting on the port of another")
		s.answers(first)
	}},
}

// occupy listens on a port of 127.0.0.1 until release or the end of the test.
func (s *scene) occupy(port int) (release func()) {
	s.t.Helper()
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	s.must(err, "occupying the port")
	s.t.Cleanup(func() { _ = listener.Close() })
	return func() { _ = listener.Close() }
}
