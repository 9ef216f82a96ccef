package instancetest

import (
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var reading = []obligation{
	{"inspect reads the spec back", func(s *scene) {
		spec := s.spec("A=1")
		spec.Template, spec.Generation = "react", 7
		spec.Command, spec.WorkDir, spec.User = []string{"--flag", "two words"}, "/work", "1234:1234"
		spec.Memory, spec.CPUs, spec.Pids = 96<<20, 0.75, 48
		spec.Labels = map[string]string{"team": "red", "sandbox.prefix": "not-ours"}
		spec.ContainerPorts, spec.AnyPort = []int{3000, 9229}, true
		began := time.Now()
		id := s.create(spec)
		c := s.inspect(id)
		if c.ID != id {
			s.t.Errorf("id %s, want %s", c.ID, id)
		}
		s.readsBack(c.Spec, spec)
		// An engine elsewhere would have a clock of its own, hence the minute.
		if c.CreatedAt.Before(began.Add(-time.Minute)) || c.CreatedAt.After(time.Now().Add(time.Minute)) {
			s.t.Errorf("created at %v, want about %v", c.CreatedAt, began)
		}
	}},
	{"inspect reads declared ports back without any", func(s *scene) {
		spec := s.spec()
		spec.ContainerPorts = []int{80}
		s.readsBack(s.inspect(s.create(spec)).Spec, spec)
	}},
	{"inspect reads a spec without extras back", func(s *scene) {
		spec := s.spec()
		s.readsBack(s.inspect(s.create(spec)).Spec, spec)
	}},
	{"list returns containers that run and that do not", func(s *scene) {
		stopped, running := s.spec(), s.spec()
		ids := map[string]bool{s.create(stopped): false, s.run(running): true}
		listed, err := s.Runtime.List(s.ctx)
		s.must(err, "listing")
		if len(listed) != len(ids) {
			s.t.Errorf("%d containers listed, want %d: %+v", len(listed), len(ids), listed)
		}
		for _, c := range listed {
			if runs, ours := ids[c.ID]; !ours || runs != c.Running {
				s.t.Errorf("listed: %+v", c)
			}
		}
	}},
	{"list says what inspect says", func(s *scene) {
		spec := s.spec()
		spec.Labels = map[string]string{"team": "red"}
		id := s.run(spec)
		listed, err := s.Runtime.List(s.ctx)
		s.must(err, "listing")
		if len(listed) != 1 {
			s.t.Fatalf("%d containers listed, want 1", len(listed))
		}
		if inspected := s.inspect(id); !reflect.DeepEqual(listed[0], inspected) {
			s.t.Errorf("listed\n%+v\ninspected\n%+v", listed[0], inspected)
		}
	}},
	{"the engine is up since before what ends now", func(s *scene) {
		up, err := s.Runtime.UpSince(s.ctx)
		s.must(err, "asking since when the engine is up")
		if up.IsZero() {
			s.t.Skip("this engine does not tell")
		}
		id := s.run(s.spec())
		s.must(s.Runtime.Stop(s.ctx, id), "stopping")
		if ended := s.inspect(id).FinishedAt; !ended.After(up) {
			s.t.Errorf("it ended at %v, and the engine is up since %v", ended, up)
		}
		if again, err := s.Runtime.UpSince(s.ctx); err != nil || !again.Equal(up) {
			s.t.Errorf("up since %v (%v), was up since %v", again, err, up)
		}
	}},
	{"logs are empty before the first line", func(s *scene) {
		lines, err := s.Runtime.Logs(s.ctx, s.create(s.spec()), 10)
		s.must(err, "reading logs")
		if len(lines) != 0 {
			s.t.Errorf("a container that never ran said %q", lines)
		}
	}},
}

// readsBack compares all that an engine keeps of a spec. It may add variables
// that its image brought, and forgets the pull policy.
func (s *scene) readsBack(got, want instance.Spec) {
	s.t.Helper()
	for name, value := range want.Env {
		if got.Env[name] != value {
			s.t.Errorf("env %s reads back as %q, want %q", name, got.Env[name], value)
		}
	}
	if !maps.Equal(got.Labels, want.Labels) {
		s.t.Errorf("labels read back as %q, want %q", got.Labels, want.Labels)
	}
	if !slices.Equal(got.Command, want.Command) {
		s.t.Errorf("command reads back as %q, want %q", got.Command, want.Command)
	}
	for _, spec := range []*instance.Spec{&got, &want} {
		spec.Env, spec.Labels, spec.Command, spec.Pull = nil, nil, nil, ""
	}
	if !reflect.DeepEqual(got, want) {
		s.t.Errorf("the spec reads back as\n%+v\nwant\n%+v", got, want)
	}
}
