package caddymodule

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/wsframes"
	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// idleTime is the idle_timeout of instances that may idle. What must not end one
// is tried for three times as long.
const (
	idleTime = time.Second
	longTime = 3 * idleTime
)

// sleepyTemplates has a template for each policy, and one that pauses.
var sleepyTemplates = func() (all string) {
	for _, words := range []string{"data", "open", "none", "data\n on_idle pause"} {
		name, _, pauses := strings.Cut(words, "\n")
		if pauses {
			name = "pause"
		}
		all += fmt.Sprintf("template %s {\n image %s\n ready 1m\n websocket_activity %s\n }\n", name, instancetest.Image, words)
	}
	return all
}()

func startSleepyServer(t *testing.T) *server {
	t.Helper()
	return startServer(t, config{templates: sleepyTemplates})
}

func (s *server) createOf(t *testing.T, template, prefix string) {
	t.Helper()
	s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":%q}`, prefix, template)).expect(t, http.StatusCreated, 0)
}

// now is the instance as it is.
func (s *server) now(prefix string) (instance.Instance, error) {
	return inForce.top().manager().Get(prefix)
}

// awaitSleep waits until nobody is said to use the instance.
func (s *server) awaitSleep(t *testing.T, prefix string, status instance.Status) {
	t.Helper()
	eventually(t, func() error {
		in, err := s.now(prefix)
		if err == nil && (in.Status != status || in.Reason != instance.ReasonIdle) {
			err = fmt.Errorf("%s is %s (%s), want %s (%s)", prefix, in.Status, in.Reason, status, instance.ReasonIdle)
		}
		return err
	})
}

// mayIdle sets the idle_timeout of an instance, once what is to be looked at is
// under way; zero is never.
func (s *server) mayIdle(prefix string, after time.Duration) error {
	_, err := inForce.top().manager().Update(context.Background(), prefix, func(l *instance.Lifetime) { l.IdleTimeout = new(instance.Duration(after)) })
	return err
}

// awaitUse waits until a request is in progress: it moves the time of idleness on
// all the time, and not only as it comes and goes.
func (s *server) awaitUse(t *testing.T, prefix string) {
	t.Helper()
	if err := s.mayIdle(prefix, time.Hour); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		before := s.idleAt(t, prefix)
		eventually(t, func() error {
			if !s.idleAt(t, prefix).After(before) {
				return fmt.Errorf("%s is idle at %s, whatever goes on", prefix, before)
			}
			return nil
		})
	}
}

func (s *server) idleAt(t *testing.T, prefix string) time.Time {
	t.Helper()
	in, err := s.now(prefix)
	if err != nil || in.IdleAt == nil {
		t.Fatalf("%s is idle at %v, %v", prefix, in.IdleAt, err)
	}
	return *in.IdleAt
}

// staysAwake lets the instance idle, and looks at it for longer than it then may.
func (s *server) staysAwake(prefix string) error {
	if err := s.mayIdle(prefix, idleTime); err != nil {
		return err
	}
	for begun := time.Now(); time.Since(begun) < longTime; time.Sleep(20 * time.Millisecond) { // it is to stay so all the time
		in, err := s.now(prefix)
		if err != nil {
			return err
		}
		if in.Status != instance.Running {
			return fmt.Errorf("%s is %s (%s) after %s", prefix, in.Status, in.Reason, time.Since(begun))
		}
	}
	return nil
}

// staysAwakeBy is staysAwake for an instance that a socket uses: it is opened, and
// use begins, which client keeps up until stop. Frames come back all the time,
// unless the machine stands still.
func (s *server) staysAwakeBy(t *testing.T, open func() rawSocket, prefix string, client func(socket rawSocket, stop <-chan struct{})) error {
	t.Helper()
	if err := s.mayIdle(prefix, 0); err != nil {
		return err
	}
	if _, err := inForce.top().manager().Start(t.Context(), prefix, ""); err != nil { // it may have slept in the try before
		return err
	}
	socket, stop := open(), make(chan struct{})
	defer socket.Close()
	defer close(stop)
	go client(socket, stop)
	var frames instancetest.Pulse
	go func() { _, _ = socket.read(frames.Beat) }()
	return instancetest.Blame(s.staysAwake(prefix), frames.Still(), idleTime-2*touchPause)
}

// rawSocket is a WebSocket whose client writes its frames by hand.
type rawSocket struct {
	net.Conn
	in     *bufio.Reader
	answer http.Header // to the handshake
}

