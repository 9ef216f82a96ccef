package test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/chromedp"
	"github.com/docker/docker/api/types/container"
)

// Vite behind a shell that waits until it may go on, and one that fails the first
// time.
const slowTemplates = `
		default_template slow
		defaults {
			image ` + viteImage + `
			page_logs anyone
		}
		template slow {
			command sh -c "echo 'added 214 packages in 3s'; until [ -e /app/.go ]; do sleep 0.1; done; rm /app/.go; echo '> vite'; exec node node_modules/vite/bin/vite.js"
		}
		template secondtime {
			command sh -c "[ -e /app/.once ] && exec node node_modules/vite/bin/vite.js; touch /app/.once; sleep 1; echo 'Error: no database'; exit 1"
		}
		template patient {
			command sh -c "echo 'added 214 packages in 3s'; echo; echo '> demo@0.0.0 dev'; echo '> vite'; sleep 50"
		}
		template plain {
			image {image}
			port 8080
		}
		template asleep {
			image {image}
			port 8080
			wake authenticated
		}
		template quiet {
			command sh -c "exit 1"
			page_logs nobody
		}
		template broken {
			command sh -c "` + brokenLog + ` exit 1"
		}
`

// brokenLog is what a Vite says that cannot read its configuration.
const brokenLog = `echo '> demo@0.0.0 dev'; echo '> vite'; echo; echo 'failed to load config from /app/vite.config.js';` +
	` echo 'error when starting dev server:'; echo 'ReferenceError: react is not defined'; echo '    at file:///app/vite.config.js:5:13';` +
	` echo '    at ModuleJob.run (node:internal/modules/esm/module_job:345:25)';`

func startSlow(t *testing.T) *caddyServer {
	t.Helper()
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	return startCaddy(t, options{Templates: slowTemplates})
}

// begin creates an instance and waits until its container runs: after that no
// network of this machine changes, which Chromium would break off loads for.
func (c *caddyServer) begin(t *testing.T, template string, env map[string]string) instanceView {
	t.Helper()
	made := c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{Template: template, Env: env}).
		expect(t, http.StatusCreated, 0).instance(t)
	c.api.removeAfter(t, made.Prefix)
	return made
}

// letGo has the shell of an instance of template slow go on to Vite.
func (c *caddyServer) letGo(t *testing.T, made instanceView) {
	t.Helper()
	eventually(t, 20*time.Second, func() error { // its container may be about to start
		run, err := engine.ContainerExecCreate(t.Context(), made.ContainerID, container.ExecOptions{Cmd: []string{"touch", "/app/.go"}})
		if err != nil {
			return err
		}
		return engine.ContainerExecStart(t.Context(), run.ID, container.ExecStartOptions{})
	})
}

// visit opens a page without waiting for anything on it.
func (b *browser) visit(t *testing.T, url string) {
	t.Helper()
	b.persist(t, func(func() bool) error {
		b.forgetPage()
		return b.try(20*time.Second, chromedp.Navigate(url))
	})
}

// sees is what a script finds on the page; it returns text.
func (b *browser) sees(script string) (string, error) {
	return chromedp.Run(b.ctx, chromedp.Evaluate[string](script))
}

func (b *browser) awaitSeen(t *testing.T, limit time.Duration, script, want string) {
	t.Helper()
	eventually(t, limit, func() error {
		got, err := b.sees(script)
		if err == nil && got != want {
			err = fmt.Errorf("%s is %q, want %q", script, got, want)
		}
		return err
	})
}

// landsAt waits until the app is shown at url: found then tells true.
func (b *browser) landsAt(t *testing.T, url, found string) {
	t.Helper()
	eventually(t, time.Minute, func() error {
		got, err := b.sees("location.href + ' ' + (" + found + ")")
		if err != nil {
			return err
		}
		if strings.HasPrefix(got, "chrome-error:") { // see networkChanged: no fault of the page
			return b.try(20*time.Second, chromedp.Navigate(url))
		}
		if got != url+" true" {
			shown, _ := b.sees("document.documentElement.outerHTML")
			return fmt.Errorf("the browser is at %s: %s", got, shown)
		}
		return nil
	})
}

// obeysPolicy checks that nothing of the page was held back by its policy.
func (b *browser) obeysPolicy(t *testing.T) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, complaint := range b.complaints {
		if strings.Contains(complaint, "Content Security Policy") {
			t.Error(complaint)
		}
	}
}

