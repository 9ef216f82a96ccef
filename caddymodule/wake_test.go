package caddymodule

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/visit"
	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

func TestWhoWakesAndWhoWaits(t *testing.T) {
	const hold = 30 * time.Second
	page, call, held := reception{true, glance}, reception{true, hold}, reception{false, hold}
	for _, row := range []struct {
		policy        wakePolicy
		authenticated bool
		navigation    reception
		call          reception
	}{
		{wakeNavigate, false, page, held},
		{wakeNavigate, true, page, call},
		{wakeAny, false, page, call},
		{wakeAny, true, page, call},
		{wakeAuthenticated, false, reception{}, held},
		{wakeAuthenticated, true, page, call},
		{wakeNever, false, reception{}, held},
		{wakeNever, true, reception{}, held},
	} {
		e := edge{wake: row.policy, hold: hold}
		for kind, want := range map[visit.Kind]reception{
			visit.Navigation: row.navigation, visit.Call: row.call,
			visit.WebSocket: {}, visit.Ping: {}, visit.Machine: {},
		} {
			if got := e.receive(kind, row.authenticated); got != want {
				t.Errorf("wake %s, authenticated %t: a %s gets %+v, want %+v", row.policy, row.authenticated, kind, got, want)
			}
		}
	}
	short := edge{wake: wakeNavigate, hold: glance / 2}
	if got := short.receive(visit.Navigation, false); got.waits != short.hold {
		t.Errorf("a navigation waits %s, with hold %s", got.waits, short.hold)
	}
	none := edge{wake: wakeAny}
	if got := none.receive(visit.Call, false); got != (reception{wakes: true}) {
		t.Errorf("without hold, a call gets %+v", got)
	}
}

// sleepSites lets those pass unauthenticated who say nothing of themselves.
const sleepSites = `
	http://:{site} {
		@known header Authorization *
		basic_auth @known {
			alice $2a$04$DZ5koNbt7K3LqL2Y6OUxHeBQCXBSL9Zk6zy0RfcTkvbk9KeuIs8Q6
		}
		sandbox_proxy {
			{proxy}
		}
	}
`

// startSleepServer has a template for each policy, and what words say of all.
func startSleepServer(t *testing.T, words string) *server {
	t.Helper()
	return startServer(t, sleepConfig(words))
}

func sleepConfig(words string) config {
	if !strings.Contains(words, "hold ") {
		words += "\n hold 2m" // however slow the machine is
	}
	templates := "default_template navigate\n defaults {\n image " + instancetest.Image + "\n ready 1m\n" + words + "\n}\n"
	for _, policy := range []wakePolicy{wakeNavigate, wakeAny, wakeAuthenticated, wakeNever} {
		templates += fmt.Sprintf("template %s {\n wake %s\n }\n", policy, policy)
	}
	return config{templates: templates, sites: sleepSites}
}

// asleep makes an instance that was stopped past us, which is how it sleeps
// without being idle again a second after it was woken.
func (s *server) asleep(t *testing.T, prefix string, policy wakePolicy, env ...string) {
	t.Helper()
	vars := "{}"
	if len(env) == 2 {
		vars = fmt.Sprintf("{%q:%q}", env[0], env[1])
	}
	s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":%q,"env":%s}`, prefix, policy, vars)).
		expect(t, http.StatusCreated, 0)
	s.putToSleep(t, prefix)
}

func (s *server) putToSleep(t *testing.T, prefix string) {
	t.Helper()
	s.engine.StopByHand(instance.ContainerName(prefix))
	s.awaitStatus(t, prefix, instance.Stopped)
}

func (s *server) awaitStatus(t *testing.T, prefix string, want instance.Status) {
	t.Helper()
	eventually(t, func() error {
		in, err := inForce.top().manager().Get(prefix)
		if err == nil && in.Status != want {
			err = fmt.Errorf("%s is %s (%s), want %s", prefix, in.Status, in.Reason, want)
		}
		return err
	})
}

func (s *server) starts() int { return s.engine.Calls("Start") }

// blockEngine lets calls of a method pass only once goOn is called; entered is
// closed when the first one is there.
func (s *server) blockEngine(t *testing.T, method string) (entered <-chan struct{}, goOn func()) {
	t.Helper()
	came, open := make(chan struct{}), make(chan struct{})
	arrive, goOn := sync.OnceFunc(func() { close(came) }), sync.OnceFunc(func() { close(open) })
	t.Cleanup(goOn)
	s.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call != method {
			return nil
		}
		arrive()
		select {
		case <-open:
		case <-ctx.Done():
		}
		return nil
	})
	return came, goOn
}

func with(header http.Header, more ...string) http.Header {
	header = maps.Clone(header)
	for i := 0; i < len(more); i += 2 {
		header[more[i]] = []string{more[i+1]}
	}
	return header
}

