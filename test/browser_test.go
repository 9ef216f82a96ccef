package test

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/inspector"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// browser is one tab of a headless Chromium that trusts one Caddy's authority,
// and finds all instances of that Caddy on this machine.
type browser struct {
	ctx context.Context // chromedp's, of the tab

	mu         sync.Mutex
	sockets    map[network.RequestID]string // open WebSockets and their URLs
	opened     int                          // WebSockets, since the start
	upgraded   int                          // WebSockets that were answered 101, of this page
	loads      int                          // page loads
	changes    int                          // signs that a change of the network ended a load or a WebSocket
	complaints []string                     // failed loads, uncaught errors, the console
	faults     []string                     // those complaints that are errors, of this page
}

func openBrowser(t testing.TB, c *caddyServer) *browser {
	t.Helper()
	flags := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("no-proxy-server", true),
		chromedp.Flag("ignore-certificate-errors-spki-list", c.authorityPin(t)),
		chromedp.Flag("host-resolver-rules", "MAP *."+c.Domain+" 127.0.0.1"),
	)
	if os.Getuid() == 0 {
		flags = append(flags, chromedp.NoSandbox) // Chromium's own; with it, it refuses to run as root
	}
	ctx, cancelAllocator := chromedp.NewExecAllocator(context.Background(), flags...)
	t.Cleanup(cancelAllocator)
	ctx, cancelTab := chromedp.NewContext(ctx)
	t.Cleanup(func() {
		// Cancel waits for the end of the process, which still writes to its folder.
		if err := chromedp.Cancel(ctx); err != nil {
			t.Errorf("closing the browser: %v", err)
		}
		cancelTab()
	})
	b := &browser{ctx: ctx, sockets: map[network.RequestID]string{}}
	if err := chromedp.Listen(ctx, b.observe); err != nil {
		t.Fatalf("starting the browser (make test installs one where it can): %v", err)
	}
	if _, err := chromedp.Call(ctx, network.Enable, network.EnableParams{}); err != nil {
		t.Fatal(err)
	}
	if _, err := chromedp.Call(ctx, log.Enable, cdp.Empty{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("what the browser complained about:\n%s", strings.Join(b.complaints, "\n"))
		}
	})
	return b
}

