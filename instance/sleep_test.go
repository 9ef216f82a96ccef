package instance_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

const short = instance.Duration(time.Second)

func (b *bench) update(prefix string, change func(*instance.Lifetime)) instance.Instance {
	b.Helper()
	in, err := b.manager.Update(b.Context(), prefix, change)
	if err != nil {
		b.Fatal(err)
	}
	return in
}

func idleAfter(d instance.Duration) func(*instance.Lifetime) {
	return func(l *instance.Lifetime) { l.IdleTimeout = &d }
}

// fallsAsleep has an instance become idle by a change, which is taken back then:
// once it is woken it stays so, however long a test takes.
func (b *bench) fallsAsleep(prefix string, status instance.Status, change func(*instance.Lifetime)) {
	b.Helper()
	b.update(prefix, change)
	b.awaitStatus(prefix, status, instance.ReasonIdle)
	b.update(prefix, func(l *instance.Lifetime) { *l = instance.Lifetime{} })
}

func TestAnIdleInstanceIsStoppedAndWoken(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	const long = instance.Duration(time.Hour)
	if in := b.update("abcdefgh", idleAfter(long)); in.IdleTimeout != long || in.IdleAt == nil {
		t.Errorf("it does not show its timeout: %+v", in)
	}
	b.fallsAsleep("abcdefgh", instance.Stopped, idleAfter(short))
	in, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
	if err != nil || in.Status != instance.Running {
		t.Fatalf("woken: %+v, %v", in, err)
	}
	b.answers(in)
}

func TestWhatAUserStoppedIsNotWoken(t *testing.T) {
	for name, act := range map[string]func(*instance.Manager, context.Context, string) (instance.Instance, error){
		"stop": (*instance.Manager).Stop, "pause": (*instance.Manager).Pause,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1)
			b.create("abcdefgh")
			if _, err := act(b.manager, t.Context(), "abcdefgh"); err != nil {
				t.Fatal(err)
			}
			_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
			b.fails(err, instance.NotRunning)
			if in, err := b.manager.Start(t.Context(), "abcdefgh", ""); err != nil {
				t.Fatal(err)
			} else {
				b.answers(in)
			}
		})
	}
}

// An idle stop that the engine did not answer goes on; a user's stop that comes
// meanwhile is a user's.
func TestAUsersStopOfWhatIsBeingStoppedForIdlenessIsHis(t *testing.T) {
	for _, meanwhile := range []bool{false, true} {
		t.Run(fmt.Sprintf("reconcile is at it: %t", meanwhile), func(t *testing.T) {
			b := newBench(t, 1)
			b.create("abcdefgh")
			var tries atomic.Int64
			entered, goOn := make(chan struct{}), make(chan struct{})
			b.engine.Fault(func(_ context.Context, call, _ string) error {
				switch {
				case call != "Stop":
				case tries.Add(1) == 1:
					return instance.Errorf(instance.Timeout, "too slow")
				case meanwhile && tries.Load() == 2:
					close(entered)
					<-goOn
				}
				return nil
			})
			b.update("abcdefgh", idleAfter(short))
			b.awaitStatus("abcdefgh", instance.Stopping, instance.ReasonIdle)
			if meanwhile {
				b.engine.Reconnect()
				<-entered
			}
			var stops sync.WaitGroup
			for range 8 {
				stops.Go(func() {
					if in, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil || in.Reason != instance.ReasonUser {
						t.Errorf("answered %s (%s), %v", in.Status, in.Reason, err)
					}
				})
			}
			close(goOn)
			stops.Wait()
			_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
			b.fails(err, instance.NotRunning)
		})
	}
}

// Where the state cannot be written, nobody falls asleep; whoever comes is served.
func TestNobodyFallsAsleepWithoutAState(t *testing.T) {
	for _, how := range []instance.OnIdle{instance.IdleStop, instance.IdlePause, instance.IdleDelete} {
		t.Run(string(how), func(t *testing.T) {
			core, logs := observer.New(zap.ErrorLevel)
			b := newBench(t, 1)
			b.adapt = func(s *instance.Settings) { s.Log = zap.New(core) }
			b.manager.Use(b.settings())
			in := b.create("abcdefgh")
			b.update("abcdefgh", func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), &how })
			if err := os.Mkdir(filepath.Join(b.dir, ".instances.json.tmp"), 0o700); err != nil {
				t.Fatal(err)
			}
			b.eventually("it was to fall asleep", func() bool { return logs.FilterMessage("operation failed").Len() > 0 })
			b.answers(in)
		})
	}
}

// A user's stop of what sleeps already is a stop by the user.
func TestAStopOfASleepingInstanceIsTheUsers(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.update("abcdefgh", idleAfter(short))
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
	b.fails(err, instance.NotRunning)
}

