package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// checkFile looks at what is in the place of the state file before anybody reads
// it. What is no file is refused, and so is one that others may have written;
// what others may only read, which is the environment of all instances, is
// closed to them. If there is no state of ours yet, the file is the older
// system's, whose owner and mode are its own business. Nothing is no error.
func (s *store) checkFile(path string, ours bool) error {
	look := os.Stat
	if ours {
		look = os.Lstat // the next write would replace the link, and leave its target behind
	}
	info, err := look(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return stateError(path, err)
	case !info.Mode().IsRegular():
		return notOurFile(path, "is no file but a "+kindOfFile(info.Mode())+": put the file itself there, or move this away")
	case !ours || info.Mode().Perm()&0o077 == 0:
		return nil
	case info.Mode().Perm()&0o022 != 0:
		return notOurFile(path, fmt.Sprintf("may be written by others (mode %04o), who may have changed it: "+
			"see whether it is right, then chmod 600 it", info.Mode().Perm()))
	}
	s.logError(fmt.Sprintf("%s could be read by others (mode %04o): it has mode 0600 now", path, info.Mode().Perm()), nil)
	if err := os.Chmod(path, 0o600); err != nil {
		return stateError(path, err)
	}
	return nil
}

func notOurFile(path, what string) *Error {
	return Errorf(StateFailed, "%s %s", path, what).With("path", path)
}

func kindOfFile(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "folder"
	case mode&fs.ModeSymlink != 0:
		return "symbolic link"
	case mode&fs.ModeNamedPipe != 0:
		return "pipe"
	}
	return "device or socket"
}
