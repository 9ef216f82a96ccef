package instance

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestWhatIsInThePlaceOfTheStateFile(t *testing.T) {
	for name, test := range map[string]struct {
		put  func(path string) error // in place of the whole file, which is at path+".kept"
		want string                  // a part of the error; empty: it is read all the same
		logs string                  // a part of what is logged
	}{
		"the file":          {func(path string) error { return os.Rename(path+".kept", path) }, "", ""},
		"readable by all":   {withMode(0o644), "", "mode 0644"},
		"readable by group": {withMode(0o640), "", "mode 0640"},
		"writable by group": {withMode(0o620), "chmod 600", ""},
		"writable by all":   {withMode(0o666), "mode 0666", ""},
		"a symbolic link":   {func(path string) error { return os.Symlink(path+".kept", path) }, "symbolic link", ""},
		"a link to nothing": {func(path string) error { return os.Symlink(path+".none", path) }, "symbolic link", ""},
		"a folder":          {func(path string) error { return os.Mkdir(path, 0o700) }, "folder", ""},
		"a pipe":            {func(path string) error { return syscall.Mkfifo(path, 0o600) }, "pipe", ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := newStore(t, dir)
			if err := s.put(testRecord("aaaaaaaa", 5200)); err != nil {
				t.Fatal(err)
			}
			s.close()
			path := filepath.Join(dir, stateFile)
			if err := errors.Join(os.Rename(path, path+".kept"), test.put(path)); err != nil {
				t.Fatal(err)
			}
			before, err := os.Lstat(path)
			if err != nil {
				t.Fatal(err)
			}

			again := lonelyStore(t, nil)
			var logged strings.Builder
			again.logError = func(msg string, _ error) { logged.WriteString(msg) }
			loaded, err := openBefore(t, dir, again)
			if test.logs == "" && logged.Len() > 0 || !strings.Contains(logged.String(), test.logs) {
				t.Errorf("logged %q, want %q", logged.String(), test.logs)
			}
			if test.want == "" {
				if err != nil || loaded.Degraded != "" || loaded.Instances["aaaaaaaa"] == nil {
					t.Errorf("got %+v, %v", loaded, err)
				}
				if after, _ := os.Stat(path); after.Mode() != 0o600 {
					t.Errorf("its mode is %v, want 0600", after.Mode())
				}
				again.lock.Close()
				return
			}
			if KindOf(err) != StateFailed || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names %s and says %q", err, path, test.want)
			}
			if after, err := os.Lstat(path); err != nil || after.Mode() != before.Mode() || !os.SameFile(before, after) {
				t.Errorf("it was touched: %v, was %v (%v)", after, before, err)
			}
		})
	}
}

func withMode(mode fs.FileMode) func(path string) error {
	return func(path string) error { return errors.Join(os.Rename(path+".kept", path), os.Chmod(path, mode)) }
}

// openBefore is openStore, which must not wait for what is in the file's place.
func openBefore(t *testing.T, dir string, s *store) (loaded state, err error) {
	t.Helper()
	opened := make(chan struct{})
	go func() {
		defer close(opened)
		loaded, err = openStore(dir, s)
	}()
	select {
	case <-opened:
	case <-time.After(10 * time.Second):
		t.Fatal("opening hangs")
	}
	return loaded, err
}

// The older system ran as another user, and with a umask of its own.
func TestTheOldStateMayBelongToOthers(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, stateFile)
	if err := errors.Join(os.WriteFile(path, []byte(`{"aaaaaaaa":5174}`), 0o600), os.Chmod(path, 0o664)); err != nil {
		t.Fatal(err)
	}
	s := lonelyStore(t, nil)
	loaded, err := openStore(dir, s)
	if err != nil || len(loaded.old.instances) != 1 {
		t.Fatalf("got %+v, %v", loaded, err)
	}
	s.lock.Close()
}
