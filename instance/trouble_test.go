package instance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var errDown = &instance.Error{Kind: instance.EngineDown, Message: "no engine"}

// loseState closes the manager and removes its state file.
func (b *bench) loseState() {
	b.Helper()
	b.manager.Close()
	if err := os.Remove(filepath.Join(b.dir, ".instances.json")); err != nil {
		b.Fatal(err)
	}
}

func TestARebuildThatIsInterruptedGoesOn(t *testing.T) {
	b := newBench(t, 2)
	in := b.create("aaaaaaaa")
	b.loseState()
	b.engine.Fault(func(context.Context, string, string) error { return errDown })
	b.open() // writes a state file without records
	b.engine.Fault(nil)
	b.reopen()
	if got := b.awaitStatus("aaaaaaaa", instance.Running, ""); got.ContainerID != in.ContainerID {
		t.Errorf("came back as %+v", got)
	}
}

func TestAnAdoptionThatFailsCostsNoContainer(t *testing.T) {
	b := newBench(t, 2)
	b.create("aaaaaaaa")
	b.loseState()
	blocker := filepath.Join(b.dir, ".instances.json.tmp")
	var lists atomic.Int64
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call != "List" {
			return nil
		}
		if lists.Add(1) < 3 {
			return os.MkdirAll(blocker, 0o700) // the write that follows fails
		}
		return os.RemoveAll(blocker)
	})
	b.open()
	b.awaitStatus("aaaaaaaa", instance.Running, "")
	if n := b.engine.Calls("Remove"); n != 0 {
		t.Errorf("%d containers were removed", n)
	}
}

func TestNothingTakesWhatBelongsToALostRecord(t *testing.T) {
	b := newBench(t, 3)
	in := b.create("aaaaaaaa")
	b.loseState()
	listing, goOn := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(listing); <-goOn })
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "List" {
			first()
		}
		return nil
	})
	b.open()
	<-listing
	failed := make(chan error)
	go func() {
		_, err := b.manager.Create(t.Context(), request("aaaaaaaa"))
		failed <- err
	}()
	close(goOn)
	if err := <-failed; err == nil {
		t.Error("a create took the prefix of a lost instance")
	}
	if got := b.awaitStatus("aaaaaaaa", instance.Running, ""); got.ContainerID != in.ContainerID {
		t.Errorf("its container is now %s", got.ContainerID)
	}
}

func TestACopyOfTheDirectoryIsRefusedWhileTheOtherWorks(t *testing.T) {
	b := newBench(t, 1)
	in := b.create("abcdefgh")
	original := b.manager
	copied := t.TempDir()
	if err := os.CopyFS(copied, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	second := instance.New(copied, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil })
	second.Use(b.settings())
	err := second.Open()
	b.fails(err, instance.StateFailed)
	if !strings.Contains(err.Error(), "copy of this state directory") {
		t.Errorf("it does not say why: %v", err)
	}
	b.answers(in)
	original.Close()
	third := instance.New(copied, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil })
	third.Use(b.settings())
	if err := third.Open(); err != nil {
		t.Errorf("refused although the other one has ended: %v", err)
	}
	third.Close()
}

