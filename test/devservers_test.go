package test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/pkg/stdcopy"
)

const devServerImage = "caddy-sandbox/devserver"

// devServersDomain is not below localhost, whose names dev servers trust.
const devServersDomain = "sandbox.example.com"

// makeDevServerImages builds the images of test/devservers; that does nothing
// for those that are there.
var makeDevServerImages = sync.OnceValue(func() error {
	if out, err := exec.Command("../scripts/devservers.sh").CombinedOutput(); err != nil {
		return fmt.Errorf("making the images of the dev servers: %w\n%s", err, out)
	}
	return nil
})

// devServer is one of test/devservers: an app as its framework's generator
// leaves it, which knows nothing of proxies, public names or containers.
type devServer struct {
	name     string // of its template
	app      string // its folder; default: name
	port     string // where it listens by itself
	command  string // what `npm run dev` runs
	memory   string // default: 1GiB
	mode     mode   // as auto finds out
	sources  []source
	remounts bool // an edit makes the component anew, and its counter with it
	form     bool // its page has a form that the server answers
}

// mode is how requests are put to an instance.
type mode struct{ dev, hostHeader string }

// source is a file with the text "Edition 0", and the element that shows it.
type source struct{ file, selector string }

var devServers = []devServer{
	{
		name: "vite5", port: "5173",
		command: "node node_modules/vite/bin/vite.js", mode: mode{"vite", "localhost"},
		sources: []source{{"src/App.jsx", "#greeting"}},
	},
	{
		name: "vite6", port: "5173",
		command: "node node_modules/vite/bin/vite.js", mode: mode{"vite", "preserve"},
		sources: []source{{"src/App.jsx", "#greeting"}},
	},
	{
		name: "vite7", port: "5173",
		command: "node node_modules/vite/bin/vite.js", mode: mode{"vite", "preserve"},
		sources: []source{{"src/App.jsx", "#greeting"}},
	},
	{
		name: "vite8", port: "5173",
		command: "node node_modules/vite/bin/vite.js", mode: mode{"vite", "preserve"},
		sources: []source{{"src/App.jsx", "#greeting"}},
	},
	{
		name: "next16", port: "3000", memory: "2GiB",
		command: "node node_modules/next/dist/bin/next dev", mode: mode{"next", "preserve"},
		sources: []source{
			{"app/page.js", "#greeting"},   // runs on the server
			{"app/counter.js", "#caption"}, // runs in the browser
		},
		form: true, // a server action
	},
	// The client of webpack-dev-server dials the port that the server listens
	// on: that must be the public one, or the command must say otherwise.
	{
		name: "webpack5", port: "{https}",
		command: "node node_modules/webpack/bin/webpack.js serve", mode: mode{"webpack", "localhost"},
		sources: []source{{"src/greeting.js", "#greeting"}},
	},
	{
		name: "webpack5-8080", app: "webpack5", port: "8080",
		command: "node node_modules/webpack/bin/webpack.js serve --client-web-socket-url auto://0.0.0.0:0/ws",
		mode:    mode{"webpack", "localhost"},
		sources: []source{{"src/greeting.js", "#greeting"}},
	},
	{
		name: "astro7", port: "4321",
		command: "node node_modules/astro/bin/astro.mjs dev", mode: mode{"vite", "preserve"},
		sources: []source{{"src/components/Counter.jsx", "#greeting"}},
		form:    true, // an action; the browser posts the form
	},
	{
		name: "sveltekit2", port: "5173",
		command: "node node_modules/vite/bin/vite.js dev", mode: mode{"vite", "preserve"},
		sources:  []source{{"src/routes/+page.svelte", "#greeting"}},
		remounts: true,
		form:     true, // a form action; a script posts the form
	},
}

// template is the operator's for s: nothing but what runs it.
func (s devServer) template() string {
	return fmt.Sprintf(`
		template %s {
			image   %s:%s
			port    %s
			command %s
			memory  %s
			cpus    2
			ready   3m
		}
`, s.name, devServerImage, cmp.Or(s.app, s.name), s.port, s.command, cmp.Or(s.memory, "1GiB"))
}

// startDevServerCaddy starts a Caddy with a template for each of servers.
func startDevServerCaddy(t *testing.T, servers ...devServer) *caddyServer {
	t.Helper()
	if err := makeDevServerImages(); err != nil {
		t.Fatal(err)
	}
	var templates strings.Builder
	for _, s := range servers {
		templates.WriteString(s.template())
	}
	return startCaddy(t, options{Domain: devServersDomain, Templates: templates.String()})
}

func TestDevServersWorkUntouched(t *testing.T) {
	c := startDevServerCaddy(t, devServers...)
	for _, s := range devServers {
		t.Run(s.name, func(t *testing.T) {
			made := c.api.create(t, createRequest{Template: s.name})
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("log of the dev server:\n%s", containerLog(t, made.ContainerID))
				}
				c.api.delete(t, made.Prefix)
			})
			v := visit{browser: openBrowser(t, c), devServer: s, made: made}
			v.persist(t, func(spoiled func() bool) error { return v.all(t, spoiled) })
			now := c.api.get(t, made.Prefix)
			if found := (mode{now.Dev, now.HostHeader}); found != s.mode {
				t.Errorf("the instance is %v, want %v", found, s.mode)
			}
		})
	}
}

