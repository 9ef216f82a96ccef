package instance

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"
)

func TestWhatIsWrongWithADiskIsSaid(t *testing.T) {
	for errno, want := range map[syscall.Errno]struct {
		kind Kind
		says string
	}{
		syscall.ENOSPC: {DiskFull, "the disk is full"},
		syscall.EDQUOT: {DiskFull, "quota of uid"},
		syscall.EFBIG:  {DiskFull, "ulimit -f"},
		syscall.EACCES: {StateFailed, "mode 0711"},
		syscall.EROFS:  {StateFailed, "mode 0711"},
		syscall.EIO:    {StateFailed, "input/output error"},
		syscall.EMFILE: {StateFailed, "ulimit -n"},
	} {
		err := stateError("/state/file", &fs.PathError{Op: "write", Path: "/state/file", Err: errno})
		if err.Kind != want.kind || !strings.Contains(err.Error(), want.says) || err.Details["path"] != "/state/file" {
			t.Errorf("%v: kind %s, %v", errno, err.Kind, err)
		}
	}
}
