package test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

// seen are the requests for path that an instance's server got.
func (v *visitor) seen(t testing.TB, in instanceView, path string) []devserver.Seen {
	t.Helper()
	var all, some []devserver.Seen
	v.getJSON(t, in.URL+"/seen", &all)
	for _, one := range all {
		if one.Path == path {
			some = append(some, one)
		}
	}
	return some
}

// The server in these containers refuses as Vite 5, webpack-dev-server 5 and
// Next.js 16 do. What is learned of it survives a kill.
func TestADevServerThatRefusesIsPersuaded(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	for _, row := range []struct{ mode, path, socket, protocol, dev, hostHeader string }{
		{"vite", "/", "/ws", "vite-hmr", "vite", "localhost"},
		{"webpack", "/", "/ws", "", "webpack", "localhost"},
		{"next", "/_next/static/chunk.js", "/_next/hmr", "", "next", "preserve"},
	} {
		in := c.api.create(t, createRequest{Env: map[string]string{"TEST_MODE": row.mode}})
		before := len(c.visitor.seen(t, in, row.path)) // of the probe, which asks for /
		c.visitor.mustGet(t, in.URL+row.path, header{"Origin", in.URL})
		if seen := c.visitor.seen(t, in, row.path); len(seen) != before+2 {
			t.Errorf("%s: the first GET took the requests %+v, want two", row.mode, seen[before:])
		}
		if now := c.api.get(t, in.Prefix); now.Dev != row.dev || now.HostHeader != row.hostHeader {
			t.Errorf("%s: the instance is dev %s, host_header %s", row.mode, now.Dev, now.HostHeader)
		}
		socket, err := c.visitor.tryWebSocket(t, in.URL+row.socket, in.URL, protocols(row.protocol)...)
		if err != nil {
			t.Fatalf("%s: its socket is refused: %v", row.mode, err)
		}
		socket.echoes(t, "an update")

		eventually(t, 10*time.Second, func() error { return c.recorded(in.Prefix, `"dev":"`+row.dev+`"`) })
		c.kill(t)
		c.mustStart(t)
		c.visitor.forgetConnections()
		before = len(c.visitor.seen(t, in, row.path))
		c.visitor.mustGet(t, in.URL+row.path, header{"Origin", in.URL})
		if seen := c.visitor.seen(t, in, row.path); len(seen) != before+1 {
			t.Errorf("%s: after the restart a GET took the requests %+v, want one", row.mode, seen[before:])
		}
	}
}

func protocols(one string) []string {
	if one == "" {
		return nil
	}
	return []string{one}
}

// recorded is nil once the state file has text in the line of prefix.
func (c *caddyServer) recorded(prefix, text string) error {
	state, err := os.ReadFile(filepath.Join(c.StateDir, ".instances.json"))
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(state)) {
		if strings.HasPrefix(line, `"`+prefix+`":`) && strings.Contains(line, text) {
			return nil
		}
	}
	return fmt.Errorf("%s has no %s in the state file", prefix, text)
}

func TestSocketsAndFetchesOfOtherSitesAreRefused(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Sandbox: "builder_origin https://app.example.com"})
	in := c.api.create(t, createRequest{Env: map[string]string{"TEST_MODE": "vite"}})
	c.visitor.mustGet(t, in.URL)
	for origin, welcome := range map[string]bool{
		in.URL: true, "https://app.example.com": true,
		strings.Replace(in.URL, in.Prefix, "3000-"+in.Prefix, 1): true,
		"https://evil.example":                                      false,
		strings.Replace(in.URL, in.Prefix, "otherinstance", 1):      false,
		strings.Replace(in.URL, "https:", "http:", 1):               false,
		"http://localhost:8080":                                     false,
		strings.TrimSuffix(in.URL, fmt.Sprintf(":%d", c.httpsPort)): false,
	} {
		before := len(c.visitor.seen(t, in, "/ws"))
		if socket, err := c.visitor.tryWebSocket(t, in.URL+"/ws", origin, "vite-hmr"); (err == nil) != welcome {
			t.Errorf("a socket for a page at %s: %v", origin, err)
		} else if welcome {
			socket.echoes(t, "an update")
		}
		got := c.visitor.get(t, in.URL+"/src/main.js", header{"Origin", origin})
		if want := map[bool]int{true: http.StatusOK, false: http.StatusForbidden}[welcome]; got.StatusCode != want {
			t.Errorf("a fetch of a page at %s: %d, want %d", origin, got.StatusCode, want)
		}
		if !welcome && len(c.visitor.seen(t, in, "/ws")) != before {
			t.Errorf("the dev server saw the socket of a page at %s", origin)
		}
	}
}