// authorityPin is the hash of the key that signs this Caddy's certificates:
// Chromium accepts these chains and still refuses all others.
func (c *caddyServer) authorityPin(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(filepath.Dir(c.rootCert()), "intermediate.crt"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(content)
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (b *browser) observe(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch e := event.(type) {
	case *network.EventWebSocketCreated:
		b.opened++
		b.sockets[e.RequestID] = e.URL
	case *network.EventWebSocketHandshakeResponseReceived:
		if e.Response.Status == http.StatusSwitchingProtocols {
			b.upgraded++
		}
	case *network.EventWebSocketFrameError:
		b.noteChange(e.ErrorMessage)
	case *network.EventWebSocketClosed:
		delete(b.sockets, e.RequestID)
	case *page.EventLoadEventFired:
		b.loads++
	case *inspector.EventTargetCrashed:
		b.complain(true, "the tab crashed")
	case *network.EventLoadingFailed:
		b.noteChange(e.ErrorText)
		b.complain(!e.Canceled, "loading failed: %s", e.ErrorText) // pages cancel on purpose
	case *log.EventEntryAdded:
		b.noteChange(e.Entry.Text)
		b.complain(e.Entry.Level == log.EntryLevelError, "%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if thrown := e.ExceptionDetails.Exception; thrown != nil {
			text += " " + thrown.Description
		}
		b.complain(true, "%s", text)
	case *runtime.EventConsoleAPICalled:
		words := make([]string, len(e.Args))
		for i, arg := range e.Args {
			words[i] = string(arg.Value) + arg.Description
		}
		b.complain(e.Type == runtime.ConsoleAPICalledTypeError, "%s: %s", e.Type, strings.Join(words, " "))
	}
}

// noteChange counts what tells of a change of the network; b.mu is held.
func (b *browser) noteChange(text string) {
	if strings.Contains(text, networkChanged) {
		b.changes++
	}
}

// complain notes what the browser says; b.mu is held.
func (b *browser) complain(isError bool, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	b.complaints = append(b.complaints, text)
	if isError {
		b.faults = append(b.faults, text)
	}
}

// networkChanged is how Chromium ends what it loads over HTTP/2 when a network
// interface of this machine comes or goes, as they do with containers.
const networkChanged = "net::ERR_NETWORK_CHANGED"

// persist repeats step for as long as changes of the network spoil it. A step
// may look at spoiled and give up at once.
func (b *browser) persist(t testing.TB, step func(spoiled func() bool) error) {
	t.Helper()
	const tries = 20
	for try := 1; ; try++ {
		before := b.networkChanges()
		spoiled := func() bool { return b.networkChanges() > before }
		err := step(spoiled)
		if err == nil {
			return
		}
		// The browser may tell the step of it first.
		if !spoiled() && !strings.Contains(err.Error(), networkChanged) || try == tries {
			t.Fatalf("browser: %v (try %d)", err, try)
		}
		awaitCalmNetworks()
	}
}

// awaitCalmNetworks waits until no network interface has come or gone for a second,
// for which other tests on this machine may not leave the time.
func awaitCalmNetworks() {
	interfaces := func() string {
		all, err := net.Interfaces()
		return fmt.Sprint(all, err)
	}
	seen, since := interfaces(), time.Now()
	_ = poll(10*time.Second, func() error {
		if now := interfaces(); now != seen {
			seen, since = now, time.Now()
		}
		if time.Since(since) < time.Second {
			return errors.New("networks change")
		}
		return nil
	})
}

func (b *browser) networkChanges() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.changes
}

// try runs steps in the tab within limit.
func (b *browser) try(limit time.Duration, steps ...chromedp.Action[chromedp.Void]) error {
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	return chromedp.Do(ctx, steps...)
}

// open loads url and waits until the element is on the page.
func (b *browser) open(t testing.TB, url, selector string) {
	t.Helper()
	b.persist(t, func(spoiled func() bool) error { return b.load(url, selector, spoiled) })
}

func (b *browser) load(url, selector string, spoiled func() bool) error {
	b.forgetPage()
	if err := b.try(20*time.Second, chromedp.Navigate(url)); err != nil {
		return err
	}
	return poll(20*time.Second, func() error {
		found, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool](fmt.Sprintf("document.querySelector(%q) !== null", selector)))
		if err == nil && !found {
			err = fmt.Errorf("%s is not on the page", selector)
		}
		if err != nil && spoiled() {
			return stopPolling{err}
		}
		return err
	})
}

// forgetPage drops what belongs to the page before. Of its WebSockets Chromium
// does not tell that it closes them.
func (b *browser) forgetPage() {
	b.mu.Lock()
	defer b.mu.Unlock()
	clear(b.sockets)
	b.upgraded = 0
	b.faults = nil
}

func (b *browser) click(t testing.TB, selector string) {
	t.Helper()
	if err := b.try(20*time.Second, chromedp.Click(chromedp.CSS(selector))); err != nil {
		t.Fatalf("browser: clicking %s: %v", selector, err)
	}
}

func (b *browser) text(t testing.TB, selector string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, time.Minute)
	defer cancel()
	text, err := chromedp.Run(ctx, chromedp.Text(chromedp.CSS(selector)))
	if err != nil {
		t.Fatalf("browser: reading %s: %v", selector, err)
	}
	return strings.TrimSpace(text)
}

// awaitText waits until the element shows want.
func (b *browser) awaitText(t testing.TB, limit time.Duration, selector, want string) {
	t.Helper()
	if err := b.tryText(t, limit, selector, want); err != nil {
		t.Fatal(err)
	}
}

func (b *browser) tryText(t testing.TB, limit time.Duration, selector, want string) error {
	t.Helper()
	return poll(limit, func() error {
		if got := b.text(t, selector); got != want {
			return fmt.Errorf("%s shows %q, want %q", selector, got, want)
		}
		return nil
	})
}

// webSockets returns how many WebSockets are open, and how many were opened
// since the start. As long as neither changes, no socket was replaced.
func (b *browser) webSockets() (open, opened int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.sockets), b.opened
}

func (b *browser) pageLoads() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.loads
}

// upgrades counts the WebSockets of this page that the server accepted.
func (b *browser) upgrades() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.upgraded
}

// pageFaults are the errors of this page.
func (b *browser) pageFaults() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.faults)
}
