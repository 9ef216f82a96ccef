package devserver

import (
	"net/http"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const (
	public = "abcdefgh.sandbox.example.com"
	origin = "https://" + public
)

var (
	auto    = instance.Mode{Dev: "auto", HostHeader: "preserve"}
	vite    = instance.Mode{Dev: "vite", HostHeader: "localhost"}
	newVite = instance.Mode{Dev: "vite", HostHeader: "preserve"} // told its hosts by the environment
	next    = instance.Mode{Dev: "next", HostHeader: "preserve"}
	webpack = instance.Mode{Dev: "webpack", HostHeader: "localhost"}
	none    = instance.Mode{Dev: "none", HostHeader: "preserve"}
	masked  = instance.Mode{Dev: "none", HostHeader: "localhost"}
)

// request makes one that came with these headers, as names and values.
func request(path string, pairs ...string) *http.Request {
	r, err := http.NewRequest(http.MethodGet, "http://endpoint"+path, nil)
	if err != nil {
		panic(err)
	}
	r.Host = public
	for i := 0; i < len(pairs); i += 2 {
		r.Header[pairs[i]] = []string{pairs[i+1]}
	}
	return r
}

// What real servers took, and what they are given for it: a row for each that
// was measured, and some for what must stay as it is.
func TestDisguise(t *testing.T) {
	const local, localPage = "localhost:5174", "http://localhost:5174"
	socket := func(path string, more ...string) *http.Request {
		return request(path, append([]string{"Connection", "Upgrade", "Upgrade", "websocket", "Origin", origin}, more...)...)
	}
	page := func(path string) *http.Request { return request(path, "Origin", origin) }
	form := func(origin string) *http.Request {
		r := request("/", "Origin", origin)
		r.Method = http.MethodPost
		return r
	}
	hmr := []string{"Sec-WebSocket-Protocol", "vite-hmr"}
	for _, row := range []struct {
		name         string
		mode         instance.Mode
		r            *http.Request
		host, origin string // what the dev server gets
	}{
		{"unknown: a page", auto, request("/"), public, ""},
		{"unknown: a form", auto, form(origin), public, origin},
		{"unknown: a socket of Vite", auto, socket("/", hmr...), public, origin},
		{"unknown: a script of Next.js", auto, page("/_next/static/a.js"), public, origin},
		{"unknown: a socket", auto, socket("/ws"), public, origin},

		{"Vite up to 6.0: a page", vite, request("/"), local, ""},
		{"Vite up to 6.0: its socket", vite, socket("/?token=t", hmr...), local, localPage},
		{"Vite up to 6.0: its socket, as net/http spells", vite, socket("/", "Sec-Websocket-Protocol", "vite-hmr"), local, localPage},
		{"Vite up to 6.0: its ping", vite, socket("/", "Sec-WebSocket-Protocol", "vite-ping"), local, localPage},
		{"Vite up to 6.0: the app's socket", vite, socket("/chat"), local, origin},
		{"Vite up to 6.0: a form", vite, form(origin), local, localPage},
		{"Vite up to 6.0: a form of the builder's", vite, form("https://builder.example.com"), local, "https://builder.example.com"},
		{"Vite up to 6.0: a form of who knows whom", vite, form("null"), local, "null"},
		{"Vite up to 6.0: a script", vite, page("/src/main.js"), local, origin},
		{"Vite from 6.1: a page", newVite, request("/"), public, ""},
		{"Vite from 6.1: a form", newVite, form(origin), public, "http://" + public},
		{"Vite from 6.1: its socket", newVite, socket("/", hmr...), public, localPage},

		{"Next.js: a page", next, request("/"), public, ""},
		{"Next.js: its socket", next, socket("/_next/hmr"), public, localPage},
		{"Next.js up to 15: its socket", next, socket("/_next/webpack-hmr"), public, localPage},
		{"Next.js: a script", next, page("/_next/static/a.js"), public, localPage},
		{"Next.js: a script without an Origin", next, request("/_next/static/a.js"), public, ""},
		{"Next.js: below a base path", next, page("/docs/_next/static/a.js"), public, localPage},
		{"Next.js: its overlay", next, page("/__nextjs_original-stack-frames"), public, localPage},
		{"Next.js: a server action", next, form(origin), public, origin},
		{"Next.js: the app's socket", next, socket("/ws"), public, origin},

		{"webpack-dev-server: a page", webpack, request("/"), local, ""},
		{"webpack-dev-server: its socket", webpack, socket("/ws"), local, localPage},
		{"webpack-dev-server 3: its socket", webpack, socket("/sockjs-node/1/x/websocket"), local, localPage},
		{"webpack-dev-server: the app's socket", webpack, socket("/chat"), local, origin},
		{"webpack-dev-server: a fetch of that path", webpack, page("/ws"), local, origin},

		{"no dev server: a page", none, page("/"), public, origin},
		{"no dev server: any socket", none, socket("/ws", hmr...), public, origin},
		{"no dev server: any path", none, page("/_next/static/a.js"), public, origin},
		{"no dev server, localhost: a page", masked, page("/"), local, origin},
	} {
		t.Run(row.name, func(t *testing.T) {
			before := row.r.Clone(t.Context())
			got, _ := Disguise(row.r, row.mode, 5174, false)
			if got.Host != row.host || got.Header.Get("Origin") != row.origin {
				t.Errorf("it gets Host %q and Origin %q, want %q and %q", got.Host, got.Header.Get("Origin"), row.host, row.origin)
			}
			if row.r.Host != before.Host || row.r.Header.Get("Origin") != before.Header.Get("Origin") {
				t.Errorf("the client's own request became %+v", row.r)
			}
			for name := range before.Header {
				if name != "Origin" && got.Header[name][0] != before.Header[name][0] {
					t.Errorf("%s became %q", name, got.Header[name])
				}
			}
		})
	}
}

func TestDisguiseOfAReferer(t *testing.T) {
	script := request("/_next/static/a.js", "Referer", "https://app.example.com/")
	for _, row := range []struct {
		mode    instance.Mode
		path    string
		vouched bool
		want    string
	}{
		{next, "/_next/static/a.js", true, "http://localhost:5174/"},
		{next, "/_next/static/a.js", false, "https://app.example.com/"},
		{next, "/a.js", true, "https://app.example.com/"},
		{auto, "/_next/static/a.js", true, "https://app.example.com/"},
	} {
		script.URL.Path = row.path
		if got, _ := Disguise(script, row.mode, 5174, row.vouched); got.Header.Get("Referer") != row.want {
			t.Errorf("%v %s, vouched for %v: Referer %q, want %q", row.mode, row.path, row.vouched, got.Header.Get("Referer"), row.want)
		}
	}
}

func TestNothingIsAllocatedForWhatStaysAsItIs(t *testing.T) {
	r := request("/src/main.js", "Accept", "*/*", "Origin", origin)
	if n := testing.AllocsPerRun(100, func() { Disguise(r, auto, 5174, false) }); n > 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestUndo(t *testing.T) {
	const here = "https://" + public + ":8443"
	for _, row := range []struct{ name, value, want string }{
		{"Location", "http://localhost:5174/login?next=%2F#a", here + "/login?next=%2F#a"},
		{"Location", "http://localhost:5174", here},
		{"Location", "http://localhost:5174?a", here + "?a"},
		{"Location", "https://localhost:5174/", here + "/"},
		{"Location", "//localhost:5174/x", "//" + public + ":8443/x"},
		{"Location", "http://localhost:5174//evil.example/", here + "//evil.example/"},
		{"Location", "/login", "/login"},
		{"Location", "login", "login"},
		{"Location", "", ""},
		{"Location", "http://localhost:51740/", "http://localhost:51740/"},
		{"Location", "http://localhost:5174.evil.example/", "http://localhost:5174.evil.example/"},
		{"Location", "http://localhost:5174@evil.example/", "http://localhost:5174@evil.example/"},
		{"Location", "http://localhost:3000/", "http://localhost:3000/"},
		{"Location", "https://idp.example/?back=http://localhost:5174/cb", "https://idp.example/?back=http://localhost:5174/cb"},
		{"Content-Location", "http://localhost:5174/a", here + "/a"},
		{"Refresh", "0; url=http://localhost:5174/a", "0; url=" + here + "/a"},
		{"Refresh", "0;URL=/a", "0;URL=/a"},
		{"Refresh", "0; url='http://localhost:5174/a'", "0; url='" + here + "/a'"},
		{"Set-Cookie", "a=b; Domain=localhost; Path=/", "a=b; Domain=" + public + "; Path=/"},
		{"Set-Cookie", "a=b;domain=.LOCALHOST;Secure", "a=b; Domain=" + public + ";Secure"},
		{"Set-Cookie", "a=localhost; Path=/", "a=localhost; Path=/"},
		{"Set-Cookie", "domain=localhost", "domain=localhost"},
		{"Set-Cookie", "a=b; Domain=example.com", "a=b; Domain=example.com"},
		{"Set-Cookie", "", ""},
		{"Link", "<http://localhost:5174/a>; rel=preload", "<http://localhost:5174/a>; rel=preload"},
	} {
		_, mask := Disguise(request("/"), vite, 5174, false)
		header := http.Header{row.name: {row.value}}
		mask.Undo(header, "https", public+":8443")
		if got := header[row.name][0]; got != row.want {
			t.Errorf("%s %q became %q, want %q", row.name, row.value, got, row.want)
		}
	}
}

func TestUndoLeavesAloneWhatWasNotMasked(t *testing.T) {
	_, mask := Disguise(request("/_next/a.js", "Origin", origin), next, 5174, false)
	header := http.Header{"Location": {"http://localhost:5174/"}, "Set-Cookie": {"a=b; Domain=localhost"}, "Access-Control-Allow-Origin": {"http://localhost:5174"}}
	mask.Undo(header, "https", public)
	if header.Get("Location") != "http://localhost:5174/" || header.Get("Set-Cookie") != "a=b; Domain=localhost" {
		t.Errorf("the Host was the client's own, but the response became %v", header)
	}
	if got := header.Get("Access-Control-Allow-Origin"); got != origin {
		t.Errorf("the page %s is not allowed to read the answer: %q", origin, got)
	}
}
