package test

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"
)

// extendedCONNECT switches on what carries WebSockets over HTTP/2 in Go's
// server; it is off by default.
var extendedCONNECT = []string{"env", "GODEBUG=http2xconnect=1"}

// pushedEvents is a stream of the test server that sends an event when it is
// asked for one, and nothing after it that could push it through a buffer.
type pushedEvents struct {
	url    string
	client *http.Client // to ask for events
	lines  *bufio.Scanner
	head   http.Header
	sent   int
}

func (c *caddyServer) openEvents(t testing.TB, protocol, instance, name string) *pushedEvents {
	t.Helper()
	u := instance + "/push/" + name
	// What a browser says that it takes.
	res := request(t, c.visitor.over(t, protocol), protocol, http.MethodGet, u, nil,
		header{"Accept", "text/event-stream"}, header{"Accept-Encoding", "gzip, deflate, br, zstd"})
	return &pushedEvents{url: u, client: c.visitor.client, lines: bufio.NewScanner(res.Body), head: res.Header}
}

// next asks for an event and waits for it.
func (s *pushedEvents) next() (took time.Duration, err error) {
	s.sent++
	text := fmt.Sprint("event ", s.sent)
	start := time.Now()
	res, err := s.client.Post(s.url, "text/plain", strings.NewReader(text))
	if status, err := statusOf(res, err); err != nil || status != http.StatusNoContent {
		return 0, fmt.Errorf("asking for %s: %d %w", text, status, err)
	}
	got := make(chan error, 1)
	go func() {
		for s.lines.Scan() {
			if s.lines.Text() == "data: "+text {
				got <- nil
				return
			}
		}
		got <- fmt.Errorf("the stream ended before %s: %w", text, s.lines.Err())
	}()
	select {
	case err = <-got:
	case <-time.After(10 * time.Second):
		err = fmt.Errorf("%s was sent and has not come within 10 s: something holds it back", text)
	}
	return time.Since(start), err
}

func TestEachEventArrivesAtOnce(t *testing.T) {
	t.Parallel()
	for name, site := range map[string]string{"plain": "", "with encode": "encode zstd gzip"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, options{Site: site})
			made := c.api.create(t, createRequest{})
			for _, protocol := range protocols {
				t.Run(protocol, func(t *testing.T) {
					// A page is compressed where the site says so: encode is at work.
					page := request(t, c.visitor.over(t, protocol), protocol, http.MethodGet,
						made.URL+"/status/200?body="+strings.Repeat("long", 1000), nil, header{"Accept-Encoding", "gzip"})
					if got := page.Header.Get("Content-Encoding"); (got == "gzip") != (site != "") {
						t.Errorf("a page has Content-Encoding %q", got)
					}
					events := c.openEvents(t, protocol, made.URL, strings.ReplaceAll(protocol, "/", ""))
					if got := events.head.Get("Content-Encoding"); got != "" {
						t.Errorf("the stream has Content-Encoding %q", got)
					}
					if got := strings.Join(events.head["Cache-Control"], ", "); got != "no-cache, no-transform" {
						t.Errorf("Cache-Control %q", got)
					}
					var longest time.Duration
					for range 50 {
						took, err := events.next()
						if err != nil {
							t.Fatal(err)
						}
						longest = max(longest, took)
					}
					t.Logf("50 events, each asked for after the one before; the slowest took %s there and back", longest)
				})
			}
		})
	}
}

// longLived is all that is open towards an instance over one protocol.
type longLived struct {
	events   *pushedEvents
	socket   echo
	upload   *io.PipeWriter
	uploaded chan string
	sent     int
	download io.Reader
	received int
}

const downloadSize = 64 << 20

func (c *caddyServer) openAll(t testing.TB, protocol, instance string) *longLived {
	t.Helper()
	l := &longLived{events: c.openEvents(t, protocol, instance, strings.ReplaceAll(protocol, "/", "")), uploaded: make(chan string, 1)}
	var err error
	if l.socket, err = c.visitor.openSocket(t, protocol, instance+"/ws"); err != nil {
		t.Fatal(err)
	}
	l.download = request(t, c.visitor.over(t, protocol), protocol, http.MethodGet, fmt.Sprintf("%s/bytes/%d", instance, downloadSize), nil).Body
	body, upload := io.Pipe()
	l.upload = upload
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, instance+"/count", body)
	if err != nil {
		t.Fatal(err)
	}
	transport := c.visitor.over(t, protocol)
	go func() {
		res, err := transport.RoundTrip(req)
		if err != nil {
			body.CloseWithError(err)
			l.uploaded <- err.Error()
			return
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		l.uploaded <- fmt.Sprintln(string(text), err)
	}()
	return l
}

