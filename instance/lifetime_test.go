package instance

import (
	"errors"
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
		{"being deleted, or tried again by reconcile", Deleting, all, deadlines{}},
	} {
		r := &Record{Status: row.status, CreatedAt: born, StoppedAt: &stopped}
		if got := deadlinesOf(r, row.lifetime, usage{since: active}, clock{now: stopped}); got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
}

func TestDeadlinesOfAClockThatWasWrong(t *testing.T) {
	opened := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	hour := Duration(time.Hour)
	ahead := opened.AddDate(10, 0, 0)
	r := &Record{Status: Stopped, CreatedAt: ahead, StoppedAt: &ahead}
	got := deadlinesOf(r, Lifetime{TTL: &hour, DeleteAfterStopped: &hour}, usage{}, clock{opened: opened, now: opened.Add(time.Minute)})
	if want := opened.Add(time.Hour); got.expires != want || got.deleted != want {
		t.Errorf("got %+v: ten years of a wrong clock count", got)
	}
}

// Who touches what has ended wants to have it for another while.
func TestATouchAfterTheEndPostponesTheDeletion(t *testing.T) {
	stopped := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	touched, hour := stopped.Add(30*time.Minute), Duration(time.Hour)
	r := &Record{Status: Stopped, CreatedAt: stopped, StoppedAt: &stopped}
	got := deadlinesOf(r, Lifetime{DeleteAfterStopped: &hour}, usage{last: touched}, clock{now: touched})
	if want := touched.Add(time.Hour); got.deleted != want {
		t.Errorf("deleted at %v, want %v", got.deleted, want)
	}
}

func TestWhatIsDue(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	past, ahead := now, now.Add(1)
	for _, row := range []struct {
		name string
		d    deadlines
		want OnIdle
	}{
		{"nothing", deadlines{}, ""},
		{"all is ahead", deadlines{idle: ahead, expires: ahead, deleted: ahead}, ""},
		{"idle", deadlines{idle: past, expires: ahead}, IdlePause},
		{"expired, which is more than idle", deadlines{idle: past, expires: past}, IdleDelete},
		{"stopped for long", deadlines{deleted: past}, IdleDelete},
	} {
		if got, why := row.d.due(now, IdlePause); got != row.want || (why == "") != (got == "") {
			t.Errorf("%s: %q, because %q", row.name, got, why)
		}
	}
}

// A clock that is set forward by years, and back again within a minute, ends
// nothing; one that stays there does.
func TestADeadlineLongPastIsDoubtedForAMinute(t *testing.T) {
	e, now := new(entry), time.Now()
	doubts := func(late, after time.Duration) bool { return e.doubtsLocked(late, now.Add(after)) }
	for _, step := range []struct {
		late, after time.Duration
		want        bool
	}{
		{suspicious, 0, false},
		{suspicious + 1, 0, true},
		{suspicious + 1, time.Second, true}, // looked at again, for another's sake
		{suspicious + 1, sweepPause, false},
		{time.Hour, 2 * sweepPause, false}, // the clock is right again
		{suspicious + 1, 3 * sweepPause, true},
	} {
		if got := doubts(step.late, step.after); got != step.want {
			t.Errorf("%s late, %s after the first look: doubted %v", step.late, step.after, got)
		}
	}
}

func TestUsage(t *testing.T) {
	opened := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	at := func(minutes int) time.Time { return opened.Add(time.Duration(minutes) * time.Minute) }
	c := clock{opened: opened, now: at(100)}
	ptr := func(t time.Time) *time.Time { return &t }
	timeout := Lifetime{IdleTimeout: new(Duration(30 * time.Minute))}
	for _, row := range []struct {
		name string
		e    *entry
		l    Lifetime
		want usage
	}{
		{"never", &entry{rec: &Record{}}, Lifetime{}, usage{}},
		{"a request is in progress", &entry{rec: &Record{}, leases: 1}, Lifetime{}, usage{at(100), at(100)}},
		{"used", &entry{rec: &Record{}, lastActive: at(50)}, Lifetime{}, usage{at(50), at(50)}},
		{"used in the run before", &entry{rec: &Record{LastActiveAt: ptr(at(-5))}}, Lifetime{}, usage{at(-5), at(-5)}},
		{"started since", &entry{rec: &Record{StartedAt: ptr(at(60))}, lastActive: at(50)}, Lifetime{}, usage{at(50), at(60)}},
		{"ready long after its start", &entry{rec: &Record{StartedAt: ptr(at(60))}, routedAt: at(70)}, Lifetime{}, usage{since: at(70)}},
		{"nobody could reach it before", &entry{rec: &Record{LastActiveAt: ptr(at(-50))}}, timeout, usage{at(-50), at(1 - 30)}},
		{"in the future", &entry{rec: &Record{LastActiveAt: ptr(at(1000)), StartedAt: ptr(at(1000))}}, Lifetime{}, usage{opened, opened}},
	} {
		if got := row.e.usageLocked(row.l, c); got != row.want {
			t.Errorf("%s: got %+v, want %+v", row.name, got, row.want)
		}
	}
}

func TestDurationsAsText(t *testing.T) {
	for d, want := range map[Duration]string{0: "never", Duration(90 * time.Minute): "1h30m0s"} {
		text, err := d.MarshalText()
		var back Duration
		if err != nil || string(text) != want || back.UnmarshalText(text) != nil || back != d {
			t.Errorf("%d is %s (%v), and back %d", d, text, err, back)
		}
	}
	var d Duration
	if err := d.UnmarshalText([]byte("0s")); err != nil || d != 0 {
		t.Errorf("0s is %d, %v", d, err)
	}
	if err := d.UnmarshalText([]byte("soon")); err == nil {
		t.Error("soon is a duration")
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
		e, ok := errors.AsType[*Error](bad.Check())
		if err := error(e); !ok || e.Kind != BadRequest || e.Details["field"] != field {
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