const asAlice = "Basic YWxpY2U6c2VjcmV0" // alice:secret

func TestVisitsWakeWhatSleeps(t *testing.T) {
	s := startSleepServer(t, "")
	for _, row := range []struct {
		prefix string
		policy wakePolicy
		header http.Header
		wakes  bool
	}{
		{"navigate0", wakeNavigate, asBrowser, true},
		{"navigate1", wakeNavigate, asOldest, true},
		{"navigate2", wakeNavigate, asCurl, false},
		{"navigate3", wakeNavigate, with(asCurl, "Authorization", asAlice), true},
		{"anything0", wakeAny, asFetch, true},
		{"loggedin0", wakeAuthenticated, asBrowser, false},
		{"loggedin1", wakeAuthenticated, with(asBrowser, "Authorization", asAlice), true},
		{"neverever", wakeNever, with(asBrowser, "Authorization", asAlice), false},
	} {
		s.asleep(t, row.prefix, row.policy)
		before := s.starts()
		res := s.get(t, hostOf(row.prefix), "/?a=b", row.header)
		body := read(t, res)
		if !row.wakes {
			if res.StatusCode != http.StatusServiceUnavailable || s.starts() != before {
				t.Errorf("%s: %d, %d starts", row.prefix, res.StatusCode, s.starts()-before)
			}
			continue
		}
		if res.StatusCode == http.StatusServiceUnavailable && row.header.Get("Accept") != "*/*" { // the page of a machine that is busy
			s.awaitStatus(t, row.prefix, instance.Running)
			res = s.get(t, hostOf(row.prefix), "/?a=b", row.header)
			body = read(t, res)
		}
		if res.StatusCode != http.StatusOK || !strings.Contains(body, row.prefix) || s.starts() != before+1 {
			t.Errorf("%s: %d %s, %d starts", row.prefix, res.StatusCode, body, s.starts()-before)
		}
	}
}

func TestWhatMachinesAskForTouchesNoContainer(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "sleeping", wakeAny)
	touched := func() (calls int) {
		for _, method := range []string{"Create", "Start", "Stop", "Pause", "Remove", "Logs", "Inspect"} {
			calls += s.engine.Calls(method)
		}
		return calls
	}
	before := touched()
	for _, row := range []struct {
		name, method, path string
		header             http.Header
	}{
		{"HEAD", http.MethodHead, "/", asBrowser},
		{"an icon", http.MethodGet, "/favicon.ico", asBrowser},
		{"robots", http.MethodGet, "/robots.txt", asBrowser},
		{"well-known", http.MethodGet, "/.well-known/x", asBrowser},
		{"prefetch", http.MethodGet, "/", with(asBrowser, "Sec-Purpose", "prefetch")},
		{"a preview of a link", http.MethodGet, "/", with(asOldest, "User-Agent", "Slackbot-LinkExpanding 1.0")},
		{"a monitor", http.MethodGet, "/", with(asOldest, "User-Agent", "UptimeRobot/2.0")},
		{"a machine that logs in", http.MethodHead, "/", with(asCurl, "Authorization", asAlice)},
	} {
		if res := s.send(t, row.method, hostOf("sleeping"), row.path, row.header, nil); res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s: %d", row.name, res.StatusCode)
		}
	}
	for _, protocol := range []string{"vite-hmr", "vite-ping"} {
		status := s.rawStatus(t, "GET / HTTP/1.1\r\nHost: "+hostOf("sleeping")+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: "+protocol+"\r\n\r\n")
		if status != "503" {
			t.Errorf("a WebSocket of %s: %s", protocol, status)
		}
	}
	if got := s.rawAnswer(t, "GET / HTTP/1.1\r\nHost: "+hostOf("sleeping")+"\r\nAccept: text/x-vite-ping\r\n\r\n"); got != "" {
		t.Errorf("a ping by fetch was answered %q", got)
	}
	if calls := touched() - before; calls != 0 {
		t.Errorf("the engine was called %d times", calls)
	}
	s.awaitStatus(t, "sleeping", instance.Stopped)
}

// rawAnswer sends bytes and returns all that comes until the connection ends.
func (s *server) rawAnswer(t *testing.T, request string) string {
	t.Helper()
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write([]byte(request)); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as it comes
		t.Fatal("the connection stays open")
	}
	return string(got)
}

// A server that is gone for a moment is not back either.
func TestAPingOfADevServerThatIsAwayIsNotAnswered(t *testing.T) {
	s := startServer(t, config{proxy: "upstream container"}) // in memory, none has an address
	s.create(t, "restarts")
	if got := s.rawAnswer(t, "GET / HTTP/1.1\r\nHost: "+hostOf("restarts")+"\r\nAccept: text/x-vite-ping\r\n\r\n"); got != "" {
		t.Errorf("it was answered %q", got)
	}
}

