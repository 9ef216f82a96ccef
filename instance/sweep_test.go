package instance_test

import (
	"context"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// endAll has every instance without a timeout of its own end by d of idleness.
func (b *bench) endAll(d instance.Duration) {
	settings := b.settings()
	for name, template := range settings.Templates {
		template.IdleTimeout = &d
		settings.Templates[name] = template
	}
	b.manager.Use(settings)
}

// However many deadlines fall due together, the engine has room for people, and
// those that wait for their end are served meanwhile.
func TestDeadlinesThatFallDueTogetherAreEndedAFewAtATime(t *testing.T) {
	const idle = 30
	b := newBench(t, idle+1)
	for n := range idle {
		b.create(fmt.Sprintf("idle%04d", n))
	}
	var mu sync.Mutex
	stopping, most := map[string]bool{}, 0
	goOn := make(chan struct{})
	b.engine.Fault(func(ctx context.Context, call, name string) error {
		if call != "Stop" || !strings.HasPrefix(name, "sandbox-idle") {
			return nil
		}
		mu.Lock()
		stopping[name] = true
		most = max(most, len(stopping))
		mu.Unlock()
		select {
		case <-goOn:
		case <-ctx.Done():
		}
		mu.Lock()
		delete(stopping, name)
		mu.Unlock()
		return nil
	})
	b.endAll(short)
	const parallel = 4
	b.eventually("as many as may be are being ended", func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(stopping) == parallel
	})
	b.create("wanted00")
	if _, err := b.manager.Stop(t.Context(), "wanted00"); err != nil {
		t.Fatal(err)
	}
	served := 0
	for n := range idle {
		in, err := b.manager.Get(fmt.Sprintf("idle%04d", n))
		if err == nil && in.Status == instance.Running {
			b.answers(in)
			served++
		}
	}
	if served != idle-parallel {
		t.Errorf("%d of %d are served while %d are being ended", served, idle, parallel)
	}
	close(goOn)
	for n := range idle {
		b.awaitStatus(fmt.Sprintf("idle%04d", n), instance.Stopped, instance.ReasonIdle)
	}
	if most != parallel {
		t.Errorf("%d were ended at once", most)
	}
}

// An engine that is down ends nothing, so what is idle is served on.
func TestAnIdleInstanceIsServedWhileTheEngineIsDown(t *testing.T) {
	b := newBench(t, 1)
	in := b.create("abcdefgh")
	tried := make(chan struct{})
	try := sync.OnceFunc(func() { close(tried) })
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Stop" {
			try()
		}
		return &instance.Error{Kind: instance.EngineDown, Message: "down"}
	})
	b.update("abcdefgh", idleAfter(short))
	<-tried
	b.eventually("it is served on", func() bool { // but in the moments in which its end is tried
		lease, err := b.manager.Acquire(in.Prefix, 0)
		if err == nil {
			lease.Release()
		}
		return err == nil
	})
	b.engine.Fault(nil)
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
}

func TestWhatCannotBePausedIsStoppedWhenItIsIdle(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Pause" {
			return instance.Errorf(instance.EngineFailed, "cgroups cannot freeze here")
		}
		return nil
	})
	b.update("abcdefgh", func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), new(instance.IdlePause) })
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
	if n := b.engine.Calls("Pause"); n != 1 {
		t.Errorf("the engine was asked %d times for what it cannot do", n)
	}
	_, err := b.manager.Pause(t.Context(), "abcdefgh")
	b.fails(err, instance.Busy)
}