func TestARequestInProgressIsNotIdle(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	lease, err := b.manager.Acquire("abcdefgh", 0)
	if err != nil {
		t.Fatal(err)
	}
	b.update("abcdefgh", idleAfter(short))
	never := time.After(2500 * time.Millisecond)
	for serving := true; serving; {
		select {
		case <-never: // the time that it must not end in
			serving = false
		case <-time.After(50 * time.Millisecond):
			if in, _ := b.manager.Get("abcdefgh"); in.Status != instance.Running {
				t.Fatalf("a request is in progress, and it is %s", in.Status)
			}
		}
	}
	lease.Release()
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
}

func TestAnOpenWebSocketRestsUnlessItIsUsed(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	var lease *instance.Lease
	var closed chan struct{}
	instancetest.Retry(t, func() (err error) {
		b.update("abcdefgh", idleAfter(0))
		if _, err = b.manager.Start(t.Context(), "abcdefgh", ""); err != nil {
			return err
		}
		if lease, err = b.manager.Acquire("abcdefgh", 0); err != nil {
			return err
		}
		lease.Rest()
		closed = make(chan struct{})
		lease.Endpoint().Track(closer(closed))
		b.update("abcdefgh", idleAfter(short))
		var messages instancetest.Pulse
		for begun := time.Now(); time.Since(begun) < 2500*time.Millisecond; time.Sleep(100 * time.Millisecond) { // messages, now and then
			messages.Beat()
			lease.Touch()
			if in, _ := b.manager.Get("abcdefgh"); in.Status != instance.Running {
				lease.Release()
				return instancetest.Blame(fmt.Errorf("messages pass, and it is %s", in.Status), messages.Still(), time.Duration(short))
			}
		}
		return nil
	})
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
	select {
	case <-closed:
	case <-time.After(time.Minute):
		t.Error("its connection is still open")
	}
	lease.Release()
}

func TestAnIdleInstanceIsPausedWhereItIsToBe(t *testing.T) {
	b := newBench(t, 1)
	in := b.create("abcdefgh")
	b.fallsAsleep("abcdefgh", instance.Paused, func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), new(instance.IdlePause) })
	if c := b.engine.Containers()[0]; !c.Paused {
		t.Error("its container is not frozen")
	}
	woken, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
	if err != nil || woken.StartedAt == nil || !woken.StartedAt.Equal(*in.StartedAt) {
		t.Fatalf("woken: %+v, %v: it is another run", woken, err)
	}
	b.answers(woken)
	if b.engine.Calls("Create") != 1 {
		t.Error("it has a new container")
	}
}

func TestAPausedInstanceCanBeStoppedAndDeleted(t *testing.T) {
	b := newBench(t, 2)
	for _, prefix := range []string{"stopped0", "deleted0"} {
		b.create(prefix)
		if _, err := b.manager.Pause(t.Context(), prefix); err != nil {
			t.Fatal(err)
		}
	}
	if in, err := b.manager.Stop(t.Context(), "stopped0"); err != nil || in.Status != instance.Stopped {
		t.Errorf("got %+v, %v", in, err)
	}
	if _, err := b.manager.Delete(t.Context(), "deleted0"); err != nil {
		t.Error(err)
	}
	b.nothingLeft("deleted0")
}

func TestLifetimesEndInDeletion(t *testing.T) {
	for name, change := range map[string]func(*instance.Lifetime){
		"ttl":           func(l *instance.Lifetime) { l.TTL = new(short) },
		"idle":          func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), new(instance.IdleDelete) },
		"after stopped": func(l *instance.Lifetime) { l.IdleTimeout, l.DeleteAfterStopped = new(short), new(short) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 1)
			b.create("abcdefgh")
			b.update("abcdefgh", change)
			b.eventually("it is gone", func() bool {
				_, err := b.manager.Get("abcdefgh")
				return instance.KindOf(err) == instance.NotFound
			})
			b.nothingLeft("abcdefgh")
		})
	}
}

func TestATouchPostponesTheEnd(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	before := b.update("abcdefgh", idleAfter(instance.Duration(time.Hour)))
	b.eventually("a touch postpones it", func() bool { // by what has passed since: perhaps not a millisecond yet
		after, err := b.manager.Touch("abcdefgh")
		return err == nil && after.IdleAt.After(*before.IdleAt)
	})
}

func TestLifetimesSurviveARestart(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.update("abcdefgh", func(l *instance.Lifetime) {
		l.IdleTimeout, l.TTL = new(instance.Duration(2*time.Second)), new(instance.Duration(time.Hour))
	})
	before, _ := b.manager.Get("abcdefgh")
	b.reopen()
	after, err := b.manager.Get("abcdefgh")
	if err != nil || !after.ExpiresAt.Equal(*before.ExpiresAt) || after.IdleTimeout != before.IdleTimeout {
		t.Errorf("before %+v, after %+v (%v)", before, after, err)
	}
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
}

