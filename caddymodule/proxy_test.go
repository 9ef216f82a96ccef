package caddymodule

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

var (
	asBrowser = http.Header{"Accept": {"text/html,*/*;q=0.8"}, "Sec-Fetch-Mode": {"navigate"}}
	asFetch   = http.Header{"Accept": {"*/*"}, "Sec-Fetch-Mode": {"cors"}}
	asOldest  = http.Header{"Accept": {"text/html"}} // a browser that sends no Sec-Fetch-Mode
	asCurl    = http.Header{"Accept": {"*/*"}}
)

func TestProxyPassesRequestsAsTheyAre(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "plainhttp")
	host := fmt.Sprintf("PlainHTTP.%s:%d", strings.ToUpper(testDomain), s.sitePort)
	var seen struct {
		Host, URI string
		Headers   http.Header
	}
	res := s.get(t, host, "/headers?a=1&b=%2F", http.Header{
		"X-Forwarded-For": {"192.0.2.1"}, "X-Forwarded-Host": {"evil.example"}, "X-Forwarded-Proto": {"gopher"},
		"X-Forwarded-Port": {"1"}, "X-Forwarded-Prefix": {"/evil"}, "Forwarded": {"host=evil.example"},
	})
	if err := json.Unmarshal([]byte(read(t, res)), &seen); err != nil {
		t.Fatal(err)
	}
	if seen.Host != host || seen.URI != "/headers?a=1&b=%2F" {
		t.Errorf("the dev server saw host %q and URI %q", seen.Host, seen.URI)
	}
	for name, want := range map[string]string{
		"X-Forwarded-Host": host, "X-Forwarded-Proto": "http", "X-Forwarded-For": "127.0.0.1",
		"X-Forwarded-Port": "", "X-Forwarded-Prefix": "", "Forwarded": "",
		"Accept-Encoding": "gzip", // the client's own, see http.Transport
	} {
		if got := seen.Headers.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	for _, status := range []int{204, 404, 500, 502, 503, 504} {
		res := s.get(t, hostOf("plainhttp"), fmt.Sprintf("/status/%d", status), asBrowser)
		if body := read(t, res); res.StatusCode != status || body != "" {
			t.Errorf("status %d of the dev server came out as %d %q", status, res.StatusCode, body)
		}
	}
}

func TestProxyStreamsEvents(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "eventful")
	events := bufio.NewScanner(s.get(t, hostOf("eventful"), "/sse", nil).Body)
	for n := 1; n <= 3; {
		if !events.Scan() {
			t.Fatalf("the stream ended: %v", events.Err())
		}
		if events.Text() == fmt.Sprintf("data: event %d", n) {
			n++
		}
	}
}

func TestHostsThatCannotBeServed(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "sleeping")
	s.call(t, http.MethodPost, "/api/instances/sleeping/stop", "").expect(t, http.StatusOK, 0)
	for _, row := range []struct {
		name, host string
		header     http.Header
		status     int
		code       int // of the JSON answer; 0: a page
	}{
		{"unknown to a browser", hostOf("whoknows"), asBrowser, 404, 0},
		{"unknown to an old browser", hostOf("whoknows"), asOldest, 404, 0},
		{"unknown to a fetch", hostOf("whoknows"), asFetch, 404, 1004},
		{"unknown to curl", hostOf("whoknows"), asCurl, 404, 1004},
		{"foreign domain", "example.com", asCurl, 404, 1004},
		{"the domain itself", testDomain, asBrowser, 404, 0},
		{"two labels", "more." + hostOf("sleeping"), asBrowser, 404, 0},
		{"stopped to a browser", hostOf("sleeping"), asBrowser, 503, 0},
		{"stopped to a fetch", hostOf("sleeping"), asFetch, 503, 1105},
		{"stopped to curl", hostOf("sleeping"), asCurl, 503, 1105},
	} {
		t.Run(row.name, func(t *testing.T) {
			res := s.get(t, row.host, "/", row.header)
			if res.StatusCode != row.status {
				t.Errorf("status %d, want %d", res.StatusCode, row.status)
			}
			if res.Header.Get("Cache-Control") != "no-store" || res.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("headers %v", res.Header)
			}
			if row.status == 503 && res.Header.Get("Retry-After") != "5" {
				t.Errorf("Retry-After %q, want 5", res.Header.Get("Retry-After"))
			}
			if row.code == 0 {
				checkPage(t, res, row.host)
				return
			}
			a := readAnswer(t, res).expect(t, row.status, row.code)
			if row.code == 1105 && (a.text("status") != "stopped" || a.text("reason") != instance.ReasonUser) {
				t.Errorf("details %v", a.Data)
			}
			if a.RequestID == "" || a.RequestID != a.Header.Get("X-Request-Id") {
				t.Errorf("request id %q, header %q", a.RequestID, a.Header.Get("X-Request-Id"))
			}
		})
	}
}

