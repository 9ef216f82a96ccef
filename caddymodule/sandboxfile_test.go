package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

// standby is a Caddy without the sandbox app, that serves from a file.
type standby struct {
	*server
	file string
}

// newStandby prepares a server and names a file that does not exist, in a
// folder that does not exist either.
func newStandby(t *testing.T) *standby {
	t.Helper()
	s := newServer(t)
	return &standby{s, filepath.Join(s.dir, "config", "subdomain-proxy.json")}
}

const standbySite = `
	header >X-Sandbox "{http.sandbox.prefix} {http.sandbox.port} {http.sandbox.status}{http.sandbox.template}"
	sandbox_proxy {
		routes_file {file}
	}
`

// adapted is the configuration with one site; {file} stands for the file.
func (s *standby) adapted(t *testing.T, site string) []byte {
	t.Helper()
	adapted, err := adapt(strings.ReplaceAll(fmt.Sprintf(`{
		admin localhost:%d
		persist_config off
		auto_https off
		grace_period 1s
		storage file_system %s/storage
		log {
			output file %s/log
		}
	}
	http://:%d {
		%s
	}`, s.adminPort, s.dir, s.dir, s.sitePort, site), "{file}", s.file))
	if err != nil {
		t.Fatal(err)
	}
	return adapted
}

func (s *standby) run(t *testing.T, site string) {
	t.Helper()
	if err := caddy.Load(s.adapted(t, site), true); err != nil {
		t.Fatal(err)
	}
}

// routesText is the content of a file of routes; a route is a prefix, a port
// and a status.
func routesText(routes ...string) string {
	var entries []string
	for _, r := range routes {
		field := strings.Fields(r)
		entries = append(entries, fmt.Sprintf(`%q:{"target":"http://127.0.0.1:%s","status":%q}`, field[0], field[1], field[2]))
	}
	return fmt.Sprintf(`{"domain":%q,"routes":{%s}}`, testDomain, strings.Join(entries, ","))
}

// replace puts content in the place of the file, whole.
func (s *standby) replace(t *testing.T, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.file+".tmp", []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.file+".tmp", s.file); err != nil {
		t.Fatal(err)
	}
}

// serves waits until host answers with that text in it.
func (s *standby) serves(t *testing.T, prefix, text string) {
	t.Helper()
	eventually(t, func() error { return s.answers(t, prefix, text) })
}

func (s *standby) answers(t *testing.T, prefix, text string) error {
	t.Helper()
	res := s.get(t, hostOf(prefix), "/", asCurl)
	if body := read(t, res); !strings.Contains(body, text) {
		return fmt.Errorf("%s answers %d %s, want %q in it", prefix, res.StatusCode, body, text)
	}
	return nil
}

// startDevServer runs a dev server that calls itself name.
func startDevServer(t *testing.T, name string) (port int) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	dev := devserver.Server{
		Env:    map[string]string{"SANDBOX_PREFIX": name},
		Listen: func() (net.Listener, error) { return listener, nil },
		Stdout: io.Discard, Stderr: io.Discard,
	}
	var run sync.WaitGroup
	run.Go(func() { dev.Run(ctx, nil) })
	t.Cleanup(func() { cancel(); run.Wait() })
	return listener.Addr().(*net.TCPAddr).Port
}