func TestVisitorsShareOneStart(t *testing.T) {
	const visitors = 1000
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.fallsAsleep("abcdefgh", instance.Stopped, idleAfter(short))
	starts := b.engine.Calls("Start")
	var served, refused atomic.Int64
	var all sync.WaitGroup
	for range visitors {
		all.Go(func() {
			switch _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); {
			case err == nil:
				served.Add(1)
			case instance.KindOf(err) == instance.Overloaded:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	all.Wait()
	if n := b.engine.Calls("Start") - starts; n != 1 || served.Load() == 0 || served.Load()+refused.Load() != visitors {
		t.Errorf("%d starts, %d served and %d refused of %d", n, served.Load(), refused.Load(), visitors)
	}
}

// A visitor who leaves does not end the start that others wait for.
func TestAWakeOutlivesItsVisitor(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.fallsAsleep("abcdefgh", instance.Stopped, idleAfter(short))
	starting, goOn := make(chan struct{}), make(chan struct{})
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Start" {
			close(starting)
			<-goOn
		}
		return nil
	})
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { _, err := b.manager.Wake(ctx, "abcdefgh", nil); left <- err }()
	<-starting
	leave()
	if err := <-left; err == nil {
		t.Error("a visitor who left was told that it runs")
	}
	close(goOn)
	b.awaitStatus("abcdefgh", instance.Running, "")
}

// Changes of one instance wait for each other: none is refused, none is lost.
func TestConcurrentUpdatesAllHappen(t *testing.T) {
	b := newBench(t, 1)
	b.create("napbox01")
	var wg sync.WaitGroup
	for _, change := range []func(*instance.Lifetime){
		func(l *instance.Lifetime) { l.TTL = new(instance.Duration(time.Hour)) },
		func(l *instance.Lifetime) { l.IdleTimeout = new(instance.Duration(2 * time.Hour)) },
		func(l *instance.Lifetime) { l.DeleteAfterStopped = new(instance.Duration(3 * time.Hour)) },
		func(l *instance.Lifetime) { l.OnIdle = new(instance.IdlePause) },
	} {
		wg.Go(func() {
			if _, err := b.manager.Update(t.Context(), "napbox01", change); err != nil {
				t.Errorf("updating: %v", err)
			}
		})
	}
	wg.Wait()
	got, err := b.manager.Get("napbox01")
	if err != nil {
		t.Fatal(err)
	}
	if got.TTL != instance.Duration(time.Hour) || got.IdleTimeout != instance.Duration(2*time.Hour) ||
		got.DeleteAfterStopped != instance.Duration(3*time.Hour) || got.OnIdle != instance.IdlePause {
		t.Errorf("after four changes: %+v", got)
	}
}

func TestNewSettingsEndInstancesThatExist(t *testing.T) {
	b := newBench(t, 1)
	b.create("napbox01")
	settings := b.settings()
	for name, template := range settings.Templates {
		template.IdleTimeout = new(short)
		settings.Templates[name] = template
	}
	b.manager.Use(settings)
	b.awaitStatus("napbox01", instance.Stopped, instance.ReasonIdle)
}

// Visitors of what wakes do not wait for the disk, and a call does.
func TestVisitorsAreServedBeforeTheDiskKnows(t *testing.T) {
	for name, onIdle := range map[string]instance.OnIdle{"stopped": instance.IdleStop, "paused": instance.IdlePause} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, 1)
			b.create("napbox01")
			b.fallsAsleep("napbox01", instance.Status(name), func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = new(short), &onIdle })
			in, err := b.manager.Wake(t.Context(), "napbox01", nil)
			if err != nil || in.Status != instance.Running {
				t.Fatalf("woken %+v, %v", in, err)
			}
			b.answers(in)
			in, err = b.manager.Start(t.Context(), "napbox01", "")
			data, _ := os.ReadFile(filepath.Join(b.dir, ".instances.json"))
			if err != nil || !strings.Contains(string(data), `"status":"running"`) {
				t.Errorf("a call was told %s (%v), and the file says %s", in.Status, err, data)
			}
		})
	}
}

// To stop a frozen container an engine thaws it first; that is no start.
func TestAPausedInstanceThatIsStoppedByHandStaysStopped(t *testing.T) {
	b := newBench(t, 2)
	ended, thawed := b.create("napbox01"), b.create("napbox02")
	for _, in := range []instance.Instance{ended, thawed} {
		if _, err := b.manager.Pause(t.Context(), in.Prefix); err != nil {
			t.Fatal(err)
		}
	}
	starts := b.engine.Calls("Start")
	b.engine.StopByHand(ended.ContainerID)
	if err := b.engine.StartByHand(thawed.ContainerID); err != nil { // which thaws it
		t.Fatal(err)
	}
	b.awaitStatus("napbox01", instance.Stopped, instance.ReasonUser)
	b.answers(b.awaitStatus("napbox02", instance.Running, ""))
	if n := b.engine.Calls("Start"); n != starts {
		t.Errorf("%d containers were started", n-starts)
	}
}