func TestMachinesAreServedButAreNoUse(t *testing.T) {
	s := startSleepServer(t, "")
	s.create(t, "inuse000")
	s.get(t, hostOf("inuse000"), "/", asCurl)
	used := func() time.Time { return s.usedAt(t, "inuse000") }
	before := s.restsSince(t, "inuse000")
	for _, header := range []http.Header{
		with(asOldest, "User-Agent", "Googlebot/2.1"), with(asCurl, "Accept", "text/x-vite-ping"), with(asBrowser, "Sec-Purpose", "prefetch"),
		with(asBrowser, "Sec-Fetch-Site", "same-origin", "User-Agent", chromeAgent),                       // a tab, by itself
		with(asBrowser, "Sec-Fetch-Site", "cross-site", "Sec-Fetch-Dest", "iframe", "Sec-Fetch-User", ""), // a stranger's page
	} {
		if res := s.get(t, hostOf("inuse000"), "/", header); res.StatusCode != http.StatusOK {
			t.Errorf("%v: %d", header, res.StatusCode)
		}
	}
	ping := s.dialWebSocketAt(t, "inuse000", "/ws", "vite-ping")
	echo(t, ping, "whatever passes")
	if after := used(); !after.Equal(before) {
		t.Errorf("used at %s, after machines came at %s", before, after)
	}
	s.get(t, hostOf("inuse000"), "/", asCurl)
	if after := used(); !after.After(before) {
		t.Error("a call is no use")
	}
}

func (s *server) usedAt(t *testing.T, prefix string) time.Time {
	t.Helper()
	in, err := inForce.top().manager().Get(prefix)
	if err != nil {
		t.Fatal(err)
	}
	if in.LastActiveAt == nil {
		return time.Time{}
	}
	return *in.LastActiveAt
}

// restsSince waits until the last request has ended for the server as well, and
// returns when that was.
func (s *server) restsSince(t *testing.T, prefix string) (last time.Time) {
	t.Helper()
	eventually(t, func() error {
		if last = s.usedAt(t, prefix); time.Since(last) < 50*time.Millisecond {
			return errors.New("it is in use")
		}
		return nil
	})
	return last
}

// An agent is known by who it is, not by what it calls itself. But its browser
// sends who it is with the pings of a forgotten tab, too.
func TestAnAgentThatIsKnownUsesWhatItAsksFor(t *testing.T) {
	s := startSleepServer(t, "")
	s.create(t, "inuse000")
	agent := with(asCurl, "User-Agent", "coding-bot/1.0", "Authorization", asAlice)
	for name, row := range map[string]struct {
		header http.Header
		uses   bool
	}{
		"an agent":            {agent, true},
		"one that is nobody":  {with(asCurl, "User-Agent", "coding-bot/1.0"), false},
		"a ping of its tab's": {with(agent, "Accept", "text/x-vite-ping"), false},
	} {
		before := s.restsSince(t, "inuse000")
		if res := s.get(t, hostOf("inuse000"), "/", row.header); res.StatusCode != http.StatusOK {
			t.Errorf("%s: %d", name, res.StatusCode)
		}
		if uses := s.usedAt(t, "inuse000").After(before); uses != row.uses {
			t.Errorf("%s uses the instance: %t", name, uses)
		}
	}
}

func TestWhatAUserStoppedNothingWakes(t *testing.T) {
	s := startSleepServer(t, "")
	for i, policy := range []wakePolicy{wakeNavigate, wakeAny, wakeAuthenticated, wakeNever} {
		prefix := fmt.Sprintf("stopped%d", i)
		s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":%q}`, prefix, policy)).expect(t, http.StatusCreated, 0)
		s.call(t, http.MethodPost, "/api/instances/"+prefix+"/stop", "").expect(t, http.StatusOK, 0)
		before := s.starts()
		for _, header := range []http.Header{asBrowser, asCurl, with(asBrowser, "Authorization", asAlice), with(asCurl, "Authorization", asAlice)} {
			answers := make(chan *http.Response, 1)
			go func() { answers <- s.get(t, hostOf(prefix), "/", header) }()
			select {
			case res := <-answers:
				if res.StatusCode != http.StatusServiceUnavailable {
					t.Errorf("wake %s: %d", policy, res.StatusCode)
				}
			case <-time.After(time.Minute): // half of what calls are held for
				t.Fatalf("wake %s: %v is held", policy, header)
			}
		}
		if n := s.starts() - before; n != 0 {
			t.Errorf("wake %s: %d starts", policy, n)
		}
	}
}

