package caddymodule

import (
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"
)

// A tenth of the file descriptors that this process may have, and at least so
// many, is kept from streams, which hold theirs for hours: for the files of the
// state, calls to Docker, and requests that come and go.
const spareDescriptors = 64

// perStream is what one takes: towards the client and towards the instance.
const perStream = 2

// countPause is how old a count of the open descriptors may be: counting takes
// longer the more there are, 0.1 s for a million.
const countPause = time.Second

// openFiles is the count of this process, which all configurations share.
var openFiles = descriptors{limit: descriptorLimit, count: countDescriptors}

// descriptors knows about how many file descriptors are open. Between two
// counts it adds those of the streams that begin; that some ended is known with
// the next count. Safe for concurrent use.
type descriptors struct {
	limit func() (n int, ok bool)
	count func() (n int, ok bool)

	mu      sync.Mutex
	open    int
	most    int // that may be open when a stream begins; zero: nobody knows
	counted time.Time
}

// takeForStream reports whether there are descriptors for one more stream. On a
// system that does not tell, there always are.
func (d *descriptors) takeForStream() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if time.Since(d.counted) >= countPause {
		d.recount()
	}
	if d.most > 0 && d.open+perStream > d.most {
		return false
	}
	d.open += perStream
	return true
}

func (d *descriptors) recount() {
	d.counted, d.most = time.Now(), 0
	limit, ok := d.limit()
	if !ok {
		return
	}
	if d.open, ok = d.count(); ok {
		d.most = min(limit*9/10, max(limit-spareDescriptors, limit/2))
	}
}

func descriptorLimit() (int, bool) {
	var limit syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit)
	return int(min(limit.Cur, 1<<31-1)), err == nil
}

// countDescriptors counts all of this process, where there is a /proc. The one
// that it takes itself is among them; if there is none for that, all are taken.
func countDescriptors() (int, bool) {
	const path = "/proc/self/fd"
	if info, err := os.Stat(path); err != nil {
		return 0, false
	} else if n := info.Size(); n > 0 { // as Linux tells since 6.2
		return int(n), true
	}
	dir, err := os.Open(path)
	if err != nil {
		return 1<<31 - 1, true
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	return len(names), err == nil
}

// beginsStream reports whether r asks for a connection that stays: a WebSocket
// or another upgrade, by whichever version of HTTP, or a stream of events.
func beginsStream(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" || r.Method == http.MethodConnect ||
		strings.HasPrefix(r.Header.Get("Accept"), "text/event-stream")
}

// refuseStream turns one away. Its connection is closed, where it has one of its
// own, since that is what there are too many of.
func (h *Handler) refuseStream(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	refuse(w, r, tooMuch("no file descriptors to spare for one more WebSocket or event stream (ulimit -n)", nil), h.app.settings.Log)
}