func TestASlowStartIsNotIdleness(t *testing.T) {
	b := newBench(t, 1)
	const delay = 1500 * time.Millisecond
	req := request("abcdefgh", "TEST_MODE", "slow", "TEST_DELAY", delay.String())
	req.IdleTimeout = new(short) // less than its dev server takes to answer
	made, err := b.manager.Create(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if most := made.StartedAt.Add(delay + time.Duration(short)); made.IdleAt == nil || made.IdleAt.Before(most) {
		t.Errorf("started at %s, it is idle at %v: before %s nobody could use it", made.StartedAt, made.IdleAt, most)
	}
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
}

func TestACreateChecksTheLifetime(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh")
	req.TTL = new(instance.Duration(-1))
	_, err := b.manager.Create(t.Context(), req)
	b.fails(err, instance.BadRequest)
}

func TestALifetimeThatIsOverIsRefused(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.editState(`"created_at":"[^"]*"`, `"created_at":"`+time.Now().Add(-3*time.Hour).UTC().Format(time.RFC3339)+`"`)
	ttl := func(d instance.Duration) func(*instance.Lifetime) {
		return func(l *instance.Lifetime) { l.TTL = &d }
	}
	_, err := b.manager.Update(t.Context(), "abcdefgh", ttl(instance.Duration(time.Hour)))
	if e := b.failure(err, instance.BadRequest); e.Details["field"] != "ttl" || !strings.Contains(e.Message, "3h0m") {
		t.Errorf("got %v, %v", e, e.Details)
	}
	if in := b.update("abcdefgh", ttl(instance.Duration(4*time.Hour))); time.Until(*in.ExpiresAt) > time.Hour+time.Minute {
		t.Errorf("expires at %v", in.ExpiresAt)
	}
}

// editState has a Manager open a state file that was edited.
func (b *bench) editState(old, replacement string) {
	b.Helper()
	if err := b.manager.Close(); err != nil {
		b.Fatal(err)
	}
	path := filepath.Join(b.dir, ".instances.json")
	data, err := os.ReadFile(path)
	if err != nil {
		b.Fatal(err)
	}
	body, _, _ := strings.Cut(string(data), `,"crc32c":`)
	edited := regexp.MustCompile(old).ReplaceAllString(body, replacement)
	if edited == body {
		b.Fatalf("%s is not in %s", old, data)
	}
	edited += fmt.Sprintf(`,"crc32c":"%08x"}`+"\n", crc32.Checksum([]byte(edited), crc32.MakeTable(crc32.Castagnoli)))
	if err := os.WriteFile(path, []byte(edited), 0o600); err != nil {
		b.Fatal(err)
	}
	b.open()
}

// The clock may be what is wrong, and what is deleted is gone.
func TestWhatIsOverdueByDaysIsDoubtedFirst(t *testing.T) {
	b := newBench(t, 2)
	b.create("abcdefgh")
	b.update("abcdefgh", func(l *instance.Lifetime) { l.TTL = new(instance.Duration(time.Hour)) })
	b.editState(`"created_at":"[^"]*"`, `"created_at":"2001-01-01T00:00:00Z"`)
	b.create("sweeper0")
	b.update("sweeper0", idleAfter(short)) // its end shows that all were looked at
	b.awaitStatus("sweeper0", instance.Stopped, instance.ReasonIdle)
	if in, err := b.manager.Get("abcdefgh"); err != nil || in.Status != instance.Running {
		t.Errorf("it is %s (%v), on the word of a clock that was never asked again", in.Status, err)
	}
}

func TestATouchIsDurable(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	touched, err := b.manager.Touch("abcdefgh")
	if err != nil {
		t.Fatal(err)
	}
	data, _ := os.ReadFile(filepath.Join(b.dir, ".instances.json"))
	if want := touched.LastActiveAt.Format(time.RFC3339Nano); !strings.Contains(string(data), `"last_active_at":"`+want) {
		t.Errorf("touched at %s, and the file has %s", want, data)
	}
}

// What is asleep stays so, and is kept for another while.
func TestATouchOfWhatIsStoppedPostponesItsDeletion(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.update("abcdefgh", func(l *instance.Lifetime) { l.DeleteAfterStopped = new(instance.Duration(time.Hour)) })
	stopped, err := b.manager.Stop(t.Context(), "abcdefgh")
	if err != nil || !stopped.DeleteAt.Equal(stopped.StoppedAt.Add(time.Hour)) {
		t.Fatalf("stopped %+v, %v", stopped, err)
	}
	touched, err := b.manager.Touch("abcdefgh")
	if err != nil || touched.Status != instance.Stopped || !touched.DeleteAt.Equal(touched.LastActiveAt.Add(time.Hour)) {
		t.Errorf("touched %+v, %v", touched, err)
	}
}

func TestNobodyKeepsWhatIsBeingDeleted(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	deleting, goOn := make(chan struct{}), make(chan struct{})
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Stop" {
			close(deleting)
			<-goOn
		}
		return nil
	})
	done := make(chan error)
	go func() { _, err := b.manager.Delete(t.Context(), "abcdefgh"); done <- err }()
	<-deleting
	_, err := b.manager.Touch("abcdefgh")
	b.fails(err, instance.Busy)
	_, err = b.manager.Update(t.Context(), "abcdefgh", idleAfter(short))
	b.fails(err, instance.Busy)
	close(goOn)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	_, err = b.manager.Touch("abcdefgh")
	b.fails(err, instance.NotFound)
}

