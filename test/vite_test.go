package test

import (
	"fmt"
	"os/exec"
	"sync"
	"testing"
	"time"
)

const viteImage = "caddy-sandbox/vite-demo"

// makeViteImage builds the demo image; that does nothing when it is there.
var makeViteImage = sync.OnceValue(func() error {
	if out, err := exec.Command("../scripts/image.sh").CombinedOutput(); err != nil {
		return fmt.Errorf("making the demo image: %w\n%s", err, out)
	}
	return nil
})

const viteTemplate = `
		template vite {
			image ` + viteImage + `
			port 5174
		}
`

// openVite starts a Caddy with one Vite instance and opens its page.
func openVite(t *testing.T) (*caddyServer, instanceView, *browser) {
	t.Helper()
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	c := startCaddy(t, options{Templates: viteTemplate})
	made := c.api.create(t, createRequest{})
	b := openBrowser(t, c)
	b.openVite(t, made.URL)
	b.awaitText(t, 10*time.Second, "#instance", made.Prefix)
	return c, made, b
}

// openVite opens a page of Vite's and waits for the WebSocket that brings the edits.
func (b *browser) openVite(t testing.TB, url string) {
	t.Helper()
	b.persist(t, func(spoiled func() bool) error {
		if err := b.load(url, "#counter", spoiled); err != nil {
			return err
		}
		return until(10*time.Second, spoiled, func() error {
			if open, _ := b.webSockets(); open != 1 {
				return fmt.Errorf("%d WebSockets open, want Vite's one", open)
			}
			return nil
		})
	})
}

// The tests with a browser run alone: see networkChanged.

func TestAnEditChangesThePageAndKeepsTheCounter(t *testing.T) {
	_, made, b := openVite(t)
	b.countTo(t, 3)
	loads := b.pageLoads()
	b.seesEdit(t, made, "Hello from the sandbox", "Edited in the container")
	b.stillCountsTo(t, 3, loads)
}

func TestReloadsOfCaddyLeaveTheHotReloadSocketOpen(t *testing.T) {
	c, made, b := openVite(t)
	b.countTo(t, 2)
	loads := b.pageLoads()
	_, opened := b.webSockets()

	for n := range 10 {
		c.Sandbox = fmt.Sprintf("prefix_length %d", 20+n)
		c.Proxy = fmt.Sprintf("header_up X-Config %d", n)
		c.reload(t, c.caddyfile())
	}
	// A socket that the reloads closed would be seen to close, or to be replaced.
	b.seesEdit(t, made, "Hello from the sandbox", "Edited after ten reloads")
	b.stillCountsTo(t, 2, loads)
	if open, now := b.webSockets(); open != 1 || now != opened {
		t.Errorf("%d WebSockets open and %d opened since the reloads, want the old one alone", open, now-opened)
	}
}

func (b *browser) countTo(t testing.TB, n int) {
	t.Helper()
	for range n {
		b.click(t, "#counter")
	}
	b.awaitText(t, 10*time.Second, "#counter", fmt.Sprintf("Count is %d", n))
}

// seesEdit changes text in src/App.jsx, in the container, and waits for it on
// the page.
func (b *browser) seesEdit(t testing.TB, in instanceView, from, to string) {
	t.Helper()
	b.persist(t, func(func() bool) error {
		execIn(t, in.ContainerID, "sed", "-i", "s/"+from+"/"+to+"/", "src/App.jsx")
		return b.tryText(t, 20*time.Second, "#greeting", to)
	})
}

func (b *browser) stillCountsTo(t testing.TB, n, loads int) {
	t.Helper()
	if got, want := b.text(t, "#counter"), fmt.Sprintf("Count is %d", n); got != want {
		t.Errorf("after the edit: %q, want %q", got, want)
	}
	if got := b.pageLoads(); got != loads {
		t.Error("the page was loaded again")
	}
}