// checkPage checks what all our pages have in common.
func checkPage(t *testing.T, res *http.Response, host string) (body string) {
	t.Helper()
	if kind := res.Header.Get("Content-Type"); kind != "text/html; charset=utf-8" {
		t.Errorf("Content-Type %q", kind)
	}
	policy := res.Header.Get("Content-Security-Policy")
	if policy != pagePolicy || strings.Contains(policy, "unsafe") {
		t.Errorf("Content-Security-Policy %q", policy)
	}
	body = read(t, res)
	if !strings.Contains(body, "<title>") || !strings.Contains(body, pageStyle) {
		t.Errorf("no page, or its style is not the one that the policy allows: %s", body)
	}
	if strings.Contains(body, host) || strings.Contains(body, strings.TrimSuffix(host, "."+testDomain)) {
		t.Errorf("the page shows what the request brought: %s", body)
	}
	return body
}

func TestStartingInstanceShowsAPageThatRefreshes(t *testing.T) {
	s := startServer(t, config{})
	s.call(t, http.MethodPost, "/api/instances?wait=started", `{"prefix":"slowpoke","env":{"TEST_MODE":"slow","TEST_DELAY":"1h"}}`).
		expect(t, http.StatusCreated, 0)
	res := s.get(t, hostOf("slowpoke"), "/", asBrowser)
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") != "1" {
		t.Errorf("status %d, Retry-After %q", res.StatusCode, res.Header.Get("Retry-After"))
	}
	if body := read(t, res); !strings.Contains(body, `http-equiv="refresh"`) {
		t.Errorf("the page does not load again by itself: %s", body)
	}
	s.begin(t, "soonready", `"TEST_MODE":"slow","TEST_DELAY":"1s"`)
	eventually(t, func() error {
		if res := s.get(t, hostOf("soonready"), "/", asBrowser); res.StatusCode != http.StatusOK {
			return fmt.Errorf("still %d", res.StatusCode)
		}
		return nil
	})
}

func TestDevServerThatDiesIsExplained(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "goesaway")
	read(t, s.get(t, hostOf("goesaway"), "/exit?code=3", nil))
	eventually(t, func() error {
		res := s.get(t, hostOf("goesaway"), "/", asCurl)
		if res.StatusCode == http.StatusOK {
			return errors.New("it still answers")
		}
		a := readAnswer(t, res).expect(t, http.StatusServiceUnavailable, 1105)
		if a.text("status") != "failed" {
			return fmt.Errorf("got %s", a.raw)
		}
		return nil
	})
}

func TestDevServerThatDoesNotAnswer(t *testing.T) {
	s := startServer(t, config{proxy: "transport sandbox {\n response_header_timeout 200ms\n }"})
	s.create(t, "thinking")
	s.callURL(t, hostOf("thinking"), "/slow?ms=60000").expect(t, http.StatusGatewayTimeout, 1103)
	page := s.get(t, hostOf("thinking"), "/slow?ms=60000", asBrowser)
	if page.StatusCode != http.StatusGatewayTimeout {
		t.Errorf("status %d, want 504", page.StatusCode)
	}
	checkPage(t, page, hostOf("thinking"))
}

// callURL asks an instance's site where the answer is to be ours.
func (s *server) callURL(t *testing.T, host, path string) answer {
	t.Helper()
	return readAnswer(t, s.get(t, host, path, asCurl))
}

func TestErrorsOfTheOperatorsRoutesAreNotOurs(t *testing.T) {
	const sites = `
		http://:{site} {
			sandbox_proxy {
				@broken status 500
				handle_response @broken {
					error 502
				}
			}
			handle_errors {
				respond "the operator's page for {err.status_code}" {err.status_code}
			}
		}
	`
	s := startServer(t, config{sites: sites})
	s.create(t, "keepsake")
	res := s.get(t, hostOf("keepsake"), "/status/500", asBrowser)
	if body := read(t, res); res.StatusCode != http.StatusBadGateway || body != "the operator's page for 502" {
		t.Errorf("got %d %q", res.StatusCode, body)
	}
}

func TestUpstreamThatDoesNotExistIsNotServed(t *testing.T) {
	s := startServer(t, config{proxy: "upstream container"}) // in memory, none has an address
	s.create(t, "nowayin1")
	a := s.callURL(t, hostOf("nowayin1"), "/").expect(t, http.StatusServiceUnavailable, 1105)
	if a.text("status") != "running" || !strings.Contains(a.Message, "does not answer") {
		t.Errorf("got %s", a.raw)
	}
	if log := s.log(t); !strings.Contains(log, "dev server does not answer") {
		t.Error("the log does not tell")
	}
}

