package instance

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// disk is the file system as this package writes to it. Tests put one in its
// place that fails, or forgets what was not synced.
type disk interface {
	ReadFile(path string) ([]byte, error)
	Stat(path string) (fs.FileInfo, error)
	// Create opens path for writing, empty, and does not follow a link.
	Create(path string, mode fs.FileMode) (diskFile, error)
	Rename(from, to string) error
	Remove(path string) error
	// SyncDir makes what was created, renamed and removed in dir survive a
	// power cut.
	SyncDir(dir string) error
}

type diskFile interface {
	io.WriteCloser
	Sync() error
}

// writeFile replaces path durably: whoever reads it finds the old bytes or the
// new ones, and after it returned nil a power cut does not bring the old ones
// back. The temporary file has a fixed name, so a crash leaves at most one.
func writeFile(d disk, path string, mode fs.FileMode, data []byte) error {
	tmp := tempName(path)
	if err := writeAndSync(d, tmp, mode, data); err != nil {
		return err
	}
	failpoint("tmp." + filepath.Base(path))
	if err := d.Rename(tmp, path); err != nil {
		return err
	}
	failpoint("renamed." + filepath.Base(path))
	// Without this, 10 of 30 power cuts lost an acknowledged change.
	return d.SyncDir(filepath.Dir(path))
}

func tempName(path string) string { return path + ".tmp" }

func writeAndSync(d disk, path string, mode fs.FileMode, data []byte) error {
	f, err := d.Create(path, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = d.Remove(path) // it may hold the space that others need
	}
	return err
}

// osDisk is the real disk.
type osDisk struct{}

func (osDisk) ReadFile(path string) ([]byte, error)  { return os.ReadFile(path) }
func (osDisk) Stat(path string) (fs.FileInfo, error) { return os.Stat(path) }
func (osDisk) Rename(from, to string) error          { return os.Rename(from, to) }
func (osDisk) Remove(path string) error              { return os.Remove(path) }

func (osDisk) Create(path string, mode fs.FileMode) (diskFile, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(mode); err != nil { // the umask had its say
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (osDisk) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// stateError says what is wrong with path and what it needs.
func stateError(path string, err error) *Error {
	kind := StateFailed
	message := fmt.Sprintf("%s cannot be written", path)
	switch {
	case errors.Is(err, syscall.ENOSPC):
		kind = DiskFull
		message = fmt.Sprintf("the disk is full: %s cannot be written; free some space", path)
	case errors.Is(err, syscall.EDQUOT):
		kind = DiskFull
		message = fmt.Sprintf("the disk quota of uid %d is used up: %s cannot be written; free some space or raise it", os.Geteuid(), path)
	case errors.Is(err, syscall.EFBIG):
		kind = DiskFull
		message = fmt.Sprintf("%s cannot be written: it would be larger than this process may make a file; raise that limit (ulimit -f)", path)
	case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE):
		message = fmt.Sprintf("%s cannot be written: no file descriptor is left; try again later, and raise that limit (ulimit -n)", path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		message = fmt.Sprintf("%s cannot be written: its folder must be writable (mode 0711) and owned by uid %d", path, os.Geteuid())
	}
	e := &Error{Kind: kind, Message: message, Err: err}
	return e.With("path", path).With("mode", "0711").With("owner", os.Geteuid())
}

// WriteFile replaces path durably, as the files of instances are: for the other
// files of a state directory, whose lock the caller's Manager holds.
func WriteFile(path string, mode fs.FileMode, data []byte) error {
	if err := writeFile(osDisk{}, path, mode, data); err != nil {
		return stateError(path, err)
	}
	return nil
}

// SetAside renames a file that cannot be used, so that it is neither lost nor
// in the way, and returns its new path.
func SetAside(path, why string) (aside string, err error) {
	aside = asideName(path, why)
	return aside, os.Rename(path, aside)
}
