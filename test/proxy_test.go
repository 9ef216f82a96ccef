package test

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"
)

func TestHostsThatCannotBeServedSaySo(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	live := c.api.create(t, createRequest{Prefix: "proxylive"})
	c.api.create(t, createRequest{Prefix: "proxystopped"})
	c.api.act(t, "proxystopped", "stop")

	asBrowser := []header{{"Accept", "text/html,application/xhtml+xml,*/*;q=0.8"}, {"Sec-Fetch-Mode", "navigate"}}
	asFetch := []header{{"Accept", "*/*"}, {"Sec-Fetch-Mode", "cors"}}
	for _, row := range []struct {
		name, host string
		headers    []header
		status     int
		code       int // of the JSON answer; 0: a page
	}{
		{"unknown, any client", "proxyunknown", nil, 404, 1004},
		{"unknown, browser", "proxyunknown", asBrowser, 404, 0},
		{"unknown, fetch", "proxyunknown", asFetch, 404, 1004},
		{"unknown, browser without Sec-Fetch-Mode", "proxyunknown", asBrowser[:1], 404, 0},
		{"no prefix at all", "no_prefix", nil, 404, 1004},
		{"a star", "*", nil, 404, 1004},
		{"a long one", strings.Repeat("a", 5000), nil, 404, 1004},
		{"stopped, any client", "proxystopped", nil, 503, 1105},
		{"stopped, browser", "proxystopped", asBrowser, 503, 0},
		{"stopped, fetch", "proxystopped", asFetch, 503, 1105},
	} {
		t.Run(row.name, func(t *testing.T) {
			// The name in the handshake is the live one's; what counts is Host.
			page := c.visitor.get(t, live.URL, append(row.headers, header{"Host", row.host + "." + domain})...)
			if page.StatusCode != row.status {
				t.Fatalf("%d, want %d: %s", page.StatusCode, row.status, page.body)
			}
			if retry, err := strconv.Atoi(page.Header.Get("Retry-After")); row.status == 503 && (err != nil || retry < 1) {
				t.Errorf("Retry-After %q, want seconds", page.Header.Get("Retry-After"))
			}
			if cache := page.Header.Get("Cache-Control"); !strings.Contains(cache, "no-store") {
				t.Errorf("Cache-Control %q, want no-store", cache)
			}
			kind := page.Header.Get("Content-Type")
			if row.code == 0 {
				if !strings.HasPrefix(kind, "text/html") || !strings.Contains(page.body, "</html>") {
					t.Errorf("no page but %s: %s", kind, page.body)
				}
				return
			}
			var a answer
			if err := json.Unmarshal([]byte(page.body), &a); err != nil || a.Code != row.code || a.Message == "" || !strings.HasPrefix(kind, "application/json") {
				t.Errorf("%s, want JSON with code %d: %s", kind, row.code, page.body)
			}
			if details := string(a.Data); row.code == 1105 && !(strings.Contains(details, `"stopped"`) && strings.Contains(details, `"user"`)) {
				t.Errorf("the details do not tell status and reason: %s", page.body)
			}
		})
	}
}

func TestTheServerSeesThePublicHost(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "seeshost"})
	var seen struct {
		Host, URI string
		Headers   http.Header
	}
	c.visitor.getJSON(t, made.URL+"/headers?a=1&b=%2F", &seen)
	publicHost := fmt.Sprintf("seeshost.%s:%d", domain, c.httpsPort)
	if seen.Host != publicHost || seen.URI != "/headers?a=1&b=%2F" {
		t.Errorf("host %q and URI %q, want %q and the URI as sent", seen.Host, seen.URI, publicHost)
	}
	if got := seen.Headers.Get("X-Forwarded-Proto"); got != "https" {
		t.Errorf("X-Forwarded-Proto %q, want https", got)
	}
	if got := seen.Headers.Get("X-Forwarded-Host"); got != publicHost {
		t.Errorf("X-Forwarded-Host %q, want %q", got, publicHost)
	}
	c.visitor.mustGet(t, made.URL, header{"Host", strings.ToUpper(publicHost)})
}

