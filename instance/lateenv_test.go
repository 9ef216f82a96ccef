package instance_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// newLatePool is a bench whose template has a pool and a file for late
// variables.
func newLatePool(t *testing.T, ports, size int) *bench {
	t.Helper()
	b := newBench(t, ports)
	b.use(func(s *instance.Settings) {
		changeTemplate(s, "hello", func(t *instance.Template) { t.Pool, t.LateEnv = size, "/run/sandbox/env" })
	})
	b.awaitSpares(size)
	return b
}

// lateOf reads the file that the container of in sees.
func (b *bench) lateOf(in instance.Instance) string {
	b.Helper()
	spec := b.container(in.ContainerID).Spec
	if spec.LateEnv != "/run/sandbox/env" || spec.LateDir != filepath.Join(b.dir, "env", spec.BornFor()) {
		b.Errorf("the container has %s from %s", spec.LateEnv, spec.LateDir)
	}
	data, err := os.ReadFile(filepath.Join(spec.LateDir, "env"))
	if err != nil {
		b.Fatal(err)
	}
	return string(data)
}

func (b *bench) lateFolders() int {
	folders, err := os.ReadDir(filepath.Join(b.dir, "env"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		b.Fatal(err)
	}
	return len(folders)
}

func TestWhoItIsComesLateToASpare(t *testing.T) {
	b := newLatePool(t, 10, 1)
	spares := b.spares()
	for _, c := range spares {
		if found, err := os.ReadDir(c.Spec.LateDir); err != nil || len(found) != 0 {
			t.Errorf("a spare's folder holds %v, %v", found, err)
		}
	}
	in := b.create("abcdefgh", "GREETING", "it's")
	spare, taken := spares[in.ContainerID]
	if !taken || in.Prefix != "abcdefgh" || in.URL != "https://abcdefgh.sandbox.example.com" {
		t.Fatalf("created %+v", in)
	}
	want := `GREETING='it'\''s'
SANDBOX_ID='abcdefgh'
SANDBOX_PORT='3000'
SANDBOX_PORTS='3000'
SANDBOX_PREFIX='abcdefgh'
SANDBOX_URL='https://abcdefgh.sandbox.example.com'
SANDBOX_URL_TEMPLATE='https://{port}-abcdefgh.sandbox.example.com'
`
	if got := b.lateOf(in); got != want {
		t.Errorf("it reads\n%s\nwant\n%s", got, want)
	}
	b.answers(in)
	_, err := b.manager.Create(t.Context(), request(spare.Spec.Spare))
	b.fails(err, instance.PrefixTaken)
	b.reopen()
	_, err = b.manager.Create(t.Context(), request(spare.Spec.Spare))
	b.fails(err, instance.PrefixTaken)
	b.answers(b.awaitStatus("abcdefgh", instance.Running, ""))
	if _, err := b.manager.Delete(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	b.nothingLeft("abcdefgh")
	b.awaitSpares(1)
	b.eventually("its folder is gone", func() bool { return b.lateFolders() == 1 })
	b.create(spare.Spec.Spare, "A", "b") // nobody has it any more
}

func TestARefusedCreateGivesItsSpareBack(t *testing.T) {
	b := newLatePool(t, 5, 1)
	b.create("abcdefgh")
	spares := b.awaitSpares(1)
	_, err := b.manager.Create(t.Context(), request("abcdefgh"))
	b.fails(err, instance.PrefixTaken)
	if in := b.take(); spares[in.ContainerID].ID == "" {
		t.Errorf("the next create did not get the spare, but %s", in.ContainerID)
	}
}

func TestLateVariablesAreThereWithoutAPool(t *testing.T) {
	b := newLatePool(t, 3, 0)
	in := b.create("abcdefgh", "GREETING", "hi")
	if got := b.lateOf(in); !strings.HasPrefix(got, "GREETING='hi'\nSANDBOX_ID='abcdefgh'\n") {
		t.Errorf("it reads %s", got)
	}
	if c := b.container(in.ContainerID); c.Spec.Env["GREETING"] != "hi" || c.Spec.Env["SANDBOX_PREFIX"] != "abcdefgh" {
		t.Errorf("its variables are %v", c.Spec.Env)
	}
	if _, err := b.manager.Create(t.Context(), request("failing0", "TEST_MODE", "exit")); err == nil {
		t.Error("a create that was to fail did not")
	}
	if n := b.lateFolders(); n != 1 {
		t.Errorf("%d folders for one instance", n)
	}
	for name, mode := range map[string]fs.FileMode{"env": 0o700, "env/abcdefgh": 0o755, "env/abcdefgh/env": 0o644} {
		if info, err := os.Stat(filepath.Join(b.dir, name)); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, want %v (%v)", name, info.Mode().Perm(), mode, err)
		}
	}
}

// The container may go, the folder as well: the record has what was in it.
func TestLateVariablesComeBack(t *testing.T) {
	b := newLatePool(t, 5, 1)
	in := b.create("abcdefgh", "GREETING", "hi")
	was, folder := b.lateOf(in), b.container(in.ContainerID).Spec.LateDir
	b.engine.RemoveByHand(in.ContainerID)
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonRemoved)
	if err := os.RemoveAll(folder); err != nil {
		t.Fatal(err)
	}
	back, err := b.manager.Start(t.Context(), "abcdefgh", "")
	if err != nil || back.Generation != 2 {
		t.Fatalf("started %+v, %v", back, err)
	}
	if got := b.lateOf(back); got != was {
		t.Errorf("it reads\n%s\nwas\n%s", got, was)
	}
	b.answers(back)
}