func TestAThousandCallsShareOneStartAndAreServed(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "popular0", wakeAny)
	before := s.starts()
	entered, goOn := s.blockEngine(t, "Start")
	s.thousand(t, asCurl, func(arrived func() int) {
		<-entered
		eventually(t, func() error { // they are all there, but for those on their way
			if n := arrived(); n < 1000 {
				return fmt.Errorf("%d have sent their request", n)
			}
			return nil
		})
		goOn()
	}, func(res *http.Response, body string) error {
		if res.StatusCode != http.StatusOK || !strings.Contains(body, "popular0") {
			return fmt.Errorf("%d %s", res.StatusCode, body)
		}
		return nil
	})
	if n := s.starts() - before; n != 1 {
		t.Errorf("%d starts", n)
	}
}

func TestAThousandNavigationsShareOneStartAndGetAPage(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "popular0", wakeNavigate)
	before := s.starts()
	_, goOn := s.blockEngine(t, "Start")
	s.thousand(t, asBrowser, func(func() int) {}, func(res *http.Response, body string) error {
		if res.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, startingPage.Text) ||
			res.Header.Get("Retry-After") != "1" {
			return fmt.Errorf("%d, Retry-After %q: %s", res.StatusCode, res.Header.Get("Retry-After"), body)
		}
		return nil
	})
	goOn()
	s.awaitStatus(t, "popular0", instance.Running)
	if n := s.starts() - before; n != 1 {
		t.Errorf("%d starts", n)
	}
}

// thousand sends so many requests to popular0 at once.
func (s *server) thousand(t *testing.T, header http.Header, meanwhile func(arrived func() int), check func(*http.Response, string) error) {
	t.Helper()
	var all sync.WaitGroup
	var sent atomic.Int64
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.site())
		sent.Add(1)
		return conn, err
	}
	client := &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	for range 1000 {
		all.Go(func() {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+hostOf("popular0")+"/", http.NoBody)
			if err != nil {
				t.Error(err)
				return
			}
			req.Header = header.Clone()
			res, err := client.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			body, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err = errors.Join(err, check(res, string(body))); err != nil {
				t.Error(err)
			}
		})
	}
	meanwhile(func() int { return int(sent.Load()) })
	all.Wait()
}

func TestABodyThatIsHeldArrivesWhole(t *testing.T) {
	s := startSleepServer(t, "")
	for size, prefix := range map[int]string{1: "echoing1", 100_000: "echoing2", 3 << 20: "echoing3"} {
		s.asleep(t, prefix, wakeAny, "TEST_MODE", "hello")
		entered, goOn := s.blockEngine(t, "Start")
		sent := make([]byte, size)
		_, _ = rand.Read(sent)
		answers := make(chan *http.Response, 1)
		go func() { answers <- s.send(t, http.MethodPost, hostOf(prefix), "/echo", asCurl, bytes.NewReader(sent)) }()
		<-entered
		goOn()
		res := <-answers
		if got := read(t, res); res.StatusCode != http.StatusOK || sum(got) != sum(string(sent)) {
			t.Errorf("%d bytes: %d, got %d bytes back", size, res.StatusCode, len(got))
		}
	}
}

func sum(text string) string {
	h := sha256.Sum256([]byte(text))
	return hex.EncodeToString(h[:])
}

func TestAStartOutlivesTheClientThatBeganIt(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "deserted", wakeAny)
	entered, goOn := s.blockEngine(t, "Start")
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\nHost: "+hostOf("deserted")+"\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	<-entered
	conn.Close()
	goOn()
	s.awaitStatus(t, "deserted", instance.Running)
}

func TestACallIsHeldSoLongAndThenTold(t *testing.T) {
	for hold, prefix := range map[string]string{"0s": "nohold00", "300ms": "held0000"} {
		t.Run(hold, func(t *testing.T) {
			s := startSleepServer(t, "hold "+hold)
			s.asleep(t, prefix, wakeAny)
			entered, goOn := s.blockEngine(t, "Start")
			a := s.callURL(t, hostOf(prefix), "/").expect(t, http.StatusServiceUnavailable, 1105)
			if a.text("status") != "starting" || a.Header.Get("Retry-After") != "1" || a.detail("reason") != `""` {
				t.Errorf("got %s, Retry-After %q", a.raw, a.Header.Get("Retry-After"))
			}
			<-entered // it goes on
			goOn()
			s.awaitStatus(t, prefix, instance.Running)
		})
	}
}