// goesOn moves something over each of them.
func (l *longLived) goesOn() error {
	if _, err := l.events.next(); err != nil {
		return fmt.Errorf("events: %w", err)
	}
	if err := l.socket(fmt.Sprint("echo ", l.sent)); err != nil {
		return fmt.Errorf("WebSocket: %w", err)
	}
	n, err := l.upload.Write(make([]byte, 300<<10))
	if l.sent += n; err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	n, err = io.ReadFull(l.download, make([]byte, 300<<10))
	if l.received += n; err != nil {
		return fmt.Errorf("download: %w", err)
	}
	return nil
}

// ends brings upload and download to their ends and checks that all arrived.
func (l *longLived) ends() error {
	l.upload.Close()
	if got, want := <-l.uploaded, fmt.Sprintln(l.sent, nil); got != want {
		return fmt.Errorf("of an upload of %d bytes came %s", l.sent, got)
	}
	n, err := io.Copy(io.Discard, l.download)
	if l.received += int(n); err != nil || l.received != downloadSize {
		return fmt.Errorf("of a download of %d bytes came %d: %w", downloadSize, l.received, err)
	}
	return nil
}

func TestStreamsOutliveReloads(t *testing.T) {
	t.Parallel()
	const grace = time.Second
	c := startCaddy(t, options{Wrap: extendedCONNECT, Grace: grace.String()})
	made := c.api.create(t, createRequest{})
	open := map[string]*longLived{}
	for _, protocol := range protocols {
		open[protocol] = c.openAll(t, protocol, made.URL)
	}
	goOn := func(when string) {
		for _, protocol := range protocols {
			if err := open[protocol].goesOn(); err != nil {
				t.Fatalf("%s, %s: %v", protocol, when, err)
			}
		}
	}
	goOn("before the first reload")
	taken := listenOn(t, freePort())
	for n := range 6 {
		next := *c
		next.Proxy = fmt.Sprintf("header_up X-Config %d", n)
		fails := n%3 == 2 // it is provisioned and started, but for a port that is taken
		if fails {
			next.Sites = fmt.Sprintf("https://other.localhost:%d {\n\tbind 127.0.0.1\n\ttls internal\n}\n", taken)
		}
		if status, err := c.load(next.caddyfile()); err != nil || (status == http.StatusOK) == fails {
			t.Fatalf("reload %d: %d %v", n, status, err)
		}
		goOn(fmt.Sprintf("after reload %d", n))
	}
	time.Sleep(2 * grace) // after which nothing is cut, though it could be
	goOn("after the grace period of the last reload")
	for _, protocol := range protocols {
		if err := open[protocol].ends(); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
	}
	// Events and sockets of the first configuration are still open.
	start := time.Now()
	if err := c.stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > grace+10*time.Second {
		t.Errorf("Caddy took %s to end, its grace period is %s", took, grace)
	}
}

func TestAWebSocketMayBeSilent(t *testing.T) {
	t.Parallel()
	// A second stands for the minute that Caddy gives a request's body.
	c := startCaddy(t, options{Wrap: extendedCONNECT, Global: "servers {\n timeouts {\n read_body_idle 1s\n write_idle 1s\n }\n }"})
	made := c.api.create(t, createRequest{})
	var open sync.WaitGroup
	for _, protocol := range protocols {
		socket, err := c.visitor.openSocket(t, protocol, made.URL+"/ws")
		if err != nil {
			t.Fatal(err)
		}
		if err := socket("before"); err != nil {
			t.Fatalf("%s: %v", protocol, err)
		}
		open.Go(func() {
			time.Sleep(3 * time.Second) // the silence
			if err := socket("after"); err != nil {
				t.Errorf("%s, after 3 s of silence: %v", protocol, err)
			}
		})
	}
	open.Wait()
}