func (s *server) rawSocket(t *testing.T, prefix, path, extensions string) rawSocket {
	t.Helper()
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(2 * time.Minute)); err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n", path, hostOf(prefix), extensions)
	if err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	res, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the handshake was answered with %s", res.Status)
	}
	return rawSocket{conn, in, res.Header}
}

// send writes a frame of up to 125 bytes.
func (s rawSocket) send(head byte, payload string) error {
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	frame := append([]byte{head, 0x80 | byte(len(payload))}, mask[:]...)
	for i := range len(payload) {
		frame = append(frame, payload[i]^mask[i%4])
	}
	_, err := s.Write(frame)
	return err
}

// awaitClose reads until the server closes, and returns with what code; zero:
// the connection ended without one.
func (s rawSocket) awaitClose() (code int, err error) { return s.read(func() {}) }

// read is awaitClose that tells of each frame before.
func (s rawSocket) read(frame func()) (code int, err error) {
	for {
		var head [2]byte
		if _, err := io.ReadFull(s.in, head[:]); err != nil {
			return 0, err
		}
		payload := make([]byte, head[1]) // all that these tests receive is short
		if _, err := io.ReadFull(s.in, payload); err != nil {
			return 0, err
		}
		if head[0]&0x0F == 8 {
			return int(binary.BigEndian.Uint16(payload)), nil
		}
		frame()
	}
}

// keepSending sends a frame again and again until the socket is closed or stop.
func (s rawSocket) keepSending(head byte, payload string, stop <-chan struct{}) {
	for s.send(head, payload) == nil {
		select {
		case <-stop:
			return
		case <-time.After(50 * time.Millisecond): // the interval of what it sends
		}
	}
}

const (
	textFrame   = 0x81
	packedFrame = 0xC1
	pingFrame   = 0x89
)

// However much passes, the lock of an instance is taken four times a second.
func TestAWatchTellsNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const seconds = 10
		told := 0
		w := newWatch(wsframes.Terms{}, func() { told++ })
		server := wsframes.NewReader(wsframes.Server, wsframes.Terms{})
		typed, ping, printed := []byte{0x81, 0x81, 0, 0, 0, 0, 'l'}, []byte{0x89, 0x80, 0, 0, 0, 0}, []byte{0x81, 1, 'l'}
		for range seconds * 1000 {
			w.passClient(typed)
			w.pass(&server, printed)
			time.Sleep(time.Millisecond) // of the test's clock
		}
		if want := int(seconds * time.Second / touchPause); told < want-1 || told > want+1 {
			t.Errorf("%d messages each way in %d s were told %d times, want %d", seconds*1000, seconds, told, want)
		}
		time.Sleep(2 * touchPause) // of the test's clock, as all here
		told = 0
		for range 1000 {
			w.passClient(ping)
			time.Sleep(time.Millisecond) // of the test's clock
		}
		if told != 0 {
			t.Error("pings are told of")
		}
		if w.passClient(typed); told != 1 {
			t.Error("what is typed after pings is not told of at once")
		}
		time.Sleep(2 * touchPause) // all timers end within the bubble
	})
}

// When Caddy ends, it writes a closing frame beside what the client writes.
func TestAWatchTakesTwoWriters(t *testing.T) {
	var told atomic.Int64
	socket := &webSocket{
		ReadWriteCloser: broken{bytes.NewReader(nil)},
		watch:           newWatch(wsframes.Terms{}, func() { told.Add(1) }),
	}
	var both sync.WaitGroup
	for _, frame := range [][]byte{{0x81, 0x81, 0, 0, 0, 0, 'l'}, {0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE9}} {
		both.Go(func() {
			for range 1000 {
				_, _ = socket.Write(frame)
			}
		})
	}
	both.Wait()
	if told.Load() == 0 {
		t.Error("nothing was told of")
	}
}

// A dev server that broke off is not used any more, whatever its client sends.
func TestWhatIsNotTakenIsNoUse(t *testing.T) {
	socket := &webSocket{
		ReadWriteCloser: gone{},
		watch:           newWatch(wsframes.Terms{}, func() { t.Error("it was told of") }),
	}
	_, _ = socket.Write([]byte{0x81, 0x81, 0, 0, 0, 0, 'l'})
}