// Who may not wake an instance waits for it all the same, if it starts.
func TestCallsWaitForAStartOfTheAPI(t *testing.T) {
	s := startSleepServer(t, "")
	s.call(t, http.MethodPost, "/api/instances?wait=started",
		`{"prefix":"slowpoke","template":"never","env":{"TEST_MODE":"slow","TEST_DELAY":"1s"}}`).expect(t, http.StatusCreated, 0)
	if res := s.get(t, hostOf("slowpoke"), "/", asCurl); res.StatusCode != http.StatusOK {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestAReloadLeavesHeldCallsAlone(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "reloaded", wakeAny)
	entered, goOn := s.blockEngine(t, "Start")
	answers := make(chan *http.Response, 1)
	go func() { answers <- s.get(t, hostOf("reloaded"), "/", asCurl) }()
	<-entered
	s.reload(t, sleepConfig("hold 1s")) // for those that come from now on
	goOn()
	if res := <-answers; res.StatusCode != http.StatusOK {
		t.Errorf("got %d", res.StatusCode)
	}
}

func TestACallDuringAStopForIdlenessIsServedAfterIt(t *testing.T) {
	s := startSleepServer(t, "")
	for prefix, how := range map[string]instance.OnIdle{"stopping": instance.IdleStop, "freezing": instance.IdlePause} {
		s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":"any"}`, prefix)).expect(t, http.StatusCreated, 0)
		entered, goOn := s.blockEngine(t, map[instance.OnIdle]string{instance.IdleStop: "Stop", instance.IdlePause: "Pause"}[how])
		s.idleAfter(t, prefix, instance.Duration(time.Second), how)
		<-entered
		page := s.get(t, hostOf(prefix), "/", asBrowser)
		if body := read(t, page); page.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, startingPage.Text) {
			t.Errorf("%s: a navigation meanwhile got %d %s", prefix, page.StatusCode, body)
		}
		answers := make(chan *http.Response, 1)
		go func() { answers <- s.get(t, hostOf(prefix), "/", asCurl) }()
		goOn()
		if res := <-answers; res.StatusCode != http.StatusOK {
			t.Errorf("%s: a call meanwhile got %d %s", prefix, res.StatusCode, read(t, res))
		}
	}
}

func (s *server) idleAfter(t *testing.T, prefix string, after instance.Duration, how instance.OnIdle) {
	t.Helper()
	_, err := inForce.top().manager().Update(t.Context(), prefix, func(l *instance.Lifetime) { l.IdleTimeout, l.OnIdle = &after, &how })
	if err != nil {
		t.Fatal(err)
	}
}

func TestANavigationToAPausedInstanceGetsTheAppAtOnce(t *testing.T) {
	s := startSleepServer(t, "")
	s.create(t, "paused00")
	s.idleAfter(t, "paused00", instance.Duration(time.Second), instance.IdlePause)
	s.awaitStatus(t, "paused00", instance.Paused)
	s.idleAfter(t, "paused00", 0, instance.IdlePause)
	begun := time.Now()
	res := s.get(t, hostOf("paused00"), "/", asBrowser)
	if took := time.Since(begun); res.StatusCode != http.StatusOK && took < glance {
		t.Errorf("got %d after %s", res.StatusCode, took)
	}
	eventually(t, func() error { // on a machine that is too busy to thaw it in time
		if res := s.get(t, hostOf("paused00"), "/", asBrowser); res.StatusCode != http.StatusOK {
			return fmt.Errorf("got %d", res.StatusCode)
		}
		return nil
	})
}

func TestWhoWaitsForWhatIsDeletedIsTold(t *testing.T) {
	s := startSleepServer(t, "")
	s.call(t, http.MethodPost, "/api/instances", `{"prefix":"deleted0","template":"any"}`).expect(t, http.StatusCreated, 0)
	entered, goOn := s.blockEngine(t, "Stop")
	s.idleAfter(t, "deleted0", instance.Duration(time.Second), instance.IdleDelete)
	<-entered
	answers := make(chan answer, 1)
	go func() { answers <- s.callURL(t, hostOf("deleted0"), "/") }()
	if a := <-answers; a.Status != http.StatusServiceUnavailable || a.text("status") != "deleting" {
		t.Errorf("while it is deleted: %s", a.raw)
	}
	goOn()
	eventually(t, func() error {
		if a := s.callURL(t, hostOf("deleted0"), "/"); a.Status != http.StatusNotFound || a.Code != 1004 {
			return fmt.Errorf("got %s", a.raw)
		}
		return nil
	})
}