func TestCloseAfterAnOpenThatFailed(t *testing.T) {
	b := newBench(t, 1)
	b.manager.Close()
	if err := errors.Join(os.Remove(filepath.Join(b.dir, ".instances.json")),
		os.Mkdir(filepath.Join(b.dir, ".instances.json.tmp"), 0o700)); err != nil {
		t.Fatal(err)
	}
	m := instance.New(b.dir, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil })
	m.Use(b.settings())
	b.fails(m.Open(), instance.StateFailed)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func TestWhoJoinsARefusedOperationIsTold(t *testing.T) {
	b := newBench(t, 100)
	b.create("stopped0")
	if _, err := b.manager.Stop(t.Context(), "stopped0"); err != nil {
		t.Fatal(err)
	}
	goOn := make(chan struct{})
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Create" {
			<-goOn
		}
		return nil
	})
	var creates, starts sync.WaitGroup
	var full, busy atomic.Int64
	for range 80 { // 72 may work and wait
		creates.Go(func() {
			if _, err := b.manager.Create(t.Context(), request("")); instance.KindOf(err) == instance.Overloaded {
				full.Add(1)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
	b.eventually("the queue is full", func() bool { return full.Load() == 8 })
	for range 64 {
		starts.Go(func() {
			if _, err := b.manager.Start(t.Context(), "stopped0", ""); instance.KindOf(err) == instance.Overloaded {
				busy.Add(1)
			}
		})
	}
	starts.Wait()
	if busy.Load() != 64 {
		t.Errorf("%d of 64 were told", busy.Load())
	}
	close(goOn)
	creates.Wait()
}

func TestARestartThatDockerRefusesLeavesTheInstanceRunning(t *testing.T) {
	b := newBench(t, 1)
	in := b.create("abcdefgh")
	b.engine.Fault(func(context.Context, string, string) error { return errDown })
	_, err := b.manager.Restart(t.Context(), "abcdefgh", "")
	b.fails(err, instance.EngineDown)
	b.answers(in)
}

func TestALostAnswerLosesNoRestart(t *testing.T) {
	for _, call := range []string{"Stop", "Inspect"} {
		t.Run(call, func(t *testing.T) {
			b := newBench(t, 1)
			b.create("abcdefgh")
			var lost atomic.Bool
			b.engine.LoseAnswer(func(_ context.Context, made, _ string) error {
				if made == call && lost.CompareAndSwap(false, true) {
					return &instance.Error{Kind: instance.Timeout, Message: "no answer"}
				}
				return nil
			})
			in, err := b.manager.Restart(t.Context(), "abcdefgh", "")
			if err != nil || !lost.Load() {
				t.Fatalf("restart: %v, an answer was lost: %v", err, lost.Load())
			}
			b.answers(in)
		})
	}
}

func TestAnInstanceThatKeepsFailingIsHeldBack(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh", "TEST_MODE", "exit")
	req.Wait = instance.WaitNone
	if _, err := b.manager.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	b.eventually("it has failed", func() bool {
		in, _ := b.manager.Get("abcdefgh")
		return in.Status == instance.Failed
	})
	begun := time.Now()
	for range 2 { // after 1 and 2 s
		_, err := b.manager.Start(t.Context(), "abcdefgh", "")
		b.fails(err, instance.Exited)
	}
	if took := time.Since(begun); took < 2500*time.Millisecond {
		t.Errorf("two more starts came after %s", took)
	}
	_, err := b.manager.Start(t.Context(), "abcdefgh", "")
	if e := b.failure(err, instance.Overloaded); e.Details["failures"] != 3 || e.RetryAfter <= 2*time.Second {
		t.Errorf("after three failures: %v, retry after %s", e.Details, e.RetryAfter)
	}
	if _, err := b.manager.Delete(t.Context(), "abcdefgh"); err != nil {
		t.Errorf("a delete is never held back: %v", err)
	}
}

// An engine finishes what it was asked for, whether its answer arrives or not.
func TestALostAnswerIsLookedUp(t *testing.T) {
	operations := map[string]func(m *instance.Manager) error{
		"create": func(m *instance.Manager) error {
			_, err := m.Create(t.Context(), request("created0"))
			return err
		},
		"start": func(m *instance.Manager) error {
			_, err := m.Start(t.Context(), "stopped0", "")
			return err
		},
		"stop": func(m *instance.Manager) error {
			_, err := m.Stop(t.Context(), "running0")
			return err
		},
		"delete": func(m *instance.Manager) error {
			_, err := m.Delete(t.Context(), "running0")
			return err
		},
	}
	for _, row := range []struct{ operation, call string }{
		{"create", "Start"}, {"start", "Start"}, {"stop", "Stop"}, {"delete", "Stop"}, {"delete", "Remove"},
	} {
		for _, kind := range []instance.Kind{instance.Timeout, instance.EngineDown} {
			t.Run(fmt.Sprintf("%s/%s/%s", row.operation, row.call, kind), func(t *testing.T) {
				b := newBench(t, 3)
				b.create("running0")
				b.create("stopped0")
				if _, err := b.manager.Stop(t.Context(), "stopped0"); err != nil {
					t.Fatal(err)
				}
				var lost atomic.Bool
				b.engine.LoseAnswer(func(_ context.Context, made, _ string) error {
					if made == row.call && lost.CompareAndSwap(false, true) {
						return &instance.Error{Kind: kind, Message: "no answer"}
					}
					return nil
				})
				if err := operations[row.operation](b.manager); err != nil || !lost.Load() {
					t.Errorf("got %v, an answer was lost: %v", err, lost.Load())
				}
			})
		}
	}
}

func TestAStartThatCannotBeFinishedSaysWhy(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	starting := make(chan struct{})
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call == "Start" {
			close(starting)
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	go func() { _, _ = b.manager.Restart(context.Background(), "abcdefgh", "") }()
	<-starting
	b.manager.Close() // in the middle of the restart
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Start" {
			return &instance.Error{Kind: instance.EngineFailed, Message: "no"}
		}
		return nil
	})
	b.open()
	if in := b.awaitStatus("abcdefgh", instance.Failed, "did not start"); in.StoppedAt == nil {
		t.Error("it does not say since when")
	}
}

func TestAKeyWithBytesThatJSONChangesIsRefused(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh")
	req.IdempotencyKey = "caf\xe9"
	_, err := b.manager.Create(t.Context(), req)
	b.fails(err, instance.BadRequest)
}

func TestAJoinedCreateIsAnsweredAsTheFirstOne(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh", "TEST_MODE", "exit", "TEST_DELAY", "100ms")
	req.IdempotencyKey = "k"
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := b.manager.Create(t.Context(), req); err == nil {
			t.Error("the first create worked")
		}
	})
	b.eventually("the create is at work", func() bool { return b.engine.Calls("Create") > 0 })
	req.Wait = instance.WaitNone
	if in, err := b.manager.Create(t.Context(), req); err == nil {
		// Its own create, then, for the first was gone: it has to stay.
		b.eventually("it is kept", func() bool {
			got, err := b.manager.Get(in.Prefix)
			return err == nil && got.Status == instance.Failed
		})
	}
	wg.Wait()
}