func TestPlaceholders(t *testing.T) {
	const sites = `
		http://:{site} {
			header >X-Sandbox "{http.sandbox.prefix} {http.sandbox.port} {http.sandbox.status} {http.sandbox.template}"
			sandbox_proxy
		}
	`
	s := startServer(t, config{sites: sites})
	made := s.create(t, "keepsake")
	want := fmt.Sprintf("keepsake %d running web", made.Port)
	if got := s.get(t, hostOf("keepsake"), "/", nil).Header.Get("X-Sandbox"); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	s.call(t, http.MethodPost, "/api/instances/keepsake/stop", "").expect(t, http.StatusOK, 0)
	want = fmt.Sprintf("keepsake %d stopped web", made.Port)
	if got := s.get(t, hostOf("keepsake"), "/", nil).Header.Get("X-Sandbox"); got != want {
		t.Errorf("stopped: got %q, want %q", got, want)
	}
	if got := s.get(t, "elsewhere.example.com", "/", nil).Header.Get("X-Sandbox"); strings.TrimSpace(got) != "" {
		t.Errorf("unknown host: got %q", got)
	}
}

// dialWebSocket opens an echoing WebSocket to an instance.
func (s *server) dialWebSocket(t *testing.T, prefix string) *websocket.Conn {
	t.Helper()
	return s.dialWebSocketAt(t, prefix, "/ws", "")
}

func (s *server) dialWebSocketAt(t *testing.T, prefix, path, protocol string) *websocket.Conn {
	t.Helper()
	url := fmt.Sprintf("ws://%s:%d%s", hostOf(prefix), s.sitePort, path)
	config, err := websocket.NewConfig(url, fmt.Sprintf("http://%s:%d", hostOf(prefix), s.sitePort))
	if err != nil {
		t.Fatal(err)
	}
	if protocol != "" {
		config.Protocol = []string{protocol}
	}
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	socket, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatal(err)
	}
	return socket
}

func echo(t *testing.T, socket *websocket.Conn, text string) {
	t.Helper()
	if err := socket.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if err := websocket.Message.Send(socket, text); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := websocket.Message.Receive(socket, &got); err != nil || got != text {
		t.Fatalf("sent %q, got %q, %v", text, got, err)
	}
}

func TestWebSocketOutlivesReloadsButNotItsContainer(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "hotreload")
	socket := s.dialWebSocket(t, "hotreload")
	echo(t, socket, "before")
	for n := range 3 {
		if err := s.load(t, config{sandbox: fmt.Sprintf("prefix_length %d", 20+n), proxy: fmt.Sprintf("header_up X-Reload %d", n)}); err != nil {
			t.Fatal(err)
		}
		echo(t, socket, fmt.Sprintf("after reload %d", n))
	}
	s.call(t, http.MethodPost, "/api/instances/hotreload/restart", "").expect(t, http.StatusOK, 0)
	if err := socket.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	var got string
	if err := websocket.Message.Receive(socket, &got); err == nil {
		t.Errorf("the socket is still open, and sent %q", got)
	} else if ne, ok := err.(net.Error); ok && ne.Timeout() { //nolint:errorlint // as it comes
		t.Error("the socket is still open")
	}
	echo(t, s.dialWebSocket(t, "hotreload"), "to the new container")
}

func TestReusedPortNeverServesTheOldHost(t *testing.T) {
	s := startServer(t, config{})
	first := s.create(t, "firstone")
	read(t, s.get(t, hostOf("firstone"), "/", nil))
	s.call(t, http.MethodDelete, "/api/instances/firstone", "").expect(t, http.StatusOK, 0)
	s.callURL(t, hostOf("firstone"), "/").expect(t, http.StatusNotFound, 1004)

	squatter, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first.Port))
	if err != nil {
		t.Fatal(err)
	}
	defer squatter.Close()
	reached := make(chan struct{}, 1)
	go func() {
		if conn, err := squatter.Accept(); err == nil {
			conn.Close()
			reached <- struct{}{}
		}
	}()
	s.callURL(t, hostOf("firstone"), "/").expect(t, http.StatusNotFound, 1004)
	select {
	case <-reached:
		t.Error("a request for a deleted instance reached what has its port now")
	default:
	}
}

