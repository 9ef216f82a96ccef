package devserver

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestHelloNamesThePrefixOnEveryPath(t *testing.T) {
	s := start(t, map[string]string{"SANDBOX_PREFIX": "abcdefgh"})
	for _, path := range []string{"/", "/src/App.jsx"} {
		if body := s.get(t, path); !strings.Contains(body, "abcdefgh") {
			t.Errorf("GET %s = %q, want the prefix in it", path, body)
		}
	}
}

func TestHeadersShowsTheRequestAsItCame(t *testing.T) {
	s := start(t, nil)
	request, _ := http.NewRequest(http.MethodGet, s.url+"/headers?a=%2F", nil)
	request.Host = "abcdefgh.example.com"
	request.Header.Set("X-Test", "one")
	var got struct {
		Host, URI string
		Headers   http.Header
	}
	if err := json.Unmarshal([]byte(s.do(t, request)), &got); err != nil {
		t.Fatal(err)
	}
	if got.Host != request.Host || got.URI != "/headers?a=%2F" || got.Headers.Get("X-Test") != "one" {
		t.Errorf("got %+v", got)
	}
}

func TestBytesAreAsManyAsAskedFor(t *testing.T) {
	s := start(t, nil)
	for _, n := range []int{0, 1, 65536, 65537} {
		if body := s.get(t, fmt.Sprintf("/bytes/%d", n)); len(body) != n {
			t.Errorf("%d bytes came, want %d", len(body), n)
		}
	}
}

// Two requests in one write: the answer to the first must show the second.
func TestRawShowsEveryByteThatCame(t *testing.T) {
	s := start(t, map[string]string{"TEST_MODE": "raw", "SANDBOX_PREFIX": "abcdefgh"})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const first = "POST /a HTTP/1.1\r\nhOsT: x\r\nTransfer-Encoding: chunked\r\n\r\n3;ext\r\nabc\r\n0\r\n\r\n"
	const second = "GET /b HTTP/1.1\r\nHost: y\r\n\r\n"
	if _, err := io.WriteString(conn, first+second); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	for _, want := range []string{first + second, ""} {
		response, err := http.ReadResponse(in, nil)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(response.Body)
		if err != nil || string(body) != want || response.Header.Get("X-Served-By") != "abcdefgh" {
			t.Errorf("got %q (%v), want %q", body, err, want)
		}
	}
}

func TestEchoAnswersBeforeTheBodyEnds(t *testing.T) {
	s := start(t, nil)
	body, feed := io.Pipe()
	defer func() { _ = feed.Close() }()
	go func() { _, _ = feed.Write([]byte("first")) }()
	response, err := http.Post(s.url+"/echo", "text/plain", body)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	for _, part := range []string{"first", "second"} {
		if part != "first" {
			_, _ = feed.Write([]byte(part))
		}
		got := make([]byte, len(part))
		if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != part {
			t.Fatalf("got %q, %v; want %q while the body is still open", got, err, part)
		}
	}
}

