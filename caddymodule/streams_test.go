package caddymodule

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// rawClient speaks HTTP/1.1 to the site by hand, for what no client does.
type rawClient struct {
	net.Conn
	*bufio.Reader
}

func (s *server) rawClient(t *testing.T) rawClient {
	t.Helper()
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return rawClient{conn, bufio.NewReader(conn)}
}

// Read settles which of the two embedded readers is meant.
func (c rawClient) Read(p []byte) (int, error) { return c.Reader.Read(p) }

func (c rawClient) post(t *testing.T, prefix, path, headers, body string) {
	t.Helper()
	if _, err := fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: %s\r\n%s\r\n%s", path, hostOf(prefix), headers, body); err != nil {
		t.Fatal(err)
	}
}

// head reads the head of a response; its body is that of the response.
func (c rawClient) head(t *testing.T) *http.Response {
	t.Helper()
	res, err := http.ReadResponse(c.Reader, &http.Request{Method: http.MethodPost})
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Before the first byte of its body is sent a request is answered; after that
// all of it arrives. The sizes are on both sides of the 256 KiB that net/http
// reads and throws away by default.
func TestAnEarlyAnswerTakesNothingOfTheUpload(t *testing.T) {
	for name, sites := range map[string]string{
		"plain": "",
		// It holds the head of a response back until the body begins.
		"with encode": "http://:{site} {\n encode\n sandbox_proxy\n }",
	} {
		t.Run(name, func(t *testing.T) {
			s := startServer(t, config{sites: sites})
			s.create(t, "earlybird")
			answersEarly(t, s)
		})
	}
}

func TestStandbyStreamsAlike(t *testing.T) {
	s := newStandby(t)
	s.replace(t, routesText(fmt.Sprint("earlybird ", startDevServer(t, "earlybird"), " running")))
	s.run(t, "encode\n"+standbySite)
	s.serves(t, "earlybird", "hello from earlybird")
	answersEarly(t, s.server)
	events := s.get(t, hostOf("earlybird"), "/push/clock", http.Header{"Accept-Encoding": {"gzip"}})
	if got := strings.Join(events.Header["Cache-Control"], ", "); got != "no-cache, no-transform" || events.Header.Get("Content-Encoding") != "" {
		t.Errorf("events come with %v", events.Header)
	}
}

// answersEarly asks the instance earlybird of s.
func answersEarly(t *testing.T, s *server) {
	t.Helper()
	for _, size := range []int{1, 100 << 10, 1 << 20} {
		for framing, frame := range map[string]func(body []byte) (header string, framed []byte){
			"length": func(body []byte) (string, []byte) {
				return fmt.Sprintf("Content-Length: %d\r\n", len(body)), body
			},
			"chunks": func(body []byte) (string, []byte) {
				return "Transfer-Encoding: chunked\r\n", fmt.Appendf(nil, "%x\r\n%s\r\n0\r\n\r\n", len(body), body)
			},
		} {
			t.Run(fmt.Sprintf("%d bytes by %s", size, framing), func(t *testing.T) {
				header, body := frame(bytes.Repeat([]byte("x"), size))
				c := s.rawClient(t)
				c.post(t, "earlybird", "/early/413", header, "")
				res := c.head(t)
				begun := make([]byte, len("early\n"))
				if _, err := io.ReadFull(res.Body, begun); err != nil || string(begun) != "early\n" || res.StatusCode != http.StatusRequestEntityTooLarge {
					t.Fatalf("%d with %q, %v before the body is sent", res.StatusCode, begun, err)
				}
				if !res.Close {
					t.Error("the connection is to go on after an answer that came before the end of its request")
				}
				if _, err := c.Write(body); err != nil {
					t.Fatal(err)
				}
				if rest := read(t, res); rest != fmt.Sprint(size) {
					t.Errorf("of %d bytes the dev server got %q", size, rest)
				}
				if left, err := io.ReadAll(c); err != nil || len(left) > 0 {
					t.Errorf("after the answer %q and %v, want the end of the connection", left, err)
				}
			})
		}
	}
	noPanics(t, s)
}

// What is not read of a body is never taken for a request. The client
// pipelines one, which a desynchronised server would find in the wrong place.
func TestARefusedUploadIsNoRequest(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "refusing")
	for _, size := range []int{10, 100 << 10, 400 << 10} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			c := s.rawClient(t)
			smuggled := "GET /status/418 HTTP/1.1\r\nHost: " + hostOf("refusing") + "\r\n\r\n"
			body := strings.Repeat(smuggled, size/len(smuggled)+1)
			c.post(t, "refusing", "/refuse", fmt.Sprintf("Content-Length: %d\r\n", len(body)), "")
			res := c.head(t)
			if got := read(t, res); res.StatusCode != http.StatusRequestEntityTooLarge || got != "too large\n" {
				t.Fatalf("%d %q", res.StatusCode, got)
			}
			_, _ = c.Write([]byte(body + smuggled)) // it may be cut in the middle
			if left, _ := io.ReadAll(c); len(left) > 0 {
				t.Errorf("the rest of the body was answered: %q", left)
			}
		})
	}
	noPanics(t, s)
}