// What passes over an open WebSocket keeps its instance awake, or does not, as
// the template says. The sockets echo, so it passes both ways.
func TestWhatPassesOverAWebSocketDecides(t *testing.T) {
	s := startSleepyServer(t)
	nothing := func(rawSocket, <-chan struct{}) {}
	sending := func(head byte, payload string) func(rawSocket, <-chan struct{}) {
		return func(socket rawSocket, stop <-chan struct{}) { socket.keepSending(head, payload, stop) }
	}
	chatter := func(text string) string { return "/chatter?every=50ms&text=" + url.QueryEscape(text) }
	var all sync.WaitGroup
	for n, row := range []struct {
		what, policy, path string
		client             func(socket rawSocket, stop <-chan struct{})
		awake              bool
	}{
		{"nothing", "data", "/ws", nothing, false},
		{"protocol pings", "data", "/ws", sending(pingFrame, "x"), false},
		{"the pings of Vite's pages", "data", "/ws", sending(textFrame, `{"type":"ping"}`), false},
		{"the pings of Next's pages", "data", "/ws", sending(textFrame, `{"event":"ping","page":"/"}`), false},
		{"the heartbeats of Socket.IO", "data", "/ws?EIO=4", sending(textFrame, "2"), false},
		{"the heartbeats of SockJS", "data", chatter("h"), nothing, false},
		{"what is typed", "data", "/ws", sending(textFrame, "l"), true},
		{"binary data", "data", "/ws", sending(0x82, "\x00\x01"), true},
		{"pings of Vite's and what is typed", "data", "/ws", func(socket rawSocket, stop <-chan struct{}) {
			go socket.keepSending(textFrame, "ls", stop)
			socket.keepSending(textFrame, `{"type":"ping"}`, stop)
		}, true},
		{"what the server prints", "data", chatter("compiled in 12 ms"), nothing, true},
		{"nothing", "open", "/ws", nothing, true},
		{"what is typed", "none", "/ws", sending(textFrame, "l"), false},
		{"what the server prints", "none", chatter("compiled in 12 ms"), nothing, false},
	} {
		prefix := fmt.Sprintf("socket%02d", n)
		s.createOf(t, row.policy, prefix)
		all.Go(func() {
			open := func() rawSocket { return s.rawSocket(t, prefix, row.path, "") }
			if row.awake {
				instancetest.Retry(t, func() error {
					err := s.staysAwakeBy(t, open, prefix, row.client)
					if err != nil {
						err = fmt.Errorf("%s, by %s: %w", row.what, row.policy, err)
					}
					return err
				})
				return
			}
			socket, stop := open(), make(chan struct{})
			defer close(stop)
			go row.client(socket, stop)
			if err := s.mayIdle(prefix, idleTime); err != nil {
				t.Fatal(err)
			}
			if code, err := socket.awaitClose(); err != nil || code != 1001 {
				t.Errorf("%s, by %s: closed with %d (%v), want 1001", row.what, row.policy, code, err)
			}
			s.awaitSleep(t, prefix, instance.Stopped)
		})
	}
	all.Wait()
}

// What is compressed is told apart alike: the ends are asked to compress each
// message by itself.
func TestCompressedKeepAlivesAreKnown(t *testing.T) {
	s := startSleepyServer(t)
	const offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
	for text, awake := range map[string]bool{`{"type":"ping"}`: false, "ls": true} {
		prefix := map[bool]string{true: "packed01", false: "packed00"}[awake]
		s.createOf(t, "data", prefix)
		open := func() rawSocket {
			socket := s.rawSocket(t, prefix, "/ws?deflate", offer)
			if got, want := socket.answer.Get("Sec-WebSocket-Extensions"), "permessage-deflate; server_no_context_takeover; client_no_context_takeover"; got != want {
				t.Errorf("agreed on %q, want %q", got, want)
			}
			return socket
		}
		packed := pack(t, text)
		send := func(socket rawSocket, stop <-chan struct{}) { socket.keepSending(packedFrame, packed, stop) }
		if awake {
			instancetest.Retry(t, func() error { return s.staysAwakeBy(t, open, prefix, send) })
			continue
		}
		go send(open(), nil)
		if err := s.mayIdle(prefix, idleTime); err != nil {
			t.Fatal(err)
		}
		s.awaitSleep(t, prefix, instance.Stopped)
	}
	// Where nobody reads what passes the offer is the client's.
	s.createOf(t, "none", "packed02")
	socket := s.rawSocket(t, "packed02", "/ws?deflate", offer)
	if got := socket.answer.Get("Sec-WebSocket-Extensions"); got != "permessage-deflate" {
		t.Errorf("agreed on %q, want the client's own offer", got)
	}
}