func TestStandbyAnswersForEveryHost(t *testing.T) {
	s := newStandby(t)
	s.run(t, standbySite)
	if inForce.top() != nil {
		t.Fatal("the stand-by proxy made a sandbox app")
	}
	early := s.callURL(t, hostOf("keepsake"), "/").expect(t, http.StatusServiceUnavailable, 1108)
	if early.Header.Get("Retry-After") != "1" {
		t.Errorf("before there is a file: headers %v", early.Header)
	}
	page := s.get(t, hostOf("keepsake"), "/", asBrowser)
	if page.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("before there is a file: status %d", page.StatusCode)
	}
	checkPage(t, page, hostOf("keepsake"))

	port, dead := startDevServer(t, "the one"), instancetest.FreePort(t)
	s.replace(t, routesText(fmt.Sprintf("keepsake %d running", port), fmt.Sprintf("sleeping %d stopped", port),
		fmt.Sprintf("deadport %d running", dead), fmt.Sprintf("startup1 %d starting", dead)))
	s.serves(t, "keepsake", "the one")
	if got, want := s.get(t, hostOf("keepsake"), "/", nil).Header.Get("X-Sandbox"), fmt.Sprintf("keepsake %d running", port); got != want {
		t.Errorf("placeholders: got %q, want %q", got, want)
	}
	for _, row := range []struct {
		host         string
		status, code int
		text         string
	}{
		{hostOf("whoknows"), 404, 1004, "there is no instance"},
		{"example.com", 404, 1004, "there is no instance"},
		{testDomain, 404, 1004, "there is no instance"},
		{"more." + hostOf("keepsake"), 404, 1004, "there is no instance"},
		{hostOf("sleeping"), 503, 1105, "the instance is stopped"},
		{hostOf("deadport"), 503, 1105, "does not answer"},
		{hostOf("startup1"), 503, 1105, "the instance is starting"},
	} {
		a := s.callURL(t, row.host, "/").expect(t, row.status, row.code)
		if !strings.Contains(a.Message, row.text) || row.status == 503 && a.Header.Get("Retry-After") == "" {
			t.Errorf("%s: got %s with %v", row.host, a.raw, a.Header)
		}
		page := s.get(t, row.host, "/", asBrowser)
		if page.StatusCode != row.status {
			t.Errorf("%s: a browser got %d, want %d", row.host, page.StatusCode, row.status)
		}
		checkPage(t, page, row.host)
	}
}

