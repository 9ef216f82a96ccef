package test

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// soon is after how long instances sleep, once what is to be looked at is under
// way. What must not send one to sleep is tried for three times as long.
const soon = 3 * time.Second

// vitePing is what Vite's pages send, each 30 s, as long as they are open.
const vitePing = `{"type":"ping"}`

// keepEchoing sends text again and again and waits until it has come back.
func keepEchoing(send echo, text string, stop <-chan struct{}, echoed *pulse) error {
	for {
		if err := send(text); err != nil {
			return err
		}
		echoed.beat()
		select {
		case <-stop:
			return nil
		case <-time.After(200 * time.Millisecond): // the interval of what it sends
		}
	}
}

// idleAfter sets the idle_timeout of an instance.
func (c *caddyServer) idleAfter(t testing.TB, prefix string, timeout time.Duration) {
	t.Helper()
	c.api.call(t, http.MethodPatch, "/api/instances/"+prefix, map[string]string{"idle_timeout": timeout.String()}).expect(t, http.StatusOK, 0)
}

// staysAwake lets an instance sleep soon, and looks at it for longer than that,
// while it is used as often as used beats.
func (c *caddyServer) staysAwake(t testing.TB, prefix string, used *pulse) error {
	t.Helper()
	c.idleAfter(t, prefix, soon)
	for begun := time.Now(); time.Since(begun) < 3*soon; time.Sleep(100 * time.Millisecond) { // it is to stay so all the time
		if now := c.api.get(t, prefix); now.Status != "running" {
			return used.blame(fmt.Errorf("it is %s (%s) after %s", now.Status, now.Reason, time.Since(begun)), soon/2)
		}
	}
	return nil
}

// By whichever protocol a WebSocket comes: what is typed keeps its instance
// awake, keep-alives do not.
func TestKeepAlivesLetInstancesSleepWhateverTheProtocol(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{
		Wrap:      extendedCONNECT,
		Templates: "template web {\n image {image}\n port 8080\n}",
	})
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			used, forgotten := c.api.create(t, createRequest{}), c.api.create(t, createRequest{})
			open := func(made instanceView) echo {
				socket, err := c.visitor.openSocket(t, protocol, made.URL+"/ws")
				if err != nil {
					t.Fatal(err)
				}
				return socket
			}
			ended := make(chan error, 1)
			pinging := open(forgotten)
			go func() { ended <- keepEchoing(pinging, vitePing, nil, new(pulse)) }()
			c.idleAfter(t, forgotten.Prefix, soon)
			retry(t, func() error {
				c.idleAfter(t, used.Prefix, time.Hour)
				c.api.act(t, used.Prefix, "start") // it may have slept in the try before
				typing, stop, typed := open(used), make(chan struct{}), make(chan error, 1)
				var echoed pulse
				go func() { typed <- keepEchoing(typing, "ls", stop, &echoed) }()
				awake := c.staysAwake(t, used.Prefix, &echoed)
				close(stop)
				if err := <-typed; err != nil && awake == nil {
					return fmt.Errorf("typing: %w", err)
				}
				return awake
			})
			c.api.awaitStatus(t, overdueBy, forgotten.Prefix, "stopped", "idle")
			select {
			case err := <-ended:
				if err == nil {
					t.Error("the pinging socket ended well")
				}
			case <-time.After(time.Minute):
				t.Error("the pinging socket goes on")
			}
			c.api.awaitStatus(t, overdueBy, used.Prefix, "stopped", "idle")
		})
	}
}