// widened tells in JSON where servers end up that ask for these addresses, one
// after the other: with the sandbox's port, another and any; and two at once.
const widened = `
import { createServer } from 'node:http'
const port = 6000
const listen = (...args) => new Promise(done => {
  const s = createServer().listen(...args)
  s.on('error', e => done({ e: e.code })).on('listening', () => done({ s, at: s.address() }))
})
const at = async (...args) => { const { s, at, e } = await listen(...args); s && await new Promise(r => s.close(r)); return e ?? at.address ?? at }
const seen = {}
seen.name = await at(port, 'localhost')
seen.text = await at(String(port), '127.0.0.1')
seen.options = await at({ port, host: '127.0.0.1' })
seen.v6 = await at(port, '::1')
seen.all = await at(port, '0.0.0.0')
seen.other = await at(port + 1, '127.0.0.1')
seen.any = await at(0, '127.0.0.1')
seen.path = await at('/tmp/socket')
for (const [name, first, second] of [['both', '127.0.0.1', '::1'], ['reverse', '::1', '127.0.0.1'], ['twice', '127.0.0.1', '127.0.0.1']]) {
  const a = await listen(port, first), b = await listen(port, second)
  seen[name] = (a.e ?? a.at.address) + ' ' + (b.e ?? b.at.address)
  for (const { s } of [a, b]) s && await new Promise(r => s.close(r))
}
console.log(JSON.stringify(seen))
`

func TestAServerForLocalhostAloneIsReached(t *testing.T) {
	t.Parallel()
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	c := startCaddy(t, options{Templates: viteTemplate})
	in := c.api.create(t, createRequest{Env: map[string]string{"HOST": "localhost", "NODE_OPTIONS": "--trace-uncaught"}})
	if page := c.visitor.mustGet(t, in.URL, header{"Accept", "text/html"}); !strings.Contains(page.body, "/@vite/client") {
		t.Errorf("its page is %q", page.body)
	}
	if options := execIn(t, in.ContainerID, "sh", "-c", "echo $NODE_OPTIONS"); !strings.HasPrefix(options, "--trace-uncaught --import=data:") {
		t.Errorf("NODE_OPTIONS is %q", options)
	}

	options := inspect(t, in.ContainerID).Config.Env
	for _, row := range []struct {
		ipv6 string
		want map[string]string
	}{
		{"0", map[string]string{"v6": "0.0.0.0", "both": "0.0.0.0 ::1", "reverse": "0.0.0.0 ::1"}},
		{"1", map[string]string{"v6": "EADDRNOTAVAIL", "both": "0.0.0.0 EADDRNOTAVAIL", "reverse": "EADDRNOTAVAIL 0.0.0.0"}},
	} {
		out := runOnce(t, &container.Config{
			Image: viteImage, Env: append(options, "SANDBOX_PORTS=5174,6000"), Cmd: []string{"node", "--input-type=module", "-e", widened},
		}, &container.HostConfig{NetworkMode: "none", Sysctls: map[string]string{"net.ipv6.conf.all.disable_ipv6": row.ipv6}})
		var seen map[string]string
		if err := json.Unmarshal([]byte(out), &seen); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		want := map[string]string{
			"name": "0.0.0.0", "text": "0.0.0.0", "options": "0.0.0.0", "all": "0.0.0.0",
			"other": "127.0.0.1", "any": "127.0.0.1", "path": "/tmp/socket", "twice": "0.0.0.0 EADDRINUSE",
		}
		maps.Copy(want, row.want)
		for name, address := range want {
			if seen[name] != address {
				t.Errorf("IPv6 disabled: %s, %s: listens on %s, want %s", row.ipv6, name, seen[name], address)
			}
		}
	}
}
