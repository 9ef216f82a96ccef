package instance_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// A dev server that never answers does not keep its instance from being ended,
// whoever had it started.
func TestAStartMakesWayForAnEnd(t *testing.T) {
	const prefix = "abcdefgh"
	ends := map[string]func(context.Context, *instance.Manager) error{
		"stop":   func(ctx context.Context, m *instance.Manager) error { return second(m.Stop(ctx, prefix)) },
		"delete": func(ctx context.Context, m *instance.Manager) error { return second(m.Delete(ctx, prefix)) },
	}
	for begin, starts := range map[string]func(context.Context, *instance.Manager) error{
		"start":   func(ctx context.Context, m *instance.Manager) error { return second(m.Start(ctx, prefix, "")) },
		"restart": func(ctx context.Context, m *instance.Manager) error { return second(m.Restart(ctx, prefix, "")) },
		"button": func(ctx context.Context, m *instance.Manager) error {
			if err := m.Retry(ctx, prefix, nil); err != nil {
				return err
			}
			return second(m.AwaitStart(ctx, prefix))
		},
	} {
		for end, stops := range ends {
			t.Run(end+" during "+begin, func(t *testing.T) {
				b := newBench(t, 1)
				b.with(func(t *instance.Template) { t.Ready = 10 * time.Millisecond })
				b.begin(prefix, "TEST_MODE", "silent")
				b.awaitStatus(prefix, instance.Failed, "never became ready")
				b.with(func(t *instance.Template) { t.Ready = time.Hour })
				started := make(chan error, 1)
				go func() { started <- starts(context.WithoutCancel(t.Context()), b.manager) }()
				b.eventually("its container runs", func() bool { return b.runs(prefix) })
				b.eventually("it is ended", func() bool { return stops(t.Context(), b.manager) == nil }) // the engine may be at it for a moment more
				if e := b.failure(<-started, instance.Busy); e.Details["status"] != instance.Starting {
					t.Errorf("details %v", e.Details)
				}
				if b.runs(prefix) {
					t.Error("its container still runs")
				}
				if end == "delete" {
					b.nothingLeft(prefix)
				} else {
					b.awaitStatus(prefix, instance.Stopped, instance.ReasonUser)
				}
			})
		}
	}
}

// Nor does one that never answered since it was made, once its caller has been.
func TestACreateMakesWayForAnEndOnceItIsAnswered(t *testing.T) {
	for _, wait := range []instance.Wait{instance.WaitNone, instance.WaitStarted} {
		t.Run(string(wait), func(t *testing.T) {
			b := newBench(t, 1)
			b.with(func(t *instance.Template) { t.Ready = time.Hour })
			req := request("abcdefgh", "TEST_MODE", "silent")
			req.Wait = wait
			if _, err := b.manager.Create(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			b.eventually("it is stopped", func() bool { return second(b.manager.Stop(t.Context(), "abcdefgh")) == nil })
			b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonUser)
			if _, err := b.manager.Delete(t.Context(), "abcdefgh"); err != nil {
				t.Fatal(err)
			}
			b.nothingLeft("abcdefgh")
		})
	}
}

// Whoever has called a start off is not refused for another one that came before
// him.
func TestAnEndIsNotOvertakenByOtherStarts(t *testing.T) {
	b := newBench(t, 1)
	b.with(func(t *instance.Template) { t.Ready = 10 * time.Millisecond })
	b.begin("abcdefgh", "TEST_MODE", "silent")
	b.awaitStatus("abcdefgh", instance.Failed, "never became ready")
	b.with(func(t *instance.Template) { t.Ready = time.Hour })
	ctx, end := context.WithCancel(t.Context())
	var others sync.WaitGroup
	defer others.Wait()
	defer end()
	for range 4 {
		others.Go(func() {
			for ctx.Err() == nil {
				_, _ = b.manager.Start(ctx, "abcdefgh", "")
			}
		})
	}
	for range 30 {
		b.eventually("it is started", func() bool {
			return second(b.manager.Start(ctx, "abcdefgh", instance.WaitStarted)) == nil && b.runs("abcdefgh")
		})
		if _, err := b.manager.Stop(ctx, "abcdefgh"); err != nil {
			t.Fatal(err)
		}
	}
}

// A caller who has a start called off, and then leaves, has it go on.
func TestAStartThatWasCalledOffForNobodyGoesOn(t *testing.T) {
	const delay = 200 * time.Millisecond
	b := newBench(t, 1)
	b.engine.DropEvents(true)
	gone, leave := context.WithCancel(t.Context())
	leave()
	req := request("abcdefgh", "TEST_MODE", "slow", "TEST_DELAY", delay.String())
	req.Wait = instance.WaitStarted
	begun := time.Now()
	if _, err := b.manager.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	for rounds := 0; ; {
		if _, err := b.manager.Stop(gone, "abcdefgh"); !errors.Is(err, context.Canceled) {
			t.Fatalf("his answer is %v", err)
		}
		if time.Since(begun) < delay { // else it may have been ready, and is stopped
			b.answers(b.awaitStatus("abcdefgh", instance.Running, ""))
			rounds++
		}
		if rounds == 5 { // he may also leave before he has called it off
			return
		}
		b.eventually("it is started", func() bool {
			begun = time.Now()
			return second(b.manager.Restart(t.Context(), "abcdefgh", instance.WaitStarted)) == nil
		})
	}
}

// runs reports whether the container of prefix does.
func (b *bench) runs(prefix string) bool {
	for _, c := range b.engine.Containers() {
		if c.Spec.Prefix == prefix {
			return c.Running
		}
	}
	return false
}
