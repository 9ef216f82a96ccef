package test

import (
	"context"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"
)

// deflating is a server with the WebSockets of most Node programs, and a page
// that sends again and again what its URL has after the #. It shows what browser
// and server agreed on.
const deflating = "const page = `<p id=agreed></p><script>" +
	`const socket = new WebSocket("wss://" + location.host);` +
	`socket.onmessage = (event) => { if (event.data === decodeURIComponent(location.hash.slice(1))) document.querySelector("#agreed").textContent = socket.extensions };` +
	`socket.onopen = () => setInterval(() => socket.send(decodeURIComponent(location.hash.slice(1))), 200);` +
	"</script>`;" +
	`const server = require("http").createServer((_, r) => r.setHeader("content-type", "text/html").end(page)).listen(8080, "0.0.0.0");` +
	`new (require("ws").WebSocketServer)({ server, perMessageDeflate: { threshold: 0 } })` +
	`.on("connection", (socket) => socket.on("message", (data, binary) => socket.send(data, { binary })));`

// Browser and server compress, and still keep-alives are told from what is typed.
func TestWhatABrowserCompressesIsRead(t *testing.T) {
	if err := makeDevServerImages(); err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(deflating)
	c := startCaddy(t, options{Templates: "template node {\n image " + devServerImage + ":webpack5\n port 8080\n memory 1GiB\n" +
		` command node -e "` + script + "\"\n}"})
	made := c.api.create(t, createRequest{})
	b := openBrowser(t, c)
	send := func(text string) {
		b.open(t, "about:blank", "body") // or only what is after the # would change
		b.open(t, made.URL+"/#"+url.PathEscape(text), "#agreed")
		b.awaitText(t, 20*time.Second, "#agreed", "permessage-deflate; server_no_context_takeover; client_no_context_takeover")
	}
	retry(t, func() error {
		c.idleAfter(t, made.Prefix, time.Hour)
		c.api.act(t, made.Prefix, "start") // it may have slept in the try before
		send("ls")
		var echoed pulse
		ctx, leave := context.WithCancel(b.ctx)
		defer leave()
		if err := chromedp.Listen(ctx, func(event any) {
			if _, ok := event.(*network.EventWebSocketFrameReceived); ok {
				echoed.beat()
			}
		}); err != nil {
			return err
		}
		return c.staysAwake(t, made.Prefix, &echoed)
	})
	c.idleAfter(t, made.Prefix, time.Hour)
	send(vitePing)
	c.idleAfter(t, made.Prefix, soon)
	c.api.awaitStatus(t, overdueBy, made.Prefix, "stopped", "idle")
}
