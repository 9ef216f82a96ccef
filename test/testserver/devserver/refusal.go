package devserver

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
)

// Seen is a request as it arrived.
type Seen struct {
	Method  string `json:"method"`
	Path    string `json:"path"`
	Host    string `json:"host"`
	Origin  string `json:"origin"`
	Referer string `json:"referer"`
}

// requestLog keeps what was asked for, but for /seen itself.
type requestLog struct {
	mu       sync.Mutex
	requests []Seen
}

func (l *requestLog) record(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/seen" {
			l.mu.Lock()
			l.requests = append(l.requests, Seen{r.Method, r.URL.Path, r.Host, r.Header.Get("Origin"), r.Header.Get("Referer")})
			l.mu.Unlock()
		}
		next.ServeHTTP(w, r)
	})
}

func (l *requestLog) all() []Seen {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]Seen{}, l.requests...)
}

// refusing is next behind the checks of the dev server that mode names. They
// are those of the real ones, but that hosts below localhost, which those let
// in, are foreign here: tests have no other ones. GET /seen is open to all.
func refusing(mode string, next http.Handler) http.Handler {
	refuse := map[string]func(http.ResponseWriter, *http.Request) bool{
		"vite": refuseAsVite, "webpack": refuseAsWebpack, "next": refuseAsNext,
	}[mode]
	if refuse == nil {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/seen" || !refuse(w, r) {
			next.ServeHTTP(w, r)
		}
	})
}

func refuseAsVite(w http.ResponseWriter, r *http.Request) bool {
	if local(r.Host) {
		return false
	}
	if r.Header.Get("Upgrade") != "" {
		w.WriteHeader(http.StatusBadRequest)
		return true
	}
	host, _, _ := strings.Cut(r.Host, ":")
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusForbidden)
	_ = http.NewResponseController(w).Flush() // Node sends its length in chunks, too
	_, _ = fmt.Fprintf(w, "Blocked request. This host (%q) is not allowed.\nTo allow this host, add %[1]q to `server.allowedHosts` in vite.config.js.", host)
	return true
}

func refuseAsWebpack(w http.ResponseWriter, r *http.Request) bool {
	if r.Header.Get("Upgrade") == "" {
		if local(r.Host) {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		_, _ = io.WriteString(w, "Invalid Host header")
		return true
	}
	if local(r.Host) && localOrigin(r.Header.Get("Origin")) {
		return false
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return true
	}
	defer func() { _ = conn.Close() }()
	const text, closing = 0x81, 0x88
	writeHandshake(buffered, r)
	frame{text, []byte(`{"type":"error","data":"Invalid Host/Origin header"}`)}.writeTo(buffered.Writer)
	frame{closing, nil}.writeTo(buffered.Writer)
	_ = buffered.Flush()
	return true
}

func refuseAsNext(w http.ResponseWriter, r *http.Request) bool {
	if !strings.HasPrefix(r.URL.Path, "/_next") && !strings.HasPrefix(r.URL.Path, "/__nextjs") {
		return false
	}
	from, sent := r.Header["Origin"]
	if r.Header.Get("Sec-Fetch-Mode") == "no-cors" && r.Header.Get("Sec-Fetch-Site") == "cross-site" {
		from, sent = r.Header["Referer"], true
	}
	if !sent || len(from) == 1 && localOrigin(from[0]) {
		return false
	}
	if r.Header.Get("Upgrade") != "" {
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			_, _ = io.WriteString(conn, "Unauthorized")
			_ = conn.Close()
		}
		return true
	}
	w.WriteHeader(http.StatusForbidden)
	_, _ = io.WriteString(w, "Unauthorized")
	return true
}

// local reports whether a host, with or without a port, is this machine.
func local(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return host == "localhost" || net.ParseIP(host) != nil
}

func localOrigin(origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && local(u.Host)
}
