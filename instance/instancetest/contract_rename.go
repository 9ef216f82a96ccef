package instancetest

import (
	"slices"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var renaming = []obligation{
	{"a spare is found by its key, with the prefix it was born for", func(s *scene) {
		spec := s.spareSpec()
		id := s.create(spec)
		c := s.inspect(instance.ContainerName(spec.Prefix))
		if c.ID != id || c.Spec.Prefix != spec.Prefix || c.Spec.Spare != spec.Spare || c.Spec.BornFor() != spec.Spare {
			s.t.Errorf("the spare %s of %s is reported as %+v", spec.Prefix, spec.Spare, c.Spec)
		}
		listed, err := s.Runtime.List(s.ctx)
		s.must(err, "listing")
		if !slices.ContainsFunc(listed, func(each instance.Container) bool { return each.Spec.Prefix == spec.Prefix }) {
			s.t.Errorf("listed %+v", listed)
		}
	}},
	{"a spare that runs becomes an instance's and runs on", func(s *scene) {
		spec := s.spareSpec()
		id := s.run(spec)
		before := s.inspect(id)
		pid := s.ask(spec, "/pid")
		s.must(s.Runtime.Rename(s.ctx, id, spec.Spare), "renaming")
		after := s.inspect(instance.ContainerName(spec.Spare))
		if after.ID != id || !after.StartedAt.Equal(before.StartedAt) || after.Spec.Prefix != spec.Spare || after.Spec.Spare != spec.Spare {
			s.t.Errorf("before %+v, after %+v", before, after)
		}
		if now := s.ask(spec, "/pid"); now != pid {
			s.t.Errorf("process %s became %s", pid, now)
		}
		_, err := s.Runtime.Inspect(s.ctx, instance.ContainerName(spec.Prefix))
		s.fails(err, instance.NotFound, "inspecting by the old name")
		s.must(s.Runtime.Rename(s.ctx, id, spec.Spare), "renaming it again")
		next := s.Reopen(s.t)
		if c, err := next.Inspect(s.ctx, id); err != nil || c.Spec.Prefix != spec.Spare {
			s.t.Errorf("the next runtime sees %+v, %v", c.Spec, err)
		}
		s.must(s.Runtime.Stop(s.ctx, instance.ContainerName(spec.Spare)), "stopping it by its new name")
		s.must(s.Runtime.Remove(s.ctx, instance.ContainerName(spec.Spare)), "removing it by its new name")
	}},
	{"a spare may get another prefix than the one it was born for", func(s *scene) {
		spec, wished := s.spareSpec(), s.spec()
		s.removeAtEnd(wished)
		id := s.create(spec)
		s.must(s.Runtime.Rename(s.ctx, id, wished.Prefix), "renaming")
		c := s.inspect(instance.ContainerName(wished.Prefix))
		if c.ID != id || c.Spec.Prefix != wished.Prefix || c.Spec.BornFor() != spec.Spare {
			s.t.Errorf("it is reported as %+v", c.Spec)
		}
	}},
	{"watch tells of a rename and of what comes after under the new name", func(s *scene) {
		spec := s.spareSpec()
		id := s.run(spec)
		events := s.watch()
		s.must(s.Runtime.Rename(s.ctx, id, spec.Spare), "renaming")
		s.told(events, spec.Spare)
		s.StopByHand(s.t, id)
		s.told(events, spec.Spare)
	}},
	{"a name that another container has is EngineFailed", func(s *scene) {
		other, spec := s.spec(), s.spareSpec()
		s.create(other)
		id := s.create(spec)
		s.fails(s.Runtime.Rename(s.ctx, id, other.Prefix), instance.EngineFailed, "renaming")
		if c := s.inspect(id); c.Spec.Prefix != spec.Prefix {
			s.t.Errorf("it is now %s", c.Spec.Prefix)
		}
	}},
	{"what was made for an instance is NotFound, and keeps its name", func(s *scene) {
		spec := s.spec()
		id := s.create(spec)
		s.fails(s.Runtime.Rename(s.ctx, id, "anotherone"), instance.NotFound, "renaming")
		s.inspect(instance.ContainerName(spec.Prefix))
	}},
	{"renaming a missing container is NotFound", func(s *scene) {
		s.fails(s.Runtime.Rename(s.ctx, "sandbox-pool-nosuchone", "anotherone"), instance.NotFound, "renaming")
	}},
	{"create replaces what a spare left behind under the same name", func(s *scene) {
		spec := s.spareSpec()
		taken := s.create(spec)
		s.must(s.Runtime.Rename(s.ctx, taken, spec.Spare), "renaming")
		cold := spec
		cold.Prefix, cold.Spare = spec.Spare, ""
		if id := s.create(cold); id == taken {
			s.t.Error("it is the same container")
		}
		if c := s.inspect(instance.ContainerName(cold.Prefix)); c.Spec.Spare != "" {
			s.t.Errorf("it is reported as %+v", c.Spec)
		}
	}},
	{"the folder for late variables is read back", func(s *scene) {
		spec := s.spareSpec()
		spec.LateEnv, spec.LateDir = "/run/late/env", s.t.TempDir()
		c := s.inspect(s.run(spec))
		if c.Spec.LateEnv != spec.LateEnv || c.Spec.LateDir != spec.LateDir {
			s.t.Errorf("it has %s from %s, want %s from %s", c.Spec.LateEnv, c.Spec.LateDir, spec.LateEnv, spec.LateDir)
		}
	}},
	{"a container says which image it was made from", func(s *scene) {
		imaging, ok := s.Runtime.(instance.Imaging)
		if !ok {
			s.t.Skip("it does not tell images apart")
		}
		spec := s.spec()
		id, err := imaging.ImageID(s.ctx, spec.Image)
		s.must(err, "asking for the image")
		if c := s.inspect(s.create(spec)); c.ImageID != id || id == "" {
			s.t.Errorf("the container is of %q, the name means %q", c.ImageID, id)
		}
		_, err = imaging.ImageID(s.ctx, "caddy-sandbox/nosuchone")
		s.fails(err, instance.ImageMissing, "asking for a missing image")
	}},
}

// spareSpec is that of a spare.
func (s *scene) spareSpec() instance.Spec {
	s.t.Helper()
	spec := s.spec()
	spec.Spare = spec.Prefix
	spec.Prefix = "pool-" + spec.Spare
	s.t.Cleanup(func() { s.RemoveByHand(s.t, instance.ContainerName(spec.Spare)) })
	return spec
}