// A container that is frozen takes and says nothing: its visitors must know.
func TestAPausedInstanceHasNoOpenWebSockets(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: "template web {\n image {image}\n port 8080\n on_idle pause\n}"})
	made := c.api.create(t, createRequest{})
	socket := c.visitor.dialWebSocket(t, made.URL+"/ws")
	socket.echoes(t, "before")
	c.idleAfter(t, made.Prefix, soon)
	if code := socket.awaitClose(t, time.Minute); code != goingAway {
		t.Errorf("it was closed with code %d, want %d", code, goingAway)
	}
	c.api.awaitStatus(t, overdueBy, made.Prefix, "paused", "idle")
	eventually(t, 10*time.Second, func() error { // the intent is told before
		if state := inspect(t, made.ContainerID).State; !state.Paused {
			return fmt.Errorf("the container is %s", state.Status)
		}
		return nil
	})

	c.idleAfter(t, made.Prefix, time.Hour)
	c.api.act(t, made.Prefix, "resume")
	c.visitor.dialWebSocket(t, made.URL+"/ws").echoes(t, "a new one")
	if err := socket.tryEcho("are you back?"); err == nil {
		t.Error("the old socket goes on")
	}
}

// A page of Vite's that somebody left open says that it is there, and asks for
// its server when that has gone. Neither is use.
func TestATabLeftOpenLetsViteSleep(t *testing.T) {
	c, made, b := openVite(t)
	// Pages ping each 30 s, so another client does so more often.
	token := regexp.MustCompile(`wsToken = "([^"]+)"`).FindStringSubmatch(c.visitor.get(t, made.URL+"/@vite/client").body)
	if token == nil {
		t.Fatal("Vite's client has no token for its socket")
	}
	pinging, err := c.visitor.tryWebSocket(t, made.URL+"/?token="+token[1], made.URL, "vite-hmr")
	if err != nil {
		t.Fatal(err)
	}
	go func() { // until it is closed
		for {
			if _, err := pinging.Write([]byte(vitePing)); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond) // the interval of the pings
		}
	}()
	c.sleepsBehind(t, b, made)
	if code := pinging.awaitClose(t, time.Minute); code != goingAway {
		t.Errorf("the pinging socket was closed with code %d, want %d", code, goingAway)
	}
}

// Pages of Next.js that webpack built ping each 2.5 s, which is more often than
// the instance may be idle.
func TestATabLeftOpenLetsNextSleep(t *testing.T) {
	next := devServer{
		name: "next16", port: "3000", memory: "2GiB",
		command: "node node_modules/next/dist/bin/next dev --webpack",
	}
	c := startDevServerCaddy(t, next)
	made := c.api.create(t, createRequest{})
	b := openBrowser(t, c)
	var pinged atomic.Bool
	err := chromedp.Listen(b.ctx, func(event any) {
		if sent, ok := event.(*network.EventWebSocketFrameSent); ok && strings.HasPrefix(string(sent.Response.PayloadData), `{"event":"ping"`) {
			pinged.Store(true)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	b.persist(t, func(spoiled func() bool) error {
		if err := b.load(made.URL, "#greeting", spoiled); err != nil {
			return err
		}
		return until(30*time.Second, spoiled, func() error {
			if !pinged.Load() {
				return errors.New("the page does not ping")
			}
			return nil
		})
	})
	c.sleepsBehind(t, b, made)
}

// sleepsBehind has the instance of a page that is open sleep, and sees that the
// page does not keep it from that, nor wakes it.
func (c *caddyServer) sleepsBehind(t *testing.T, b *browser, made instanceView) {
	t.Helper()
	c.idleAfter(t, made.Prefix, soon)
	asleep := c.api.awaitStatus(t, overdueBy, made.Prefix, "stopped", "idle")
	eventually(t, 10*time.Second, func() error {
		if open, _ := b.webSockets(); open != 0 {
			return fmt.Errorf("the page has %d WebSockets open", open)
		}
		return nil
	})
	for begun := time.Now(); time.Since(begun) < 2*soon; time.Sleep(100 * time.Millisecond) { // the page asks meanwhile
		if now := c.api.get(t, made.Prefix); now.Status != "stopped" {
			t.Fatalf("the open page made it %s", now.Status)
		}
	}
	if now := c.api.get(t, made.Prefix); !now.StoppedAt.Equal(*asleep.StoppedAt) || !now.LastActiveAt.Equal(*asleep.LastActiveAt) {
		t.Errorf("asleep it was %+v, with the page open it is %+v", asleep, now)
	}
}