// Who makes sure that an instance runs needs it.
func TestAStartOfWhatRunsPostponesTheEnd(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	before := b.update("abcdefgh", idleAfter(instance.Duration(time.Hour)))
	b.eventually("the clock goes on", func() bool { return time.Until(*before.IdleAt) < time.Hour-2*time.Millisecond })
	after, err := b.manager.Start(t.Context(), "abcdefgh", "")
	if err != nil || !after.IdleAt.After(*before.IdleAt) {
		t.Errorf("idle at %v, then at %v (%v)", before.IdleAt, after.IdleAt, err)
	}
}

// lifetimes has all instances without their own live as l says.
func (b *bench) lifetimes(l instance.Lifetime) {
	b.adapt = func(s *instance.Settings) { b.everywhere(s, l) }
	b.manager.Use(b.settings())
}

func (b *bench) everywhere(s *instance.Settings, l instance.Lifetime) {
	for name, template := range s.Templates {
		template.Lifetime = l
		s.Templates[name] = template
	}
}

// gone awaits the end of prefix.
func (b *bench) gone(prefix string) {
	b.Helper()
	b.eventually(prefix+" is gone", func() bool {
		_, err := b.manager.Get(prefix)
		return instance.KindOf(err) == instance.NotFound
	})
	b.nothingLeft(prefix)
}

// A lifetime of an instance's own is lost with the state. Until somebody has
// looked, the template's deletes nothing.
func TestALostStateHasNothingDeletedByAge(t *testing.T) {
	b := newBench(t, 2)
	b.lifetimes(instance.Lifetime{DeleteAfterStopped: new(short)})
	b.create("keepme00")
	b.update("keepme00", func(l *instance.Lifetime) { l.DeleteAfterStopped = new(instance.Duration(0)) })
	if _, err := b.manager.Stop(t.Context(), "keepme00"); err != nil {
		t.Fatal(err)
	}
	b.create("sleeper0")
	b.loseState()
	b.open()
	b.awaitStatus("sleeper0", instance.Running, "")
	b.update("sleeper0", idleAfter(short)) // what is overdue for longer has its turn before
	asleep := b.awaitStatus("sleeper0", instance.Stopped, instance.ReasonIdle)
	b.eventually("its time is over", func() bool { return time.Now().After(asleep.StoppedAt.Add(time.Duration(short))) })
	b.update("sleeper0", idleAfter(0)) // has the sweep look again
	b.awaitStatus("keepme00", instance.Stopped, instance.ReasonOutside)
	b.update("keepme00", func(l *instance.Lifetime) { l.DeleteAfterStopped = new(instance.Duration(0)) })
	if err := b.manager.Confirm(); err != nil {
		t.Fatal(err)
	}
	b.gone("sleeper0")
	b.awaitStatus("keepme00", instance.Stopped, instance.ReasonOutside)
}

// What must not be deleted yet sleeps.
func TestWhatIsTooOldSleepsWhileTheStateIsLost(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.loseState()
	b.adapt = func(s *instance.Settings) {
		b.everywhere(s, instance.Lifetime{TTL: new(short), IdleTimeout: new(2 * short)})
	}
	b.open()
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
}

// A lifetime that the old configuration had for all may be a short one.
func TestAReloadDeletesNobodyWhoIsInUse(t *testing.T) {
	remove := instance.IdleDelete
	b := newBench(t, 1)
	old := instance.Lifetime{IdleTimeout: new(instance.Duration(8 * time.Minute)), OnIdle: &remove}
	b.lifetimes(old)
	in := b.create("abcdefgh")
	b.eventually("it is too old for the new one", func() bool { return time.Since(in.CreatedAt) > time.Duration(short) })
	next := old
	next.TTL = new(short)
	b.lifetimes(next)
	in, err := b.manager.Get("abcdefgh")
	if err != nil || time.Until(*in.ExpiresAt) < 9*time.Minute {
		t.Fatalf("it expires at %v (%v)", in.ExpiresAt, err)
	}
	b.lifetimes(next) // prolongs nothing
	if again, err := b.manager.Get("abcdefgh"); err != nil || !again.ExpiresAt.Equal(*in.ExpiresAt) {
		t.Errorf("it expires at %v, and then at %v (%v)", in.ExpiresAt, again.ExpiresAt, err)
	}
}

// Nor has a reload anybody live longer whose time was nearly over before.
func TestAReloadProlongsNobody(t *testing.T) {
	b := newBench(t, 1)
	b.lifetimes(instance.Lifetime{TTL: new(instance.Duration(30 * time.Second))})
	in := b.create("abcdefgh")
	b.lifetimes(instance.Lifetime{TTL: new(instance.Duration(40 * time.Second))})
	after, err := b.manager.Get("abcdefgh")
	if err != nil || !after.ExpiresAt.Equal(in.ExpiresAt.Add(10*time.Second)) {
		t.Errorf("it expires at %v, and then at %v (%v)", in.ExpiresAt, after.ExpiresAt, err)
	}
}