func TestALostStateKeepsWhoItIs(t *testing.T) {
	b := newLatePool(t, 5, 1)
	spares := b.spares()
	in := b.create("abcdefgh", "GREETING", "hi")
	was := b.lateOf(in)
	b.awaitSpares(1)
	b.loseState()
	b.open()
	back := b.awaitStatus("abcdefgh", instance.Running, "")
	if back.ContainerID != in.ContainerID {
		t.Errorf("it came back as %+v", back)
	}
	if err := b.manager.Confirm(); err != nil {
		t.Fatal(err)
	}
	_, err := b.manager.Create(t.Context(), request(spares[in.ContainerID].Spec.Spare))
	b.fails(err, instance.PrefixTaken)
	if back, err = b.manager.Restart(t.Context(), "abcdefgh", ""); err != nil || b.lateOf(back) != was {
		t.Errorf("after a restart: %+v, %v", back, err)
	}
	b.awaitSpares(1)
}

// From nothing, Compose makes the container under the name that it was born
// with: it knows of no renaming.
func TestAContainerThatWasMadeAnewGetsItsName(t *testing.T) {
	b := newLatePool(t, 5, 1)
	in := b.create("abcdefgh")
	spec := b.container(in.ContainerID).Spec
	b.manager.Close()
	b.engine.RemoveByHand(in.ContainerID)
	compose := b.engine.Runtime(b.owner())
	spec.Prefix = spec.Spare
	id, err := compose.Create(t.Context(), spec)
	if err == nil {
		err = compose.Start(t.Context(), id)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.open()
	b.eventually("it is taken over", func() bool {
		now, err := b.manager.Get("abcdefgh")
		return err == nil && now.ContainerID == id && now.Ready
	})
	if c := b.container(id); c.Spec.Prefix != "abcdefgh" {
		t.Errorf("its container is that of %s", c.Spec.Prefix)
	}
	now, _ := b.manager.Get("abcdefgh")
	b.answers(now)
	if page, err := b.manager.List(instance.Query{}); err != nil || page.Total != 1 {
		t.Errorf("listed %+v, %v", page, err)
	}
}

// owner is that of the state directory, while no manager has it open too.
func (b *bench) owner() string {
	b.Helper()
	_, rest, _ := strings.Cut(b.file(".instances.json"), `"owner":"`)
	owner, _, _ := strings.Cut(rest, `"`)
	return owner
}

func TestFoldersThatACrashLeftAreRemoved(t *testing.T) {
	b := newLatePool(t, 5, 1)
	b.create("abcdefgh")
	for _, name := range []string{"leftover", "not-ours"} {
		if err := os.MkdirAll(filepath.Join(b.dir, "env", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	b.reopen()
	b.eventually("what belongs to nobody is gone", func() bool {
		_, err := os.Stat(filepath.Join(b.dir, "env", "leftover"))
		return errors.Is(err, fs.ErrNotExist)
	})
	b.awaitSpares(1)
	if n := b.lateFolders(); n != 3 { // the instance's, the spare's, and the operator's own
		t.Errorf("%d folders", n)
	}
}

// An end in the middle of a claim: a spare that is still one knows of nobody.
func TestAClaimThatIsCutShortTellsNoSpareWhoItIs(t *testing.T) {
	b := newLatePool(t, 5, 1)
	spares := b.spares()
	at := make(chan struct{}, 1)
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call != "Rename" {
			return nil
		}
		at <- struct{}{}
		<-ctx.Done()
		return ctx.Err()
	})
	go func() { _, _ = b.manager.Create(context.Background(), request("abcdefgh", "SECRET", "s")) }()
	<-at
	b.manager.Close()
	b.engine.Fault(nil)
	b.open()
	for id, c := range b.awaitSpares(1) {
		found, err := os.ReadDir(c.Spec.LateDir)
		if _, same := spares[id]; !same || err != nil || len(found) != 0 {
			t.Errorf("the spare of before %v: it has %v, %v", same, found, err)
		}
	}
	b.eventually("the create is undone", func() bool {
		_, err := b.manager.Get("abcdefgh")
		return instance.KindOf(err) == instance.NotFound
	})
	b.nothingLeft("abcdefgh")
}

func TestLateVariablesAreReadByAShell(t *testing.T) {
	b := newLatePool(t, 3, 1)
	values := []string{
		"", " ", "$HOME", "`id`", "$(id)", "'", "''", `'\''`, `"`, `\`, `a\nb`, "a\nb\n", "#", "a # b", "a=b", ";", "&", "*", "~", "!", "grüße", "\x01\t",
	}
	env := []string{}
	for i, value := range values {
		env = append(env, "V"+string(rune('A'+i)), value)
	}
	in := b.create("abcdefgh", env...)
	file := filepath.Join(b.container(in.ContainerID).Spec.LateDir, "env")
	for i, want := range values {
		out, err := exec.Command("sh", "-c", `. "$0" && printf %s "$V`+string(rune('A'+i))+`"`, file).Output()
		if err != nil || string(out) != want {
			t.Errorf("a shell reads %q as %q (%v)", want, out, err)
		}
	}
}

// A folder that takes its time to be removed takes nothing along that belongs to
// the next instance of its prefix.
func TestFoldersGoBeforeTheirPrefixIsFree(t *testing.T) {
	fill := func(t *testing.T, folder string) {
		t.Helper()
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		for n := range 10_000 {
			if err := os.WriteFile(filepath.Join(folder, fmt.Sprint("file", n)), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(t *testing.T, b *bench) {
		t.Helper()
		in := b.create("abcdefgh", "GREETING", "hi")
		for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if !strings.Contains(b.lateOf(in), "GREETING='hi'") {
				t.Fatalf("it reads %s", b.lateOf(in))
			}
			if found, err := os.ReadDir(filepath.Join(b.dir, "env", "abcdefgh")); err != nil || len(found) == 1 {
				return
			}
		}
		t.Error("what was there before is still there")
	}
	t.Run("by a delete", func(t *testing.T) {
		t.Parallel()
		b := newLatePool(t, 3, 0)
		in := b.create("abcdefgh")
		fill(t, b.container(in.ContainerID).Spec.LateDir)
		deleted := make(chan error, 1)
		go func() { deleted <- second(b.manager.Delete(context.Background(), "abcdefgh")) }()
		b.eventually("its prefix is free", func() bool {
			_, err := b.manager.Get("abcdefgh")
			return instance.KindOf(err) == instance.NotFound
		})
		check(t, b)
		if err := <-deleted; err != nil {
			t.Error(err)
		}
	})
	t.Run("after a crash", func(t *testing.T) {
		t.Parallel()
		b := newLatePool(t, 3, 0)
		b.manager.Close()
		fill(t, filepath.Join(b.dir, "env", "abcdefgh"))
		b.open()
		check(t, b)
	})
}
