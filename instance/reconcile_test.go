package instance

import (
	"context"
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
		return func(c *Container) {
			c.Running, c.ExitCode, c.OOMKilled, c.FinishedAt = false, code, oom, t0.Add(time.Second)
		}
	}

	wentDown := func(s *snapshot) { s.down = outage{since: t0, until: later} }
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
		{"running, ended with the engine", rec(Running), con(exit(143, false)), wentDown,
			"correct abcdefgh to stopped: engine stopped"},
		{"running, ended with the engine, by a server that calls that an error", rec(Running), con(exit(1, false)), wentDown,
			"correct abcdefgh to stopped: engine stopped"},
		{"running, out of memory while nobody watched", rec(Running), con(exit(137, true)), wentDown,
			"correct abcdefgh to failed: exited 137: out of memory"},
		{"running, crashed after the engine was back", rec(Running), con(exit(3, false), func(c *Container) { c.FinishedAt = later }), wentDown,
			"correct abcdefgh to failed: exited 3"},
		{"running, made anew and never started, after the engine was back", rec(Running), con(exit(0, false), func(c *Container) { c.FinishedAt = time.Time{} }), wentDown,
			"correct abcdefgh to stopped: stopped outside"},
		{"failed after the engine was back", rec(Failed, because("exited 1"), at(later)), con(exit(1, false), func(c *Container) { c.FinishedAt = later }), wentDown, ""},
		{"running, ended with the engine, and another was restarted by it", rec(Running), con(exit(143, false)), func(s *snapshot) {
			wentDown(s)
			s.records["zrestart"] = rec(Running)
			s.containers["zrestart"] = *con(func(c *Container) { c.StartedAt = later })
		}, "correct abcdefgh to stopped: engine stopped\nstart zrestart: its container was restarted from outside"},
		{"stopped as by hand while the engine went down", rec(Stopped, because(ReasonOutside), at(t0.Add(time.Second))), con(exit(143, false)), wentDown,
			"correct abcdefgh to stopped: engine stopped"},
		{"failed as by itself while the engine went down", rec(Failed, because("exited 1"), at(t0.Add(time.Second))), con(exit(1, false)), wentDown,
			"correct abcdefgh to stopped: engine stopped"},
		{"stopped by hand before the engine went down", rec(Stopped, because(ReasonOutside), at(t0)), con(exit(143, false)), wentDown, ""},
		{"out of memory while the engine went down", rec(Failed, because("exited 137: out of memory"), at(t0.Add(time.Second))), con(exit(137, true)), wentDown, ""},
		{"idle while the engine went down", rec(Stopped, because(ReasonIdle), at(t0.Add(time.Second))), con(exit(143, false)), wentDown, ""},
		{"stopped by a user while the engine went down", rec(Stopped, because(ReasonUser), at(t0.Add(time.Second))), con(exit(143, false)), wentDown, ""},
		{"stopped by hand while the engine is there", rec(Stopped, because(ReasonOutside), at(t0.Add(time.Second))), con(exit(143, false)), nil, ""},
		{"paused for idleness, ended with the engine", rec(Paused, because(ReasonIdle)), con(exit(137, false)), wentDown,
			"correct abcdefgh to stopped: idle"},
		{"paused by a user, ended with the engine", rec(Paused, because(ReasonUser)), con(exit(137, false)), wentDown,
			"correct abcdefgh to stopped: user"},
		{"paused by hand, ended with the engine", rec(Paused, because(ReasonPaused)), con(exit(137, false)), wentDown,
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
				containers: map[string]Container{}, now: later,
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
	next := decideRecord(r, nil, outage{}).next
	if next.Reason != ReasonUser || next.ContainerID != "" {
		t.Errorf("got reason %q, container %q: no request may wake it, and a start must make a container",
			next.Reason, next.ContainerID)
	}
}

