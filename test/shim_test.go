package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// faultyEngine is a socket in front of the Docker Engine at which single calls
// go wrong. Unlike [dockerShim], which works below it, it knows HTTP.
type faultyEngine struct {
	forward *httputil.ReverseProxy

	mu      sync.Mutex // guards the following
	conns   map[net.Conn]bool
	fault   fault             // nil: all is well
	healed  chan struct{}     // closed when the fault ends
	lost    func(string) bool // says which lines of the event stream get lost; nil: none
	version string            // that the engine claims to speak; empty: its own
	oldest  string            // that it then accepts

	changing     int // calls that change containers, now
	mostChanging int
}

// fault answers a call, or does not.
type fault func(f *faultyEngine, w http.ResponseWriter, r *http.Request)

// startFaultyEngine opens one and returns its endpoint. It is faultless until
// told otherwise.
func startFaultyEngine(t testing.TB) (f *faultyEngine, endpoint string) {
	t.Helper()
	path := socketPath(t)
	socket, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	f = &faultyEngine{conns: map[net.Conn]bool{}, healed: make(chan struct{})}
	network, address, _ := strings.Cut(engine.DaemonHost(), "://")
	f.forward = &httputil.ReverseProxy{
		Rewrite:        func(r *httputil.ProxyRequest) { r.SetURL(&url.URL{Scheme: "http", Host: "docker"}) },
		FlushInterval:  -1, // streams
		ModifyResponse: f.change,
		ErrorHandler:   func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, address)
		}},
	}
	server := &http.Server{Handler: f, ConnState: f.keep}
	go func() { _ = server.Serve(socket) }()
	t.Cleanup(func() { server.Close() })
	return f, "unix://" + path
}

// suffer begins a fault.
func (f *faultyEngine) suffer(what fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.healed = what, make(chan struct{})
}

// heal ends it. Calls that hang are cut: what hung is not made up for.
func (f *faultyEngine) heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.fault, f.lost = nil, nil
	close(f.healed)
}

// keep knows which connections there are.
func (f *faultyEngine) keep(conn net.Conn, state http.ConnState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if state == http.StateClosed {
		delete(f.conns, conn)
	} else {
		f.conns[conn] = true
	}
}

// cut ends all connections, as an engine does that is replaced.
func (f *faultyEngine) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.conns {
		conn.Close()
	}
}

// lose has events get lost from now on, on streams that are open, too.
func (f *faultyEngine) lose(which func(line string) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = which
}

// claim makes it an engine of another version.
func (f *faultyEngine) claim(version, oldest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.version, f.oldest = version, oldest
}

var (
	changes  = regexp.MustCompile(`^POST .*/containers/(create|[^/]+/(start|stop|restart|kill))$|^DELETE .*/containers/[^/]+$`)
	versions = regexp.MustCompile(`^/v1\.([0-9]+)/`)
)

func (f *faultyEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if changes.MatchString(r.Method + " " + r.URL.Path) {
		f.count(1)
		defer f.count(-1)
	}
	if !f.accepts(w, r) {
		return
	}
	f.mu.Lock()
	wrong := f.fault
	f.mu.Unlock()
	if wrong == nil {
		f.forward.ServeHTTP(w, r)
		return
	}
	wrong(f, w, r)
}

func (f *faultyEngine) count(more int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.changing += more
	f.mostChanging = max(f.mostChanging, f.changing)
}

// inFlight is how many changes the engine is asked for now, and was at most.
func (f *faultyEngine) inFlight() (now, most int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.changing, f.mostChanging
}

// accepts refuses versions as engines do, and translates the others.
func (f *faultyEngine) accepts(w http.ResponseWriter, r *http.Request) bool {
	f.mu.Lock()
	version, oldest := f.version, f.oldest
	f.mu.Unlock()
	asked := versions.FindStringSubmatch(r.URL.Path)
	if version == "" || asked == nil {
		return true
	}
	complaint := ""
	switch n := minor("1." + asked[1]); {
	case n > minor(version):
		complaint = "client version 1." + asked[1] + " is too new. Maximum supported API version is " + version
	case n < minor(oldest):
		complaint = "client version 1." + asked[1] + " is too old. Minimum supported API version is " + oldest
	}
	if complaint != "" {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = fmt.Fprintf(w, "{\"message\":%q}\n", complaint)
		return false
	}
	r.URL.Path = "/" + strings.TrimPrefix(r.URL.Path, asked[0]) // the engine takes its own
	return true
}

