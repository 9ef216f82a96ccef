package devserver

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const (
	viteText = "Blocked request. This host (\"" + public + "\") is not allowed.\nTo allow this host, add \"" + public +
		"\" to `server.allowedHosts` in vite.config.js."
	newerViteText = `Blocked request. This host ("` + public + `") is not allowed.`
)

func response(status int, body string) *http.Response {
	return &http.Response{
		StatusCode: status, Header: http.Header{}, ContentLength: int64(len(body)),
		Body: io.NopCloser(strings.NewReader(body)),
	}
}

func TestRefused(t *testing.T) {
	chunked := func(res *http.Response) *http.Response { res.ContentLength = -1; return res }
	zipped := func(res *http.Response) *http.Response { res.Header.Set("Content-Encoding", "gzip"); return res }
	for _, row := range []struct {
		name string
		path string
		res  *http.Response
		want instance.Mode // none: it is no refusal
	}{
		{"Vite", "/", response(403, viteText), viteMode},
		{"Vite, in chunks", "/", chunked(response(403, viteText)), viteMode},
		{"Vite's checks on their own", "/", response(403, newerViteText), viteMode},
		{"webpack-dev-server 5", "/", response(403, "Invalid Host header"), webpackMode},
		{"webpack-dev-server up to 4", "/", response(200, "Invalid Host header"), webpackMode},
		{"Next.js", "/_next/static/a.js", response(403, "Unauthorized"), nextMode},
		{"Next.js, in chunks", "/__nextjs_font/a", chunked(response(403, "Unauthorized")), nextMode},

		{"an app that says Unauthorized", "/api", response(403, "Unauthorized"), instance.Mode{}},
		{"an app that says more", "/_next/a", response(403, "Unauthorized: no token"), instance.Mode{}},
		{"an app's page about it", "/", response(403, "<p>Blocked request. This host (x)"), instance.Mode{}},
		{"a page of that text", "/", response(200, viteText), instance.Mode{}},
		{"another status", "/", response(404, viteText), instance.Mode{}},
		{"nothing", "/", response(403, ""), instance.Mode{}},
		{"a long text that begins so", "/", response(403, viteText+strings.Repeat(".", 4000)), instance.Mode{}},
		{"a long text in chunks", "/", chunked(response(403, viteText+strings.Repeat(".", 4000))), instance.Mode{}},
		{"compressed", "/", zipped(response(403, viteText)), instance.Mode{}},
		{"a page as long as a refusal", "/", response(200, "nineteen characters"), instance.Mode{}},
	} {
		t.Run(row.name, func(t *testing.T) {
			before, err := io.ReadAll(row.res.Body)
			if err != nil {
				t.Fatal(err)
			}
			row.res.Body = io.NopCloser(strings.NewReader(string(before)))
			got, refused := Refused(request(row.path), row.res)
			if got != row.want || refused != (row.want != instance.Mode{}) {
				t.Errorf("got %v, %v, want %v", got, refused, row.want)
			}
			if after, err := io.ReadAll(row.res.Body); err != nil || string(after) != string(before) {
				t.Errorf("the client gets %.80q (%v), want %.80q", after, err, before)
			}
		})
	}
}

func TestAStreamIsNotWaitedFor(t *testing.T) {
	beginning, stream := io.Pipe()
	defer stream.Close()
	res := response(403, "")
	res.ContentLength, res.Body = -1, beginning
	go func() { _, _ = io.WriteString(stream, "event: no\n\n") }()
	if _, refused := Refused(request("/"), res); refused { // else it would never return
		t.Error("it was taken for a refusal")
	}
	got := make([]byte, len("event: no\n\n"))
	if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != "event: no\n\n" {
		t.Errorf("the client gets %q, %v", got, err)
	}
}