// A user deletes what is being stopped for idleness, while a call waits for it
// to wake: one of the two is first, and the other one is told.
func TestADeletionDuringAHold(t *testing.T) {
	s := startSleepServer(t, "")
	for n := range 6 {
		prefix := fmt.Sprintf("contested%d", n)
		s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":"any"}`, prefix)).expect(t, http.StatusCreated, 0)
		entered, goOn := s.blockEngine(t, "Stop")
		s.idleAfter(t, prefix, instance.Duration(time.Second), instance.IdleStop)
		<-entered
		answers := make(chan *http.Response, 1)
		go func() { answers <- s.get(t, hostOf(prefix), "/", asCurl) }()
		deleted := make(chan answer, 1)
		go func() { deleted <- s.call(t, http.MethodDelete, "/api/instances/"+prefix, "") }()
		eventually(t, func() error { // the call waits
			_, err := inForce.top().manager().Acquire(prefix, 0)
			if e, ok := errors.AsType[*instance.Error](err); !ok || e.Details["status"] != instance.Starting {
				return fmt.Errorf("visitors are told %w", err)
			}
			return nil
		})
		goOn()
		res, deletion := <-answers, <-deleted
		switch deletion.Status {
		case http.StatusOK: // before the start, or after it
			if res.StatusCode != http.StatusNotFound && res.StatusCode != http.StatusOK && res.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("it was deleted, and the call got %d %s", res.StatusCode, read(t, res))
			}
			s.callURL(t, hostOf(prefix), "/").expect(t, http.StatusNotFound, 1004)
		default:
			deletion.expect(t, http.StatusConflict, 1005)
			if res.StatusCode != http.StatusOK {
				t.Errorf("it was woken, and the call got %d %s", res.StatusCode, read(t, res))
			}
			eventually(t, func() error { // or it is idle again in the next round
				if a := s.call(t, http.MethodDelete, "/api/instances/"+prefix, ""); a.Status != http.StatusOK {
					return fmt.Errorf("deleting it: %s", a.raw)
				}
				return nil
			})
		}
	}
}

func TestAStartThatFailsIsToldToAllAndHeldBack(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "unlucky0", wakeAny)
	s.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Start" {
			return instance.Errorf(instance.EngineFailed, "a secret of the engine")
		}
		return nil
	})
	before, begun := s.starts(), time.Now()
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			a := s.callURL(t, hostOf("unlucky0"), "/")
			if a.Status != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || strings.Contains(a.raw, "secret") {
				t.Errorf("got %s", a.raw)
			}
		})
	}
	all.Wait()
	if n, took := s.starts()-before, time.Since(begun); n != 1 && took < time.Second {
		t.Errorf("%d starts in %s", n, took)
	}
	s.engine.Fault(nil)
	eventually(t, func() error {
		if res := s.get(t, hostOf("unlucky0"), "/", asCurl); res.StatusCode != http.StatusOK {
			return fmt.Errorf("got %d", res.StatusCode)
		}
		return nil
	})
}

// Visitors see why in a word; its log is not for them.
func TestAnInstanceThatFailsWhileItWakesIsNotWokenAgain(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "breaking", wakeAny)
	s.engine.LoseAnswer(func(_ context.Context, call, _ string) error {
		if call == "Start" { // it runs, and ends before it is ready
			s.engine.StopByHand(instance.ContainerName("breaking"))
		}
		return nil
	})
	a := s.callURL(t, hostOf("breaking"), "/").expect(t, http.StatusServiceUnavailable, 1105)
	if a.text("status") != "failed" || a.text("reason") == "" || a.detail("log") != "" {
		t.Errorf("got %s", a.raw)
	}
	before := s.starts()
	for _, header := range []http.Header{asBrowser, asCurl} {
		if res := s.get(t, hostOf("breaking"), "/", header); res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("got %d", res.StatusCode)
		}
	}
	if n := s.starts() - before; n != 0 {
		t.Errorf("%d more starts", n)
	}
}

func TestPagesOfOtherSitesWakeNothing(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "sleeping", wakeAny)
	before := s.starts()
	a := readAnswer(t, s.get(t, hostOf("sleeping"), "/", with(asFetch, "Origin", "https://evil.example")))
	a.expect(t, http.StatusForbidden, 1304)
	if n := s.starts() - before; n != 0 {
		t.Errorf("%d starts", n)
	}
}