const deepPath = "/a/b?tab=2&x=%2F"

// The tests with a browser run alone: see networkChanged.

func TestTheWaitingPageShowsTheStartAndGoesToTheApp(t *testing.T) {
	c := startSlow(t)
	b := openBrowser(t, c)
	made := c.begin(t, "slow", nil)
	b.visit(t, made.URL+deepPath+"#part")
	b.awaitSeen(t, 10*time.Second, `document.querySelector("[aria-current=step]")?.textContent ?? ""`, "Starting")
	b.awaitSeen(t, 10*time.Second, `document.querySelector("#log div")?.textContent ?? ""`, "added 214 packages in 3s")
	if got, err := b.sees(`document.querySelector("#box").hidden + " " + document.querySelector("[role=status]").textContent`); err != nil ||
		got != "false This sandbox is starting. It opens by itself once it is ready." {
		t.Errorf("the page shows %q, %v", got, err)
	}
	c.letGo(t, made)
	b.landsAt(t, made.URL+deepPath+"#part", `document.querySelector("#root") !== null`)
	b.obeysPolicy(t)
}

func TestAVisitWakesTheInstanceAndGetsToTheApp(t *testing.T) {
	c := startSlow(t)
	b := openBrowser(t, c)
	made := c.begin(t, "slow", nil)
	c.letGo(t, made)
	c.api.awaitStatus(t, 20*time.Second, made.Prefix, "running", "")
	eventually(t, 20*time.Second, func() error {
		if !c.api.get(t, made.Prefix).Ready {
			return errors.New("it is not ready")
		}
		return nil
	})
	if err := engine.ContainerStop(t.Context(), made.ContainerID, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, 20*time.Second, made.Prefix, "stopped", "stopped outside")
	b.visit(t, made.URL+deepPath+"#part")
	b.awaitSeen(t, 10*time.Second, `document.querySelector("h1")?.textContent ?? ""`, "Starting")
	c.letGo(t, made)
	b.landsAt(t, made.URL+deepPath+"#part", `document.querySelector("#root") !== null`)
}

func TestTheWaitingPageGoesToTheAppWithoutScripts(t *testing.T) {
	c := startSlow(t)
	b := openBrowser(t, c)
	if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: true}); err != nil {
		t.Fatal(err)
	}
	made := c.begin(t, "slow", nil)
	b.visit(t, made.URL+deepPath+"#part")
	b.awaitSeen(t, 10*time.Second, `document.querySelector("h1")?.textContent ?? ""`, "Starting")
	c.letGo(t, made)
	b.landsAt(t, made.URL+deepPath, `document.querySelector("#root") !== null`) // no refresh keeps the fragment
}

