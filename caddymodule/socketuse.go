package caddymodule

import (
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/wsframes"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// socketVar holds in Caddy's table of variables what about the WebSocket that a
// request asks for is use of its instance.
const socketVar = "sandbox.websocket_activity"

// touchPause is for how long nobody looks at a WebSocket that has been used just
// now: its instance stays awake for a second at least.
const touchPause = 250 * time.Millisecond

// asksForWebSocket reports whether r does, over whatever version of HTTP.
func asksForWebSocket(r *http.Request) bool {
	return r.Method == http.MethodConnect || strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// socketUse is how a WebSocket uses its instance. The zero value is one that
// does so as long as it is open, as every request does.
type socketUse struct {
	lease *instance.Lease
	what  socketActivity
}

// socketUseOf is that of the WebSocket that r asks for.
func socketUseOf(r *http.Request) (u socketUse) {
	u.what, _ = caddyhttp.GetVar(r.Context(), socketVar).(socketActivity)
	u.lease, _ = caddyhttp.GetVar(r.Context(), leaseVar).(*instance.Lease)
	if u.lease == nil {
		u.what = socketOpen
	}
	return u
}

// prepare has what will pass be such that it can be told from keep-alives.
func (u socketUse) prepare(r *http.Request) {
	if u.what == socketData {
		wsframes.AskForReadable(r.Header)
	}
}

// opened takes the end of the handshake for use, but not that the socket is open
// from now on, unless it is to be. It returns who watches what passes, nil where
// nobody need.
func (u socketUse) opened(terms wsframes.Terms) *watch {
	if u.what != socketData && u.what != socketNone {
		return nil
	}
	u.lease.Touch()
	u.lease.Rest()
	if u.what == socketNone {
		return nil
	}
	return newWatch(terms, u.lease.Touch)
}

// watch tells when somebody uses a WebSocket. Once it has told, it does not look
// for touchPause.
type watch struct {
	tell func()
	told atomic.Bool // a moment ago

	// mu guards fromClient: when Caddy ends it writes a closing frame of its own
	// to the dev server, whoever else does.
	mu         sync.Mutex
	fromClient wsframes.Reader
}

func newWatch(terms wsframes.Terms, tell func()) *watch {
	return &watch{tell: tell, fromClient: wsframes.NewReader(wsframes.Client, terms)}
}

// passClient follows what the client sends. A nil watch may be told, too.
func (w *watch) passClient(p []byte) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pass(&w.fromClient, p)
}

// pass follows what one side sends.
func (w *watch) pass(from *wsframes.Reader, p []byte) {
	if w == nil || w.told.Load() {
		from.Skip(p)
		return
	}
	if from.Pass(p) && w.told.CompareAndSwap(false, true) {
		w.tell()
		time.AfterFunc(touchPause, func() { w.told.Store(false) })
	}
}
