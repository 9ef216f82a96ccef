package devserver

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// The modes in which a dev server that has said no says yes.
var (
	viteMode    = instance.Mode{Dev: instance.DevVite, HostHeader: instance.HostLocalhost}
	webpackMode = instance.Mode{Dev: instance.DevWebpack, HostHeader: instance.HostLocalhost}
	nextMode    = instance.Mode{Dev: instance.DevNext, HostHeader: instance.HostPreserve}
)

// How dev servers say no: the whole text, but for Vite's, which goes on with
// the host.
const (
	viteRefusal    = "Blocked request. This host ("
	webpackRefusal = "Invalid Host header"
	nextRefusal    = "Unauthorized"
)

// longestRefusal is more than Vite writes about a host name of full length.
const longestRefusal = 2 << 10

// Refused reports whether res is a dev server's refusal of the Host or Origin
// that r came with, and the mode in which it would not have refused. It reads
// from the body only where that can tell, no more than it takes, and puts back
// what it read.
func Refused(r *http.Request, res *http.Response) (better instance.Mode, refused bool) {
	if !mayRefuse(res) {
		return instance.Mode{}, false
	}
	l := look(res.Body)
	res.Body = l
	text, whole := l.within(lookTime)
	switch {
	case !whole:
	case text == webpackRefusal:
		return webpackMode, true
	case res.StatusCode == http.StatusOK:
	case strings.HasPrefix(text, viteRefusal):
		return viteMode, true
	case text == nextRefusal && guarded(r.URL.Path):
		return nextMode, true
	}
	return instance.Mode{}, false
}

// Recognised reports whether res shows the family of a dev server that refuses
// nothing: it has accepted its client's socket, which tells.
func Recognised(r *http.Request, res *http.Response) (instance.Dev, bool) {
	return instance.DevVite, res.StatusCode == http.StatusSwitchingProtocols && subprotocol(r.Header) == viteHMR
}

// lookTime is how long the head of a response waits for a body that may be a
// refusal: dev servers write both at once.
const lookTime = time.Second

// looked is a body of which the start was read already, or is just being read.
type looked struct {
	io.Closer
	done  chan struct{} // closed when that is over; then the following are set
	start []byte
	err   error // what the reading ended with
	rest  io.Reader
}

// look begins to read a body that may be a refusal. It ends with the body at
// the latest.
func look(body io.ReadCloser) *looked {
	l := &looked{Closer: body, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.start, l.err = readRefusal(body)
		l.rest = resumed(l.start, l.err, body)
	}()
	return l
}

// within returns the text, if the body has ended by then and may be a refusal.
func (l *looked) within(limit time.Duration) (text string, whole bool) {
	patience := time.NewTimer(limit)
	defer patience.Stop()
	select {
	case <-l.done:
		return string(l.start), errors.Is(l.err, io.EOF)
	case <-patience.C:
		return "", false
	}
}

func (l *looked) Read(p []byte) (int, error) {
	<-l.done
	return l.rest.Read(p)
}

// readRefusal reads a body to its end, for as long as it looks like a refusal:
// another may be a stream, which nobody must wait for.
func readRefusal(body io.Reader) (start []byte, err error) {
	start = make([]byte, 0, longestRefusal)
	for err == nil && len(start) < cap(start) && looksRefused(start) {
		var n int
		n, err = body.Read(start[len(start):cap(start)])
		start = start[:len(start)+n]
	}
	return start, err
}

func looksRefused(start []byte) bool {
	for _, refusal := range []string{viteRefusal, webpackRefusal, nextRefusal} {
		n := min(len(refusal), len(start))
		if string(start[:n]) == refusal[:n] {
			return true
		}
	}
	return false
}

// mayRefuse says by the head of a response whether its body is worth a look.
// Webpack-dev-server before version 5 refuses with 200.
func mayRefuse(res *http.Response) bool {
	switch {
	case res.Header["Content-Encoding"] != nil:
		return false
	case res.StatusCode == http.StatusOK:
		return res.ContentLength == int64(len(webpackRefusal))
	}
	return res.StatusCode == http.StatusForbidden && res.ContentLength <= longestRefusal
}

// resumed is a body of which start was read already, up to err.
func resumed(start []byte, err error, rest io.Reader) io.Reader {
	if err != nil {
		rest = ended{err}
	}
	return io.MultiReader(bytes.NewReader(start), rest)
}

// ended is the rest of a body that was read to err.
type ended struct{ err error }

func (e ended) Read([]byte) (int, error) { return 0, e.err }

// RefusedUpgrade reports whether err is of a dev server that refused a
// WebSocket with bytes that are no HTTP, as Next.js does, and the mode in which
// it would not have refused.
func RefusedUpgrade(r *http.Request, err error) (better instance.Mode, refused bool) {
	if r.Header["Upgrade"] == nil || !strings.Contains(err.Error(), `malformed HTTP response "`+nextRefusal+`"`) {
		return instance.Mode{}, false
	}
	return nextMode, true
}

// Repeatable reports whether r may be sent a second time: it asks for
// something and brings nothing.
func Repeatable(r *http.Request) bool {
	return (r.Method == http.MethodGet || r.Method == http.MethodHead) &&
		(r.Body == nil || r.Body == http.NoBody)
}
