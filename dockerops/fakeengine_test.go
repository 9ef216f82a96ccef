package dockerops

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// fakeEngine is an engine on a real socket that answers as a test wants. It
// answers pings, and passes all else to its mux without the version in front.
type fakeEngine struct {
	*http.ServeMux
	socket  string
	server  *httptest.Server
	version atomic.Value // of the API, a string; "" leaves the header out

	mu      sync.Mutex
	asked   []string       // API versions of the requests, pings aside
	started map[string]int // requests by method and path, pings included
}

var versionInPath = regexp.MustCompile(`^/v(\d+\.\d+)(/.*)$`)

func newFakeEngine(t testing.TB) *fakeEngine {
	t.Helper()
	f := &fakeEngine{ServeMux: http.NewServeMux(), socket: socketPath(t), started: map[string]int{}}
	f.version.Store("1.41")
	f.open(t)
	t.Cleanup(func() { f.close() })
	return f
}

func (f *fakeEngine) open(t testing.TB) {
	t.Helper()
	f.server = &httptest.Server{Listener: listenOn(t, f.socket), Config: &http.Server{Handler: http.HandlerFunc(f.serve)}}
	f.server.Start()
}

// close cuts all connections, and removes the socket.
func (f *fakeEngine) close() {
	f.server.CloseClientConnections()
	f.server.Close()
}

func (f *fakeEngine) host() string { return "unix://" + f.socket }

func (f *fakeEngine) serve(w http.ResponseWriter, r *http.Request) {
	// The server notices that a client has left only once the body was read.
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	version := ""
	if parts := versionInPath.FindStringSubmatch(r.URL.Path); parts != nil {
		version, r.URL.Path = parts[1], parts[2]
	}
	f.mu.Lock()
	f.started[r.Method+" "+r.URL.Path]++
	if version != "" {
		f.asked = append(f.asked, version)
	}
	f.mu.Unlock()
	if r.URL.Path == "/_ping" {
		if version := f.version.Load().(string); version != "" {
			w.Header().Set("Api-Version", version)
		}
		return
	}
	f.ServeMux.ServeHTTP(w, r)
}

// requests counts those of "METHOD /path" so far.
func (f *fakeEngine) requests(request string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.started[request]
}

// lastVersion is the API version of the last request but pings.
func (f *fakeEngine) lastVersion() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.asked) == 0 {
		return ""
	}
	return f.asked[len(f.asked)-1]
}

// fail answers every request of that pattern as an engine that fails does.
func (f *fakeEngine) fail(pattern string, status int, message string) {
	f.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, `{"message":%q}`, message)
	})
}

// answer answers every request of that pattern with body.
func (f *fakeEngine) answer(pattern, body string) {
	f.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(body)) })
}

// socketPath is short: Linux allows 107 bytes, and t.TempDir holds the name of
// the test.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "engine")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "docker.sock")
}

func listenOn(t testing.TB, socket string) net.Listener {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	must(t, err)
	return listener
}

// newSilentEngine accepts connections and never answers.
func newSilentEngine(t *testing.T) (host string) {
	t.Helper()
	socket := socketPath(t)
	listener := listenOn(t, socket)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var conns []net.Conn
		for {
			conn, err := listener.Accept()
			if err != nil {
				break
			}
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-ended })
	return "unix://" + socket
}

// testOwner is the owner of a client of a fake engine.
const testOwner = "01234567-89ab-4def-8123-456789abcdef"

// clientOn is a client of a fake engine. No answer that comes is too late for
// it: what waits for a deadline in vain shortens that one.
func clientOn(t testing.TB, host string) *Client {
	t.Helper()
	c, err := New(Options{Host: host, Owner: testOwner})
	must(t, err)
	c.Deadlines = allDeadlines(time.Minute)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// hastyOn is a client of a fake engine that does not answer.
func hastyOn(t testing.TB, host string) *Client {
	t.Helper()
	c := clientOn(t, host)
	c.Deadlines = allDeadlines(soon)
	return c
}

// soon is a deadline that a test waits for.
const soon = 200 * time.Millisecond

func allDeadlines(d time.Duration) Deadlines {
	return Deadlines{Ping: d, List: d, Inspect: d, Change: d, Logs: d, Pull: d}
}

// noGoroutineLeft checks, after all else of the test was cleaned up, that the
// goroutines of the test have ended. Call it first.
func noGoroutineLeft(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		goleak.VerifyNone(t, before)
	})
}