func TestWhenTheEngineWasDown(t *testing.T) {
	looked := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	before, now := looked.Add(-time.Hour), looked.Add(time.Minute)
	known := outage{since: before, until: before.Add(time.Minute)}
	unseen := outage{since: looked.Add(-goingDown), until: now}
	for _, test := range []struct {
		name      string
		up        time.Time
		away, ran bool
		want      outage
	}{
		{"it is the one that it was", known.until, false, false, known},
		{"only the connection broke, or only we were restarted", known.until, true, false, known},
		{"it was restarted", now, true, false, unseen},
		{"it does not tell, and was there", time.Time{}, false, false, known},
		{"it does not tell, and one ran on", time.Time{}, true, true, known},
		{"it does not tell, and none runs", time.Time{}, true, false, unseen},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := syncState{away: test.away, down: known, looked: looked}
			seen := snapshot{now: now, records: map[string]*Record{}, containers: map[string]Container{}}
			if test.ran {
				seen.records["ranonabc"] = &Record{Status: Running, ContainerID: "c1", StartedAt: &before}
				seen.containers["ranonabc"] = Container{ID: "c1", Running: true, StartedAt: before}
			}
			s.noteEngine(test.up, &seen)
			if seen.down != test.want || s.down != test.want || s.up != test.up {
				t.Errorf("was down %+v, want %+v", seen.down, test.want)
			}
		})
	}
}

func TestTheMoreALookCostsTheLessOftenItIsTaken(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		time.Millisecond: relistPause, 100 * time.Millisecond: 100 * time.Second, time.Hour: longestRelistPause,
	} {
		if got := pauseAfter(took); got != want {
			t.Errorf("after %s it waits %s, want %s", took, got, want)
		}
	}
}

// listing is an engine that is there, up to its lists.
type listing struct {
	Runtime
	up         time.Time
	err        error
	containers []Container
	lists      int
}

func (l *listing) UpSince(context.Context) (time.Time, error) { return l.up, l.err }
func (l *listing) List(context.Context) ([]Container, error) {
	l.lists++
	return l.containers, l.err
}
func (l *listing) Inspect(context.Context, string) (Container, error) {
	return Container{}, &Error{Kind: NotFound}
}

// All is listed when that is due, and before it when the engine was away. In
// between it is only asked whether the engine is the one that it was.
func TestAllIsListedWhenThatIsDue(t *testing.T) {
	m := idleManager(t, 0, nil)
	engine := &listing{up: time.Now()}
	m.runtime = engine
	for _, step := range []struct {
		name  string
		then  func()
		lists int
	}{
		{"at first", func() {}, 1},
		{"not yet", func() {}, 1},
		{"the engine was restarted, and nobody told", func() { engine.up = time.Now() }, 2},
		{"not yet again", func() {}, 2},
		{"the engine does not answer", func() { engine.err = &Error{Kind: EngineDown} }, 2},
		{"it answers again", func() { engine.err = nil }, 3},
		{"it is due", func() { m.sync.due = time.Now() }, 4},
	} {
		step.then()
		asked := time.Now()
		err := m.look(t.Context())
		if KindOf(err) != KindOf(engine.err) {
			t.Fatalf("%s: %v", step.name, err)
		}
		if engine.lists != step.lists {
			t.Errorf("%s: %d lists so far, want %d", step.name, engine.lists, step.lists)
		}
		if engine.err == nil && m.sync.looked.Before(asked) {
			t.Errorf("%s: the engine was there, and it was not noted", step.name)
		}
	}
}

// Where one event comes, others may have got lost.
func TestAnEventBringsTheNextLookForward(t *testing.T) {
	m := idleManager(t, 0, nil)
	m.runtime = &listing{}
	m.sync.away, m.sync.due = false, time.Now().Add(longestRelistPause)
	m.notify(Event{Prefix: "abcdefgh"})
	m.followEvents(time.Now().Add(10 * time.Millisecond))
	if left := time.Until(m.sync.due); left > relistPause {
		t.Errorf("all is looked at in %s, want %s", left, relistPause)
	}
}