func TestTheManualsPageGoesToTheApp(t *testing.T) {
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	manual, err := os.ReadFile("../docs/sleep.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(manual), "```html\n")
	example, _, _ = strings.Cut(example, "```\n")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "starting.html"), []byte(example+"<i></i>"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := startCaddy(t, options{Templates: strings.Replace(slowTemplates, "defaults {", "defaults {\n pages "+dir, 1)})
	b := openBrowser(t, c)
	for _, scripts := range []bool{true, false} {
		if _, err := chromedp.Call(b.ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !scripts}); err != nil {
			t.Fatal(err)
		}
		made := c.begin(t, "slow", nil)
		b.visit(t, made.URL+deepPath+"#part")
		says, landed := "This sandbox is starting. It opens by itself once it is ready.", made.URL+deepPath
		if scripts {
			says, landed = "starting", landed+"#part"
		}
		b.awaitSeen(t, 10*time.Second, `document.querySelector("#says + i")?.previousElementSibling.textContent ?? ""`, says)
		c.letGo(t, made)
		b.landsAt(t, landed, `document.querySelector("#root") !== null`)
	}
}

func TestTheButtonOfTheFailedPageLeadsToTheApp(t *testing.T) {
	c := startSlow(t)
	b := openBrowser(t, c)
	made := c.begin(t, "secondtime", nil)
	c.api.awaitStatus(t, 20*time.Second, made.Prefix, "failed", "exited 1")
	b.visit(t, made.URL+deepPath+"#part")
	b.awaitSeen(t, 10*time.Second, `document.querySelector("h1").textContent + ": " + document.querySelector("#log div:last-child").textContent`,
		"Failed: Error: no database")
	b.click(t, "button")
	b.landsAt(t, made.URL+deepPath+"#part", `document.querySelector("#root") !== null`)
	b.obeysPolicy(t)
}

// screenshotsVar names the folder, absolute or from here, that pictures of the
// pages are put into; those of the manual are in ../docs/images.
const screenshotsVar = "SANDBOX_SCREENSHOTS"

// mostBytes keeps the manual light.
const mostBytes = 60_000

func TestScreenshotsOfThePages(t *testing.T) {
	dir := os.Getenv(screenshotsVar)
	if dir == "" {
		t.Skip(screenshotsVar + " is not set: the pictures are for the manual, and change with fonts") // not for each run
	}
	c := startSlow(t)
	b := openBrowser(t, c)
	desktop, phone := view{900, 640, false}, view{320, 640, false}
	dark := func(v view) view { v.dark = true; return v }

	asleep := c.begin(t, "asleep", nil)
	c.api.awaitStatus(t, 20*time.Second, asleep.Prefix, "running", "")
	if err := engine.ContainerStop(t.Context(), asleep.ContainerID, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, 20*time.Second, asleep.Prefix, "stopped", "stopped outside")
	b.shoot(t, dir, "page-asleep", asleep.URL, desktop)

	halted := c.begin(t, "plain", nil)
	eventually(t, 20*time.Second, func() error { // its create holds it until it is ready
		if now := c.api.get(t, halted.Prefix); !now.Ready {
			return fmt.Errorf("it is %s and not ready", now.Status)
		}
		return nil
	})
	c.api.act(t, halted.Prefix, "stop")
	b.shoot(t, dir, "page-stopped", halted.URL, desktop)
	c.api.act(t, halted.Prefix, "start")
	eventually(t, 10*time.Second, func() error { // what the engine tells of the start may hold it for a moment
		paused, err := c.api.try(http.MethodPost, "/api/instances/"+halted.Prefix+"/pause", nil)
		if err == nil && paused.Code != 0 {
			err = fmt.Errorf("got %s", paused.raw)
		}
		return err
	})
	b.shoot(t, dir, "page-paused", halted.URL, desktop)

	for template, name := range map[string]string{"broken": "page-failed", "quiet": "page-failed-no-log"} {
		made := c.begin(t, template, nil)
		c.api.awaitStatus(t, 20*time.Second, made.Prefix, "failed", "exited 1")
		b.shoot(t, dir, name, made.URL, desktop)
		if template == "broken" {
			b.shoot(t, dir, name+"-dark", made.URL, dark(desktop))
			b.shoot(t, dir, name+"-phone", made.URL, phone)
		}
	}

	starting := c.begin(t, "patient", nil)
	b.shoot(t, dir, "page-starting", starting.URL, desktop)
	b.shoot(t, dir, "page-starting-dark", starting.URL, dark(desktop))
	b.shoot(t, dir, "page-starting-phone", starting.URL, phone)
}

// view is how wide and high the browser's window is, and whether it is dark.
type view struct {
	width, height int64
	dark          bool
}

// shoot puts a picture of the page into dir.
func (b *browser) shoot(t *testing.T, dir, name, url string, v view) {
	t.Helper()
	scheme := map[bool]string{true: "dark", false: "light"}[v.dark]
	if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"},
	}}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(b.ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: v.width, Height: v.height, DeviceScaleFactor: 1,
	}); err != nil {
		t.Fatal(err)
	}
	b.visit(t, url)
	b.awaitSeen(t, 10*time.Second, `document.querySelectorAll("main h1").length + " " + (document.documentElement.scrollWidth <= innerWidth)`, "1 true")
	if strings.Contains(name, "starting") {
		b.awaitSeen(t, 10*time.Second, `document.querySelector("#log div:last-child")?.textContent ?? ""`, "> vite")
	}
	picture, err := chromedp.Call(b.ctx, page.CaptureScreenshot, page.CaptureScreenshotParams{})
	if err != nil {
		t.Fatal(err)
	}
	if len(picture.Data) > mostBytes {
		t.Errorf("%s has %d bytes, want at most %d", name, len(picture.Data), mostBytes)
	}
	if err := os.WriteFile(filepath.Join(dir, name+".png"), picture.Data, 0o644); err != nil {
		t.Fatal(err)
	}
}
