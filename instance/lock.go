package instance

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/google/uuid"
)

// lockFile is held for the life of the process. Its first line is the owner
// uuid, kept here too in case the state file is lost; its second the pid.
const lockFile = ".instances.lock"

// lockWait is for an old Manager of this process that is still closing. It is
// short because the kernel hands a waiting second process a part of the
// first one's connections.
const lockWait = 500 * time.Millisecond

// lockDir takes dir for this process and returns the held lock and the owner
// uuid in it, empty if it has none yet.
func lockDir(dir string) (lock *os.File, owner string, err error) {
	path := filepath.Join(dir, lockFile)
	lock, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, "", stateError(path, err)
	}
	for deadline := time.Now().Add(lockWait); ; time.Sleep(10 * time.Millisecond) {
		err = syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || time.Now().After(deadline) {
			break
		}
	}
	owner, pid := readLock(lock)
	if err != nil {
		lock.Close()
		return nil, "", Errorf(StateFailed, "state directory %s is in use by another process (pid %s): "+
			"stop it, or give this one a state_dir of its own", dir, pid).With("path", path)
	}
	return lock, owner, nil
}

// claimOwner keeps other processes of this machine from working for the same
// owner: one with a copy of the state directory would take our containers for
// its own, and remove those that its records do not know. The name is in the
// kernel alone, so no crash leaves it behind.
func claimOwner(owner string) (io.Closer, error) {
	if runtime.GOOS != "linux" { // elsewhere there are no such names
		return io.NopCloser(nil), nil
	}
	claim, err := net.Listen("unix", "@caddy-sandbox-"+owner)
	if err != nil {
		return nil, Errorf(StateFailed, "another process works with a copy of this state directory (owner %s): "+
			"stop it, or give one of the two an empty state_dir: %w", owner, err)
	}
	return claim, nil
}

func readLock(lock *os.File) (owner, pid string) {
	pid = "unknown"
	lines := bufio.NewScanner(lock)
	if lines.Scan() {
		// Anything else than a uuid is a lock file that never got its line.
		if id, err := uuid.Parse(strings.TrimSpace(lines.Text())); err == nil {
			owner = id.String()
		}
	}
	if lines.Scan() {
		pid = lines.Text()
	}
	return owner, pid
}

// signLock writes owner and our pid into the held lock. The bytes of owner do
// not change from one start to the next, so a crash on the way loses nothing.
func signLock(lock *os.File, owner string) error {
	line := fmt.Sprintf("%s\n%d\n", owner, os.Getpid())
	_, err := lock.WriteAt([]byte(line), 0)
	if err = errors.Join(err, lock.Truncate(int64(len(line))), lock.Sync()); err != nil {
		return stateError(lock.Name(), err)
	}
	return osDisk{}.SyncDir(filepath.Dir(lock.Name()))
}
