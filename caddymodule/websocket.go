package caddymodule

import (
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
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
// One goroutine reads and one writes.
type webSocket struct {
	io.ReadWriteCloser
	frames frames        // Read's alone
	told   bool          // Read's alone
	left   chan struct{} // closed when the client has left
	leave  func()
}

// asWebSocket wraps the body of a response that switched to one.
func asWebSocket(res *http.Response) {
	body, ok := res.Body.(io.ReadWriteCloser)
	if ok && res.StatusCode == http.StatusSwitchingProtocols && strings.EqualFold(res.Header.Get("Upgrade"), "websocket") {
		left := make(chan struct{})
		res.Body = &webSocket{ReadWriteCloser: body, left: left, leave: sync.OnceFunc(func() { close(left) })}
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
	s.frames.pass(p[:n])
	if err == nil || s.frames.closed || !s.frames.complete() || len(p)-n < len(goingAway) {
		return n, err
	}
	s.told = true
	return n + copy(p[n:], goingAway), nil
}

// Write drops what a dev server that broke off can no longer take: it is Read
// that ends the connection, after it has told the client.
func (s *webSocket) Write(p []byte) (int, error) {
	_, _ = s.ReadWriteCloser.Write(p)
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

// frames follows the frames of a WebSocket as they pass. It looks at headers
// alone.
type frames struct {
	header  []byte // of the frame that has begun, as far as it came
	payload uint64 // what is left of the present frame
	closed  bool   // a closing frame has passed
}

// complete reports whether no frame is half-way.
func (f *frames) complete() bool { return f.payload == 0 && len(f.header) == 0 }

func (f *frames) pass(p []byte) {
	for len(p) > 0 {
		if f.payload > 0 {
			n := min(f.payload, uint64(len(p)))
			f.payload -= n
			p = p[n:]
			continue
		}
		f.header = append(f.header, p[0])
		p = p[1:]
		if size, ok := payloadSize(f.header); ok {
			const opcode, closing = 0x0F, 0x8
			f.closed = f.closed || f.header[0]&opcode == closing
			f.header, f.payload = f.header[:0], size
		}
	}
}

// payloadSize reads the size from a frame's header, once that is whole.
func payloadSize(header []byte) (size uint64, ok bool) {
	if len(header) < 2 {
		return 0, false
	}
	length := 2
	size = uint64(header[1] & 0x7F)
	switch size {
	case 126:
		length += 2
	case 127:
		length += 8
	}
	if header[1]&0x80 != 0 {
		length += 4 // the mask
	}
	if len(header) < length {
		return 0, false
	}
	switch size {
	case 126:
		size = uint64(binary.BigEndian.Uint16(header[2:]))
	case 127:
		size = binary.BigEndian.Uint64(header[2:])
	}
	return size, true
}
