package instance_test

import (
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// countWrites counts, by the kernel's word, how often a file is renamed to path
// from now until the returned func is called.
func countWrites(t *testing.T, path string) (count func() int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	// Both ends of a rename: the kernel folds equal events in a row into one.
	if _, err := unix.InotifyAddWatch(fd, filepath.Dir(path), unix.IN_MOVED_FROM|unix.IN_MOVED_TO); err != nil {
		t.Fatal(err)
	}
	return func() int {
		defer unix.Close(fd)
		buf := make([]byte, 1<<20)
		n, err := unix.Read(fd, buf)
		if err != nil {
			t.Fatal(err)
		}
		writes := 0
		for rest := buf[:n]; len(rest) > 0; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			name := rest[unix.SizeofInotifyEvent : unix.SizeofInotifyEvent+event.Len]
			if unix.ByteSliceToString(name) == filepath.Base(path) {
				writes++
			}
			rest = rest[unix.SizeofInotifyEvent+event.Len:]
		}
		return writes
	}
}