// Who writes a lifetime into a template may think of new instances only.
func TestANewConfigurationDeletesNobodyAtOnce(t *testing.T) {
	for how, begin := range map[string]func(*bench){
		"a reload": func(b *bench) {
			b.manager.Use(b.settings())
			b.eventually("reprieves are on disk", b.hasReprieves)
		},
		"a restart": func(b *bench) {
			b.engine.Fault(func(context.Context, string, string) error { return errDown }) // else much is written
			b.reopen()
			if !b.hasReprieves() {
				b.Error("after Open, a crash would delete some at once")
			}
			b.engine.Fault(nil)
			b.reopen()
		},
	} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			newLifetimesDeleteNobodyAtOnce(t, begin)
		})
	}
}

func (b *bench) hasReprieves() bool {
	return strings.Contains(b.file(".instances.json"), `"reprieve":`)
}

func newLifetimesDeleteNobodyAtOnce(t *testing.T, begin func(*bench)) {
	day, hour := new(instance.Duration(24*time.Hour)), new(instance.Duration(time.Hour))
	remove := instance.IdleDelete
	for name, l := range map[string]instance.Lifetime{
		"ttl":                  {TTL: new(short)},
		"delete_after_stopped": {DeleteAfterStopped: new(short)},
		"on_idle delete":       {IdleTimeout: new(short), OnIdle: &remove},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 3)
			b.lifetimes(instance.Lifetime{TTL: day, DeleteAfterStopped: day, IdleTimeout: day})
			stops := name == "delete_after_stopped"
			for _, prefix := range []string{"oldone00", "ownone00"} {
				b.create(prefix)
				if stops {
					if _, err := b.manager.Stop(t.Context(), prefix); err != nil {
						t.Fatal(err)
					}
				}
			}
			b.update("ownone00", func(own *instance.Lifetime) { own.TTL, own.DeleteAfterStopped, own.IdleTimeout = hour, hour, hour })
			b.adapt = func(s *instance.Settings) { b.everywhere(s, l) }
			begin(b)
			in, err := b.manager.Get("oldone00")
			if err != nil {
				t.Fatal(err)
			}
			ends := func(in instance.Instance) *time.Time {
				return map[string]*time.Time{"ttl": in.ExpiresAt, "delete_after_stopped": in.DeleteAt, "on_idle delete": in.IdleAt}[name]
			}
			if left := time.Until(*ends(in)); left < 9*time.Minute || left > 10*time.Minute {
				t.Errorf("it has %s left", left)
			}
			if h, err := b.manager.Health(t.Context()); err != nil || h.Status != "ok" || len(h.Advice) != 1 || !strings.Contains(h.Advice[0], "will be deleted from "+ends(in).Format(time.RFC3339)+" on, as lifetimes of the new configuration say: 1 ") {
				t.Errorf("health is %+v (%v)", h, err)
			}
			own, err := b.manager.Get("ownone00")
			if err != nil {
				t.Fatal(err)
			}
			if left := time.Until(*ends(own)); left < 55*time.Minute {
				t.Errorf("one with an own lifetime has %s left", left)
			}
			b.create("newone00") // which its author thought of
			if stops {
				if _, err := b.manager.Stop(t.Context(), "newone00"); err != nil {
					t.Fatal(err)
				}
			}
			b.gone("newone00")
			b.awaitStatus("oldone00", in.Status, in.Reason)
			b.reopen()
			b.awaitStatus("oldone00", in.Status, in.Reason)
			if again, err := b.manager.Get("oldone00"); err != nil || !ends(again).Equal(*ends(in)) {
				t.Errorf("after a restart it ends at %v, not at %v (%v)", ends(again), ends(in), err)
			}
		})
	}
}

// Nor does the second try, after a reload that failed or was taken back.
func TestANewConfigurationIsTriedTwice(t *testing.T) {
	b := newBench(t, 1)
	day := instance.Lifetime{TTL: new(instance.Duration(24 * time.Hour))}
	b.lifetimes(day)
	b.create("abcdefgh")
	var ends [2]time.Time
	for n := range ends {
		b.lifetimes(instance.Lifetime{TTL: new(short)})
		in, err := b.manager.Get("abcdefgh")
		if err != nil {
			t.Fatal(err)
		}
		ends[n] = *in.ExpiresAt
		b.lifetimes(day)
		b.eventually("some time has passed", func() bool { return time.Until(ends[n]) < 10*time.Minute-5*time.Millisecond })
	}
	if !ends[1].After(ends[0]) {
		t.Errorf("it was to end at %s, and at the second try at %s", ends[0], ends[1])
	}
}