func TestBeforeOpenNothingIsDenied(t *testing.T) {
	m := instance.New(t.TempDir(), func(string) (instance.Runtime, error) { return nil, errDown })
	ctx := t.Context()
	for name, err := range map[string]error{
		"Get":        second(m.Get("abcdefgh")),
		"List":       second(m.List(instance.Query{})),
		"Acquire":    second(m.Acquire("abcdefgh", 0)),
		"AddHost":    second(m.AddHost(ctx, "abcdefgh", "app.example.org")),
		"RemoveHost": second(m.RemoveHost(ctx, "abcdefgh", "app.example.org")),
		"Create":     second(m.Create(ctx, instance.CreateRequest{})),
		"Start":      second(m.Start(ctx, "abcdefgh", "")),
		"Delete":     second(m.Delete(ctx, "abcdefgh")),
		"Health":     second(m.Health(ctx)),
	} {
		if instance.KindOf(err) != instance.NotOpen {
			t.Errorf("%s = %v, want NotOpen", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }

// A reload comes to a Manager that could not be opened, as well.
func TestAManagerThatDidNotOpenCanBeReloadedAndClosed(t *testing.T) {
	b := newBench(t, 1)
	m := instance.New(b.dir, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil }) // b has the folder
	m.Use(b.settings())
	if err := m.Open(); err == nil {
		t.Fatal("it is open")
	}
	s := b.settings()
	s.Domain = "other.example.com"
	m.Use(s)
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}