func TestSSEStreams(t *testing.T) {
	s := start(t, nil)
	response, err := http.Get(s.url + "/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	lines := bufio.NewScanner(response.Body)
	for want := 1; want <= 3; {
		if !lines.Scan() {
			t.Fatalf("the stream ended: %v", lines.Err())
		}
		if lines.Text() == fmt.Sprintf("data: event %d", want) {
			want++
		}
	}
}

func TestStatusAndSlowRefuseNonsense(t *testing.T) {
	s := start(t, nil)
	for path, want := range map[string]int{
		"/status/204": 204, "/status/503": 503, "/status/100": 400, "/status/x": 400,
		"/slow?ms=1": 200, "/slow": 400, "/exit": 400, "/exit?code=256": 400, "/ws": 426, "/bytes/x": 400, "/bytes/-1": 400,
	} {
		response, err := http.Get(s.url + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("GET %s: status %d, want %d", path, response.StatusCode, want)
		}
	}
}

// The sizes are the borders between the three ways to write a length.
func TestWebSocketEchoesFramesOfEverySize(t *testing.T) {
	s := start(t, nil)
	ws := s.webSocket(t)
	for _, size := range []int{0, 1, 125, 126, 65535, 65536, 1 << 20} {
		sent := bytes.Repeat([]byte{'x'}, size)
		ws.send(t, 0x82, sent)
		if got := ws.receive(t); got.head != 0x82 || !bytes.Equal(got.payload, sent) {
			t.Fatalf("%d bytes: got head %#x and %d bytes", size, got.head, len(got.payload))
		}
	}
	ws.send(t, 0x80|opPing, []byte("p"))
	if got := ws.receive(t); got.opcode() != opPong || string(got.payload) != "p" {
		t.Errorf("ping was answered by %+v", got)
	}
	ws.send(t, 0x80|opClose, []byte{3, 232})
	if got := ws.receive(t); got.opcode() != opClose || !bytes.Equal(got.payload, []byte{3, 232}) {
		t.Errorf("close was answered by %+v", got)
	}
}

func TestEndClosesStreamsAndWebSockets(t *testing.T) {
	s := start(t, nil)
	ws := s.webSocket(t)
	response, err := http.Get(s.url + "/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	close(s.term)
	if code := <-s.code; code != Terminated {
		t.Errorf("code %d, want %d", code, Terminated)
	}
	if _, err := ws.ReadByte(); err == nil {
		t.Error("the WebSocket is still open")
	}
	if _, err := io.Copy(io.Discard, response.Body); err == nil {
		t.Error("the stream ended as if it were whole")
	}
}

func TestExitCodes(t *testing.T) {
	t.Run("GET /exit ends with the wanted code, after its answer", func(t *testing.T) {
		s := start(t, nil)
		if body := s.get(t, "/exit?code=7"); body != "bye\n" {
			t.Errorf("body %q", body)
		}
		if code := <-s.code; code != 7 {
			t.Errorf("code %d, want 7", code)
		}
	})
	t.Run("mode exit writes its lines and ends with 3", func(t *testing.T) {
		var stderr bytes.Buffer
		s := Server{Env: map[string]string{"TEST_MODE": "exit"}, Stderr: &stderr}
		if code := s.Run(t.Context(), nil); code != 3 {
			t.Errorf("code %d, want 3", code)
		}
		if want := strings.Join(ExitLines, "\n") + "\n"; stderr.String() != want {
			t.Errorf("stderr %q, want %q", stderr.String(), want)
		}
	})
	t.Run("an unknown mode is an error that names it", func(t *testing.T) {
		var stderr bytes.Buffer
		s := Server{Env: map[string]string{"TEST_MODE": "helo"}, Stderr: &stderr}
		if code := s.Run(t.Context(), nil); code != 2 || !strings.Contains(stderr.String(), `"helo"`) {
			t.Errorf("code %d, stderr %q", code, stderr.String())
		}
	})
	t.Run("a stubborn one ends only when killed", func(t *testing.T) {
		s := start(t, map[string]string{"TEST_MODE": "stubborn"})
		close(s.term)
		s.get(t, "/")
		s.kill()
		if code := <-s.code; code != Killed {
			t.Errorf("code %d, want %d", code, Killed)
		}
	})
}

func TestSilentAcceptsAndNeverAnswers(t *testing.T) {
	s := start(t, map[string]string{"TEST_MODE": "silent"})
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	_ = conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := conn.Read(make([]byte, 1)); n > 0 || !isTimeout(err) {
		t.Errorf("got %d bytes and %v, want silence", n, err)
	}
}

func TestSlowListensOnlyAfterItsDelay(t *testing.T) {
	began := time.Now()
	s := start(t, map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "200ms"})
	if took := time.Since(began); took < 200*time.Millisecond {
		t.Errorf("listened after %v", took)
	}
	s.get(t, "/")
}

func isTimeout(err error) bool {
	timeout, ok := errors.AsType[net.Error](err)
	return ok && timeout.Timeout()
}

// running is a server that listens.
type running struct {
	url  string
	term chan struct{}
	kill context.CancelFunc
	code chan int
}

func start(t *testing.T, env map[string]string) *running {
	t.Helper()
	ctx, kill := context.WithCancel(context.Background())
	r := &running{term: make(chan struct{}), kill: kill, code: make(chan int, 1)}
	listening := make(chan string, 1)
	s := &Server{
		Env: env, Stdout: io.Discard, Stderr: t.Output(),
		Listen: func() (net.Listener, error) {
			listener, err := net.Listen("tcp", "127.0.0.1:0")
			if err == nil {
				listening <- "http://" + listener.Addr().String()
			}
			return listener, err
		},
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		r.code <- s.Run(ctx, r.term)
	}()
	t.Cleanup(func() { kill(); <-ended })
	r.url = <-listening
	return r
}

func (r *running) get(t *testing.T, path string) string {
	t.Helper()
	request, err := http.NewRequest(http.MethodGet, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r.do(t, request)
}

func (r *running) do(t *testing.T, request *http.Request) string {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: status %d, %v", request.URL, response.StatusCode, err)
	}
	return string(body)
}

// client is the other end of a WebSocket.
type client struct {
	net.Conn
	*bufio.Reader
}

// Read settles which of the two embedded readers is meant.
func (c client) Read(p []byte) (int, error) { return c.Reader.Read(p) }

// webSocket shakes hands with the key and the answer of RFC 6455, section 1.3.
func (r *running) webSocket(t *testing.T) client {
	t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, _ = io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: vite-hmr, other\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	c := client{conn, bufio.NewReader(conn)}
	response, err := http.ReadResponse(c.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols ||
		response.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" ||
		response.Header.Get("Sec-WebSocket-Protocol") != "vite-hmr" {
		t.Fatalf("handshake was answered by %s %v", response.Status, response.Header)
	}
	return c
}

// send writes a frame whose mask is not zero, so that unmasking is tried.
func (c client) send(t *testing.T, head byte, payload []byte) {
	t.Helper()
	mask := [4]byte{1, 2, 3, 4}
	masked := bytes.Clone(payload)
	for i := range masked {
		masked[i] ^= mask[i%4]
	}
	var buffer bytes.Buffer
	w := bufio.NewWriter(&buffer)
	frame{head, masked}.writeTo(w)
	_ = w.Flush()
	raw := buffer.Bytes()
	raw[1] |= 0x80
	start := len(raw) - len(masked)
	for _, part := range [][]byte{raw[:start], mask[:], raw[start:]} {
		if _, err := c.Write(part); err != nil {
			t.Fatal(err)
		}
	}
}

func (c client) receive(t *testing.T) frame {
	t.Helper()
	head, err := c.ReadByte()
	if err != nil {
		t.Fatal(err)
	}
	short, err := c.ReadByte()
	if err != nil {
		t.Fatal(err)
	}
	size, err := readSize(c.Reader, short)
	if err != nil {
		t.Fatal(err)
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(c.Reader, payload); err != nil {
		t.Fatal(err)
	}
	return frame{head, payload}
}