// A crash right after a reload deletes nobody either: the state tells the new
// lifetimes once all have their reprieve there, also those that an operation holds.
func TestLifetimesAreWrittenOnceAllHaveTheirReprieve(t *testing.T) {
	b := newBench(t, 2)
	b.lifetimes(instance.Lifetime{TTL: new(instance.Duration(24 * time.Hour))})
	free, held := b.create("isfree00"), b.create("isheld00")
	tells := func(ttl string) bool {
		return strings.Contains(b.file(".instances.json"), `"lifetimes":{"hello":{"ttl":"`+ttl+`"}`)
	}
	entered, goOn := b.block("Stop")
	stopped := make(chan error, 1)
	go func() { stopped <- second(b.manager.Stop(context.WithoutCancel(t.Context()), held.Prefix)) }()
	<-entered
	for range 2 { // the second one spares nobody
		b.lifetimes(instance.Lifetime{TTL: new(short)})
		b.eventually("one has its reprieve on disk", b.hasReprieves)
		if _, err := b.manager.Health(t.Context()); err != nil { // which writes what would now differ
			t.Fatal(err)
		}
		if !tells("24h0m0s") {
			t.Errorf("the state tells of the new lifetime too early: %s", b.file(".instances.json"))
		}
	}
	goOn()
	if err := <-stopped; err != nil {
		t.Fatal(err)
	}
	b.engine.Reconnect() // else it is some seconds until the next look
	b.eventually("the state tells of the new lifetime", func() bool { return tells(time.Duration(short).String()) })
	b.reopen()
	for _, in := range []instance.Instance{free, held} {
		if now, err := b.manager.Get(in.Prefix); err != nil || time.Until(*now.ExpiresAt) < 9*time.Minute {
			t.Errorf("%s expires at %v (%v)", in.Prefix, now.ExpiresAt, err)
		}
	}
}

// What ended while Caddy was away ended when it came back, and lifetimes that were
// changed meanwhile are new ones for it, too.
func TestNobodyIsDeletedForATimeWithoutUs(t *testing.T) {
	for name, after := range map[string]time.Duration{"the same lifetime": time.Hour, "a shorter one": time.Second} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			core, logs := observer.New(zap.WarnLevel)
			b := newBench(t, 3)
			b.lifetimes(instance.Lifetime{DeleteAfterStopped: new(instance.Duration(time.Hour))})
			prefixes := []string{"isgone00", "isended0", "ispaused"}
			for _, prefix := range prefixes {
				b.create(prefix)
			}
			if err := b.manager.Close(); err != nil {
				t.Fatal(err)
			}
			b.engine.StopByHand(instance.ContainerName("isended0"))
			b.engine.RemoveByHand(instance.ContainerName("isgone00"))
			if err := b.engine.Runtime(b.owner()).Pause(t.Context(), instance.ContainerName("ispaused")); err != nil {
				t.Fatal(err)
			}
			ended := time.Now()
			b.eventually("some time has passed", func() bool { return time.Since(ended) > 5*time.Millisecond })
			b.adapt = func(s *instance.Settings) {
				s.Log = zap.New(core)
				b.everywhere(s, instance.Lifetime{DeleteAfterStopped: new(instance.Duration(after))})
			}
			opened, left := time.Now().Truncate(time.Millisecond), time.Hour
			if after < time.Hour {
				left = 9 * time.Minute
			}
			b.open()
			for _, prefix := range prefixes {
				var in instance.Instance
				b.eventually(prefix+" is known to have ended", func() bool {
					in, _ = b.manager.Get(prefix)
					return in.Status != instance.Running && in.StoppedAt != nil
				})
				if in.StoppedAt.Before(opened) || in.DeleteAt.Before(opened.Add(left)) {
					t.Errorf("%s was stopped at %s and will be deleted at %s, after a start at %s", prefix, in.StoppedAt, in.DeleteAt, opened)
				}
			}
			if after < time.Hour {
				b.eventually("the log names them", func() bool {
					lines := logs.FilterMessageSnippet("instances will be deleted").All()
					return len(lines) == 1 && lines[0].ContextMap()["instances"] == int64(len(prefixes))
				})
			}
		})
	}
}