// TestAnOldViteIsAskedTwiceOnce: Vite 5 has no variable that would make it take
// a public host.
func TestAnOldViteIsAskedTwiceOnce(t *testing.T) {
	c := startDevServerCaddy(t, devServerNamed("vite5"))
	made := c.api.create(t, createRequest{Env: map[string]string{"DEBUG": "vite:time"}}) // it then logs each request
	if made.Dev != "auto" || made.HostHeader != "preserve" {
		t.Errorf("before the first request: dev %s, host_header %s", made.Dev, made.HostHeader)
	}
	c.visitor.mustGet(t, made.URL+"/src/main.jsx")
	c.visitor.mustGet(t, made.URL+"/src/App.jsx")
	eventually(t, 10*time.Second, func() error {
		log := containerLog(t, made.ContainerID)
		if first, second := strings.Count(log, "/src/main.jsx"), strings.Count(log, "/src/App.jsx"); first != 2 || second != 1 {
			return fmt.Errorf("Vite saw the first request %d times and the second %d times, want 2 and 1:\n%s", first, second, log)
		}
		return nil
	})
	if now := c.api.get(t, made.Prefix); now.Dev != "vite" || now.HostHeader != "localhost" {
		t.Errorf("after it: dev %s, host_header %s", now.Dev, now.HostHeader)
	}
}

func devServerNamed(name string) devServer {
	return devServers[slices.IndexFunc(devServers, func(s devServer) bool { return s.name == name })]
}

// visit is what a developer does with the page of an instance.
type visit struct {
	*browser
	devServer
	made    instanceView
	edition int // of the sources; each edit makes the next one
}

// all is the whole visit. A change of the network may spoil it: then it is made
// again.
func (v *visit) all(t *testing.T, spoiled func() bool) error {
	if err := v.load(v.made.URL, "#counter", spoiled); err != nil {
		return err
	}
	if err := v.hydrates(spoiled); err != nil {
		return fmt.Errorf("hydrating: %w", err)
	}
	for _, s := range v.sources {
		if err := v.edit(t, s, spoiled); err != nil {
			return fmt.Errorf("editing %s: %w", s.file, err)
		}
	}
	if v.form {
		if err := v.post(spoiled); err != nil {
			return fmt.Errorf("posting the form: %w", err)
		}
	}
	return v.flawless()
}

// hydrates clicks until the page counts: a click before that is lost. It then
// waits for the WebSocket that brings the edits.
func (v *visit) hydrates(spoiled func() bool) error {
	const before = "Count is 0"
	err := until(20*time.Second, spoiled, func() error {
		if err := v.press("#counter"); err != nil {
			return err
		}
		return poll(time.Second, func() error {
			got, err := v.shown("#counter")
			if err == nil && got == before {
				err = errors.New("clicks change nothing")
			}
			return err
		})
	})
	if err != nil {
		return err
	}
	return until(20*time.Second, spoiled, func() error {
		if v.upgrades() == 0 {
			return errors.New("no WebSocket was accepted")
		}
		return nil
	})
}

// edit changes a source in the container, and waits for it on the page, which
// must not be loaded for that.
func (v *visit) edit(t *testing.T, s source, spoiled func() bool) error {
	loads := v.pageLoads()
	count, err := v.shown("#counter")
	if err != nil {
		return err
	}
	v.edition++
	text := fmt.Sprintf("Edition %d", v.edition)
	execIn(t, v.made.ContainerID, "sed", "-i", "s/Edition [0-9]*/"+text+"/", s.file)
	if err := v.shows(s.selector, text, spoiled); err != nil {
		return err
	}
	if v.pageLoads() != loads {
		return errors.New("the page was loaded again")
	}
	if v.remounts {
		count = "Count is 0"
	}
	return v.shows("#counter", count, spoiled)
}

// post sends the form and waits for the server's answer on the page.
func (v *visit) post(spoiled func() bool) error {
	if err := v.try(20*time.Second, chromedp.SendKeys(chromedp.CSS("#name"), "Ada")); err != nil {
		return err
	}
	if err := v.press("#send"); err != nil {
		return err
	}
	return v.shows("#answer", "The server greets Ada", spoiled)
}

func (v *visit) flawless() error {
	if faults := v.pageFaults(); len(faults) > 0 {
		return fmt.Errorf("the browser reports errors:\n%s", strings.Join(faults, "\n"))
	}
	return nil
}

func (b *browser) press(selector string) error {
	return b.try(20*time.Second, chromedp.Click(chromedp.CSS(selector)))
}

// shows waits until the element shows text.
func (b *browser) shows(selector, text string, spoiled func() bool) error {
	return until(30*time.Second, spoiled, func() error {
		got, err := b.shown(selector)
		if err == nil && got != text {
			err = fmt.Errorf("%s shows %q, want %q", selector, got, text)
		}
		return err
	})
}

// shown is the text of an element now, while the page may change under it.
func (b *browser) shown(selector string) (string, error) {
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	return chromedp.Run(ctx, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q)?.innerText ?? ''", selector)))
}

// until polls, and gives up at once when the try is spoiled.
func until(limit time.Duration, spoiled func() bool, check func() error) error {
	return poll(limit, func() error {
		err := check()
		if err != nil && spoiled() {
			return stopPolling{err}
		}
		return err
	})
}

// containerLog is all that a container has written.
func containerLog(t testing.TB, ref string) string {
	t.Helper()
	lines, err := engine.ContainerLogs(context.Background(), ref, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer lines.Close()
	var log strings.Builder
	if _, err := stdcopy.StdCopy(&log, &log, lines); err != nil {
		t.Fatal(err)
	}
	return log.String()
}