func minor(version string) int {
	n, _ := strconv.Atoi(strings.TrimPrefix(version, "1."))
	return n
}

// change does to answers what is wrong with them.
func (f *faultyEngine) change(res *http.Response) error {
	f.mu.Lock()
	version := f.version
	f.mu.Unlock()
	if version != "" {
		res.Header.Set("Api-Version", version)
	}
	if strings.HasSuffix(res.Request.URL.Path, "/events") {
		read, write := io.Pipe()
		go f.filterEvents(res.Body, write)
		res.Body = eventStream{read, res.Body}
	}
	return nil
}

// eventStream is what is left of the engine's.
type eventStream struct {
	*io.PipeReader
	whole io.Closer
}

func (s eventStream) Close() error { return errors.Join(s.PipeReader.Close(), s.whole.Close()) }

// filterEvents ends when either side does.
func (f *faultyEngine) filterEvents(from io.Reader, to *io.PipeWriter) {
	lines := bufio.NewReader(from)
	for {
		line, err := lines.ReadString('\n')
		f.mu.Lock()
		lost := f.lost
		f.mu.Unlock()
		if line != "" && (lost == nil || !lost(line)) {
			if _, err := io.WriteString(to, line); err != nil {
				return
			}
		}
		if err != nil {
			to.CloseWithError(err)
			return
		}
	}
}

// hang waits for the end of the fault, or for the caller to give up. Then the
// call is cut.
func (f *faultyEngine) hang(r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body) // else its end would not be seen
	f.mu.Lock()
	healed := f.healed
	f.mu.Unlock()
	select {
	case <-healed:
	case <-r.Context().Done():
	}
	panic(http.ErrAbortHandler)
}

// neverAnswers is an engine behind a wire that somebody cut.
func neverAnswers(f *faultyEngine, _ http.ResponseWriter, r *http.Request) { f.hang(r) }

