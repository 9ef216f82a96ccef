package instance_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
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
		t.Skip("needs root, to mount a disk")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=1m,mode=711", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mounting a disk: %v: %s", err, out)
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

// freeDisk gives the space back, and checks what the next write has.
func (b *bench) freeDisk(want string) {
	b.Helper()
	if err := os.Remove(filepath.Join(b.dir, "filler")); err != nil {
		b.Fatal(err)
	}
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
			b.freeDisk(`"status":"running","ready":true`)
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
		b.freeDisk(`"ready":true`)
	})
	t.Run("that fail once their caller has left", func(t *testing.T) {
		t.Parallel()
		b := newSmallDisk(t, 2)
		b.atFirst("Start", func() { b.fillDisk(0) })
		if err := create(b, instance.WaitNone, "TEST_MODE", "exit"); err != nil {
			t.Fatal(err)
		}
		b.awaitStatus("abcdefgh", instance.Failed, "exited 3")
		b.freeDisk(`"status":"failed"`)
		b.awaitStatus("abcdefgh", instance.Failed, "exited 3")
	})
}
