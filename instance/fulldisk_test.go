package instance_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// newSmallDisk is a bench whose state directory is a disk of 1 MiB.
func newSmallDisk(t *testing.T, ports int) *bench {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a disk") // only that has an end of its own
	}
	dir := t.TempDir()
	// By no other process: until that has begun, it has our sockets and files.
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m,mode=711"); err != nil {
		t.Skipf("mounting a disk: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	first := instancetest.FreePorts(t, ports)
	b := &bench{
		T: t, dir: dir, engine: instancetest.NewEngine(t),
		ports: instance.PortRange{First: first, Last: first + ports - 1},
	}
	b.open()
	t.Cleanup(func() { b.manager.Close() })
	return b
}

// fillDisk takes all space but that for so many small files. Whoever has the
// disk filled while the Manager writes gets what that gives back as well.
func (b *bench) fillDisk(left int) {
	b.Helper()
	const page = 4096
	filler, err := os.Create(filepath.Join(b.dir, "filler"))
	if err != nil {
		b.Fatal(err)
	}
	defer filler.Close()
	size := int64(0)
	for block := make([]byte, page); err == nil; size += page {
		_, err = filler.Write(block)
	}
	if !errors.Is(err, syscall.ENOSPC) {
		b.Fatal(err)
	}
	if err := filler.Truncate(max(0, size-page-int64(left)*page)); err != nil {
		b.Fatal(err)
	}
}

// freeDisk gives the space back.
func (b *bench) freeDisk() {
	b.Helper()
	if err := os.Remove(filepath.Join(b.dir, "filler")); err != nil {
		b.Fatal(err)
	}
}

// isWritten gives the space back, and checks that the next write has want.
func (b *bench) isWritten(want string) {
	b.Helper()
	b.freeDisk()
	b.create("another0")
	if _, err := b.manager.Delete(b.Context(), "another0"); err != nil {
		b.Fatal(err)
	}
	if state := b.file(".instances.json"); !strings.Contains(state, want) {
		b.Errorf("the state file is %.4000s, without %s", state, want)
	}
}

// atFirst has act called at the first call of method from now on.
func (b *bench) atFirst(method string, act func()) {
	first := sync.OnceFunc(act)
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == method {
			first()
		}
		return nil
	})
}

// The disk is full by the time that the dev server answers, so that it cannot
// be written that it runs. It does.
func TestAFullDiskStopsNothingThatWasStarted(t *testing.T) {
	ctx := t.Context()
	pause := func(b *bench) error { return second(b.manager.Pause(ctx, "abcdefgh")) }
	stop := func(b *bench) error { return second(b.manager.Stop(ctx, "abcdefgh")) }
	idle := func(b *bench) error {
		b.update("abcdefgh", idleAfter(short))
		b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonIdle)
		b.update("abcdefgh", idleAfter(0))
		return nil
	}
	start := func(wait instance.Wait) func(*bench) error {
		return func(b *bench) error { return second(b.manager.Start(ctx, "abcdefgh", wait)) }
	}
	for name, test := range map[string]struct {
		before, act func(*bench) error
		full        string // the call of the engine by which the disk is full
	}{
		"start":              {stop, start(""), "Start"},
		"start, wait":        {stop, start(instance.WaitStarted), "Start"},
		"start, wait = none": {stop, start(instance.WaitNone), "Start"},
		"wake":               {idle, func(b *bench) error { return second(b.manager.Wake(ctx, "abcdefgh", nil)) }, "Start"},
		"restart":            {nil, func(b *bench) error { return second(b.manager.Restart(ctx, "abcdefgh", "")) }, "Start"},
		"resume":             {pause, start(""), "Start"},
		"resumed outside": {pause, func(b *bench) error {
			b.fillDisk(0)
			return b.engine.StartByHand(instance.ContainerName("abcdefgh"))
		}, ""},
		"started outside": {stop, func(b *bench) error {
			return b.engine.StartByHand(instance.ContainerName("abcdefgh"))
		}, "Start"},
		"a pause that does not happen": {nil, func(b *bench) error {
			b.engine.Fault(func(_ context.Context, call, _ string) error {
				if call != "Pause" {
					return nil
				}
				b.fillDisk(0)
				return &instance.Error{Kind: instance.EngineFailed, Message: "no"}
			})
			b.fails(pause(b), instance.EngineFailed)
			return nil
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newSmallDisk(t, 2)
			b.create("abcdefgh")
			if test.before != nil {
				if err := test.before(b); err != nil {
					t.Fatal(err)
				}
			}
			if test.full != "" {
				b.atFirst(test.full, func() { b.fillDisk(0) })
			}
			if err := test.act(b); err != nil {
				t.Errorf("got %v", err)
			}
			in := b.awaitStatus("abcdefgh", instance.Running, "")
			b.answers(in)
			b.engine.Fault(nil)
			b.isWritten(`"status":"running","ready":true`)
			b.reopen()
			if now := b.awaitStatus("abcdefgh", instance.Running, ""); now.ContainerID != in.ContainerID || !now.StartedAt.Equal(*in.StartedAt) {
				t.Errorf("it was %+v, and is %+v", in, now)
			}
		})
	}
}

