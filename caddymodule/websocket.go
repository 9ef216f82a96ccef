package caddymodule

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/wsframes"
)

// goingAway is the frame that ends a WebSocket with status 1001.
var goingAway = []byte{0x88, 2, 0x03, 0xE9}

// farewell is how long a client has to close its side after it was told, before
// the connection is cut.
const farewell = 5 * time.Second

// webSocket is the dev server's half of a WebSocket. When it breaks off, as it
// does when its container is stopped, the client is told that the server is
// going away, so that it neither waits nor takes it for a fault of the network.
//
// One goroutine reads and one writes, see [watch] for the exception.
type webSocket struct {
	io.ReadWriteCloser
	watch      *watch          // of what is use of the instance; nil: nobody need know
	fromServer wsframes.Reader // Read's alone
	told       bool            // Read's alone
	left       chan struct{}   // closed when the client has left
	leave      func()
}

// asWebSocket wraps the body of a response to r that switched to one.
func asWebSocket(r *http.Request, res *http.Response, use socketUse) {
	body, ok := res.Body.(io.ReadWriteCloser)
	if !ok || res.StatusCode != http.StatusSwitchingProtocols || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
		return
	}
	terms := wsframes.TermsOf(r, res.Header)
	left := make(chan struct{})
	res.Body = &webSocket{
		ReadWriteCloser: body, watch: use.opened(terms), fromServer: wsframes.NewReader(wsframes.Server, terms),
		left: left, leave: sync.OnceFunc(func() { close(left) }),
	}
}

func (s *webSocket) Read(p []byte) (int, error) {
	if s.told {
		select {
		case <-s.left:
		case <-time.After(farewell):
		}
		return 0, io.ErrUnexpectedEOF // not EOF, after which the client might go on for ever
	}
	n, err := s.ReadWriteCloser.Read(p)
	s.watch.pass(&s.fromServer, p[:n])
	if err == nil || s.fromServer.Closed() || !s.fromServer.Complete() || len(p)-n < len(goingAway) {
		return n, err
	}
	s.told = true
	return n + copy(p[n:], goingAway), nil
}

// Write drops what a dev server that broke off can no longer take: it is Read
// that ends the connection, after it has told the client.
func (s *webSocket) Write(p []byte) (int, error) {
	if _, err := s.ReadWriteCloser.Write(p); err == nil {
		s.watch.passClient(p)
	}
	return len(p), nil
}

// CloseWrite passes on that the client will write no more.
func (s *webSocket) CloseWrite() error {
	s.leave()
	if half, ok := s.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

func (s *webSocket) Close() error {
	s.leave()
	return s.ReadWriteCloser.Close()
}