func TestStatusesOfTheServerPassThrough(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "passthrough"})
	for _, status := range []int{204, 302, 404, 500, 503} {
		if page := c.visitor.get(t, fmt.Sprintf("%s/status/%d", made.URL, status)); page.StatusCode != status {
			t.Errorf("%d came through as %d", status, page.StatusCode)
		}
	}
}

func TestWebSocketsPass(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "websockets"})
	socket := c.visitor.dialWebSocket(t, made.URL+"/ws")
	socket.echoes(t, "small")
	socket.echoes(t, strings.Repeat("large ", 200_000))

	c.api.act(t, "websockets", "stop")
	socket.awaitClose(t, 10*time.Second)
}

func TestEventsArriveAsTheyAreSent(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "eventstream"})
	res, err := c.visitor.client.Get(made.URL + "/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	// The stream never ends: whoever buffered it would deliver nothing.
	wantEvents(t, res.Body, 5)
}

// wantEvents reads the first n events of a stream of the test server.
func wantEvents(t testing.TB, stream io.Reader, n int) {
	t.Helper()
	events := bufio.NewScanner(stream)
	for want := 1; want <= n; {
		if !events.Scan() {
			t.Fatalf("the stream ended (%v) before event %d", events.Err(), want)
		}
		if line := events.Text(); strings.HasPrefix(line, "id: ") {
			if line != fmt.Sprintf("id: %d", want) {
				t.Fatalf("got %q, want event %d", line, want)
			}
			want++
		}
	}
}

func TestLargeBodiesPassBothWays(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "largebodies"})
	const size = 100 << 20
	random := func() io.Reader { return io.LimitReader(rand.NewChaCha8([32]byte{1}), size) }
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, made.URL+"/echo", random())
	if err != nil {
		t.Fatal(err)
	}
	res, err := c.visitor.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, want := sha256.New(), sha256.New()
	n, err := io.Copy(got, res.Body)
	if err != nil || n != size {
		t.Fatalf("%d bytes came back of %d: %v", n, size, err)
	}
	if _, err := io.Copy(want, random()); err != nil {
		t.Fatal(err)
	}
	if string(got.Sum(nil)) != string(want.Sum(nil)) {
		t.Error("other bytes came back than were sent")
	}
}

// A POST is not repeated by itself when it was sent on a connection that the
// old container had left open, so it tells whether such connections are used.
func TestNoConnectionOutlivesItsContainer(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "oldconns"})
	post := func(url, text string) {
		t.Helper()
		r, err := c.visitor.try(http.MethodPost, url+"/echo", text)
		if err != nil || r.StatusCode != http.StatusOK || r.body != text {
			t.Errorf("POST: %v %+v", err, r)
		}
	}
	for round := range 5 {
		for n := range 5 {
			post(made.URL, fmt.Sprint("before ", round, n))
		}
		c.api.act(t, "oldconns", "restart")
		post(made.URL, fmt.Sprint("after ", round))
	}
	// The next container may get the same address.
	c.api.delete(t, "oldconns")
	next := c.api.create(t, createRequest{Prefix: "nextconns"})
	if page := c.visitor.mustGet(t, next.URL); page.body != "hello from nextconns\n" {
		t.Errorf("the new instance says %q", page.body)
	}
	post(next.URL, "to the next one")
}

func TestThePublishedPortCanBeTheWayIn(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Proxy: "upstream published\nheader_up X-From-Config yes"})
	made := c.api.create(t, createRequest{Prefix: "published"})
	var seen struct{ Headers http.Header }
	c.visitor.getJSON(t, made.URL+"/headers", &seen)
	if seen.Headers.Get("X-From-Config") != "yes" {
		t.Errorf("the proxy's own subdirective had no effect: %v", seen.Headers)
	}
	direct, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", made.Port))
	if err != nil {
		t.Fatal(err)
	}
	direct.Body.Close()
	c.visitor.dialWebSocket(t, made.URL+"/ws").echoes(t, "published")
}