// dropsTheAnswer does what is asked, and nobody is told.
func dropsTheAnswer(f *faultyEngine, w http.ResponseWriter, r *http.Request) {
	if isStream(r) {
		f.forward.ServeHTTP(w, r)
		return
	}
	f.forward.ServeHTTP(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// stallsMidBody does what is asked, and tells half of it.
func stallsMidBody(f *faultyEngine, w http.ResponseWriter, r *http.Request) {
	if isStream(r) {
		f.forward.ServeHTTP(w, r)
		return
	}
	whole := httptest.NewRecorder()
	f.forward.ServeHTTP(whole, r)
	body := whole.Body.Bytes()
	maps.Copy(w.Header(), whole.Header())
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(whole.Code)
	_, _ = w.Write(body[:len(body)/2])
	_ = http.NewResponseController(w).Flush()
	if len(body) > 0 {
		f.hang(r)
	}
}

// delays makes every call slow.
func delays(f *faultyEngine, w http.ResponseWriter, r *http.Request) {
	select {
	case <-time.After(time.Duration(300+rand.IntN(500)) * time.Millisecond):
	case <-r.Context().Done():
	}
	f.forward.ServeHTTP(w, r)
}

// toChanges is a fault of calls that change something, which are made once it
// is known that the engine answers: what came of them is not known then.
func toChanges(what fault) fault {
	return func(f *faultyEngine, w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			f.forward.ServeHTTP(w, r)
			return
		}
		what(f, w, r)
	}
}

func isStream(r *http.Request) bool {
	return strings.HasSuffix(r.URL.Path, "/events") || strings.HasSuffix(r.URL.Path, "/logs")
}

// Whatever Docker does to our calls: each is answered in time and in words,
// visitors do not notice, and afterwards records and containers agree.
func TestFaultsOfDockerEndWell(t *testing.T) {
	t.Parallel()
	for name, what := range map[string]fault{
		"delays":                         delays,
		"never answers":                  neverAnswers,
		"stalls mid-body":                stallsMidBody,
		"drops the answer":               dropsTheAnswer,
		"never answers changes":          toChanges(neverAnswers),
		"drops the answers to changes":   toChanges(dropsTheAnswer),
		"stalls in answers that changed": toChanges(stallsMidBody),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shim, endpoint := startFaultyEngine(t)
			c := startCaddy(t, options{Docker: endpoint})
			steady := c.api.create(t, createRequest{})
			toStop, toStart, toDelete := c.api.create(t, createRequest{}), c.api.create(t, createRequest{}), c.api.create(t, createRequest{})
			c.api.act(t, toStart.Prefix, "stop")

			shim.suffer(what)
			visitors := c.visitor.keepVisiting(steady.URL, 2)
			answers := askAtOnce(c.api, []ask{
				creating(""),
				{http.MethodPost, "/api/instances/" + toStop.Prefix + "/stop", nil},
				{http.MethodPost, "/api/instances/" + toStart.Prefix + "/start", nil},
				{http.MethodDelete, "/api/instances/" + toDelete.Prefix, nil},
			})
			for _, a := range answers {
				switch {
				case a.err != nil:
					t.Errorf("%s %s: %v", a.method, a.path, a.err)
				case a.took > 45*time.Second:
					t.Errorf("%s %s took %s", a.method, a.path, a.took)
				case a.Code == 0 || a.Code == 1101 || a.Code == 1102 || a.Code == 1103:
				default:
					t.Errorf("%s %s: %d %s", a.method, a.path, a.Status, a.raw)
				}
				t.Logf("%s %s: %d, code %d, in %s", a.method, a.path, a.Status, a.Code, a.took.Round(time.Millisecond))
			}
			visitors.stop(t)

			shim.heal()
			c.api.eventuallyAnswers(t, 10*time.Second, http.StatusCreated, creating(""))
			c.agreesWithDocker(t, 40*time.Second)
			c.visitor.mustGet(t, steady.URL)
		})
	}
}

// ask is a call of the API.
type ask struct {
	method, path string
	body         any
}

// told is how it was answered.
type told struct {
	ask
	answer
	err  error
	took time.Duration
}

// creating asks for an instance; without a prefix, for any.
func creating(prefix string) ask {
	return ask{http.MethodPost, "/api/instances", createRequest{Prefix: prefix}}
}

// eventuallyAnswers asks until the answer has this status.
func (c apiClient) eventuallyAnswers(t testing.TB, limit time.Duration, status int, this ask) {
	t.Helper()
	eventually(t, limit, func() error {
		a, err := c.try(this.method, this.path, this.body)
		if err == nil && a.Status != status {
			err = fmt.Errorf("%s %s: %d %s", this.method, this.path, a.Status, a.raw)
		}
		return err
	})
}

func askAtOnce(api apiClient, all []ask) []told {
	answers := make([]told, len(all))
	var callers sync.WaitGroup
	for n, each := range all {
		callers.Go(func() {
			begun := time.Now()
			a, err := api.try(each.method, each.path, each.body)
			answers[n] = told{each, a, err, time.Since(begun)}
		})
	}
	callers.Wait()
	return answers
}

// agreesWithDocker waits until every instance at rest has the container that
// it says it has, and no container is left over.
func (c *caddyServer) agreesWithDocker(t testing.TB, limit time.Duration) {
	t.Helper()
	eventually(t, limit, func() error {
		states := map[string]string{}
		for _, each := range c.containers(t) {
			states[each.Labels["sandbox.prefix"]] = each.State
		}
		list := c.api.list(t, "?limit=1000")
		if list.Total != len(states) {
			return fmt.Errorf("%d instances and %d containers: %v", list.Total, len(states), states)
		}
		for _, i := range list.Instances {
			running := states[i.Prefix] == "running"
			if i.Status != "running" && i.Status != "stopped" && i.Status != "failed" || running != (i.Status == "running") {
				return fmt.Errorf("%s is %s, its container %q", i.Prefix, i.Status, states[i.Prefix])
			}
		}
		return nil
	})
}

