package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// signInSites has people sign in who want to, as ann with the password secret.
const signInSites = `
	http://:{site} {
		@known header Authorization *
		basic_auth @known {
			ann $2a$04$irdXiLjX0K24Y7sxe1yVhe.2P1F2koheD8umCkwgycAK79cuJ/Rcu
		}
		sandbox_proxy
	}
`

// as is base for somebody who has signed in as ann.
func asAnn(base http.Header) http.Header {
	signed := base.Clone()
	signed.Set("Authorization", "Basic YW5uOnNlY3JldA==")
	return signed
}

func webTemplate(words string) string {
	return "template web {\n image " + instancetest.Image + "\n " + words + "\n }"
}

// fails creates an instance and waits until it has failed.
func (s *server) fails(t *testing.T, prefix string) {
	t.Helper()
	s.call(t, http.MethodPost, "/api/instances?wait=none", fmt.Sprintf(`{"prefix":%q,"env":{"TEST_MODE":"exit"}}`, prefix)).
		expect(t, http.StatusAccepted, 0)
	s.awaitStatus(t, prefix, instance.Failed)
}

// press sends what the button on a page does, with changes to its headers;
// empty ones are left out.
func (s *server) press(t *testing.T, host, from string, changed ...string) *http.Response {
	t.Helper()
	origin := fmt.Sprintf("http://%s:%d", host, s.sitePort)
	header := http.Header{
		"Accept": {"text/html"}, "Origin": {origin}, "Referer": {origin + from},
		"Sec-Fetch-Site": {"same-origin"}, "Sec-Fetch-Mode": {"navigate"}, "Sec-Fetch-User": {"?1"}, "Sec-Fetch-Dest": {"document"},
		"User-Agent": {chromeAgent},
	}
	for i := 0; i < len(changed); i += 2 {
		if header.Set(changed[i], changed[i+1]); changed[i+1] == "" {
			header.Del(changed[i])
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, origin+startPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header = header
	client := *s.client
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	res, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	return res
}

func TestTheButtonStartsAFailedInstanceAndLeadsBack(t *testing.T) {
	s := startServer(t, config{})
	s.fails(t, "fellover")
	page := read(t, s.get(t, hostOf("fellover"), "/app?tab=2", asBrowser))
	if !strings.Contains(page, `<form method="post" action="`+startPath+`">`) || !strings.Contains(page, "exit code 3") {
		t.Fatalf("no button, or no reason: %s", page)
	}
	before := s.engine.Calls("Start")
	res := s.press(t, hostOf("fellover"), "/app?tab=2&x=%2F")
	if got := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || got != "/app?tab=2&x=%2F" {
		t.Errorf("answered with %d to %q", res.StatusCode, got)
	}
	eventually(t, func() error {
		if s.engine.Calls("Start") == before {
			return fmt.Errorf("it was not started")
		}
		return nil
	})
	s.awaitStatus(t, "fellover", instance.Failed) // as it always does
}

func TestTheButtonLeadsNowhereElse(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "homeward") // it runs: the button does nothing but lead back
	own := fmt.Sprintf("http://%s:%d", hostOf("homeward"), s.sitePort)
	for referer, want := range map[string]string{
		own + "/a/b?c=d":              "/a/b?c=d",
		own + "/a#part":               "/a",
		own:                           "/",
		own + "//evil.example/":       "/",
		own + "/\\evil.example/":      "/%5Cevil.example/",
		own + "/%2F/evil.example":     "/%2F/evil.example",
		own + startPath:               "/",
		"http://evil.example/a":       "/",
		"javascript:alert(1)":         "/",
		"//evil.example/a":            "/",
		"":                            "/",
		"http://user@evil.example/a":  "/",
		own + "/<script>?<script>=\"": "/%3Cscript%3E?<script>=\"",
	} {
		res := s.press(t, hostOf("homeward"), "", "Referer", referer)
		if got := res.Header.Get("Location"); res.StatusCode != http.StatusSeeOther || got != want {
			t.Errorf("from %q: %d to %q, want %q", referer, res.StatusCode, got, want)
		}
	}
}

func TestOnlyTheButtonOfTheInstancesOwnPageStartsIt(t *testing.T) {
	s := startServer(t, config{})
	s.fails(t, "fellover")
	before := s.engine.Calls("Start")
	for name, changed := range map[string][]string{
		"another site's form":               {"Origin", "http://evil.example", "Sec-Fetch-Site", "cross-site"},
		"another site's, by an old browser": {"Origin", "http://evil.example", "Sec-Fetch-Site", "", "Sec-Fetch-Mode", ""},
		"a page that hides where it is":     {"Origin", "null", "Sec-Fetch-Site", "cross-site"},
		"a neighbour's":                     {"Origin", fmt.Sprintf("http://%s:%d", hostOf("neighbor"), s.sitePort), "Sec-Fetch-Site", "same-site"},
		"a script of a tab left open":       {"Sec-Fetch-Mode", "cors"},
		"a form that such a script sends":   {"Sec-Fetch-User", ""},
		"nobody's":                          {"Origin", "", "Sec-Fetch-Site", "", "Sec-Fetch-Mode", ""},
	} {
		if res := s.press(t, hostOf("fellover"), "/", changed...); res.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, res.StatusCode)
		}
	}
	for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodOptions} {
		res := s.send(t, method, hostOf("fellover"), startPath, nil, nil)
		if res.StatusCode != http.StatusMethodNotAllowed || res.Header.Get("Allow") != http.MethodPost {
			t.Errorf("%s: %d, Allow %q", method, res.StatusCode, res.Header.Get("Allow"))
		}
	}
	if now := s.engine.Calls("Start"); now != before {
		t.Errorf("%d starts", now-before)
	}
}

