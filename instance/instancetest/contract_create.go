package instancetest

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

var creating = []obligation{
	{"create does not start the container", func(s *scene) {
		c := s.inspect(s.create(s.spec()))
		if c.Running || !c.StartedAt.IsZero() || !c.FinishedAt.IsZero() {
			s.t.Errorf("a container that was only created is reported as %+v", c)
		}
	}},
	{"a missing image is ImageMissing", func(s *scene) {
		for _, pull := range []instance.PullPolicy{instance.PullNever, instance.PullMissing, ""} {
			spec := s.spec()
			// Nobody listens on port 1, so even a pull fails at once.
			spec.Image, spec.Pull = "127.0.0.1:1/sandbox/missing", pull
			s.removeAtEnd(spec)
			_, err := s.Runtime.Create(s.ctx, spec)
			s.fails(err, instance.ImageMissing, "creating with pull policy "+strconv.Quote(string(pull)))
			_, err = s.Runtime.Inspect(s.ctx, instance.ContainerName(spec.Prefix))
			s.fails(err, instance.NotFound, "inspecting what must not be there")
		}
	}},
	{"create replaces a stale container of ours", func(s *scene) {
		spec := s.spec()
		stale := s.create(spec)
		spec.Generation = 2
		s.replaces(stale, spec)
	}},
	{"create replaces a stale container of ours that still runs", func(s *scene) {
		spec := s.spec()
		stale := s.run(spec)
		spec.Generation = 2
		s.replaces(stale, spec)
	}},
	{"parallel creates of a fresh runtime all succeed", func(s *scene) {
		specs := make([]instance.Spec, 4)
		for i := range specs {
			specs[i] = s.spec()
			s.removeAtEnd(specs[i])
		}
		s.inParallel(len(specs), func(i int) error {
			id, err := s.Runtime.Create(s.ctx, specs[i])
			if err != nil {
				return err
			}
			return s.Runtime.Start(s.ctx, id)
		})
		for _, spec := range specs {
			s.answers(spec)
		}
	}},
	{"env and label values with $ quotes newlines unicode arrive unchanged", func(s *scene) {
		values := map[string]string{
			"DOLLAR": "$HOME ${HOME} $$ $(id) %s", "QUOTES": `"double" 'single' \back\ ` + "`tick`",
			"LINES": "one\ntwo\r\n\tthree\n", "UNICODE": "grüße 你好 🙂", "EQUALS": "a=b=c", "EMPTY": "", "SPACES": "  x  ",
		}
		spec := s.spec()
		maps.Copy(spec.Env, values)
		spec.Labels = map[string]string{}
		for name, value := range values {
			spec.Labels[strings.ToLower(name)] = value
		}
		id := s.run(spec)

		var arrived map[string]string
		s.must(json.Unmarshal([]byte(s.ask(spec, "/env")), &arrived), "reading the environment")
		for name, want := range spec.Env {
			if got, set := arrived[name]; !set || got != want {
				s.t.Errorf("env %s arrived as %q, want %q", name, got, want)
			}
		}
		if got := s.inspect(id).Spec.Labels; !maps.Equal(got, spec.Labels) {
			s.t.Errorf("labels read back as %q, want %q", got, spec.Labels)
		}
	}},
	{"command, working folder and user arrive", func(s *scene) {
		spec := s.spec()
		spec.Command, spec.WorkDir, spec.User = []string{"--flag", "two words", "$x"}, "/work", "1234:1234"
		s.run(spec)
		var process devserver.Process
		s.must(json.Unmarshal([]byte(s.ask(spec, "/process")), &process), "reading the process")
		if !slices.Equal(process.Args, spec.Command) || process.Dir != spec.WorkDir || process.UID != 1234 {
			s.t.Errorf("the process runs as %+v", process)
		}
	}},
}

// replaces checks that creating spec puts a working container in place of stale.
func (s *scene) replaces(stale string, spec instance.Spec) {
	s.t.Helper()
	id, err := s.Runtime.Create(s.ctx, spec)
	s.must(err, "creating over a stale container")
	if id == stale {
		s.t.Fatal("the stale container was kept")
	}
	_, err = s.Runtime.Inspect(s.ctx, stale)
	s.fails(err, instance.NotFound, "inspecting the stale container")
	if c := s.inspect(instance.ContainerName(spec.Prefix)); c.ID != id || c.Spec.Generation != spec.Generation {
		s.t.Errorf("the name leads to generation %d, id %s; want %d, %s", c.Spec.Generation, c.ID, spec.Generation, id)
	}
	s.must(s.Runtime.Start(s.ctx, id), "starting the new container")
	s.answers(spec)
}

// inParallel does n things at once, none of which may fail.
func (s *scene) inParallel(n int, do func(i int) error) {
	s.t.Helper()
	errs := make([]error, n)
	var group sync.WaitGroup
	for i := range n {
		group.Go(func() { errs[i] = do(i) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			s.t.Error(err)
		}
	}
}