// pack compresses as WebSockets do.
func pack(t *testing.T, text string) string {
	t.Helper()
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err == nil {
		_, err = io.WriteString(w, text)
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSuffix(packed.String(), "\x00\x00\xFF\xFF")
}

// A paused container could leave its visitors' sockets hanging: they are closed
// before, and none goes on afterwards.
func TestAPauseClosesWebSockets(t *testing.T) {
	s := startSleepyServer(t)
	for name, pause := range map[string]func(prefix string){
		"idle0000": func(prefix string) {
			if err := s.mayIdle(prefix, idleTime); err != nil {
				t.Fatal(err)
			}
		},
		"asked000": func(prefix string) {
			s.call(t, http.MethodPost, "/api/instances/"+prefix+"/pause", "").expect(t, http.StatusOK, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s.createOf(t, "pause", name)
			socket := s.rawSocket(t, name, "/ws", "")
			pause(name)
			if code, err := socket.awaitClose(); err != nil || code != 1001 {
				t.Errorf("closed with %d (%v), want 1001", code, err)
			}
			eventually(t, func() error {
				in, err := s.now(name)
				if err == nil && in.Status != instance.Paused {
					err = fmt.Errorf("it is %s", in.Status)
				}
				return err
			})
			if err := s.mayIdle(name, 0); err != nil {
				t.Fatal(err)
			}
			s.call(t, http.MethodPost, "/api/instances/"+name+"/resume", "").expect(t, http.StatusOK, 0)
			_ = socket.send(textFrame, "are you back?")
			echo(t, s.dialWebSocket(t, name), "a new one")
			if n, err := socket.in.Read(make([]byte, 1)); n > 0 || err == nil {
				t.Errorf("the old socket goes on: %d bytes, %v", n, err)
			} else if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				t.Error("the old socket is not cut")
			}
		})
	}
}

// A request is use as long as it lasts, however slow it is and however little
// passes.
func TestARequestInProgressIsNotCutByIdleness(t *testing.T) {
	s := startSleepyServer(t)
	for prefix, finish := range map[string]func(t *testing.T, prefix string) error{
		"longpoll": func(t *testing.T, prefix string) error {
			ended := make(chan error, 1)
			go func() {
				_, err := io.ReadAll(s.get(t, hostOf(prefix), fmt.Sprintf("/slow?ms=%d", 2*longTime.Milliseconds()), nil).Body)
				ended <- err
			}()
			s.awaitUse(t, prefix)
			return errors.Join(s.mayIdle(prefix, idleTime), <-ended)
		},
		"events00": func(t *testing.T, prefix string) error { // one at its end
			res := s.get(t, hostOf(prefix), "/push/late", nil)
			defer res.Body.Close()
			awake := s.staysAwake(prefix)
			s.do(t, http.MethodPost, hostOf(prefix), "/push/late", nil, "at last")
			got := make([]byte, len("data: at last"))
			if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "data: at last" {
				return fmt.Errorf("the event is %q: %w", got, err)
			}
			return awake
		},
		"download": func(t *testing.T, prefix string) error { // whose client takes its time
			const size = 64 << 20
			res := s.get(t, hostOf(prefix), fmt.Sprintf("/bytes/%d", size), nil)
			awake := s.staysAwake(prefix)
			if n, err := io.Copy(io.Discard, res.Body); err != nil || n != size {
				return fmt.Errorf("got %d bytes of %d: %w", n, size, err)
			}
			return awake
		},
		"upload00": func(t *testing.T, prefix string) error {
			body, write := io.Pipe()
			go func() {
				s.awaitUse(t, prefix)
				awake := s.staysAwake(prefix)
				_, _ = io.WriteString(write, "late")
				_ = write.CloseWithError(awake)
			}()
			res := s.send(t, http.MethodPost, hostOf(prefix), "/count", nil, body)
			if got, err := io.ReadAll(res.Body); err != nil || string(got) != "4" {
				return fmt.Errorf("of 4 bytes %q arrived: %w", got, err)
			}
			return nil
		},
	} {
		t.Run(prefix, func(t *testing.T) {
			t.Parallel()
			s.createOf(t, "data", prefix)
			if err := finish(t, prefix); err != nil {
				t.Error(err)
			}
			s.awaitSleep(t, prefix, instance.Stopped)
		})
	}
}