// visiting is people who look at one URL again and again.
type visiting struct {
	quit chan struct{}
	all  sync.WaitGroup

	mu       sync.Mutex
	took     []time.Duration
	failures []error
}

// keepVisiting has n people look at url, over connections that stay open.
func (v *visitor) keepVisiting(url string, n int) *visiting {
	return keepAsking(n, func() error {
		_, err := v.answers200(url)
		return err
	})
}

// keepAsking has n people ask until they are stopped. They pause for as long
// as keeps them from eating up the machine.
func keepAsking(n int, ask func() error) *visiting {
	v := &visiting{quit: make(chan struct{})}
	for range n {
		v.all.Go(func() {
			for {
				begun := time.Now()
				err := ask()
				v.note(time.Since(begun), err)
				select {
				case <-v.quit:
					return
				case <-time.After(10 * time.Millisecond):
				}
			}
		})
	}
	return v
}

func (v *visiting) note(took time.Duration, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.took = append(v.took, took)
	if err != nil {
		v.failures = append(v.failures, err)
	}
}

// stop sends them home, fails the test if any was not served, and says how long
// 99 in 100 waited at most.
func (v *visiting) stop(t testing.TB) (asked int, p99 time.Duration) {
	t.Helper()
	close(v.quit)
	v.all.Wait()
	if len(v.failures) > 0 {
		t.Errorf("%d of %d requests failed, first: %v", len(v.failures), len(v.took), v.failures[0])
	}
	slices.Sort(v.took)
	return len(v.took), v.took[len(v.took)*99/100]
}

// Not parallel: it measures.
func TestABlackHoleInPlaceOfDocker(t *testing.T) {
	shim, endpoint := startFaultyEngine(t)
	c := startCaddy(t, options{Docker: endpoint, Ports: freeRange(60)})
	made := c.api.create(t, createRequest{Prefix: "blackhole"})
	const lasting = time.Minute

	visitors := c.visitor.keepVisiting(made.URL, 4)
	readers := keepAsking(2, func() error {
		a, err := c.admin.try(http.MethodGet, "/api/instances/blackhole", nil)
		if err == nil && a.Status != http.StatusOK {
			err = fmt.Errorf("GET: %s", a.raw)
		}
		return err
	})
	eventually(t, 10*time.Second, func() error { return visitors.served(100) })
	before := c.goroutines(t)

	shim.lose(func(string) bool { return true })
	shim.suffer(neverAnswers)
	const callers = 4
	var late atomic.Int64 // creates that waited for Docker until a deadline
	writers := keepAsking(callers, func() error {
		a, err := c.admin.try(http.MethodPost, "/api/instances", nil)
		switch {
		case err != nil:
			return err
		case a.Status == http.StatusServiceUnavailable && (a.Code == 1102 || a.Code == 1106) && a.Header.Get("Retry-After") != "":
		case a.Status == http.StatusGatewayTimeout && a.Code == 1103:
			late.Add(1)
		default:
			return fmt.Errorf("a create: %d, Retry-After %q: %s", a.Status, a.Header.Get("Retry-After"), a.raw)
		}
		return nil
	})
	time.Sleep(lasting) // the fault's own duration; there is nothing to await
	during := c.goroutines(t)
	asked, writes99 := writers.stop(t)
	slowest := slices.Max(writers.took)
	shim.heal()
	healed := time.Now()
	c.admin.eventuallyAnswers(t, 5*time.Second, http.StatusCreated, creating("afterhole"))
	recovered := time.Since(healed)
	visited, visits99 := visitors.stop(t)
	read, reads99 := readers.stop(t)
	// Connections of the writers are gone by then, or idle.
	const margin = 40
	eventually(t, 20*time.Second, func() error {
		if now := c.goroutines(t); now > before+margin {
			return fmt.Errorf("%d goroutines, %d before", now, before)
		}
		return nil
	})

	t.Logf("black hole of %s: %d proxied requests (p99 %s), %d reads (p99 %s), %d writes refused (p99 %s, slowest %s), "+
		"goroutines %d before, %d at its end; a create worked %s after it",
		lasting, visited, visits99, read, reads99, asked, writes99, slowest.Round(time.Millisecond),
		before, during, recovered.Round(time.Millisecond))
	// Who waits for Docker waits for seconds; the rest is the machine's load.
	median, reads95 := readers.took[len(readers.took)/2], readers.took[len(readers.took)*95/100]
	if median > 20*time.Millisecond || reads95 > 250*time.Millisecond {
		t.Errorf("every second read took up to %s, 95 in 100 up to %s", median, reads95)
	}
	if n := late.Load(); n > callers {
		t.Errorf("%d creates waited for a deadline, want the first of each caller at most", n)
	}
	if slowest > 10*time.Second {
		t.Errorf("a write waited %s to be refused", slowest)
	}
	if during > before+margin {
		t.Errorf("%d goroutines at the end of the black hole, %d before", during, before)
	}
	c.agreesWithDocker(t, 20*time.Second)
}

