package instancetest

import (
	"context"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var bounding = []obligation{
	{"calls end when ctx ends", func(s *scene) {
		spec := s.spec()
		calls := append(callsOn(s.Runtime, s.create(spec)),
			call{"Create", func(ctx context.Context) error { _, err := s.Runtime.Create(ctx, spec); return err }},
			call{"List", func(ctx context.Context) error { _, err := s.Runtime.List(ctx); return err }})
		ended, cancel := context.WithCancel(s.ctx)
		cancel()
		for _, call := range calls {
			began := time.Now()
			s.fails(call.do(ended), instance.Timeout, call.name+" with a ctx that has ended")
			if took := time.Since(began); took > patience {
				s.t.Errorf("%s took %v", call.name, took)
			}
		}
	}},
	{"a stop that takes long ends when ctx ends", func(s *scene) {
		id := s.run(s.spec("TEST_MODE=stubborn"))
		ctx, cancel := context.WithTimeout(s.ctx, 500*time.Millisecond)
		defer cancel()
		began := time.Now()
		s.fails(s.Runtime.Stop(ctx, id), instance.Timeout, "stopping")
		if took := time.Since(began); took >= grace { // as one does that waits for the end
			s.t.Errorf("Stop took %v", took)
		}
	}},
}
