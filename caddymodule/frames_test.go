package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const (
	chromeAgent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"
	safariAgent = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15"
)

// framedBy is what Chromium sends for a frame on a page of site.
func framedBy(site, referer string) http.Header {
	header := asBrowser.Clone()
	header.Set("User-Agent", chromeAgent)
	header.Set("Sec-Fetch-Dest", "iframe")
	header.Set("Sec-Fetch-Site", site)
	if referer != "" {
		header.Set("Referer", referer)
	}
	return header
}

func TestFramesOfStrangersWakeNothing(t *testing.T) {
	c := sleepConfig("")
	c.sandbox = "builder_origin https://builder.example\n builder_origin http://localhost:3000"
	s := startServer(t, c)
	for prefix, header := range map[string]http.Header{
		"stranger1": framedBy("cross-site", "https://evil.example/"),
		"stranger2": framedBy("cross-site", ""), // its referrer policy hides it
		"stranger3": framedBy("cross-site", "https://builder.example.evil.example/"),
		"stranger4": framedBy("cross-site", "https://evil.example/https://builder.example/"),
		"stranger5": framedBy("cross-site", "http://builder.example/"),
	} {
		s.asleep(t, prefix, wakeNavigate)
		before := s.engine.Calls("Start")
		page := s.page(t, hostOf(prefix), "/app", header, http.StatusServiceUnavailable)
		if !strings.Contains(page, `<a href="" target="_blank" rel="noopener">Open it in a tab of its own</a>`) || strings.Contains(page, "<form") {
			t.Errorf("%s: a button, or no way to open it: %s", prefix, page)
		}
		if !strings.Contains(page, "sleeps. To wake it up, open it in a tab of its own.</p>") {
			t.Errorf("%s: the page does not say what that is for: %s", prefix, page)
		}
		if s.engine.Calls("Start") != before {
			t.Errorf("%s: it was started", prefix)
		}
	}
	for prefix, header := range map[string]http.Header{
		"builder1": framedBy("cross-site", "https://builder.example/"),
		"builder2": framedBy("cross-site", "http://localhost:3000/projects/7?tab=preview"),
		"builder3": framedBy("same-site", ""),
	} {
		s.asleep(t, prefix, wakeNavigate)
		_ = s.get(t, hostOf(prefix), "/app", header)
		s.awaitStatus(t, prefix, instance.Running)
	}
}

func TestPagesWithAButtonAreNotForFramesOfStrangers(t *testing.T) {
	dir := pagesDir(t, map[string]string{"failed.html": `<form method="post" action="{{.Start}}"></form>`, "stopped.html": `{{.Text}}`})
	s := startServer(t, config{
		templates: webTemplate("") + "\ntemplate own {\n image caddy-sandbox/testserver\n pages " + dir + "\n}",
		sandbox:   "default_template web\n builder_origin https://builder.example",
	})
	s.fails(t, "fellover")
	s.call(t, http.MethodPost, "/api/instances?wait=none", `{"prefix":"ownpages","template":"own","env":{"TEST_MODE":"exit"}}`).expect(t, http.StatusAccepted, 0)
	s.awaitStatus(t, "ownpages", instance.Failed)
	s.call(t, http.MethodPut, "/api/instances/fellover/domains/app.example.co.uk", "").expect(t, http.StatusOK, 0)
	for host, want := range map[string]string{
		hostOf("fellover"):  "frame-ancestors 'self' sandbox.localhost:* *.sandbox.localhost:* https://builder.example",
		"app.example.co.uk": "frame-ancestors 'self' example.co.uk:* *.example.co.uk:* https://builder.example",
		hostOf("ownpages"):  "frame-ancestors 'self' sandbox.localhost:* *.sandbox.localhost:* https://builder.example",
	} {
		res := s.get(t, host, "/", asBrowser)
		if got := strings.Join(res.Header.Values("Content-Security-Policy"), ", "); !strings.HasSuffix(got, want) {
			t.Errorf("%s: %q, want %q", host, got, want)
		}
		// Where the button is left out, there is nothing to steal a click for.
		res = s.get(t, host, "/", framedBy("cross-site", "https://evil.example/"))
		if got := strings.Join(res.Header.Values("Content-Security-Policy"), ","); strings.Contains(got, "frame-ancestors") {
			t.Errorf("%s: in a stranger's frame %q", host, got)
		}
		if body := read(t, res); host != hostOf("ownpages") && !strings.Contains(body, "To start it again, open it in a tab of its own.</p>") {
			t.Errorf("%s: in a stranger's frame the page does not say what to do: %s", host, body)
		}
	}
}

// Safari tells where a request comes from, but not whether anybody touched the page.
func TestSafariWakesAndHasTheButton(t *testing.T) {
	s := startSleepServer(t, "")
	s.asleep(t, "following", wakeNavigate)
	link := asBrowser.Clone()
	link.Set("User-Agent", safariAgent)
	link.Set("Sec-Fetch-Site", "same-origin")
	link.Set("Sec-Fetch-Dest", "document")
	_ = s.get(t, hostOf("following"), "/next", link)
	s.awaitStatus(t, "following", instance.Running)

	s.asleep(t, "pressing1", wakeNavigate)
	res := s.press(t, hostOf("pressing1"), "/", "User-Agent", safariAgent, "Sec-Fetch-User", "")
	if res.StatusCode != http.StatusSeeOther {
		t.Errorf("the button: %d, want 303", res.StatusCode)
	}
	s.awaitStatus(t, "pressing1", instance.Running)
}

// Nor does a service worker that passes on what it is asked for.
func TestTheButtonWorksThroughAServiceWorker(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "offline1")
	if res := s.press(t, hostOf("offline1"), "/", "Sec-Fetch-User", "", "Sec-Fetch-Dest", "empty"); res.StatusCode != http.StatusSeeOther {
		t.Errorf("%d, want 303", res.StatusCode)
	}
}