func (v *visiting) served(n int) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.took) < n {
		return fmt.Errorf("%d requests were served, want %d", len(v.took), n)
	}
	return nil
}

// goroutines counts those of Caddy.
func (c *caddyServer) goroutines(t testing.TB) int {
	t.Helper()
	res, err := http.Get("http://" + c.adminAddr + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var n int
	if _, err := fmt.Fscanf(res.Body, "goroutine profile: total %d\n", &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// openFiles counts Caddy's descriptors.
func (c *caddyServer) openFiles(t testing.TB) int {
	t.Helper()
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.pid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(files)
}

func TestEnginesOfAllVersionsAreSpokenTo(t *testing.T) {
	t.Parallel()
	for _, has := range []struct{ version, oldest string }{{"1.44", "1.24"}, {"1.52", "1.44"}} {
		t.Run(has.version, func(t *testing.T) {
			t.Parallel()
			shim, endpoint := startFaultyEngine(t)
			shim.claim(has.version, has.oldest)
			c := startCaddy(t, options{Docker: endpoint})
			made := c.api.create(t, createRequest{})
			c.visitor.mustGet(t, made.URL)
			if docker := c.dockerHealth(t); docker.Status != "ok" || docker.Version == "" || minor(docker.API) > minor(has.version) || minor(docker.API) < minor(has.oldest) {
				t.Errorf("health shows %+v of an engine that speaks %s to %s", docker, has.oldest, has.version)
			}
			c.api.act(t, made.Prefix, "stop")
			c.api.act(t, made.Prefix, "start")
			c.visitor.mustGet(t, made.URL)
			// Docker is upgraded, or the other way round, and Caddy runs on.
			for _, next := range []struct{ version, oldest string }{{"1.41", "1.12"}, has} {
				shim.claim(next.version, next.oldest)
				shim.cut()
				c.api.eventuallyAnswers(t, 10*time.Second, http.StatusOK, ask{http.MethodPost, "/api/instances/" + made.Prefix + "/restart", nil})
			}
			c.api.delete(t, made.Prefix)
		})
	}
	t.Run("1.40", func(t *testing.T) {
		t.Parallel()
		shim, endpoint := startFaultyEngine(t)
		shim.claim("1.40", "1.12")
		c := startCaddy(t, options{Docker: endpoint})
		a := c.api.call(t, http.MethodPost, "/api/instances", nil).expect(t, http.StatusBadGateway, 1101).
			says(t, "too old", "1.40", "1.41", "20.10")
		t.Logf("API 1.40: %s", a.Message)
		if docker := c.dockerHealth(t); docker.Status != "down" || !strings.Contains(docker.Error, "too old (API 1.40)") {
			t.Errorf("health shows %+v", docker)
		}
		doctor, err := c.command("sandbox", "doctor", "--address", c.adminAddr).CombinedOutput()
		if err == nil || !strings.Contains(string(doctor), "too old (API 1.40): use 20.10") || !strings.Contains(string(doctor), "to do") {
			t.Errorf("caddy sandbox doctor ended with %v and said\n%s", err, doctor)
		}
		// After an upgrade of Docker nobody needs to restart Caddy.
		shim.claim("1.44", "1.24")
		c.api.eventuallyAnswers(t, 20*time.Second, http.StatusCreated, creating(""))
	})
}

// dockerHealth is what GET /api/health tells of Docker.
func (c *caddyServer) dockerHealth(t testing.TB) (docker struct{ Status, Error, Version, API string }) {
	t.Helper()
	a := c.api.call(t, http.MethodGet, "/api/health", nil).expect(t, http.StatusOK, 0)
	var health struct{ Docker json.RawMessage }
	if err := errors.Join(json.Unmarshal(a.Data, &health), json.Unmarshal(health.Docker, &docker)); err != nil {
		t.Fatal(err)
	}
	return docker
}

func TestHalfOfAllEventsLost(t *testing.T) {
	t.Parallel()
	shim, endpoint := startFaultyEngine(t)
	c := startCaddy(t, options{Docker: endpoint})
	var deaf []string // instances of which no event comes
	var all []instanceView
	for n := range 8 {
		made := c.api.create(t, createRequest{Prefix: fmt.Sprintf("halfheard%d", n)})
		all = append(all, made)
		if n%2 == 0 {
			deaf = append(deaf, made.ContainerID)
		}
	}
	var lost, passed atomic.Int64
	shim.lose(func(line string) bool {
		if slices.ContainsFunc(deaf, func(id string) bool { return strings.Contains(line, id) }) {
			lost.Add(1)
			return true
		}
		passed.Add(1)
		return false
	})
	for n, i := range all {
		var err error
		if n < 4 {
			err = engine.ContainerStop(t.Context(), i.ContainerID, container.StopOptions{})
		} else {
			err = engine.ContainerRemove(t.Context(), i.ContainerID, container.RemoveOptions{Force: true})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	begun := time.Now()
	for n, i := range all {
		reason := "stopped outside"
		if n >= 4 {
			reason = "container removed"
		}
		c.api.awaitStatus(t, 20*time.Second, i.Prefix, "stopped", reason)
	}
	if lost.Load() == 0 || passed.Load() == 0 {
		t.Errorf("%d events lost and %d passed: want half", lost.Load(), passed.Load())
	}
	t.Logf("%d events lost, %d passed: all known after %s", lost.Load(), passed.Load(), time.Since(begun).Round(time.Millisecond))
	for _, i := range all {
		c.api.act(t, i.Prefix, "start")
		c.visitor.mustGet(t, i.URL)
	}
}

func TestEightOperationsRunAndSixtyFourWait(t *testing.T) {
	t.Parallel()
	shim, endpoint := startFaultyEngine(t)
	c := startCaddy(t, options{Docker: endpoint, Ports: freeRange(120)})
	c.api.create(t, createRequest{}) // Docker is known to be there
	const callers, inFlight, accepted = 100, 8, 8 + 64

	// Creates reach the engine and stay there until all callers are sorted.
	// Then they fail, which is quicker than 72 containers.
	release := make(chan struct{})
	shim.suffer(func(f *faultyEngine, w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/containers/create") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"message":"no space left on device"}`)
			return
		}
		f.forward.ServeHTTP(w, r)
	})
	answers := make(chan answer, callers)
	for range callers {
		go func() {
			a, _ := c.admin.try(http.MethodPost, "/api/instances", nil)
			answers <- a
		}()
	}
	for range callers - accepted {
		select {
		case a := <-answers:
			a.expect(t, http.StatusServiceUnavailable, 1106)
			if a.Header.Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %s", a.raw)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("fewer than %d of %d callers were turned away", callers-accepted, callers)
		}
	}
	eventually(t, 10*time.Second, func() error {
		if now, _ := shim.inFlight(); now != inFlight {
			return fmt.Errorf("%d creates are with the engine, want %d", now, inFlight)
		}
		return nil
	})
	close(release)
	for range accepted {
		(<-answers).expect(t, http.StatusBadGateway, 1101)
	}
	_, most := shim.inFlight()
	if most > inFlight {
		t.Errorf("%d operations were with the engine at once, want %d at most", most, inFlight)
	}
	t.Logf("%d callers: %d turned away, %d let in, at most %d with the engine at once",
		callers, callers-accepted, accepted, most)
	shim.heal()
	c.api.create(t, createRequest{})
	c.agreesWithDocker(t, 20*time.Second)
}