func TestWhoMayPressTheButton(t *testing.T) {
	t.Run("nobody, where its user stopped it", func(t *testing.T) {
		s := startServer(t, config{})
		s.create(t, "keptdown")
		for _, action := range []string{"stop", "pause"} {
			if action == "pause" {
				s.call(t, http.MethodPost, "/api/instances/keptdown/start", "").expect(t, http.StatusOK, 0)
			}
			if _, err := map[string]func() (instance.Instance, error){
				"stop":  func() (instance.Instance, error) { return inForce.top().manager().Stop(t.Context(), "keptdown") },
				"pause": func() (instance.Instance, error) { return inForce.top().manager().Pause(t.Context(), "keptdown") },
			}[action](); err != nil {
				t.Fatal(err)
			}
			res := s.press(t, hostOf("keptdown"), "/")
			if body := read(t, res); res.StatusCode != http.StatusForbidden || !strings.Contains(body, "only its owner") {
				t.Errorf("%s: %d %s", action, res.StatusCode, body)
			}
		}
	})
	t.Run("nobody, where the template says never", func(t *testing.T) {
		s := startServer(t, config{templates: webTemplate("wake never")})
		s.fails(t, "fellover")
		if page := read(t, s.get(t, hostOf("fellover"), "/", asBrowser)); strings.Contains(page, "<form") {
			t.Errorf("a button: %s", page)
		}
		if res := s.press(t, hostOf("fellover"), "/"); res.StatusCode != http.StatusForbidden {
			t.Errorf("%d, want 403", res.StatusCode)
		}
	})
	t.Run("those who signed in, where the template says so", func(t *testing.T) {
		s := startServer(t, config{templates: webTemplate("wake authenticated"), sites: signInSites})
		s.fails(t, "fellover")
		for who, header := range map[string]http.Header{"a stranger": asBrowser, "ann": asAnn(asBrowser)} {
			if page := read(t, s.get(t, hostOf("fellover"), "/", header)); strings.Contains(page, "<form") != (who == "ann") {
				t.Errorf("%s: %s", who, page)
			}
		}
		if res := s.press(t, hostOf("fellover"), "/"); res.StatusCode != http.StatusForbidden {
			t.Errorf("a stranger: %d, want 403", res.StatusCode)
		}
		if res := s.press(t, hostOf("fellover"), "/", "Authorization", asAnn(asBrowser).Get("Authorization")); res.StatusCode != http.StatusSeeOther {
			t.Errorf("ann: %d, want 303", res.StatusCode)
		}
	})
}

func TestTheButtonBearsTheBackOffOfACrashLoop(t *testing.T) {
	s := startServer(t, config{})
	s.fails(t, "fellover")
	instancetest.Retry(t, func() error { return s.bearsBackOff(t) })
}

