package instancetest

import (
	"slices"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// listening is owed by runtimes that are instance.Listening.
var listening = []obligation{
	{"listening tells the ports, and which are the container's own", func(s *scene) {
		id := s.run(s.spec("TEST_PORTS=3000,127.0.0.1:4000"))
		want := []instance.Listener{{Port: 3000}, {Port: 4000, Loopback: true}, {Port: containerPort}}
		s.listensOn(id, want)
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		s.must(s.Runtime.Start(s.ctx, id), "starting again")
		s.listensOn(id, want)
	}},
	{"listening of a container that does not run is EngineFailed", func(s *scene) {
		runtime := s.listening()
		_, err := runtime.Listening(s.ctx, s.create(s.spec()))
		s.fails(err, instance.EngineFailed, "listening")
	}},
	{"listening of a container without a server is nothing", func(s *scene) {
		runtime := s.listening()
		id := s.create(s.spec("TEST_MODE=slow", "TEST_DELAY=1m"))
		s.must(s.Runtime.Start(s.ctx, id), "starting")
		listeners, err := runtime.Listening(s.ctx, id)
		s.must(err, "listening")
		if len(listeners) != 0 {
			s.t.Errorf("%v, want nothing", listeners)
		}
	}},
}

// listening is the runtime as one that can look into its containers.
func (s *scene) listening() instance.Listening {
	s.t.Helper()
	runtime, ok := s.Runtime.(instance.Listening)
	if !ok {
		s.t.Skip("this runtime cannot look into its containers")
	}
	return runtime
}

// listensOn waits until exactly want listens in a container.
func (s *scene) listensOn(id string, want []instance.Listener) {
	s.t.Helper()
	runtime := s.listening()
	s.eventually("the servers listen", func() bool {
		got, err := runtime.Listening(s.ctx, id)
		s.must(err, "listening")
		if len(got) > len(want) {
			s.t.Fatalf("%v listens, want %v", got, want)
		}
		return slices.Equal(got, want)
	})
}