// By default Go's server offers no extended CONNECT over HTTP/2, and browsers
// open WebSockets over a connection of HTTP/1.1 beside it.
func TestWebSocketsOverHTTP2AreNotOfferedByDefault(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{})
	if _, err := c.visitor.openSocket(t, "HTTP/2", made.URL+"/ws"); err == nil || !strings.Contains(err.Error(), "extended connect not supported") {
		t.Errorf("got %v: the documentation says that it is off", err)
	}
	socket, err := c.visitor.openSocket(t, "HTTP/3", made.URL+"/ws")
	if err != nil {
		t.Fatal(err)
	}
	if err := socket("over HTTP/3"); err != nil {
		t.Error(err)
	}
}

func TestAnEarlyAnswerLetsTheUploadGoOn(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{})
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			body, upload := io.Pipe()
			res := request(t, c.visitor.over(t, protocol), protocol, http.MethodPost, made.URL+"/early/202", body)
			begun := make([]byte, len("early\n"))
			if _, err := io.ReadFull(res.Body, begun); err != nil || string(begun) != "early\n" || res.StatusCode != http.StatusAccepted {
				t.Fatalf("%d with %q, %v before a byte is sent", res.StatusCode, begun, err)
			}
			const size = 3 << 20
			if _, err := upload.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
			upload.Close()
			if rest, err := io.ReadAll(res.Body); err != nil || string(rest) != fmt.Sprint(size) {
				t.Errorf("of %d bytes the dev server got %q, %v", size, rest, err)
			}
		})
	}
}

// Whatever status the dev server answers with, it is its answer that comes,
// for a browser that navigates, which would get our pages.
func TestAnswersPassUntouched(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{})
	navigates := []header{{"Accept", "text/html"}, {"Sec-Fetch-Mode", "navigate"}, {"Accept-Encoding", "identity"}}
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			transport := c.visitor.over(t, protocol)
			for _, status := range []int{
				200, 201, 202, 203, 204, 205, 206, 300, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 405, 408, 409, 410,
				411, 412, 413, 415, 416, 418, 421, 422, 425, 426, 428, 429, 431, 451, 499, 500, 501, 502, 503, 504, 505, 507, 511, 520, 599,
			} {
				body := fmt.Sprintf("Vite's own text for %d\n", status)
				want := body
				if status == 204 || status == 304 {
					want = "" // these have none
				}
				u := fmt.Sprintf("%s/status/%d?body=%s", made.URL, status, url.QueryEscape(body))
				for method, want := range map[string]string{http.MethodGet: want, http.MethodHead: ""} {
					res := request(t, transport, protocol, method, u, nil, navigates...)
					got, err := io.ReadAll(res.Body)
					if err != nil || res.StatusCode != status || string(got) != want {
						t.Errorf("%s %d came as %d %q, %v", method, status, res.StatusCode, got, err)
					}
					if retry := res.Header.Get("Retry-After"); retry != "" {
						t.Errorf("%d has our Retry-After", status)
					}
				}
			}
			passHints(t, transport, protocol, made.URL)
			passTrailers(t, transport, protocol, made.URL)
		})
	}
}

func passHints(t *testing.T, transport http.RoundTripper, protocol, instance string) {
	t.Helper()
	var hinted []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, h textproto.MIMEHeader) error {
		hinted = append(hinted, fmt.Sprint(code, " ", h.Get("Link")))
		return nil
	}}
	req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), http.MethodGet, instance+"/hints", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "after the hints\n" || res.Header.Get("X-Final") != "yes" {
		t.Errorf("%s: after 103 %q %v, %v", protocol, body, res.Header, err)
	}
	if got := strings.Join(hinted, "; "); got != "103 </src/main.js>; rel=modulepreload" {
		t.Errorf("%s: the hints came as %q", protocol, got)
	}
}

func passTrailers(t *testing.T, transport http.RoundTripper, protocol, instance string) {
	t.Helper()
	res := request(t, transport, protocol, http.MethodGet, instance+"/trailers", nil, header{"TE", "trailers"})
	body, err := io.ReadAll(res.Body)
	if err != nil || string(body) != "the body\n" || res.Trailer.Get("X-Announced") != "yes" || res.Trailer.Get("X-Late") != "yes" {
		t.Errorf("%s: %q with trailers %v, %v", protocol, body, res.Trailer, err)
	}
}