func TestAClientBeyondItsBudgetWakesNothing(t *testing.T) {
	c := sleepConfig("")
	c.sandbox = "wake_budget 1/minute"
	c.options = "servers {\n trusted_proxies static 127.0.0.1/32\n }"
	s := startServer(t, c)
	for i := range 2 {
		s.asleep(t, fmt.Sprintf("sleeping%d", i), wakeAny)
	}
	from := func(address string, header http.Header) http.Header { return with(header, "X-Forwarded-For", address) }
	if res := s.get(t, hostOf("sleeping0"), "/", from("192.0.2.1", asCurl)); res.StatusCode != http.StatusOK {
		t.Fatalf("got %d", res.StatusCode)
	}
	if err := s.load(t, c); err != nil { // which gives nobody a new budget
		t.Fatal(err)
	}
	before := s.starts()
	a := readAnswer(t, s.get(t, hostOf("sleeping1"), "/", from("192.0.2.1", asCurl))).expect(t, http.StatusTooManyRequests, 1303)
	if a.text("limit") != "1/minute" || a.Header.Get("Retry-After") == "" {
		t.Errorf("got %s, Retry-After %q", a.raw, a.Header.Get("Retry-After"))
	}
	eventually(t, func() error { // visitors have their answer before it is counted
		if metrics := read(t, s.getAdmin(t, "/metrics")); !strings.Contains(metrics, `caddy_sandbox_wakes_total{outcome="started"} 1`+"\n") ||
			!strings.Contains(metrics, `caddy_sandbox_wakes_total{outcome="refused"} 1`+"\n") {
			return fmt.Errorf("the metrics tell of other wakes: %s", metrics)
		}
		return nil
	})
	page := s.get(t, hostOf("sleeping1"), "/", from("192.0.2.1", asBrowser))
	if page.StatusCode != http.StatusTooManyRequests || page.Header.Get("Retry-After") == "" {
		t.Errorf("a navigation got %d, Retry-After %q", page.StatusCode, page.Header.Get("Retry-After"))
	}
	if body := checkPage(t, page, hostOf("sleeping1")); !strings.Contains(body, "Try again in "+page.Header.Get("Retry-After")+" seconds.") {
		t.Errorf("the page does not say when to come again: %s", body)
	} else if strings.Contains(body, "http-equiv") || strings.Contains(body, "<script>") { // which nobody's visit does, and so wakes nothing
		t.Errorf("the page loads again by itself: %s", body)
	}
	if n := s.starts() - before; n != 0 {
		t.Errorf("%d starts", n)
	}

	entered, goOn := s.blockEngine(t, "Start")
	answers := make(chan *http.Response, 2)
	go func() { answers <- s.get(t, hostOf("sleeping1"), "/", from("2001:db8::1", asCurl)) }()
	<-entered
	go func() { answers <- s.get(t, hostOf("sleeping1"), "/", from("192.0.2.1", asCurl)) }() // joining is free
	goOn()
	for range 2 {
		if res := <-answers; res.StatusCode != http.StatusOK {
			t.Errorf("got %d", res.StatusCode)
		}
	}
}

func TestAnEngineThatIsDownCostsVisitorsNothing(t *testing.T) {
	c := sleepConfig("")
	c.sandbox = "wake_budget 2/minute"
	s := startServer(t, c)
	s.asleep(t, "sleeping", wakeAny)
	s.engine.Fault(func(context.Context, string, string) error {
		return &instance.Error{Kind: instance.EngineDown, Message: "down"}
	})
	for range 5 {
		s.callURL(t, hostOf("sleeping"), "/").expect(t, http.StatusServiceUnavailable, 1102)
	}
	if body := checkPage(t, s.get(t, hostOf("sleeping"), "/", asBrowser), hostOf("sleeping")); !strings.Contains(body, "<h1>Not now</h1>") ||
		strings.Contains(body, "http-equiv") || strings.Contains(body, "<script>") { // nobody's visit, which starts nothing
		t.Errorf("no page, or one that loads again by itself: %s", body)
	}
	s.engine.Fault(nil)
	if res := s.get(t, hostOf("sleeping"), "/", asCurl); res.StatusCode != http.StatusOK {
		t.Errorf("once it is back: %d", res.StatusCode)
	}
}

// Whoever has more than a share of the places begins a start all the same, but
// does not wait for it. Others do.
func TestOneClientLeavesPlacesForOthersWhoWait(t *testing.T) {
	c := sleepConfig("")
	c.options = "servers {\n trusted_proxies static 127.0.0.1/32\n }"
	s := startServer(t, c)
	s.asleep(t, "popular0", wakeAny)
	for n := 0; ; n++ {
		leave, ok := held.join("popular0", at("192.0.2.1"))
		if !ok {
			if n < 1000 {
				t.Fatalf("one client has %d places, too few for a thousand visitors behind one address", n)
			}
			break
		}
		t.Cleanup(leave)
	}
	from := func(address string, header http.Header) http.Header { return with(header, "X-Forwarded-For", address) }
	entered, goOn := s.blockEngine(t, "Start")
	a := readAnswer(t, s.get(t, hostOf("popular0"), "/", from("192.0.2.1", asCurl))).expect(t, http.StatusServiceUnavailable, 1106)
	if a.Header.Get("Retry-After") == "" {
		t.Errorf("no Retry-After: %s", a.raw)
	}
	<-entered
	page := s.get(t, hostOf("popular0"), "/", from("192.0.2.1", asBrowser))
	if body := read(t, page); page.StatusCode != http.StatusServiceUnavailable || !strings.Contains(body, startingPage.Text) {
		t.Errorf("a navigation got %d %s", page.StatusCode, body)
	}
	answers := make(chan *http.Response, 1)
	go func() { answers <- s.get(t, hostOf("popular0"), "/", from("192.0.2.2", asCurl)) }()
	eventually(t, func() error { // it waits
		held.mu.Lock()
		defer held.mu.Unlock()
		if held.networks[at("192.0.2.2")[0].Prefix] != 1 {
			return errors.New("nobody waits from 192.0.2.2")
		}
		return nil
	})
	goOn()
	if res := <-answers; res.StatusCode != http.StatusOK {
		t.Errorf("another client got %d", res.StatusCode)
	}
}

