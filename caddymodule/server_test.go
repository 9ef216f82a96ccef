package caddymodule

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // the Caddy that these tests run

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

const (
	testDomain = "sandbox.localhost"
	testToken  = "secret"
)

// server is the Caddy of this process with the plugin, and a container engine
// in memory behind it. There is one at a time, so such tests are not parallel.
type server struct {
	engine    *instancetest.Engine
	dir       string // of all files; the state directory is in it
	adminPort int
	sitePort  int
	ports     instance.PortRange
	client    *http.Client // reaches the sites by any host name
}

// patientProxy are lines of sandbox_proxy that give the machine time to stand still
// while a dev server is dialled.
const patientProxy = "transport sandbox {\n dial_timeout 1m\n }"

// config is what a test wants different from the standard configuration.
type config struct {
	state     string // name of the state directory
	sandbox   string // more lines of the global option sandbox
	templates string // in place of the standard one
	proxy     string // lines of sandbox_proxy
	sites     string // in place of the standard ones
	options   string // more global options
}

// newServer prepares a server that runs nothing yet.
func newServer(t *testing.T) *server {
	t.Helper()
	s := &server{
		engine:    instancetest.NewEngine(t),
		dir:       t.TempDir(),
		adminPort: instancetest.FreePort(t),
		sitePort:  instancetest.FreePort(t),
	}
	first := instancetest.FreePorts(t, 20)
	s.ports = instance.PortRange{First: first, Last: first + 19}
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", s.site())
	}}
	s.client = &http.Client{Transport: patient{transport}}

	docker := newRuntime
	newRuntime = func(_, owner string) (instance.Runtime, error) { return s.engine.Runtime(owner), nil }
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		var last []*hook
		hooks.Range(func(_, h any) bool { last = append(last, h.(*hook)); return true })
		if err := caddy.Stop(); err != nil {
			t.Error(err)
		}
		endHooks(last, 10*time.Second) // some write into the folder that is removed next
		newRuntime = docker
		if inForce.top() != nil {
			t.Error("a configuration is still in force after Caddy stopped")
		}
		engines.Range(func(key, _ any) bool {
			t.Errorf("the engine of %v is still in the pool after Caddy stopped", key)
			return true
		})
		routesFiles.Range(func(key, _ any) bool {
			t.Errorf("the file of routes %v is still in the pool after Caddy stopped", key)
			return true
		})
		hooks.Range(func(key, _ any) bool {
			t.Errorf("the hook %v is still in the pool after Caddy stopped", key)
			return true
		})
	})
	return s
}

// startServer runs the standard configuration, but for c.
func startServer(t *testing.T, c config) *server {
	t.Helper()
	s := newServer(t)
	if err := s.load(t, c); err != nil {
		t.Fatal(err)
	}
	return s
}

// patient tries again when a server closes the connection without an answer:
// net/http does so to one that it accepted before a reload and gets the first
// request on after it, and no module can keep it from that.
type patient struct{ http.RoundTripper }

func (p patient) RoundTrip(r *http.Request) (*http.Response, error) {
	for tries := 1; ; tries++ {
		res, err := p.RoundTripper.RoundTrip(r)
		if !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) || tries == 5 {
			return res, err
		}
		if r.GetBody != nil {
			if r.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
	}
}

var adminClient = &http.Client{Transport: patient{http.DefaultTransport}}

// load runs a configuration, or reloads with it. Ports that were free may have
// been taken by another process; as long as nobody knows them, others do.
func (s *server) load(t *testing.T, c config) error {
	t.Helper()
	for tries := 1; ; tries++ {
		adapted, err := adapt(s.caddyfile(c))
		if err != nil {
			return err
		}
		err = caddy.Load(adapted, true)
		if inForce.top() != nil || !strings.Contains(fmt.Sprint(err), "address already in use") || tries == 5 {
			return err
		}
		s.adminPort, s.sitePort = instancetest.FreePort(t), instancetest.FreePort(t)
	}
}

func adapt(text string) ([]byte, error) {
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(text), map[string]any{"filename": "Caddyfile"})
	if err != nil {
		return nil, err
	}
	for _, warning := range warnings {
		if !strings.Contains(warning.Message, "not formatted") {
			return nil, fmt.Errorf("adapting: %s", warning)
		}
	}
	return adapted, nil
}

func (s *server) caddyfile(c config) string {
	templates := cmp.Or(c.templates, "template web {\n image "+instancetest.Image+"\n ready 1m\n }")
	sites := cmp.Or(c.sites, `
		http://api.localhost:{site} {
			sandbox_api {
				token `+testToken+`
			}
			respond "from the site"
		}
		http://:{site} {
			sandbox_proxy {
				{proxy}
			}
		}
	`)
	text := strings.NewReplacer("{sites}", sites, "{sandbox}", c.sandbox).Replace(`{
		admin localhost:{admin}
		persist_config off
		auto_https off
		grace_period 1s
		storage file_system {dir}/storage
		log {
			output file {dir}/log
			level debug
		}
		{options}
		sandbox {
			domain {domain}
			state_dir {dir}/{state}
			ports {ports}
			{sandbox}
			{templates}
		}
	}
	{sites}`)
	return strings.NewReplacer(
		"{admin}", fmt.Sprint(s.adminPort), "{site}", fmt.Sprint(s.sitePort), "{dir}", s.dir,
		"{domain}", testDomain, "{ports}", s.ports.String(), "{state}", cmp.Or(c.state, "state"),
		"{options}", c.options, "{templates}", templates, "{proxy}", cmp.Or(c.proxy, patientProxy),
	).Replace(text)
}

