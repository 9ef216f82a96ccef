package instance_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// begin creates an instance without waiting for it.
func (b *bench) begin(prefix string, env ...string) {
	b.Helper()
	req := request(prefix, env...)
	req.Wait = instance.WaitNone
	if _, err := b.manager.Create(b.Context(), req); err != nil {
		b.Fatal(err)
	}
}

// awaitProgress returns what is told from now on, up to what is last.
func (b *bench) awaitProgress(prefix string, last func(instance.Progress) bool) (told []instance.Progress) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), time.Minute)
	defer cancel()
	for {
		p, changed, err := b.manager.Progress(prefix)
		if err != nil {
			b.Fatal(err)
		}
		told = append(told, p)
		if last(p) {
			return told
		}
		select {
		case <-changed:
		case <-ctx.Done():
			b.Fatalf("told was only %+v", told)
		}
	}
}

func TestProgressOfAStart(t *testing.T) {
	b := newBench(t, 1)
	b.engine.GiveAddresses()
	entered, goOn := b.block("Start")
	b.begin("abcdefgh", "TEST_MODE", "slow", "TEST_DELAY", "300ms")
	<-entered
	told := b.awaitProgress("abcdefgh", func(instance.Progress) bool { return true })
	goOn()
	told = append(told, b.awaitProgress("abcdefgh", func(p instance.Progress) bool { return p.Phase == instance.PhaseReady })...)
	var phases []instance.Phase
	for _, p := range told {
		phases = append(phases, p.Phase)
	}
	if phases = slices.Compact(phases); phases[0] != instance.PhaseStarting || !slices.IsSortedFunc(phases, byOrder) {
		t.Errorf("the phases were %v", phases)
	}
	_, goOn = b.block("Start")
	if _, err := b.manager.Restart(t.Context(), "abcdefgh", instance.WaitNone); err != nil {
		t.Fatal(err)
	}
	if p, _, err := b.manager.Progress("abcdefgh"); err != nil || p.Phase != instance.PhaseStarting {
		t.Errorf("at a restart: %+v, %v", p, err)
	}
	goOn()
	b.awaitProgress("abcdefgh", func(p instance.Progress) bool { return p.Phase == instance.PhaseReady })
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	if p, _, err := b.manager.Progress("abcdefgh"); err != nil || p.Phase != "" || p.Status != instance.Stopped {
		t.Errorf("stopped: %+v, %v", p, err)
	}
}

func byOrder(a, b instance.Phase) int {
	order := []instance.Phase{instance.PhaseStarting, instance.PhaseOpen, instance.PhaseReady}
	return slices.Index(order, a) - slices.Index(order, b)
}

func TestProgressTellsOfTheEndOfAnInstance(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	_, changed, err := b.manager.Progress("abcdefgh")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.manager.Delete(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changed:
	case <-time.After(time.Minute):
		t.Error("nothing was told")
	}
	_, _, err = b.manager.Progress("abcdefgh")
	b.fails(err, instance.NotFound)
}

func TestProgressTellsHowLongACrashLoopIsHeldBack(t *testing.T) {
	b := newBench(t, 1)
	b.begin("abcdefgh", "TEST_MODE", "exit")
	failed := func(p instance.Progress) bool { return p.Status == instance.Failed }
	p := b.awaitProgress("abcdefgh", failed)
	if last := p[len(p)-1]; last.Failures != 1 || last.StartIn != 0 {
		t.Errorf("after one failure: %+v", last)
	}
	failures, hold := 2, 2*time.Second
	fail := func() time.Time {
		b.eventually("it fails once more", func() bool {
			_, err := b.manager.Start(t.Context(), "abcdefgh", "")
			return instance.KindOf(err) == instance.Exited
		})
		return time.Now()
	}
	fail()
	instancetest.Retry(t, func() error { // for one more failure each time, which is held back for longer
		failures, hold = failures+1, 2*hold
		failed := fail()
		last, _, err := b.manager.Progress("abcdefgh")
		if err != nil || last.Failures != failures || last.StartIn <= 0 || last.StartIn > hold {
			return instancetest.Blame(fmt.Errorf("after %d failures: %+v, %w", failures, last, err), time.Since(failed), hold)
		}
		_, err = b.manager.Start(t.Context(), "abcdefgh", "")
		if instance.KindOf(err) != instance.Overloaded {
			failures++
			hold *= 2
			return instancetest.Blame(fmt.Errorf("started with %w", err), time.Since(failed), hold/4) // what is left may be waited for
		}
		return nil
	})
}

func TestAllViewersShareOneStreamOfTheOutput(t *testing.T) {
	b := newBench(t, 1)
	b.begin("abcdefgh", "TEST_MODE", "silent")
	var all []*instance.Output
	for range 5 {
		o, err := b.manager.Output("abcdefgh")
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, o)
	}
	for _, o := range all {
		b.eventually("a viewer sees the line", func() bool {
			lines, _ := o.Next()
			return strings.Contains(strings.Join(lines, "\n"), "listening on")
		})
		if again, _ := o.Next(); len(again) != 0 {
			t.Errorf("seen again: %q", again)
		}
	}
	if n := b.engine.Calls("Tail"); n != 1 {
		t.Errorf("%d streams, want 1", n)
	}
	for _, o := range all {
		o.Close()
	}
	// The next viewer needs a new one: the other has ended.
	o, err := b.manager.Output("abcdefgh")
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	b.eventually("there is a second stream", func() bool { return b.engine.Calls("Tail") == 2 })
}

func TestTheLastLinesAreAskedForOnce(t *testing.T) {
	b := newBench(t, 1)
	b.begin("abcdefgh", "TEST_MODE", "exit")
	b.awaitProgress("abcdefgh", func(p instance.Progress) bool { return p.Status == instance.Failed })
	before := b.engine.Calls("Logs")
	for range 5 {
		if lines := b.manager.LastLines(t.Context(), "abcdefgh"); len(lines) != 2 || !strings.Contains(lines[1], "giving up") {
			t.Errorf("got %q", lines)
		}
	}
	if n := b.engine.Calls("Logs") - before; n != 1 {
		t.Errorf("asked %d times, want once", n)
	}
	if _, err := b.manager.Start(t.Context(), "abcdefgh", ""); err == nil {
		t.Fatal("it started")
	}
	if lines := b.manager.LastLines(t.Context(), "abcdefgh"); len(lines) != 4 {
		t.Errorf("after another failure: %q", lines)
	}
}

func TestLastLinesThatCouldNotBeReadAreAskedForAgain(t *testing.T) {
	b := newBench(t, 1)
	b.begin("abcdefgh", "TEST_MODE", "exit")
	b.awaitProgress("abcdefgh", func(p instance.Progress) bool { return p.Status == instance.Failed })
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Logs" {
			return errors.New("no")
		}
		return nil
	})
	if lines := b.manager.LastLines(t.Context(), "abcdefgh"); len(lines) != 0 {
		t.Errorf("got %q", lines)
	}
	b.engine.Fault(nil)
	if lines := b.manager.LastLines(t.Context(), "abcdefgh"); len(lines) != 2 {
		t.Errorf("got %q", lines)
	}
	if lines := b.manager.LastLines(t.Context(), "whoknows"); lines != nil {
		t.Errorf("of nobody: %q", lines)
	}
}