// An app may send the head of a 403 and think about the rest.
func TestAHeadIsNotWithheld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body, app := io.Pipe()
		res := response(403, "")
		res.ContentLength, res.Body = -1, body
		begun := time.Now()
		if _, refused := Refused(request("/"), res); refused {
			t.Error("silence was taken for a refusal")
		}
		if took := time.Since(begun); took != lookTime {
			t.Errorf("the head waited for %s", took)
		}
		go func() {
			_, _ = io.WriteString(app, webpackRefusal)
			app.Close()
		}()
		if text, err := io.ReadAll(res.Body); string(text) != webpackRefusal || err != nil {
			t.Errorf("the client gets %q, %v", text, err)
		}

		silent, never := io.Pipe()
		defer never.Close()
		res.Body = silent
		_, _ = Refused(request("/"), res)
		res.Body.Close() // the client leaves: synctest sees to it that nobody reads on
	})
}

func TestABodyThatBreaksOffBreaksOffForTheClient(t *testing.T) {
	broken := errors.New("broken")
	res := response(403, "")
	res.ContentLength = -1
	res.Body = io.NopCloser(io.MultiReader(strings.NewReader("Blocked request"), iotest.ErrReader(broken)))
	if _, refused := Refused(request("/"), res); refused {
		t.Error("half a refusal was taken for one")
	}
	if got, err := io.ReadAll(res.Body); string(got) != "Blocked request" || !errors.Is(err, broken) {
		t.Errorf("the client gets %q, %v", got, err)
	}
}

func TestRefusedUpgrade(t *testing.T) {
	raw := fmt.Errorf("net/http: HTTP/1.x transport connection broken: %w", errors.New(`malformed HTTP response "Unauthorized"`))
	if got, refused := RefusedUpgrade(request("/_next/hmr", "Upgrade", "websocket"), raw); !refused || got != nextMode {
		t.Errorf("got %v, %v", got, refused)
	}
	if _, refused := RefusedUpgrade(request("/_next/hmr"), raw); refused {
		t.Error("a request that asks for no socket was taken for one")
	}
	if _, refused := RefusedUpgrade(request("/_next/hmr", "Upgrade", "websocket"), io.ErrUnexpectedEOF); refused {
		t.Error("a broken connection was taken for a refusal")
	}
}

func TestOnlyWhatBringsNothingIsRepeatable(t *testing.T) {
	for _, row := range []struct {
		method string
		body   io.Reader
		want   bool
	}{
		{"GET", nil, true},
		{"HEAD", nil, true},
		{"GET", http.NoBody, true},
		{"GET", strings.NewReader("x"), false},
		{"POST", nil, false},
		{"PUT", strings.NewReader("x"), false},
		{"DELETE", nil, false},
		{"OPTIONS", nil, false},
	} {
		r, err := http.NewRequest(row.method, "http://endpoint/", row.body)
		if err != nil {
			t.Fatal(err)
		}
		if got := Repeatable(r); got != row.want {
			t.Errorf("%s with body %v: %v, want %v", row.method, row.body, got, row.want)
		}
	}
}

// What accepts the socket of Vite's client is a Vite, or built on one. The ping
// is accepted by those that refuse the host, too.
func TestRecognised(t *testing.T) {
	socket := func(protocol string) *http.Request {
		return request("/", "Upgrade", "websocket", "Sec-WebSocket-Protocol", protocol)
	}
	for _, row := range []struct {
		r      *http.Request
		status int
		want   bool
	}{
		{socket("vite-hmr"), http.StatusSwitchingProtocols, true},
		{socket("vite-hmr"), http.StatusBadRequest, false},
		{socket("vite-ping"), http.StatusSwitchingProtocols, false},
		{socket("chat"), http.StatusSwitchingProtocols, false},
		{request("/"), http.StatusOK, false},
	} {
		dev, got := Recognised(row.r, &http.Response{StatusCode: row.status})
		if got != row.want || got && dev != instance.DevVite {
			t.Errorf("%v answered %d: %v, %s", row.r.Header, row.status, got, dev)
		}
	}
}
