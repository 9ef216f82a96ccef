package instance

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestDecide(t *testing.T) {
	t0 := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	later := t0.Add(time.Minute)
	rec := func(status Status, change ...func(*Record)) *Record {
		r := &Record{
			Spec:   Spec{Prefix: "abcdefgh", Port: 5174},
			Status: status, Ready: status == Running, ContainerID: "c1", StartedAt: &t0,
		}
		for _, c := range change {
			c(r)
		}
		return r
	}
	con := func(change ...func(*Container)) *Container {
		c := &Container{ID: "c1", Spec: Spec{Prefix: "abcdefgh", Port: 5174}, Running: true, CreatedAt: t0, StartedAt: t0}
		for _, f := range change {
			f(c)
		}
		return c
	}
	spare := func(status Status) *Record {
		return rec(status, func(r *Record) { r.Prefix, r.Spare = "pool-abcdefgh", "abcdefgh" })
	}
	renamed := rec(Running, func(r *Record) { r.Spare = "bornfor0" })
	born := func(s *snapshot) {
		s.containers["bornfor0"], s.births = *con(func(c *Container) { c.ID = "c2" }), map[string]string{"bornfor0": "abcdefgh"}
	}
	exit := func(code int, oom bool) func(*Container) {
		return func(c *Container) { c.Running, c.ExitCode, c.OOMKilled = false, code, oom }
	}

	at := func(stopped time.Time) func(*Record) { return func(r *Record) { r.StoppedAt = &stopped } }
	because := func(reason string) func(*Record) { return func(r *Record) { r.Reason = reason } }

	for _, test := range []struct {
		name      string
		record    *Record
		container *Container
		change    func(*snapshot)
		want      string
	}{
		{"running and it runs", rec(Running), con(), nil, ""},
		{"stopped and it is", rec(Stopped), con(exit(143, false)), nil, ""},
		{"failed and it ended", rec(Failed), con(exit(3, false)), nil, ""},
		{"running, container gone", rec(Running), nil, nil,
			"correct abcdefgh to stopped: container removed"},
		{"running, stopped by hand", rec(Running), con(exit(143, false)), nil,
			"correct abcdefgh to stopped: stopped outside"},
		{"running, killed by hand", rec(Running), con(exit(137, false)), nil,
			"correct abcdefgh to stopped: stopped outside"},
		{"running, crashed", rec(Running), con(exit(3, false)), nil,
			"correct abcdefgh to failed: exited 3"},
		{"running, out of memory", rec(Running), con(exit(137, true)), nil,
			"correct abcdefgh to failed: exited 137: out of memory"},
		{"running, ended with the engine", rec(Running), con(exit(143, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: engine stopped"},
		{"running, ended with the engine, by a server that calls that an error", rec(Running), con(exit(1, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: engine stopped"},
		{"running, out of memory while nobody watched", rec(Running), con(exit(137, true)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to failed: exited 137: out of memory"},
		{"running, ended while nobody watched, and another runs on", rec(Running), con(exit(3, false)), func(s *snapshot) {
			s.away = true
			s.records["ranonabc"] = rec(Running)
			s.containers["ranonabc"] = *con()
		}, "correct abcdefgh to failed: exited 3"},
		{"running, ended with the engine, and another was restarted by it", rec(Running), con(exit(143, false)), func(s *snapshot) {
			s.away = true
			s.records["zrestart"] = rec(Running)
			s.containers["zrestart"] = *con(func(c *Container) { c.StartedAt = later })
		}, "correct abcdefgh to stopped: engine stopped\nstart zrestart: its container was restarted from outside"},
		{"stopped as by hand while the engine went down", rec(Stopped, because(ReasonOutside), at(t0.Add(time.Second))), con(exit(143, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: engine stopped"},
		{"failed as by itself while the engine went down", rec(Failed, because("exited 1"), at(t0.Add(time.Second))), con(exit(1, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: engine stopped"},
		{"stopped by hand before the engine went down", rec(Stopped, because(ReasonOutside), at(t0)), con(exit(143, false)), func(s *snapshot) { s.away = true }, ""},
		{"out of memory while the engine went down", rec(Failed, because("exited 137: out of memory"), at(t0.Add(time.Second))), con(exit(137, true)), func(s *snapshot) { s.away = true }, ""},
		{"idle while the engine went down", rec(Stopped, because(ReasonIdle), at(t0.Add(time.Second))), con(exit(143, false)), func(s *snapshot) { s.away = true }, ""},
		{"stopped by a user while the engine went down", rec(Stopped, because(ReasonUser), at(t0.Add(time.Second))), con(exit(143, false)), func(s *snapshot) { s.away = true }, ""},
		{"stopped by hand while the engine is there", rec(Stopped, because(ReasonOutside), at(t0.Add(time.Second))), con(exit(143, false)), nil, ""},
		{"paused for idleness, ended with the engine", rec(Paused, because(ReasonIdle)), con(exit(137, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: idle"},
		{"paused by a user, ended with the engine", rec(Paused, because(ReasonUser)), con(exit(137, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: user"},
		{"paused by hand, ended with the engine", rec(Paused, because(ReasonPaused)), con(exit(137, false)), func(s *snapshot) { s.away = true },
			"correct abcdefgh to stopped: engine stopped"},
		{"paused by a user, stopped by hand", rec(Paused, because(ReasonUser)), con(exit(137, false)), nil,
			"correct abcdefgh to stopped: user"},
		{"paused by a user, container gone", rec(Paused, because(ReasonUser)), nil, nil,
			"correct abcdefgh to stopped: user"},
		{"paused for idleness, container gone", rec(Paused, because(ReasonIdle)), nil, nil,
			"correct abcdefgh to stopped: container removed"},
		{"running, restarted by hand", rec(Running), con(func(c *Container) { c.StartedAt = later }), nil,
			"start abcdefgh: its container was restarted from outside"},
		{"running, replaced", rec(Running), con(func(c *Container) { c.ID = "c2" }), nil,
			"start abcdefgh: its container was replaced from outside"},
		{"running, never ready yet", rec(Running, func(r *Record) { r.Ready = false }), con(), nil,
			"start abcdefgh: it has not become ready yet"},
		{"stopped, started by hand", rec(Stopped), con(), nil,
			"start abcdefgh: it was started from outside"},
		{"stopped by the user, container removed", rec(Stopped, func(r *Record) { r.Reason = ReasonUser }), nil, nil,
			"correct abcdefgh to stopped: container removed"},
		{"stopped, container long gone", rec(Stopped, func(r *Record) { r.ContainerID = "" }), nil, nil, ""},
		{"create interrupted", rec(Creating), con(), nil,
			"undo create of abcdefgh: it was interrupted before its answer"},
		{"delete interrupted", rec(Deleting), con(), nil,
			"finish delete of abcdefgh: it was interrupted"},
		{"stop interrupted", rec(Stopping), con(), nil,
			"finish stop of abcdefgh: it was interrupted"},
		{"start interrupted", rec(Starting), con(exit(143, false)), nil,
			"start abcdefgh: its start was interrupted"},
		{"no record", nil, con(), nil,
			"remove abcdefgh: no record knows its container"},
		{"no record, but young", nil, con(func(c *Container) { c.CreatedAt = later }), nil, ""},
		{"no record, and the clock was set forward", nil, con(), func(s *snapshot) { s.now = later.AddDate(10, 0, 0) },
			"remove abcdefgh: no record knows its container"},
		{"no record, and the clock was set back", nil, con(), func(s *snapshot) { s.now = later.AddDate(-10, 0, 0) },
			"remove abcdefgh: no record knows its container"},
		{"running, and the clock was set back", rec(Running), con(), func(s *snapshot) { s.now = later.AddDate(-10, 0, 0) }, ""},
		{"no record, not described", nil, con(func(c *Container) { c.Undescribed = true }), nil, ""},
		{"runs, not described", rec(Running), &Container{Undescribed: true}, nil, ""},
		{"an operation holds it", nil, con(), func(s *snapshot) { s.held["abcdefgh"] = true }, ""},
		{"a spare as it was left", spare(Running), con(), nil, ""},
		{"a spare that was being made", spare(Creating), con(), nil,
			"remove spare pool-abcdefgh: it never became ready"},
		{"a spare without a container", spare(Running), nil, nil,
			"remove spare pool-abcdefgh: container removed"},
		{"a spare that ended", spare(Running), con(exit(3, false)), nil,
			"remove spare pool-abcdefgh: exited 3"},
		{"a spare that was paused", spare(Running), con(func(c *Container) { c.Paused = true }), nil,
			"remove spare pool-abcdefgh: paused outside"},
		{"a spare that was restarted", spare(Running), con(func(c *Container) { c.StartedAt = later }), nil,
			"remove spare pool-abcdefgh: its container was restarted or replaced from outside"},
		{"a spare with another address", spare(Running), con(func(c *Container) { c.Address = netip.MustParseAddrPort("10.0.0.2:80") }), nil,
			"correct pool-abcdefgh to running: its address is 10.0.0.2:80"},
		{"a spare without a container, records lost", spare(Running), nil, func(s *snapshot) { s.rebuild = true }, ""},
		{"a spare that the engine fails to describe", spare(Running), &Container{Undescribed: true}, nil, ""},
		{"taken from a pool", renamed, con(), nil, ""},
		{"taken from a pool, under the name it was born with", renamed, nil, born,
			"rename container of abcdefgh: it was made anew from outside, for bornfor0"},
		{"taken from a pool, twice there", renamed, con(), born,
			"remove bornfor0: no record knows its container"},
		{"taken from a pool, held, under the name it was born with", nil, nil, func(s *snapshot) { born(s); s.held["abcdefgh"] = true }, ""},
		{"records lost, runs", nil, con(), func(s *snapshot) { s.rebuild = true },
			""},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := snapshot{
				records: map[string]*Record{}, held: map[string]bool{},
				containers: map[string]Container{}, now: later, lookedAt: t0.Add(goingDown),
			}
			key := "abcdefgh"
			if test.record != nil {
				key = test.record.Prefix
				s.records[key] = test.record
			}
			if test.container != nil {
				s.containers[key] = *test.container
			}
			if test.change != nil {
				test.change(&s)
			}
			var got []string
			for _, a := range decide(s) {
				got = append(got, a.String())
			}
			if text := strings.Join(got, "\n"); text != test.want {
				t.Errorf("decided %q, want %q", text, test.want)
			}
		})
	}
}

func TestAYoungContainerIsLookedAtWhenItsGraceEnds(t *testing.T) {
	born := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s := snapshot{
		records: map[string]*Record{"recorded": {}}, held: map[string]bool{"held0000": true}, now: born.Add(2 * time.Second),
		containers: map[string]Container{
			"recorded": {CreatedAt: born}, "held0000": {CreatedAt: born},
			"unknown0": {CreatedAt: born}, "younger0": {CreatedAt: born.Add(time.Second)}, "older000": {CreatedAt: born.Add(-time.Hour)},
		},
	}
	if got, want := s.young(), orphanGrace-2*time.Second; got != want {
		t.Errorf("looks again in %s, want %s", got, want)
	}
	if s.rebuild = true; s.young() != 0 {
		t.Errorf("looks again in %s for what a degraded state leaves alone", s.young())
	}
}

func TestAUserStopOutlivesItsContainer(t *testing.T) {
	r := &Record{Spec: Spec{Prefix: "abcdefgh"}, Status: Stopped, Reason: ReasonUser, ContainerID: "c1"}
	next := decideRecord(r, nil, time.Time{}).next
	if next.Reason != ReasonUser || next.ContainerID != "" {
		t.Errorf("got reason %q, container %q: no request may wake it, and a start must make a container",
			next.Reason, next.ContainerID)
	}
}
