// Package testports keeps tests from taking one another's ports. Between the
// look at a port and its use by a container or a Caddy passes a while, in which
// other tests look for ports as well: go test runs packages at the same time.
package testports

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

var taken = struct {
	sync.Mutex
	ports map[int]bool // by this process
}{ports: map[int]bool{}}

// Take takes n ports from first on, until GiveBack or the end of the process. It
// reports false, and takes none, if anybody took or uses one of them. n is at least 1.
func Take(first, n int) bool {
	if n < 1 {
		panic(fmt.Sprintf("%d ports", n)) // to lock 0 bytes is to lock all that follow
	}
	taken.Lock()
	defer taken.Unlock()
	for port := first; port < first+n; port++ {
		if taken.ports[port] {
			return false
		}
	}
	// Locked before the look, which for a moment would be in the way of whoever
	// took the port.
	if !lock(syscall.F_WRLCK, first, n) {
		return false
	}
	for port := first; port < first+n; port++ {
		if !Bindable(port) {
			lock(syscall.F_UNLCK, first, n)
			return false
		}
	}
	for port := first; port < first+n; port++ {
		taken.ports[port] = true
	}
	return true
}

// GiveBack gives back what Take took.
func GiveBack(first, n int) {
	taken.Lock()
	defer taken.Unlock()
	for port := first; port < first+n; port++ {
		delete(taken.ports, port)
	}
	lock(syscall.F_UNLCK, first, n)
}

// Bindable reports whether nobody listens on the port.
func Bindable(port int) bool {
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return false
	}
	l.Close()
	return true
}

// lockFile has a byte for each port, which whoever took the port has locked. It
// is never closed: that would unlock them all.
var lockFile = sync.OnceValue(func() *os.File {
	name := filepath.Join(os.TempDir(), fmt.Sprintf("caddy-sandbox-test-ports-%d", os.Getuid()))
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		panic(err)
	}
	return f
})

// lock locks or unlocks bytes of the lockFile, and reports false if another
// process has one of them.
func lock(kind int16, first, n int) bool {
	err := syscall.FcntlFlock(lockFile().Fd(), syscall.F_SETLK, &syscall.Flock_t{
		Type: kind, Start: int64(first), Len: int64(n),
	})
	if err != nil && !errors.Is(err, syscall.EAGAIN) && !errors.Is(err, syscall.EACCES) {
		panic(fmt.Sprintf("locking ports %d-%d: %v", first, first+n-1, err))
	}
	return err == nil
}
