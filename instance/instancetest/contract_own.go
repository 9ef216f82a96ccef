package instancetest

import (
	"context"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var owning = []obligation{
	{"list returns only own containers", func(s *scene) {
		s.createBy(s.Other, s.spec())
		own := s.create(s.spec())
		listed, err := s.Runtime.List(s.ctx)
		s.must(err, "listing")
		if len(listed) != 1 || listed[0].ID != own {
			s.t.Errorf("listed %+v, want only %s", listed, own)
		}
	}},
	{"a foreign container of our name is never touched", func(s *scene) {
		spec := s.spec()
		name := instance.ContainerName(spec.Prefix)
		foreign := s.createBy(s.Other, spec)
		s.must(s.Other.Start(s.ctx, foreign), "starting the foreign container")
		s.answers(spec)
		pid := s.ask(spec, "/pid")

		_, err := s.Runtime.Create(s.ctx, spec)
		s.fails(err, instance.EngineFailed, "creating over a foreign container")
		if !strings.Contains(err.Error(), name) {
			s.t.Errorf("%q does not name %s", err, name)
		}
		for _, ref := range []string{foreign, name} {
			for _, call := range callsOn(s.Runtime, ref) {
				s.fails(call.do(s.ctx), instance.NotFound, call.name+" of a foreign container")
			}
		}
		if now := s.ask(spec, "/pid"); now != pid {
			s.t.Errorf("its process %s became %s", pid, now)
		}
	}},
	{"a foreign container that does not run is not started", func(s *scene) {
		foreign := s.createBy(s.Other, s.spec())
		s.fails(s.Runtime.Start(s.ctx, foreign), instance.NotFound, "starting")
		c, err := s.Other.Inspect(s.ctx, foreign)
		s.must(err, "inspecting it as its owner")
		if c.Running {
			s.t.Error("it runs")
		}
	}},
	{"containers run on when the runtime is closed, and the next one finds them", func(s *scene) {
		spec := s.spec()
		id := s.run(spec)
		pid := s.ask(spec, "/pid")
		s.must(s.Runtime.Close(), "closing the runtime")
		next := s.Reopen(s.t)
		listed, err := next.List(s.ctx)
		s.must(err, "listing")
		if len(listed) != 1 || listed[0].ID != id || !listed[0].Running {
			s.t.Errorf("listed %+v, want %s, running", listed, id)
		}
		if now := s.ask(spec, "/pid"); now != pid {
			s.t.Errorf("process %s became %s", pid, now)
		}
		s.must(next.Remove(s.ctx, id), "removing through the next runtime")
	}},
}

// call is one Runtime method, applied to one container.
type call struct {
	name string
	do   func(context.Context) error
}

func callsOn(runtime instance.Runtime, ref string) []call {
	calls := []call{
		{"Start", func(ctx context.Context) error { return runtime.Start(ctx, ref) }},
		{"Stop", func(ctx context.Context) error { return runtime.Stop(ctx, ref) }},
		{"Rename", func(ctx context.Context) error { return runtime.Rename(ctx, ref, "anotherone") }},
		{"Inspect", func(ctx context.Context) error { _, err := runtime.Inspect(ctx, ref); return err }},
		{"Logs", func(ctx context.Context) error { _, err := runtime.Logs(ctx, ref, 1); return err }},
		{"Tail", func(ctx context.Context) error { return runtime.Tail(ctx, ref, 1, func(string) {}) }},
		{"Remove", func(ctx context.Context) error { return runtime.Remove(ctx, ref) }},
	}
	if l, ok := runtime.(instance.Listening); ok {
		calls = append(calls, call{"Listening", func(ctx context.Context) error { _, err := l.Listening(ctx, ref); return err }})
	}
	return calls
}
