package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

// as makes an instance whose dev server behaves in that mode.
func (s *server) as(t *testing.T, mode, prefix string) {
	t.Helper()
	s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"env":{"TEST_MODE":%q}}`, prefix, mode)).
		expect(t, http.StatusCreated, 0)
}

// public is the host of prefix as clients send it.
func (s *server) public(prefix string) string {
	return fmt.Sprintf("%s:%d", hostOf(prefix), s.sitePort)
}

func (s *server) originOf(prefix string) string { return "http://" + s.public(prefix) }

// seen are the requests for path that the dev server of prefix got.
func (s *server) seen(t *testing.T, prefix, path string) []devserver.Seen {
	t.Helper()
	var all, some []devserver.Seen
	if err := json.Unmarshal([]byte(read(t, s.get(t, s.public(prefix), "/seen", nil))), &all); err != nil {
		t.Fatal(err)
	}
	for _, one := range all {
		if one.Path == path {
			some = append(some, one)
		}
	}
	return some
}

// mode is what the API says of how requests are put to prefix.
func (s *server) mode(t *testing.T, prefix string) string {
	t.Helper()
	got := s.call(t, http.MethodGet, "/api/instances/"+prefix, "").expect(t, http.StatusOK, 0)
	return got.text("dev") + " " + got.text("host_header")
}

func (s *server) expectMode(t *testing.T, prefix, want string) {
	t.Helper()
	if got := s.mode(t, prefix); got != want {
		t.Errorf("the instance is put to as %q, want %q", got, want)
	}
}

func TestTheFirstGetOfADevServerThatRefusesSucceeds(t *testing.T) {
	for mode, want := range map[string]string{"vite": "vite localhost", "webpack": "webpack localhost"} {
		t.Run(mode, func(t *testing.T) {
			s := startServer(t, config{})
			s.as(t, mode, "choosy22")
			s.expectMode(t, "choosy22", "auto preserve")
			res := s.get(t, s.public("choosy22"), "/first", asBrowser)
			if body := read(t, res); res.StatusCode != http.StatusOK || body != "hello from choosy22\n" {
				t.Errorf("the first GET gave %d %q", res.StatusCode, body)
			}
			seen := s.seen(t, "choosy22", "/first")
			if len(seen) != 2 || seen[0].Host != s.public("choosy22") || seen[1].Host != "localhost:5174" {
				t.Errorf("the dev server saw %+v, want two requests, the second for localhost", seen)
			}
			s.expectMode(t, "choosy22", want)
			read(t, s.get(t, s.public("choosy22"), "/second", asBrowser))
			if seen := s.seen(t, "choosy22", "/second"); len(seen) != 1 {
				t.Errorf("later the dev server saw %+v, want one request", seen)
			}
			if err := s.load(t, config{sandbox: "prefix_length 20"}); err != nil {
				t.Fatal(err)
			}
			s.expectMode(t, "choosy22", want)
		})
	}
}

func TestARefusalIsRememberedInTheRecord(t *testing.T) {
	s := startServer(t, config{})
	s.as(t, "vite", "choosy22")
	read(t, s.get(t, s.public("choosy22"), "/", asBrowser))
	eventually(t, func() error {
		if record := s.record(t, "choosy22"); record["dev"] != "vite" || record["host_header"] != "localhost" {
			return fmt.Errorf("the record has %v", record)
		}
		return nil
	})
	s.call(t, http.MethodPost, "/api/instances/choosy22/restart", "").expect(t, http.StatusOK, 0)
	s.expectMode(t, "choosy22", "vite localhost")
}

func TestARefusedPostIsNotSentAgain(t *testing.T) {
	s := startServer(t, config{})
	s.as(t, "vite", "choosy22")
	res := s.do(t, http.MethodPost, s.public("choosy22"), "/echo", http.Header{"Origin": {s.originOf("choosy22")}}, "body")
	if body := read(t, res); res.StatusCode != http.StatusForbidden || !strings.HasPrefix(body, "Blocked request.") {
		t.Errorf("the refusal came out as %d %q", res.StatusCode, body)
	}
	if seen := s.seen(t, "choosy22", "/echo"); len(seen) != 1 {
		t.Errorf("the dev server saw %+v, want one request", seen)
	}
	s.expectMode(t, "choosy22", "vite localhost")
	res = s.do(t, http.MethodPost, s.public("choosy22"), "/echo", nil, "body")
	if body := read(t, res); res.StatusCode != http.StatusOK || body != "body" {
		t.Errorf("the next POST gave %d %q", res.StatusCode, body)
	}
}

func TestWhatATemplateSaysHolds(t *testing.T) {
	for _, row := range []struct {
		words, dev, mode string
		status           int // of a GET from a dev server that refuses as dev does
	}{
		{"dev none", "vite", "none preserve", 403},
		{"dev vite\n host_header preserve", "vite", "vite preserve", 403},
		{"host_header preserve", "webpack", "webpack preserve", 403},
		{"dev vite", "vite", "vite localhost", 200},
		{"dev webpack", "webpack", "webpack localhost", 200},
		{"dev none\n host_header localhost", "vite", "none localhost", 200},
		{"dev next", "hello", "next preserve", 200},
	} {
		t.Run(row.words, func(t *testing.T) {
			s := startServer(t, config{sandbox: "defaults {\n" + row.words + "\n}"})
			s.as(t, row.dev, "decided2")
			if res := s.get(t, s.public("decided2"), "/first", asBrowser); res.StatusCode != row.status {
				t.Errorf("status %d, want %d", res.StatusCode, row.status)
			}
			if seen := s.seen(t, "decided2", "/first"); len(seen) != 1 {
				t.Errorf("the dev server saw %+v, want one request", seen)
			}
			s.expectMode(t, "decided2", row.mode)
		})
	}
}

func TestNextGetsTheOriginThatItTakes(t *testing.T) {
	s := startServer(t, config{sandbox: "builder_origin https://app.example.com"})
	s.as(t, "next", "nextnext")
	own := http.Header{"Origin": {s.originOf("nextnext")}}
	if res := s.get(t, s.public("nextnext"), "/_next/static/chunk.js", own); res.StatusCode != http.StatusOK {
		t.Errorf("its own script: status %d", res.StatusCode)
	}
	if seen := s.seen(t, "nextnext", "/_next/static/chunk.js"); len(seen) != 2 || seen[0].Origin != s.originOf("nextnext") ||
		seen[1].Host != s.public("nextnext") || seen[1].Origin != "http://localhost:5174" {
		t.Errorf("the dev server saw %+v, want two requests, the second of a page at localhost", seen)
	}
	s.expectMode(t, "nextnext", "next preserve")
	read(t, s.get(t, s.public("nextnext"), "/action", own))
	if seen := s.seen(t, "nextnext", "/action"); len(seen) != 1 || seen[0].Origin != s.originOf("nextnext") {
		t.Errorf("of another path the dev server saw %+v", seen)
	}
	script := http.Header{"Sec-Fetch-Mode": {"no-cors"}, "Sec-Fetch-Site": {"cross-site"}, "Referer": {"https://app.example.com/"}}
	if res := s.get(t, s.public("nextnext"), "/_next/static/builder.js", script); res.StatusCode != http.StatusOK {
		t.Errorf("a script for the builder's page: status %d", res.StatusCode)
	}
	script.Set("Referer", "https://evil.example/")
	if res := s.get(t, s.public("nextnext"), "/_next/static/evil.js", script); res.StatusCode != http.StatusForbidden {
		t.Errorf("a script for a stranger's page: status %d", res.StatusCode)
	}
}

// Each refuses a socket in its own way: Next.js with bytes that are no HTTP.
func TestHotReloadSocketsAreAccepted(t *testing.T) {
	for _, row := range []struct{ mode, page, socket, protocol, want string }{
		{"next", "", "/_next/hmr", "", "next preserve"},
		{"next", "", "/_next/webpack-hmr", "", "next preserve"},
		{"webpack", "/", "/ws", "", "webpack localhost"},
		{"vite", "/", "/ws", "vite-hmr", "vite localhost"},
		{"hello", "/", "/ws", "", "auto preserve"},
	} {
		t.Run(row.mode+row.socket, func(t *testing.T) {
			s := startServer(t, config{})
			s.as(t, row.mode, "sockets2")
			if row.page != "" {
				read(t, s.get(t, s.public("sockets2"), row.page, asBrowser))
			}
			echo(t, s.dialWebSocketAt(t, "sockets2", row.socket, row.protocol), "an update")
			s.expectMode(t, "sockets2", row.want)
		})
	}
}

func TestPagesOfOtherSitesAreRefused(t *testing.T) {
	s := startServer(t, config{sandbox: "builder_origin https://App.Example.com:443"})
	s.as(t, "hello", "guarded2")
	s.as(t, "hello", "another2")
	own := s.originOf("guarded2")
	for _, row := range []struct {
		name    string
		header  http.Header
		refused bool
	}{
		{"none", http.Header{}, false},
		{"its own", http.Header{"Origin": {own}}, false},
		{"one of its ports", http.Header{"Origin": {strings.Replace(own, "guarded2", "3000-guarded2", 1)}}, false},
		{"its public one", http.Header{"Origin": {own}}, false},
		{"the builder's", http.Header{"Origin": {"https://app.example.com"}}, false},
		{"its own, hidden by its referrer policy", http.Header{"Origin": {"null"}, "Sec-Fetch-Site": {"same-origin"}}, false},
		{"a stranger's", http.Header{"Origin": {"https://evil.example"}}, true},
		{"the builder's by http", http.Header{"Origin": {"http://app.example.com"}}, true},
		{"another port of the builder's", http.Header{"Origin": {"https://app.example.com:8443"}}, true},
		{"below the builder's", http.Header{"Origin": {"https://evil.app.example.com"}}, true},
		{"another instance's", http.Header{"Origin": {s.originOf("another2")}}, true},
		{"its own by https", http.Header{"Origin": {strings.Replace(own, "http:", "https:", 1)}}, true},
		{"its own, another port", http.Header{"Origin": {"http://" + hostOf("guarded2") + ":1"}}, true},
		{"hidden", http.Header{"Origin": {"null"}, "Sec-Fetch-Site": {"cross-site"}}, true},
		{"localhost", http.Header{"Origin": {"http://localhost:5174"}}, true},
		{"two", http.Header{"Origin": {own, "https://evil.example"}}, true},
		{"empty", http.Header{"Origin": {""}}, true},
	} {
		t.Run(row.name, func(t *testing.T) {
			path := "/" + strings.ReplaceAll(row.name, " ", "-")
			res := s.get(t, s.public("guarded2"), path, row.header)
			if !row.refused {
				if res.StatusCode != http.StatusOK {
					t.Errorf("status %d", res.StatusCode)
				}
				return
			}
			readAnswer(t, res).expect(t, http.StatusForbidden, 1304)
			if seen := s.seen(t, "guarded2", path); len(seen) != 0 {
				t.Errorf("the dev server saw %+v", seen)
			}
		})
	}
	if res := s.get(t, s.public("guarded2"), "/", http.Header{"Origin": {"https://evil.example"}, "Sec-Fetch-Mode": {"navigate"}}); res.StatusCode != http.StatusForbidden {
		t.Errorf("status %d", res.StatusCode)
	} else {
		checkPage(t, res, s.public("guarded2"))
	}
}

func TestTheHostsOfAnInstanceAreOneSite(t *testing.T) {
	s := startServer(t, config{})
	s.as(t, "hello", "manyhost")
	s.as(t, "hello", "stranger")
	for prefix, host := range map[string]string{"manyhost": "shop.example.org", "stranger": "other.example.org"} {
		s.call(t, http.MethodPut, "/api/instances/"+prefix+"/domains/"+host, "").expect(t, http.StatusOK, 0)
	}
	at := func(host string) string { return fmt.Sprintf("%s:%d", host, s.sitePort) }
	for _, row := range []struct {
		host, origin string
		status       int
	}{
		{at("shop.example.org"), "http://" + at("shop.example.org"), 200},
		{at("shop.example.org"), s.originOf("manyhost"), 200},
		{s.public("manyhost"), "http://" + at("shop.example.org"), 200},
		{s.public("manyhost"), "http://" + at("Shop.Example.org"), 200},
		{s.public("manyhost"), "https://" + at("shop.example.org"), 403},
		{s.public("manyhost"), "http://shop.example.org", 403},
		{s.public("manyhost"), "http://" + at("other.example.org"), 403},
		{at("shop.example.org"), s.originOf("stranger"), 403},
		{at("shop.example.org"), "http://" + at("nobody.example.org"), 403},
	} {
		if res := s.get(t, row.host, "/", http.Header{"Origin": {row.origin}}); res.StatusCode != row.status {
			t.Errorf("%s for a page at %s: status %d, want %d", row.host, row.origin, res.StatusCode, row.status)
		}
	}
}

func TestAnAPIMayServeOtherSitesWhereItIsNoDevServer(t *testing.T) {
	s := startServer(t, config{sandbox: "defaults {\n dev none\n}"})
	s.as(t, "hello", "openopen")
	res := s.get(t, s.public("openopen"), "/", http.Header{"Origin": {"https://other.example"}})
	if seen := s.seen(t, "openopen", "/"); res.StatusCode != http.StatusOK || seen[len(seen)-1].Origin != "https://other.example" {
		t.Errorf("status %d, the server saw %+v", res.StatusCode, seen)
	}
}

func TestWhatTheDevServerBelievesOfItselfIsPutBack(t *testing.T) {
	s := startServer(t, config{sandbox: "defaults {\n host_header localhost\n}"})
	s.as(t, "hello", "mirrored")
	client := *s.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	s.client = &client
	res := s.get(t, s.public("mirrored"), "/redirect", nil)
	if got, want := res.Header.Get("Location"), s.originOf("mirrored")+"/there"; got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
	if got, want := res.Header.Get("Set-Cookie"), "from=here; Path=/; Domain="+hostOf("mirrored")+"; HttpOnly"; got != want {
		t.Errorf("Set-Cookie %q, want %q", got, want)
	}
}

func TestAServerCannotMakeUsFlap(t *testing.T) {
	s := startServer(t, config{sandbox: "defaults {\n host_header preserve\n}"})
	s.as(t, "vite", "flapping")
	for range 3 {
		if res := s.get(t, s.public("flapping"), "/again", asBrowser); res.StatusCode != http.StatusForbidden {
			t.Errorf("status %d", res.StatusCode)
		}
	}
	lease, err := inForce.top().manager().Acquire("flapping", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	for range 20 {
		lease.Learn(instance.Mode{Dev: instance.DevWebpack, HostHeader: instance.HostLocalhost})
		lease.Learn(instance.Mode{Dev: instance.DevVite, HostHeader: instance.HostLocalhost})
	}
	s.expectMode(t, "flapping", "webpack preserve") // the eighth
}

// record is what .instances.json has of prefix.
func (s *server) record(t *testing.T, prefix string) map[string]any {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.state(), ".instances.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state struct{ Instances map[string]map[string]any }
	if err := json.Unmarshal(data, &state); err != nil {
		t.Fatal(err)
	}
	return state.Instances[prefix]
}