func TestAClientThatAsksFirstNeedNotSendARefusedBody(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "asksfirst")
	c := s.rawClient(t)
	c.post(t, "asksfirst", "/refuse", "Expect: 100-continue\r\nContent-Length: 1000000000\r\n", "")
	res := c.head(t)
	if got := read(t, res); res.StatusCode != http.StatusRequestEntityTooLarge || got != "too large\n" {
		t.Errorf("%d %q", res.StatusCode, got)
	}
	// And one that is wanted is asked for.
	c = s.rawClient(t)
	c.post(t, "asksfirst", "/count", "Expect: 100-continue\r\nContent-Length: 5\r\n", "")
	if res := c.head(t); res.StatusCode != http.StatusContinue {
		t.Fatalf("%s, want 100", res.Status)
	}
	if _, err := c.Write([]byte("12345")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, c.head(t)); got != "5" {
		t.Errorf("the dev server got %q bytes", got)
	}
}

func TestConnectionsAreKeptAfterUploads(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepalive")
	c := s.rawClient(t)
	for n := range 50 {
		body := strings.Repeat("x", n*1000)
		c.post(t, "keepalive", "/count", fmt.Sprintf("Content-Length: %d\r\n", len(body)), body)
		res := c.head(t)
		if got := read(t, res); got != fmt.Sprint(len(body)) || res.Close {
			t.Fatalf("request %d: %q bytes arrived of %d, and the connection is to end: %v", n, got, len(body), res.Close)
		}
	}
	noPanics(t, s)
}

// What has reached the dev server is not sent again, but for a GET that was
// not answered. The server counts the connections that it cut.
func TestOnlyAGETIsSentAgain(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "cutsoff1")
	cuts := func() string { return read(t, s.get(t, hostOf("cutsoff1"), "/cuts", nil)) }
	post := func(path string) answer {
		return s.callAt(t, "http://"+hostOf("cutsoff1")+path, http.MethodPost, "once", nil)
	}

	post("/reset").expect(t, http.StatusBadGateway, 1109)
	if got := cuts(); got != "1" {
		t.Errorf("a POST was sent %s times, want once", got)
	}
	if got := read(t, s.get(t, hostOf("cutsoff1"), "/reset?times=3", nil)); got != "3" {
		t.Errorf("a GET got %q at its third attempt", got)
	}
	page := s.get(t, hostOf("cutsoff1"), "/reset", asBrowser)
	if page.StatusCode != http.StatusBadGateway {
		t.Errorf("a GET that is cut for ever: status %d, want 502", page.StatusCode)
	}
	checkPage(t, page, hostOf("cutsoff1"))
}

// A connection that the dev server closes as the next request arrives is no
// fault of that request; but only one that changes nothing may go again.
func TestStaleConnectionsAreNotSeenByGETs(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "goesstale")
	read(t, s.get(t, hostOf("goesstale"), "/stale", nil))
	if got := read(t, s.get(t, hostOf("goesstale"), "/cuts", nil)); got != "1" {
		t.Fatalf("%s connections were cut, want 1: the GET is to come over that one", got)
	}
	read(t, s.get(t, hostOf("goesstale"), "/cuts", nil)) // leaves a connection at rest
	read(t, s.get(t, hostOf("goesstale"), "/stale", nil))
	s.callAt(t, "http://"+hostOf("goesstale")+"/count", http.MethodPost, "once", nil).expect(t, http.StatusBadGateway, 1109)
	if got := read(t, s.get(t, hostOf("goesstale"), "/cuts", nil)); got != "2" {
		t.Errorf("%s connections were cut, want 2: the POST came once", got)
	}
}

// See also TestDevServerThatDoesNotAnswer.
func TestTheTimeToAnswerHasALimit(t *testing.T) {
	for given, want := range map[caddy.Duration]time.Duration{0: time.Minute, caddy.Duration(time.Hour): time.Hour, -1: -1} {
		transport := &Transport{ResponseHeaderTimeout: given}
		if err := transport.Provision(caddy.Context{}); err != nil {
			t.Fatal(err)
		}
		if got := transport.pool.ResponseHeaderTimeout; got != want {
			t.Errorf("response_header_timeout %v becomes %v, want %v", time.Duration(given), got, want)
		}
	}
}

func noPanics(t *testing.T, s *server) {
	t.Helper()
	if log := s.log(t); strings.Contains(log, "panic") {
		t.Errorf("net/http panicked: %s", log)
	}
}

func TestEventsAreNotTransformed(t *testing.T) {
	for _, row := range []struct{ kind, cache, want string }{
		{"text/event-stream", "", "no-transform"},
		{"Text/Event-Stream ; charset=utf-8", "no-cache", "no-cache, no-transform"},
		{"text/event-stream", "no-cache, No-Transform", "no-cache, No-Transform"},
		{"text/event-streams", "", ""},
		{"text/html; text/event-stream", "no-cache", "no-cache"},
		{"", "", ""},
	} {
		h := http.Header{"Content-Type": {row.kind}}
		if row.cache != "" {
			h.Set("Cache-Control", row.cache)
		}
		keepEvents(h)
		if got := strings.Join(h["Cache-Control"], ", "); got != row.want {
			t.Errorf("%q with Cache-Control %q: got %q, want %q", row.kind, row.cache, got, row.want)
		}
	}
}
