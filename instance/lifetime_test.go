package instance

import (
	"testing"
	"time"
)

func TestDeadlines(t *testing.T) {
	born := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	active, stopped := born.Add(time.Hour), born.Add(2*time.Hour)
	hours := func(n int) *Duration { return new(Duration(time.Duration(n) * time.Hour)) }
	all := Lifetime{IdleTimeout: hours(1), TTL: hours(10), DeleteAfterStopped: hours(5)}
	for _, row := range []struct {
		name     string
		status   Status
		lifetime Lifetime
		want     deadlines
	}{
		{"nothing is set", Running, Lifetime{}, deadlines{}},
		{"zero is never", Running, Lifetime{IdleTimeout: hours(0), TTL: hours(0)}, deadlines{}},
		{"runs", Running, all, deadlines{idle: active.Add(time.Hour), expires: born.Add(10 * time.Hour)}},
		{"stopped", Stopped, all, deadlines{expires: born.Add(10 * time.Hour), deleted: stopped.Add(5 * time.Hour)}},
		{"failed", Failed, all, deadlines{expires: born.Add(10 * time.Hour), deleted: stopped.Add(5 * time.Hour)}},
		{"paused", Paused, all, deadlines{expires: born.Add(10 * time.Hour), deleted: stopped.Add(5 * time.Hour)}},
		{"starting", Starting, all, deadlines{expires: born.Add(10 * time.Hour)}},
	} {
		r := &Record{Status: row.status, CreatedAt: born, StoppedAt: &stopped}
		if got := deadlinesOf(r, row.lifetime, active); got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
}

func TestTheEarliestDeadlineIsFirst(t *testing.T) {
	one, two := time.Unix(1, 0), time.Unix(2, 0)
	for _, row := range []struct {
		d    deadlines
		want time.Time
	}{
		{deadlines{}, time.Time{}},
		{deadlines{idle: two}, two},
		{deadlines{expires: two}, two},
		{deadlines{idle: one, expires: two}, one},
		{deadlines{idle: two, expires: one}, one},
		{deadlines{deleted: one, expires: two}, one},
	} {
		if got := row.d.first(); !got.Equal(row.want) {
			t.Errorf("%+v: got %v", row.d, got)
		}
	}
}

func TestLifetimesAreChecked(t *testing.T) {
	span := func(d time.Duration) *Duration { return new(Duration(d)) }
	for _, good := range []Lifetime{
		{}, {IdleTimeout: span(0)}, {IdleTimeout: span(time.Second)}, {TTL: span(maxLifetime)}, {OnIdle: new(IdlePause)},
	} {
		if err := good.Check(); err != nil {
			t.Errorf("%+v: %v", good, err)
		}
	}
	for field, bad := range map[string]Lifetime{
		"idle_timeout":         {IdleTimeout: span(-time.Second)},
		"ttl":                  {TTL: span(time.Millisecond)},
		"delete_after_stopped": {DeleteAfterStopped: span(maxLifetime + 1)},
		"on_idle":              {OnIdle: new(OnIdle("sleep"))},
	} {
		err := bad.Check()
		if KindOf(err) != BadRequest || err.(*Error).Details["field"] != field {
			t.Errorf("%s: got %v", field, err)
		}
	}
}

func TestALifetimeOfItsOwnGoesBeforeTheTemplates(t *testing.T) {
	one, two := new(Duration(1)), new(Duration(2))
	got := Lifetime{IdleTimeout: one}.or(Lifetime{IdleTimeout: two, TTL: two, OnIdle: new(IdleDelete)})
	if *got.IdleTimeout != 1 || *got.TTL != 2 || got.onIdle() != IdleDelete || got.DeleteAfterStopped != nil {
		t.Errorf("got %+v", got)
	}
}