func (s *server) getAdmin(t *testing.T, path string) *http.Response {
	t.Helper()
	res, err := adminClient.Get(s.admin() + path)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// Calls come in the very moments in which an instance becomes idle: before its
// end, which keeps it from that, while it is being stopped or frozen, and after
// that. All are served.
func TestCallsAroundTheMomentOfIdleness(t *testing.T) {
	s := startSleepServer(t, "")
	for prefix, how := range map[string]instance.OnIdle{"isstopped": instance.IdleStop, "isfrozen0": instance.IdlePause} {
		s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":"any"}`, prefix)).expect(t, http.StatusCreated, 0)
		ends := func() int { return s.engine.Calls("Stop") + s.engine.Calls("Pause") }
		const enough, most = 3, 40
		kept, ended := 0, 0
		// Those that were in time come later in the next round, and the others
		// earlier; by more where once was not enough.
		late, step := time.Duration(0), time.Duration(0)
		for rounds := 0; kept < enough || ended < enough; rounds++ {
			if rounds == most {
				t.Fatalf("%s: of %d rounds %d came in time, and %d after the end", prefix, rounds, kept, ended)
			}
			before := ends()
			s.callsAround(t, prefix, how, late)
			direction := time.Millisecond
			if ends() > before {
				ended++
				direction = -direction
			} else {
				kept++
			}
			if step *= 2; step/direction <= 0 {
				step = direction
			}
			late += step
		}
		t.Logf("%s: %d rounds came in time, %d after the end", prefix, kept, ended)
	}
}

// callsAround has a second pass that ends the instance, and sends calls for 30 ms,
// from so late after it on.
func (s *server) callsAround(t *testing.T, prefix string, how instance.OnIdle, late time.Duration) {
	t.Helper()
	// Deadlines are looked at once a second at most. One that comes when nothing
	// else is to be looked at is kept to the millisecond.
	s.idleAfter(t, prefix, 0, how)
	time.Sleep(1100 * time.Millisecond) // until the last look is that long ago
	s.idleAfter(t, prefix, instance.Duration(time.Second), how)
	time.Sleep(time.Second + late) // the moment itself is what is tested
	var all sync.WaitGroup
	for range 30 {
		all.Go(func() {
			if res := s.get(t, hostOf(prefix), "/", asCurl); res.StatusCode != http.StatusOK {
				t.Errorf("%s: %d %s", prefix, res.StatusCode, read(t, res))
			}
		})
		time.Sleep(time.Millisecond) // so that they come around the moment
	}
	all.Wait()
}

// Requests, idleness, stops and pauses by users at once: every call is served
// or told something true, and in the end the instance can be woken.
func TestVisitsRaceWithAllThatEndsAnInstance(t *testing.T) {
	s := startSleepServer(t, "")
	s.call(t, http.MethodPost, "/api/instances", `{"prefix":"restless","template":"any"}`).expect(t, http.StatusCreated, 0)
	manager := inForce.top().manager()
	ctx, end := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer end()
	var served atomic.Int64
	for range 16 {
		all.Go(func() {
			for ctx.Err() == nil {
				res := s.get(t, hostOf("restless"), "/", asCurl)
				body := read(t, res)
				switch res.StatusCode {
				case http.StatusOK:
					served.Add(1)
				case http.StatusServiceUnavailable, http.StatusTooManyRequests, http.StatusBadGateway: // cut by a stop
				default:
					t.Errorf("got %d %s", res.StatusCode, body)
				}
			}
		})
	}
	for range 50 {
		_, _ = manager.Pause(ctx, "restless")
		_, _ = manager.Start(ctx, "restless", "")
		s.engine.StopByHand(instance.ContainerName("restless"))
		before := served.Load()
		eventually(t, func() error {
			if served.Load() > before {
				return nil
			}
			if in, _ := manager.Get("restless"); in.Status == instance.Stopped { // past what visitors may start
				_, _ = manager.Start(ctx, "restless", "")
			}
			return errors.New("no visitor is served")
		})
	}
	end()
	all.Wait()
	t.Logf("%d calls were served", served.Load())
	if _, err := manager.Start(t.Context(), "restless", ""); err != nil {
		t.Fatal(err)
	}
	s.putToSleep(t, "restless")
	eventually(t, func() error {
		if res := s.get(t, hostOf("restless"), "/", asBrowser); res.StatusCode == http.StatusOK {
			return nil
		}
		return errors.New("it does not wake")
	})
}
