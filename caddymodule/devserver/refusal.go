package devserver

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"

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
	start, err := readRefusal(res.Body)
	res.Body = resumed(start, err, res.Body)
	if !errors.Is(err, io.EOF) {
		return instance.Mode{}, false
	}
	switch text := string(start); {
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
func resumed(start []byte, err error, rest io.ReadCloser) io.ReadCloser {
	then := io.Reader(rest)
	if err != nil {
		then = ended{err}
	}
	return struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), then), rest}
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
