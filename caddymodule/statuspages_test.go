package caddymodule

import (
	"fmt"
	"math"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// page asks for one as a browser does, and checks what all have in common.
func (s *server) page(t *testing.T, host, path string, header http.Header, status int) string {
	t.Helper()
	res := s.get(t, host, path, header)
	body := read(t, res)
	if res.StatusCode != status {
		t.Errorf("status %d, want %d", res.StatusCode, status)
	}
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "Content-Security-Policy": pagePolicy, "Cache-Control": "no-store",
		"X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin",
	} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if n := strings.Count(body, "<h1>"); n != 1 || !strings.Contains(body, `<html lang="en">`) || !strings.Contains(body, "<title>") {
		t.Errorf("%d headings, or no language or title: %s", n, body)
	}
	return body
}

var (
	inlineScript = regexp.MustCompile(`(?s)<script>(.*)</script>`)
	inlineStyle  = regexp.MustCompile(`(?s)<style>(.*)</style>`)
)

func TestThePolicyAllowsWhatThePagesBring(t *testing.T) {
	s := startServer(t, config{})
	s.begin(t, "slowpoke", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	body := s.page(t, hostOf("slowpoke"), "/", asBrowser, http.StatusServiceUnavailable)
	for directive, text := range map[string]*regexp.Regexp{"script-src": inlineScript, "style-src": inlineStyle} {
		found := text.FindStringSubmatch(body)
		if found == nil {
			t.Fatalf("nothing for %s: %s", directive, body)
		}
		if want := directive + " " + hashOf(found[1]); !strings.Contains(pagePolicy, want) {
			t.Errorf("the policy lacks %s: %s", want, pagePolicy)
		}
	}
}

func TestWhatIsSaidOfAnInstanceThatDoesNotRun(t *testing.T) {
	s := startServer(t, config{templates: webTemplate("") + "\ntemplate signed {\n image caddy-sandbox/testserver\n wake authenticated\n}\n" +
		"template closed {\n image caddy-sandbox/testserver\n wake never\n}", sandbox: "default_template web", sites: signInSites})
	for _, template := range []string{"web", "signed", "closed"} {
		prefix := "rests" + template + "123"
		s.call(t, http.MethodPost, "/api/instances", fmt.Sprintf(`{"prefix":%q,"template":%q}`, prefix, template)).expect(t, http.StatusCreated, 0)
		s.engine.StopByHand(instance.ContainerName(prefix))
		s.awaitStatus(t, prefix, instance.Stopped)
	}
	asRobot := asBrowser.Clone()
	asRobot.Set("User-Agent", "Mozilla/5.0 (compatible; Googlebot/2.1)")
	for _, row := range []struct {
		prefix string
		header http.Header
		want   string
	}{
		{"restssigned123", asBrowser, "It wakes up when somebody opens it who has signed in."},
		{"restsclosed123", asBrowser, "Its owner can start it again."},
		{"restsclosed123", asAnn(asBrowser), "Its owner can start it again."},
		{"restssigned123", asRobot, "It wakes up when somebody opens it who has signed in."},
	} {
		body := s.page(t, hostOf(row.prefix), "/", row.header, http.StatusServiceUnavailable)
		if !strings.Contains(body, row.want) || !strings.Contains(body, "<h1>Asleep</h1>") || strings.Contains(body, "<script>") || strings.Contains(body, "http-equiv") {
			t.Errorf("%s: %s", row.prefix, body)
		}
	}
	// It may be a person all the same, and robots press no buttons.
	if body := s.page(t, hostOf("restsweb123"), "/", asRobot, http.StatusServiceUnavailable); !strings.Contains(body, "You can wake it up.") || !strings.Contains(body, "<form") {
		t.Errorf("what has the name of a robot: %s", body)
	}
	if _, err := inForce.top().manager().Stop(t.Context(), "restsweb123"); err != nil {
		t.Fatal(err)
	}
	if body := s.page(t, hostOf("restsweb123"), "/", asAnn(asBrowser), http.StatusServiceUnavailable); !strings.Contains(body, "Its owner has stopped this sandbox. Only its owner can start it again.") ||
		strings.Contains(body, "<form") {
		t.Errorf("stopped by its owner: %s", body)
	}
	s.create(t, "pausedone")
	if _, err := inForce.top().manager().Pause(t.Context(), "pausedone"); err != nil {
		t.Fatal(err)
	}
	if body := s.page(t, hostOf("pausedone"), "/", asBrowser, http.StatusServiceUnavailable); !strings.Contains(body, "Its owner has paused this sandbox. Only its owner can resume it.") {
		t.Errorf("paused by its owner: %s", body)
	}
}

func TestAFormThatWasSentIsNotSentAgain(t *testing.T) {
	s := startServer(t, config{templates: webTemplate("hold 0s")})
	s.begin(t, "slowpoke", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	res := s.do(t, http.MethodPost, hostOf("slowpoke"), "/order", asBrowser, "pizza=1")
	body := read(t, res)
	if strings.Contains(body, `http-equiv="refresh"`) || !strings.Contains(body, "What you sent was not passed on") || !strings.Contains(body, "<body data-events=\""+eventsPath+"\" data-unsent>") {
		t.Errorf("got %d %s", res.StatusCode, body)
	}
}

func TestPagesReflectNothing(t *testing.T) {
	s := startServer(t, config{templates: webTemplate("page_logs anyone")})
	s.begin(t, "slowpoke", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	s.fails(t, "fellover")
	const mark = "rEfLeCtEd"
	absurd := "/" + mark + url.PathEscape(`<script>alert(1)</script>`) + strings.Repeat("x", 2000) + "/..%2f..?" + mark + `=%3Cscript%3E&"'><img src=x onerror=` + mark + ">"
	for _, host := range []string{
		hostOf("slowpoke"), hostOf("fellover"), hostOf("whoknows"), mark + ".example.com", hostOf(strings.ToLower(mark)), "9999-" + hostOf("slowpoke"),
	} {
		header := asBrowser.Clone()
		for _, name := range []string{"Referer", "User-Agent", "Cookie", "X-Forwarded-Host", "Accept-Language"} {
			header.Set(name, mark+"<script>")
		}
		body := read(t, s.send(t, http.MethodGet, host, strings.ReplaceAll(absurd, " ", "%20"), header, nil))
		if strings.Contains(strings.ToLower(body), strings.ToLower(mark)) || strings.Contains(body, "alert(1)") {
			t.Errorf("%s: what the request brought is on the page: %s", host, body)
		}
	}
}

func TestLogLinesAreTextOnly(t *testing.T) {
	body, _, ok := render(Page{Name: failedName, Title: "Failed", Log: []string{`</div><script>alert(1)</script>`, `"&'<!--`}}, nil, nil)
	if !ok || strings.Contains(string(body), "<script>alert") || !strings.Contains(string(body), "&lt;script&gt;alert(1)") {
		t.Errorf("got %s", body)
	}
}

func TestAPageSaysWhenItsButtonComes(t *testing.T) {
	for wait, want := range map[time.Duration]string{
		time.Nanosecond: "can only be started again in 1 second.", 1500 * time.Millisecond: "can only be started again in 2 seconds.",
	} {
		page := failedPage(instance.Progress{Status: instance.Failed, Failures: 4, StartIn: wait}, true)
		if !strings.HasSuffix(page.Text, "It has failed 4 times in a row, so it "+want) || page.Start != "" {
			t.Errorf("%v: %+v", wait, page)
		}
		if want := int(math.Ceil(wait.Seconds())); page.Refresh != want {
			t.Errorf("%v: it loads again after %d s, want %d", wait, page.Refresh, want)
		}
	}
}

func TestFailuresInWords(t *testing.T) {
	for reason, want := range map[string]string{
		"exited 1":                  "The dev server of this sandbox ended with exit code 1.",
		"exited 137: out of memory": "The dev server of this sandbox was ended: out of memory (exit code 137).",
		"never became ready":        "The dev server of this sandbox did not answer in time.",
		"did not start":             "This sandbox has failed: did not start.",
		"":                          "This sandbox has failed.",
	} {
		if got := failureText(reason); got != want {
			t.Errorf("%q: %q, want %q", reason, got, want)
		}
	}
}