func TestStandbyFollowsTheFileWithinASecond(t *testing.T) {
	s := newStandby(t)
	first, second := startDevServer(t, "first"), startDevServer(t, "second")
	one := routesText(fmt.Sprintf("keepsake %d running", first))
	other := routesText(fmt.Sprintf("keepsake %d running", second))
	s.replace(t, one)
	s.run(t, standbySite)
	s.serves(t, "keepsake", "first")

	for _, row := range []struct {
		name, want string
		change     func() error
	}{
		{"renamed over", "second", func() error { s.replace(t, other); return nil }},
		{"written in place", "first", func() error { return os.WriteFile(s.file, []byte(one), 0o644) }},
		{"in another folder of that name", "second", func() error {
			if err := os.Rename(filepath.Dir(s.file), filepath.Dir(s.file)+".old"); err != nil {
				return err
			}
			s.replace(t, other)
			return nil
		}},
		{"behind a link", "first", func() error {
			aside := filepath.Join(s.dir, "aside.json")
			if err := os.WriteFile(aside, []byte(one), 0o644); err != nil {
				return err
			}
			if err := os.Remove(s.file); err != nil {
				return err
			}
			return os.Symlink(aside, s.file)
		}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if err := row.change(); err != nil {
				t.Fatal(err)
			}
			changed := time.Now()
			var looks instancetest.Pulse
			eventually(t, func() error {
				looks.Beat()
				return s.answers(t, "keepsake", row.want)
			})
			// Without these looks, the machine stood still, and not the product.
			if took, still := time.Since(changed), looks.Still(); took > time.Second && still < time.Second/2 {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestStandbyServesThroughAThousandRewrites(t *testing.T) {
	const clients, rewrites = 8, 1000
	s := newStandby(t)
	texts := [2]string{
		routesText(fmt.Sprintf("keepsake %d running", startDevServer(t, "even"))),
		routesText(fmt.Sprintf("keepsake %d running", startDevServer(t, "odd"))),
	}
	s.replace(t, texts[0])
	s.run(t, standbySite)

	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked [clients]map[string]int // what each client got
	for n := range clients {
		asked[n] = map[string]int{}
		asking.Go(func() {
			for ctx.Err() == nil {
				res := s.get(t, hostOf("keepsake"), "/", asCurl)
				asked[n][fmt.Sprintf("%d %s", res.StatusCode, strings.TrimSpace(read(t, res)))]++
			}
		})
	}
	pace := time.NewTicker(2 * time.Millisecond) // so that it is looked at ten times meanwhile
	defer pace.Stop()
	for n := range rewrites {
		<-pace.C
		s.replace(t, texts[n%2])
	}
	s.serves(t, "keepsake", "odd") // the last one
	stop()
	asking.Wait()
	both := map[string]int{}
	for _, got := range asked {
		for answer, count := range got {
			both[answer] += count
		}
	}
	if len(both) != 2 || both["200 hello from even"] == 0 || both["200 hello from odd"] == 0 {
		t.Errorf("the clients got %v, want 200 from each of the two and nothing else", both)
	}
	if log := s.log(t); strings.Contains(log, "file of routes") {
		t.Errorf("the log complains of the file: %s", log)
	}
}

func TestStandbyKeepsTheLastGoodRoutes(t *testing.T) {
	s := newStandby(t)
	s.run(t, "respond ok") // for its log
	good := routesText("keepsake 5174 running", "x 5175 running")
	s.replace(t, good)
	f := &routesFile{path: s.file} // followed by hand, so that each look is seen
	f.refresh()
	if f.table.Load() == nil {
		t.Fatal("the file was not read")
	}
	counts := func(complaints, recoveries, skipped int) {
		t.Helper()
		log := s.log(t)
		for text, want := range map[string]int{
			"the last good routes stay": complaints, "good again": recoveries, "cannot be served": skipped,
		} {
			if got := strings.Count(log, text); got != want {
				t.Errorf("%q is in the log %d times, want %d", text, got, want)
			}
		}
	}
	counts(0, 0, 1)
	for name, spoil := range map[string]func() error{
		"missing":          func() error { return os.Remove(s.file) },
		"empty":            func() error { return os.WriteFile(s.file, nil, 0o644) },
		"half-written":     func() error { return os.WriteFile(s.file, []byte(good[:len(good)/2]), 0o644) },
		"without routes":   func() error { return os.WriteFile(s.file, []byte("{}"), 0o644) },
		"a folder":         func() error { return os.Mkdir(s.file, 0o755) },
		"a named pipe":     func() error { return syscall.Mkfifo(s.file, 0o600) },
		"a link to itself": func() error { return os.Symlink(s.file, s.file) },
	} {
		if err := os.RemoveAll(s.file); err != nil {
			t.Fatal(err)
		}
		if name == "missing" {
			s.replace(t, "x")
		}
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		f.refresh()
		if dial, err := f.table.Load().find(request.Target{Prefix: "keepsake"}); err != nil || dial != "127.0.0.1:5174" {
			t.Errorf("%s: keepsake is dialled at %q, %v", name, dial, err)
		}
	}
	counts(1, 0, 1)
	if err := os.RemoveAll(s.file); err != nil {
		t.Fatal(err)
	}
	s.replace(t, routesText("keepsake 5176 running", "x 5175 running"))
	f.refresh()
	f.refresh()
	if dial, _ := f.table.Load().find(request.Target{Prefix: "keepsake"}); dial != "127.0.0.1:5176" {
		t.Errorf("the good file is not followed: %q", dial)
	}
	counts(1, 1, 1)
	if err := os.Remove(s.file); err != nil {
		t.Fatal(err)
	}
	f.refresh()
	counts(2, 1, 1)
}

// A reader in a tight loop beside a thousand renames never finds the file
// missing or in pieces.
func TestRoutesFileIsNeverSeenInPieces(t *testing.T) {
	s := newStandby(t)
	texts := [2]string{routesText("keepsake 5174 running"), routesText("keepsake 5174 running", "another1 5175 stopped")}
	s.replace(t, texts[0])
	f := &routesFile{path: s.file}
	renamed := make(chan struct{})
	go func() {
		defer close(renamed)
		for n := range 1000 {
			s.replace(t, texts[n%2])
		}
	}()
	for looking := true; looking; {
		select {
		case <-renamed:
			looking = false
		default:
		}
		if f.refresh(); f.broken {
			t.Fatal("the file was found broken")
		}
	}
	if got := len(f.table.Load().table); got != 2 {
		t.Errorf("the last file is not the one in force: %d routes", got)
	}
}

func TestRoutesFileIsReadOnlyWhenItChanged(t *testing.T) {
	s := newStandby(t)
	s.replace(t, routesText("keepsake 5174 running"))
	old := time.Now().Add(-time.Hour)
	if err := os.Chtimes(s.file, old, old); err != nil {
		t.Fatal(err)
	}
	f := &routesFile{path: s.file}
	f.refresh()
	table := f.table.Load()
	f.refresh()
	if f.table.Load() != table {
		t.Error("it was read again")
	}
	// A new file of the same size and time, as quick writers leave them.
	s.replace(t, routesText("keepsake 5175 running"))
	if err := os.Chtimes(s.file, old, old); err != nil {
		t.Fatal(err)
	}
	if f.refresh(); f.table.Load() == table {
		t.Error("it was not read again")
	}
}

func TestStandbyWebSocketOutlivesReloads(t *testing.T) {
	s := newStandby(t)
	s.replace(t, routesText(fmt.Sprintf("keepsake %d running", startDevServer(t, "hot"))))
	s.run(t, standbySite)
	socket := s.dialWebSocket(t, "keepsake")
	echo(t, socket, "before")
	if err := os.Remove(s.file); err != nil { // the routes outlive a reload, too
		t.Fatal(err)
	}
	for n := range 3 {
		s.run(t, fmt.Sprintf("header X-Reload %d\n", n)+standbySite)
		echo(t, socket, fmt.Sprintf("after reload %d", n))
		s.serves(t, "keepsake", "hot")
		if refs, _ := routesFiles.References(s.file); refs != 2 { // the handler's and the upstream source's
			t.Fatalf("%d references to the file after reload %d, want 2", refs, n)
		}
	}
}

func TestUpstreamsOfAFileAlone(t *testing.T) {
	s := newStandby(t)
	port := startDevServer(t, "the one")
	s.replace(t, routesText(fmt.Sprintf("keepsake %d running", port), fmt.Sprintf("sleeping %d stopped", port)))
	s.run(t, `
		reverse_proxy {
			dynamic sandbox_file {file}
			header_up Host inner.example
		}
	`)
	if inForce.top() != nil {
		t.Fatal("the upstream source made a sandbox app")
	}
	if body := read(t, s.get(t, hostOf("keepsake"), "/headers", nil)); !strings.Contains(body, "inner.example") {
		t.Errorf("got %q", body)
	}
	for _, prefix := range []string{"whoknows", "sleeping"} {
		if res := s.get(t, hostOf(prefix), "/", nil); res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: status %d, want 503", prefix, res.StatusCode)
		}
	}
	if log := s.log(t); strings.Contains(log, "falling back to static upstreams") {
		t.Error("an unknown host is logged as an error of the upstream source")
	}
}

func TestRoutesFileNeedsAPath(t *testing.T) {
	s := newStandby(t)
	for _, site := range []string{"sandbox_proxy {\n routes_file \"{env.SANDBOX_TEST_UNSET}\"\n }",
		"reverse_proxy {\n dynamic sandbox_file \"{env.SANDBOX_TEST_UNSET}\"\n }"} {
		var c caddy.Config
		if err := json.Unmarshal(s.adapted(t, site), &c); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&c); err == nil || !strings.Contains(err.Error(), "the path of the file is missing") {
			t.Errorf("got %v", err)
		}
	}
}

func TestValidateDoesNotFollowTheFile(t *testing.T) {
	s := newStandby(t)
	s.replace(t, "broken")
	var c caddy.Config
	if err := json.Unmarshal(s.adapted(t, standbySite), &c); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&c); err != nil {
		t.Fatal(err)
	}
	if _, ok := routesFiles.References(s.file); ok {
		t.Error("validating left the file in the pool")
	}
}

func TestRoutesFileEndsWithItsLastReference(t *testing.T) {
	path := filepath.Join(t.TempDir(), "routes.json")
	for _, used := range []bool{true, false} {
		f, err := acquireRoutes(path)
		if err != nil {
			t.Fatal(err)
		}
		again, err := acquireRoutes(filepath.Join(filepath.Dir(path), ".", "routes.json"))
		if err != nil || again != f {
			t.Fatalf("the same path is another file: %v", err)
		}
		if used {
			f.routes()
		}
		if err := f.release(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.done:
			t.Error("it ended while there was a reference")
		default:
		}
		if err := again.release(); err != nil {
			t.Fatal(err)
		}
		select {
		case <-f.done:
		default:
			t.Errorf("used %t: it goes on without a reference", used)
		}
		f.routes() // a request that is still in progress
	}
}