func TestRawHostsReachNoInstanceButTheirOwn(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "abcdefgh")
	for host, want := range map[string]string{
		"abcdefgh.sandbox.localhost":                               "200",
		"ABCDEFGH.Sandbox.LocalHost":                               "200",
		"abcdefgh.sandbox.localhost.":                              "200",
		fmt.Sprintf("abcdefgh.sandbox.localhost:%d", s.sitePort):   "200",
		"abcdefgh.sandbox.localhost:99999999":                      "404",
		"x.abcdefgh.sandbox.localhost":                             "404",
		".sandbox.localhost":                                       "404",
		"*.sandbox.localhost":                                      "404",
		"abcd_fgh.sandbox.localhost":                               "404",
		"sandbox.localhost":                                        "404",
		"127.0.0.1":                                                "404",
		"[::1]":                                                    "404",
		"xn--bcdefgh-4ya.sandbox.localhost":                        "404",
		strings.Repeat("a", 300) + ".sandbox.localhost":            "404",
		strings.Repeat("a", 14000) + ".sandbox.localhost":          "404",
		"abcdefgh.sandbox.localhost.evil.example":                  "404",
		"äbcdefgh.sandbox.localhost":                               "400",
		"abcdefgh.sandbox.localhost/":                              "400",
		"evil@abcdefgh.sandbox.localhost":                          "400",
		"abcdefgh.sandbox.localhost\r\nHost: other.sandbox.localh": "400",
		"": "400",
	} {
		name := host[:min(len(host), 40)]
		t.Run(name, func(t *testing.T) {
			if got := s.rawStatus(t, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"); got != want {
				t.Errorf("status %s, want %s", got, want)
			}
		})
	}
	t.Run("HTTP/1.0 without host", func(t *testing.T) {
		if got := s.rawStatus(t, "GET / HTTP/1.0\r\n\r\n"); got != "404" {
			t.Errorf("status %s, want 404", got)
		}
	})
	t.Run("absolute form", func(t *testing.T) { // by RFC 9112 the host in the URL counts
		if got := s.rawStatus(t, "GET http://elsewhere.example/ HTTP/1.1\r\nHost: abcdefgh.sandbox.localhost\r\nConnection: close\r\n\r\n"); got != "404" {
			t.Errorf("status %s, want 404", got)
		}
	})
}

// rawStatus sends bytes as they are and returns the status of the answer.
func (s *server) rawStatus(t *testing.T, request string) string {
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
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, status, _ := strings.Cut(line, " ")
	status, _, _ = strings.Cut(status, " ")
	return strings.TrimSpace(status)
}

func TestUpstreamsAloneResolveByHost(t *testing.T) {
	const sites = `
		http://:{site} {
			reverse_proxy {
				dynamic sandbox published
				transport sandbox
				header_up Host inner.example
			}
		}
	`
	s := startServer(t, config{sites: sites})
	s.create(t, "keepsake")
	if body := read(t, s.get(t, hostOf("keepsake"), "/headers", nil)); !strings.Contains(body, "inner.example") {
		t.Errorf("got %q", body)
	}
	if res := s.get(t, hostOf("whoknows"), "/", nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("unknown host: status %d, want 503", res.StatusCode)
	}
	if log := s.log(t); strings.Contains(log, "falling back to static upstreams") {
		t.Error("an unknown host is logged as an error of the upstream source")
	}
}

func TestOtherTransportsWork(t *testing.T) {
	s := startServer(t, config{proxy: "transport http {\n dial_timeout 2s\n }\n upstream published"})
	s.create(t, "keepsake")
	if body := read(t, s.get(t, hostOf("keepsake"), "/", nil)); !strings.Contains(body, "keepsake") {
		t.Errorf("got %q", body)
	}
}

func TestEnvironmentOfAnInstance(t *testing.T) {
	t.Setenv("SANDBOX_TEST_VALUE", "from the environment")
	s := startServer(t, config{templates: `
		defaults {
			env SHARED all
			env BOTH defaults
		}
		template web {
			image ` + instancetest.Image + `
			env BOTH template
			env GIVEN {env.SANDBOX_TEST_VALUE}
			env JSON "{\"a\":1}"
		}
	`})
	s.create(t, "keepsake")
	var env map[string]string
	if err := json.Unmarshal([]byte(read(t, s.get(t, hostOf("keepsake"), "/env", nil))), &env); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"SHARED": "all", "BOTH": "template", "GIVEN": "from the environment", "JSON": `{"a":1}`,
		"SANDBOX_PREFIX":                         "keepsake",
		"SANDBOX_URL":                            fmt.Sprintf("http://keepsake.%s:%d", testDomain, s.sitePort),
		"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": "." + testDomain,
	} {
		if env[name] != want {
			t.Errorf("%s: %q, want %q", name, env[name], want)
		}
	}
}