// bearsBackOff fails until there is no button, and then sends what it would.
func (s *server) bearsBackOff(t *testing.T) error {
	t.Helper()
	for n := 1; ; n++ {
		page := read(t, s.get(t, hostOf("fellover"), "/", asBrowser))
		if !strings.Contains(page, "<form") {
			if !strings.Contains(page, "times in a row") || !strings.Contains(page, `http-equiv="refresh"`) {
				t.Errorf("no button, and no word why: %s", page)
			}
			break
		}
		if n == 7 {
			t.Fatal("the button is always there")
		}
		before := s.engine.Calls("Start")
		s.press(t, hostOf("fellover"), "/")
		eventually(t, func() error { // it may wait for a moment
			if s.engine.Calls("Start") == before {
				return errors.New("it was not started")
			}
			return nil
		})
		s.awaitStatus(t, "fellover", instance.Failed)
	}
	before, begun := s.engine.Calls("Start"), time.Now()
	p, _, err := inForce.top().manager().Progress("fellover")
	if err != nil {
		t.Fatal(err)
	}
	if res := s.press(t, hostOf("fellover"), "/there"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/there" {
		t.Errorf("%d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	if now := s.engine.Calls("Start"); now != before {
		return instancetest.Blame(fmt.Errorf("it was started all the same, although it was held back for %s", p.StartIn), time.Since(begun), p.StartIn)
	}
	return nil
}

func TestTheKeptPathNeverReachesTheDevServer(t *testing.T) {
	s := newServer(t)
	s.engine.GiveAddresses()
	if err := s.load(t, config{templates: webTemplate("ports 3000")}); err != nil {
		t.Fatal(err)
	}
	s.call(t, http.MethodPost, "/api/instances", `{"prefix":"keepsout","env":{"TEST_PORTS":"3000"}}`).expect(t, http.StatusCreated, 0)
	s.call(t, http.MethodPut, "/api/instances/keepsout/domains/app.example.com", "").expect(t, http.StatusOK, 0)
	hosts := []string{hostOf("keepsout"), "3000-" + hostOf("keepsout"), "9999-" + hostOf("keepsout"), "app.example.com"}
	for _, host := range hosts {
		for path, want := range map[string]int{
			eventsPath: 200, startPath: 405, keptPath: 404, keptPath + "other": 404, keptPath + "events/x": 404,
			"/.well-known/sandbox%2Fevents": 200, "/%2ewell-known/sandbox/events": 200,
			"//.well-known/sandbox/events": 200, "/.well-known/./sandbox/events": 200, "/a/%2e%2e/.well-known/sandbox//events": 200,
			"/.Well-Known/SANDBOX/events": 200, "/.WELL-KNOWN/sandbox/start": 405, "/.well-known//sandbox/": 404, keptPath + "..": 404,
		} {
			res := s.get(t, host, path, asFetch)
			if body := read(t, res); res.StatusCode != want || strings.Contains(body, "hello") {
				t.Errorf("%s%s: %d %s", host, path, res.StatusCode, body)
			}
		}
	}
	if res := s.get(t, hostOf("whoknows"), eventsPath, asFetch); res.StatusCode != http.StatusNotFound {
		t.Errorf("of an instance that is not there: %d", res.StatusCode)
	}
	if body := read(t, s.get(t, hostOf("keepsout"), "/.well-known/sandboxes", nil)); !strings.Contains(body, "hello") {
		t.Errorf("a path beside it: %s", body)
	}
	var seen []struct{ URI string }
	if err := json.Unmarshal([]byte(read(t, s.get(t, hostOf("keepsout"), "/seen", nil))), &seen); err != nil {
		t.Fatal(err)
	}
	for _, request := range seen {
		if strings.Contains(strings.ToLower(request.URI), "/.well-known/sandbox/") {
			t.Errorf("the dev server saw %s", request.URI)
		}
	}
}

// While pages follow it an instance can become idle, and they wake none.
func TestTheKeptPathIsNoUseOfAnInstance(t *testing.T) {
	s := startServer(t, config{})
	made := s.create(t, "unwanted")
	for range 3 {
		_, _ = io.Copy(io.Discard, s.get(t, hostOf("unwanted"), eventsPath, asFetch).Body)
	}
	got, err := inForce.top().manager().Get("unwanted")
	if err != nil {
		t.Fatal(err)
	}
	if a, b := made.LastActiveAt, got.LastActiveAt; (a == nil) != (b == nil) || a != nil && !a.Equal(*b) {
		t.Errorf("last active at %v, and then at %v", a, b)
	}
	s.engine.StopByHand(instance.ContainerName("unwanted"))
	s.awaitStatus(t, "unwanted", instance.Stopped)
	before := s.engine.Calls("Start")
	ctx, leave := context.WithTimeout(t.Context(), time.Minute) // or it would never end
	defer leave()
	events := followWith(ctx, t, s, hostOf("unwanted"), nil).rest(t)
	if len(events) != 1 || events[0].status(t).Status != instance.Stopped {
		t.Errorf("told was %v", events)
	}
	if now := s.engine.Calls("Start"); now != before {
		t.Error("it was started")
	}
}

// A tab that was left open may load itself again for as long as it likes, as
// Next.js has it do: it is asked first.
func TestATabThatLoadsItselfAgainIsAsked(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "leftopen", wakeNavigate)
	untouched := asBrowser.Clone()
	untouched.Set("Sec-Fetch-Site", "same-origin")
	untouched.Set("User-Agent", chromeAgent)
	before := s.engine.Calls("Start")
	page := s.page(t, hostOf("leftopen"), "/app", untouched, http.StatusServiceUnavailable)
	if !strings.Contains(page, "<h1>Asleep</h1>") || !strings.Contains(page, `<form method="post" action="`+startPath+`"><button>Wake it up</button>`) {
		t.Errorf("no button: %s", page)
	}
	if s.engine.Calls("Start") != before {
		t.Error("it was started")
	}
	if res := s.press(t, hostOf("leftopen"), "/app"); res.StatusCode != http.StatusSeeOther || res.Header.Get("Location") != "/app" {
		t.Errorf("answered with %d to %q", res.StatusCode, res.Header.Get("Location"))
	}
	s.awaitStatus(t, "leftopen", instance.Running)
}
