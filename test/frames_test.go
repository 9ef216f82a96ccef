package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"
	"github.com/docker/docker/api/types/container"
)

// embedder serves a page, at an origin of its own, that shows in a frame what
// the query names.
func embedder(t *testing.T) (origin string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		_, _ = fmt.Fprintf(w, `<title>embedder</title><iframe src="%s" width="700" height="500"></iframe>`, r.URL.RawQuery)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// startFramed starts a Caddy that knows one builder, and a sandbox whose page
// shows in a frame what its query names: it is of the same site as the others.
func startFramed(t *testing.T) (c *caddyServer, builder, neighbour string) {
	t.Helper()
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	builder = embedder(t)
	c = startCaddy(t, options{Sandbox: "builder_origin " + builder, Templates: slowTemplates + `
		template neighbour {
			command sh -c "mkdir -p public; echo '<iframe id=f width=700 height=500></iframe><script>f.src=location.search.slice(1)</script>' > public/embed.html; exec node node_modules/vite/bin/vite.js"
		}
	`})
	made := c.begin(t, "neighbour", nil)
	c.awaitReady(t, made.Prefix)
	return c, builder, made.URL + "/embed.html"
}

func (c *caddyServer) awaitReady(t *testing.T, prefix string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		if now := c.api.get(t, prefix); !now.Ready {
			return fmt.Errorf("it is %s and not ready", now.Status)
		}
		return nil
	})
}

// sleeper makes an instance that sleeps.
func (c *caddyServer) sleeper(t *testing.T) instanceView {
	t.Helper()
	made := c.begin(t, "plain", nil)
	c.awaitReady(t, made.Prefix)
	if err := engine.ContainerStop(t.Context(), made.ContainerID, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, 20*time.Second, made.Prefix, "stopped", "stopped outside")
	return made
}

// pressFirst presses what can be pressed first on the page, or in its frame.
func (b *browser) pressFirst(t *testing.T) {
	t.Helper()
	if err := b.try(20*time.Second, chromedp.KeyEvent(kb.Tab), chromedp.KeyEvent(kb.Enter)); err != nil {
		t.Fatal(err)
	}
}

// through does steps until they led to what is wanted: where a network of this
// machine changes meanwhile, Chromium breaks loads off, in frames and other tabs
// without our hearing of it.
func through(t *testing.T, steps func(), wanted func() error) {
	t.Helper()
	var err error
	for range 5 {
		steps()
		if err = poll(8*time.Second, wanted); err == nil {
			return
		}
	}
	t.Fatal(err)
}

// is reports whether an instance has come to status.
func (c *caddyServer) is(t *testing.T, prefix, status string) func() error {
	return func() error {
		if now := c.api.get(t, prefix); now.Status != status {
			return fmt.Errorf("it is %s, want %s", now.Status, status)
		}
		return nil
	}
}

func (b *browser) complainsOf(text string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, complaint := range b.complaints {
		if strings.Contains(complaint, text) {
			return nil
		}
	}
	return fmt.Errorf("no complaint of %q in %q", text, b.complaints)
}

func TestFramesOfBuildersWakeAndHaveTheButton(t *testing.T) {
	c, builder, neighbour := startFramed(t)
	b := openBrowser(t, c)
	for _, from := range []string{builder + "/", neighbour} {
		asleep := c.sleeper(t)
		through(t, func() { b.visit(t, from+"?"+asleep.URL+deepPath) }, c.is(t, asleep.Prefix, "running"))

		failed := c.begin(t, "secondtime", nil)
		c.api.awaitStatus(t, 20*time.Second, failed.Prefix, "failed", "exited 1")
		through(t, func() {
			b.visit(t, from+"?"+failed.URL+deepPath)
			b.pressFirst(t)
		}, c.is(t, failed.Prefix, "running"))
		if err := b.complainsOf("frame-ancestors"); err == nil {
			t.Errorf("%s: the browser refused the frame", from)
		}
	}
}

func TestFramesOfStrangersWakeNothingAndHaveNoButton(t *testing.T) {
	c, _, neighbour := startFramed(t)
	b := openBrowser(t, c)
	stranger := embedder(t) + "/"
	asleep := c.sleeper(t)
	b.visit(t, stranger+"?"+asleep.URL+deepPath)
	if err := c.is(t, asleep.Prefix, "stopped")(); err != nil {
		t.Error(err)
	}
	through(t, func() {
		b.visit(t, stranger+"?"+asleep.URL+deepPath)
		b.pressFirst(t) // the link to a tab of its own
	}, c.is(t, asleep.Prefix, "running"))

	// In a frame of a frame, the browser alone knows who else is there.
	failed := c.begin(t, "secondtime", nil)
	c.api.awaitStatus(t, 20*time.Second, failed.Prefix, "failed", "exited 1")
	through(t, func() { b.visit(t, stranger+"?"+neighbour+"?"+failed.URL) }, func() error { return b.complainsOf("frame-ancestors") })
}

func TestScriptsDoNotPressTheButton(t *testing.T) {
	c := startSlow(t)
	b := openBrowser(t, c)
	made := c.begin(t, "secondtime", nil)
	c.api.awaitStatus(t, 20*time.Second, made.Prefix, "failed", "exited 1")
	const title = `document.querySelector("h1")?.textContent ?? ""`
	through(t, func() {
		b.visit(t, made.URL+deepPath)
		b.awaitSeen(t, 10*time.Second, title, "Failed")
		if _, err := b.sees(`document.querySelector("form").submit(), ""`); err != nil {
			t.Fatal(err)
		}
	}, func() error {
		got, err := b.sees(title)
		if err == nil && got != "Not from here" {
			err = fmt.Errorf("the page is %q", got)
		}
		return err
	})
	if err := c.is(t, made.Prefix, "failed")(); err != nil {
		t.Error(err)
	}
}
