package devserver

import (
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Mask is what a request was given in place of the client's own values. The
// zero value is none.
type Mask struct {
	host    bool   // the Host is local's
	referer bool   // the Referer is local's
	local   string // host and port that the dev server was told
	origin  string // the client's Origin, where the dev server was told another
	page    string // that other one
}

// Disguise returns r the way a dev server of that mode takes it, one that
// listens on port in its container: r itself, where it takes that. vouched tells
// that the page which r's Referer names may load what a dev server keeps from
// strangers.
func Disguise(r *http.Request, mode instance.Mode, port int, vouched bool) (*http.Request, Mask) {
	m := Mask{host: mode.HostHeader == instance.HostLocalhost}
	hidden := r.Header["Origin"] != nil && hidesOrigin(r, mode.Dev)
	posted := mode.Dev == instance.DevVite && postsToItself(r)
	m.referer = vouched && mode.Dev == instance.DevNext && guarded(r.URL.Path)
	if !m.host && !hidden && !posted && !m.referer {
		return r, m
	}
	m.local = "localhost:" + strconv.Itoa(port)
	disguised := *r
	if m.host {
		disguised.Host = m.local
	}
	if hidden || posted || m.referer {
		disguised.Header = maps.Clone(r.Header)
	}
	if hidden || posted {
		m.origin = r.Header.Get("Origin")
		m.page = "http://" + m.local
		if !hidden {
			m.page = "http://" + disguised.Host
		}
		disguised.Header["Origin"] = []string{m.page}
	}
	if m.referer {
		disguised.Header["Referer"] = []string{"http://" + m.local + "/"}
	}
	return &disguised, m
}

// hidesOrigin reports whether a dev server takes r from its own page alone,
// which it believes to be at localhost. As long as nobody knows what it is,
// nothing is hidden: an app may have such paths, too.
func hidesOrigin(r *http.Request, dev instance.Dev) bool {
	upgrade := r.Header["Upgrade"] != nil
	switch dev {
	case instance.DevNext:
		return guarded(r.URL.Path)
	case instance.DevVite:
		protocol := subprotocol(r.Header)
		return upgrade && (protocol == viteHMR || protocol == vitePing)
	case instance.DevWebpack:
		return upgrade && webpackChannel(r.URL.Path)
	}
	return false
}

// postsToItself reports whether a page sends r to the host that it came from,
// and r may change something. Frameworks on Vite take such requests from
// themselves alone: Astro compares the Origin with what it takes for its own,
// its scheme and the Host that it got.
func postsToItself(r *http.Request) bool {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		_, host, _ := strings.Cut(r.Header.Get("Origin"), "://")
		return host != "" && strings.EqualFold(host, r.Host)
	}
	return false
}

// guarded reports whether a path is one that Next.js keeps from other sites:
// what it serves to its own pages, the HMR socket (/_next/hmr, and
// /_next/webpack-hmr before 16) among it. A base path may come before.
func guarded(path string) bool {
	return strings.Contains(path, "/_next/") || strings.Contains(path, "/__nextjs")
}

// webpackChannel reports whether a path is that of the socket of
// webpack-dev-server by default.
func webpackChannel(path string) bool {
	return path == "/ws" || path == "/sockjs-node" || strings.HasPrefix(path, "/sockjs-node/")
}

// The subprotocols of the WebSockets of Vite's client.
const (
	viteHMR  = "vite-hmr"
	vitePing = "vite-ping" // asks whether the server is back
)

// subprotocol is the one that a WebSocket asks for, if it is one. Caddy spells
// the name of the header as RFC 6455 does, net/http in its own way.
func subprotocol(header http.Header) string {
	for _, name := range []string{"Sec-WebSocket-Protocol", "Sec-Websocket-Protocol"} {
		if values := header[name]; len(values) == 1 {
			return values[0]
		}
	}
	return ""
}

// Undo puts into a response what the client has to see instead of the mask.
// proto and host are how the client reaches us, such as https and
// app.example.com:8443.
func (m Mask) Undo(header http.Header, proto, host string) {
	if m.origin != "" {
		if allowed := header["Access-Control-Allow-Origin"]; len(allowed) == 1 && allowed[0] == m.page {
			header["Access-Control-Allow-Origin"] = []string{m.origin}
		}
	}
	if !m.host {
		return
	}
	for _, name := range []string{"Location", "Content-Location", "Refresh"} {
		if values := header[name]; len(values) == 1 {
			header[name] = []string{m.back(values[0], proto, host)}
		}
	}
	for i, cookie := range header["Set-Cookie"] {
		header["Set-Cookie"][i] = backCookie(cookie, host)
	}
}

// back replaces the origin that the dev server believes in, at the beginning
// of a URL or of the URL that a Refresh ends with.
func (m Mask) back(value, proto, host string) string {
	for _, scheme := range []string{"http://", "https://", "//"} {
		before, rest, found := strings.Cut(value, scheme+m.local)
		if !found || rest != "" && strings.IndexByte("/?#", rest[0]) < 0 {
			continue
		}
		if before != "" && !strings.HasSuffix(strings.ToLower(strings.TrimRight(before, ` '"`)), "url=") {
			continue // it is but a part of another URL
		}
		if scheme == "//" {
			return before + "//" + host + rest
		}
		return before + proto + "://" + host + rest
	}
	return value
}

// backCookie makes a cookie for localhost one for the host that the client
// knows.
func backCookie(cookie, host string) string {
	parts := strings.Split(cookie, ";")
	for i, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		value = strings.TrimPrefix(strings.TrimSpace(value), ".")
		if strings.EqualFold(strings.TrimSpace(name), "Domain") && strings.EqualFold(value, "localhost") {
			name, _, _ := strings.Cut(host, ":")
			parts[i+1] = " Domain=" + name
		}
	}
	return strings.Join(parts, ";")
}