func (s *server) admin() string { return fmt.Sprintf("http://localhost:%d", s.adminPort) }
func (s *server) site() string  { return fmt.Sprintf("127.0.0.1:%d", s.sitePort) }
func (s *server) state() string { return filepath.Join(s.dir, "state") }

// log is what Caddy has logged so far.
func (s *server) log(t *testing.T) string {
	t.Helper()
	log, err := os.ReadFile(filepath.Join(s.dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	return string(log)
}

// engineCalls counts the calls that touch containers.
func (s *server) engineCalls() int {
	total := 0
	for _, method := range []string{"Create", "Start", "Stop", "Remove", "Inspect", "List", "Logs", "Watch"} {
		total += s.engine.Calls(method)
	}
	return total
}

// answer is an answer of the API.
type answer struct {
	Status    int                        `json:"-"`
	Header    http.Header                `json:"-"`
	Code      int                        `json:"code"`
	Message   string                     `json:"message"`
	Data      map[string]json.RawMessage `json:"data"`
	RequestID string                     `json:"request_id"`
	raw       string
}

// detail is one field of the data, as JSON.
func (a answer) detail(key string) string { return string(a.Data[key]) }

// text is one field of the data that is a string.
func (a answer) text(key string) string {
	var s string
	_ = json.Unmarshal(a.Data[key], &s)
	return s
}

func (a answer) expect(t *testing.T, status, code int) answer {
	t.Helper()
	if a.Status != status || a.Code != code {
		t.Fatalf("got %d with code %d, want %d with code %d: %s", a.Status, a.Code, status, code, a.raw)
	}
	return a
}

// call asks the API on the admin endpoint.
func (s *server) call(t *testing.T, method, path, body string) answer {
	t.Helper()
	return s.callAt(t, s.admin()+path, method, body, nil)
}

// callSite asks the API on its site.
func (s *server) callSite(t *testing.T, method, path, body string) answer {
	t.Helper()
	return s.callAt(t, fmt.Sprintf("http://api.localhost:%d%s", s.sitePort, path), method, body,
		http.Header{"Authorization": {"Bearer " + testToken}})
}

func (s *server) callAt(t *testing.T, url, method, body string, header http.Header) answer {
	t.Helper()
	client := s.client
	if strings.HasPrefix(url, s.admin()) {
		client = adminClient
	}
	req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	return readAnswer(t, res)
}

func readAnswer(t *testing.T, res *http.Response) answer {
	t.Helper()
	defer res.Body.Close()
	raw, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	a := answer{Status: res.StatusCode, Header: res.Header, raw: string(raw)}
	if kind := res.Header.Get("Content-Type"); kind != "application/json" {
		t.Fatalf("got %d with Content-Type %q, want JSON: %s", res.StatusCode, kind, raw)
	}
	if len(bytes.TrimSpace(raw)) > 0 {
		if err := json.Unmarshal(raw, &a); err != nil {
			t.Fatalf("decoding %s: %v", raw, err)
		}
	}
	return a
}

// create makes an instance that runs.
func (s *server) create(t *testing.T, prefix string) instance.Instance {
	t.Helper()
	s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q}`, prefix)).expect(t, http.StatusCreated, 0)
	got, err := inForce.top().manager().Get(prefix)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

// get asks a site for a page.
func (s *server) get(t *testing.T, host, path string, header http.Header) *http.Response {
	t.Helper()
	return s.send(t, http.MethodGet, host, path, header, nil)
}

// do sends a request with a body, which comes in chunks.
func (s *server) do(t *testing.T, method, host, path string, header http.Header, body string) *http.Response {
	t.Helper()
	return s.send(t, method, host, path, header, io.NopCloser(strings.NewReader(body)))
}

func (s *server) send(t *testing.T, method, host, path string, header http.Header, body io.Reader) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://"+host+path, body)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

// read is the whole body of a response.
func read(t *testing.T, res *http.Response) string {
	t.Helper()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	return string(body)
}

func hostOf(prefix string) string { return prefix + "." + testDomain }

// eventually waits until check finds nothing to complain of. Its patience is so
// many looks, not so much time: a machine that stands still has none. On one that
// does not they take 10 s, in which no relist makes up for an event that was missed.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	var err error
	for range 1000 {
		if err = check(); err == nil {
			return
		}
		time.Sleep(10 * time.Millisecond) // between two looks at the condition
	}
	t.Fatal(err)
}

// reload loads c, which must not wait for what goes on until the test ends it.
func (s *server) reload(t *testing.T, c config) {
	t.Helper()
	loaded := make(chan error, 1)
	go func() { loaded <- s.load(t, c) }()
	select {
	case err := <-loaded:
		if err != nil {
			t.Fatal(err)
		}
	case <-time.After(time.Minute):
		t.Fatal("the reload waits")
	}
}