// Until it can be written, a process that is killed leaves a record that says
// less, and the next one serves what it finds.
func TestWhatAFullDiskKeptFromTheRecordIsFound(t *testing.T) {
	b := newSmallDisk(t, 2)
	b.create("abcdefgh")
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	b.atFirst("Start", func() { b.fillDisk(0) })
	in, err := b.manager.Start(t.Context(), "abcdefgh", "")
	if err != nil {
		t.Fatal(err)
	}
	state := b.file(".instances.json")
	if !strings.Contains(state, `"status":"starting"`) {
		t.Fatalf("the state file has %s", state)
	}
	b.manager.Close()
	b.open()
	if now := b.awaitStatus("abcdefgh", instance.Running, ""); now.ContainerID != in.ContainerID || !now.StartedAt.Equal(*in.StartedAt) {
		t.Errorf("it was %+v, and is %+v", in, now)
	}
}

func TestAFullDiskAndCreates(t *testing.T) {
	create := func(b *bench, wait instance.Wait, env ...string) error {
		req := request("abcdefgh", env...)
		req.Wait = wait
		return second(b.manager.Create(t.Context(), req))
	}
	t.Run("that nobody was told of", func(t *testing.T) {
		t.Parallel()
		b := newSmallDisk(t, 2)
		b.atFirst("Start", func() { b.fillDisk(0) })
		b.fails(create(b, ""), instance.DiskFull)
		b.nothingLeft("abcdefgh")
	})
	t.Run("that were told to have started", func(t *testing.T) {
		t.Parallel()
		b := newSmallDisk(t, 2)
		if err := create(b, instance.WaitStarted, "TEST_MODE", "slow", "TEST_DELAY", "300ms"); err != nil {
			t.Fatal(err)
		}
		b.fillDisk(0)
		b.answers(b.awaitStatus("abcdefgh", instance.Running, ""))
		b.isWritten(`"ready":true`)
	})
	t.Run("that fail once their caller has left", func(t *testing.T) {
		t.Parallel()
		b := newSmallDisk(t, 2)
		b.atFirst("Start", func() { b.fillDisk(0) })
		if err := create(b, instance.WaitNone, "TEST_MODE", "exit"); err != nil {
			t.Fatal(err)
		}
		b.awaitStatus("abcdefgh", instance.Failed, "exited 3")
		b.isWritten(`"status":"failed"`)
		b.awaitStatus("abcdefgh", instance.Failed, "exited 3")
	})
}

// Whatever of a claim cannot be written: nothing of it is left, and its caller is
// told why.
func TestAFullDiskAndClaims(t *testing.T) {
	for name, test := range map[string]struct {
		prefix, lateEnv string
		left            int // what still can be written
	}{
		"the record":                      {"", "", 0},
		"the variables":                   {"abcdefgh", "/run/sandbox/env", 0},
		"the variables, a prefix for it":  {"", "/run/sandbox/env", 0},
		"the record, after the variables": {"abcdefgh", "/run/sandbox/env", 1},
		"the record, a prefix for it":     {"", "/run/sandbox/env", 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newSmallDisk(t, 5)
			b.use(func(s *instance.Settings) {
				changeTemplate(s, "hello", func(t *instance.Template) { t.Pool, t.LateEnv = 1, test.lateEnv })
			})
			kept := b.create("")
			spares := b.awaitSpares(1)
			b.fillDisk(test.left)
			req := request(test.prefix)
			if test.lateEnv != "" {
				req.Env["GREETING"] = "hi"
			}
			_, err := b.manager.Create(t.Context(), req)
			if e := b.failure(err, instance.DiskFull); !strings.HasPrefix(fmt.Sprint(e.Details["path"]), b.dir) {
				t.Errorf("the details are %v", e.Details)
			}
			if page, err := b.manager.List(instance.Query{}); err != nil || page.Total != 1 {
				t.Errorf("listed %+v, %v", page, err)
			}
			b.answers(kept)
			// With what its variables took, the pool may have made another one.
			b.eventually("nothing is left of it", func() bool {
				folders := 0
				for _, c := range b.engine.Containers() {
					if _, was := spares[c.ID]; was || !c.Spec.IsSpare() && c.ID != kept.ContainerID {
						return false
					}
					if test.lateEnv != "" {
						folders++
					}
				}
				return b.lateFolders() == folders
			})
			if _, err := b.manager.Delete(t.Context(), kept.Prefix); err != nil {
				t.Errorf("a delete, which there is a reserve for: %v", err)
			}
			b.freeDisk()
			b.manager.Use(b.settings()) // a pool that failed is tried again at once
			b.awaitSpares(1)
			in := b.create(test.prefix)
			b.answers(in)
			if test.lateEnv != "" && !strings.Contains(b.lateOf(in), "SANDBOX_PREFIX='"+in.Prefix+"'") {
				t.Errorf("it reads %s", b.lateOf(in))
			}
		})
	}
}
