package test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestAStandbyServesFromTheFileAlone(t *testing.T) {
	t.Parallel()
	first := startCaddy(t, options{})
	made := first.api.create(t, createRequest{Prefix: "standbyone"})
	standby := startStandby(t, first)
	url := standby.urlOf("standbyone")
	standby.visitor.mustGet(t, url)
	standby.answersFor(t, "standbynone", http.StatusNotFound, 1004)
	var seen requestSeen
	standby.visitor.getJSON(t, url+"/headers", &seen)
	if want := fmt.Sprintf("standbyone.%s:%d", domain, standby.httpsPort); seen.Host != want || seen.Headers.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the server sees host %q, want %q, and %v", seen.Host, want, seen.Headers)
	}
	socket := standby.visitor.dialWebSocket(t, url+"/ws")
	socket.echoes(t, strings.Repeat("large ", 100_000))

	// Changes are followed within a second, without a reload.
	const soon = time.Second
	first.api.create(t, createRequest{Prefix: "standbytwo"})
	eventually(t, soon, func() error {
		_, err := standby.visitor.answers200(standby.urlOf("standbytwo"))
		return err
	})
	first.api.act(t, "standbytwo", "stop")
	eventually(t, soon, func() error { return standby.tryFor("standbytwo", http.StatusServiceUnavailable, 1105) })
	first.api.delete(t, "standbytwo")
	eventually(t, soon, func() error { return standby.tryFor("standbytwo", http.StatusNotFound, 1004) })

	// It needs nothing of the first but the file.
	first.kill(t)
	socket.echoes(t, "after the end of the first")
	standby.visitor.forgetConnections()
	if page := standby.visitor.mustGet(t, url); page.body != "hello from standbyone\n" {
		t.Errorf("the standby serves %q", page.body)
	}
	first.mustStart(t)
	sameInstance(t, first.api.get(t, "standbyone"), made)
}

func TestAStandbyKeepsTheLastGoodRoutes(t *testing.T) {
	t.Parallel()
	first := startCaddy(t, options{})
	first.api.create(t, createRequest{Prefix: "goodroutes"})
	file := filepath.Join(first.StateDir, "config", "subdomain-proxy.json")
	good := first.readFile(t, "config/subdomain-proxy.json")
	first.kill(t) // else it would mend what this test breaks
	standby := startStandby(t, first)
	url := standby.urlOf("goodroutes")
	standby.visitor.mustGet(t, url)

	for n, breakIt := range []func() error{
		func() error { return os.Remove(file) },
		func() error { return os.WriteFile(file, []byte(good[:len(good)/2]), 0o644) },
		func() error { return os.WriteFile(file, []byte("[]\n"), 0o644) },
		func() error { return os.WriteFile(file, nil, 0o644) },
	} {
		from := standby.logSize()
		if err := breakIt(); err != nil {
			t.Fatal(err)
		}
		eventually(t, 2*time.Second, func() error {
			if standby.complaints(from, file) == 0 {
				return fmt.Errorf("break %d is not logged", n)
			}
			return nil
		})
		standby.visitor.mustGet(t, url)

		added := fmt.Sprintf("mended%d0", n)
		mended := strings.Replace(good, `"routes":{`, `"routes":{"`+added+`":{"target":"http://127.0.0.1:9","status":"stopped"},`, 1)
		if err := os.WriteFile(file, []byte(mended), 0o644); err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, func() error { return standby.tryFor(added, http.StatusServiceUnavailable, 1105) })
		if times := standby.complaints(from, file); times != 1 {
			t.Errorf("break %d was logged %d times:\n%s", n, times, standby.logTail(from))
		}
	}
}

// complaints counts the errors and warnings about path in the log since from.
func (c *caddyServer) complaints(from int64, path string) (n int) {
	for line := range strings.Lines(c.logTail(from)) {
		if strings.Contains(line, path) && !strings.Contains(line, `"level":"info"`) {
			n++
		}
	}
	return n
}

func TestAThousandNewFilesFailNoRequest(t *testing.T) {
	t.Parallel()
	first := startCaddy(t, options{})
	first.api.create(t, createRequest{Prefix: "manyfiles"})
	good := first.readFile(t, "config/subdomain-proxy.json")
	first.kill(t)
	standby := startStandby(t, first)
	url := standby.urlOf("manyfiles")

	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	asked := make([]int, 8)
	for client := range asked {
		group.Go(func() {
			for ctx.Err() == nil {
				if _, err := standby.visitor.answers200(url); err != nil {
					t.Errorf("client %d, request %d: %v", client, asked[client], err)
					return
				}
				asked[client]++
			}
		})
	}
	// Each is another one, so none can be skipped as known.
	file := filepath.Join(first.StateDir, "config", "subdomain-proxy.json")
	for n := range 1000 {
		route := fmt.Sprintf(`"routes":{"other%d":{"target":"http://127.0.0.1:9","status":"stopped"},`, 1000+n)
		content := strings.Replace(strings.ReplaceAll(good, "\n", ""), `"routes":{`, route, 1)
		if err := os.WriteFile(file+".new", []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, 10*time.Second, func() error { return standby.tryFor("other1999", http.StatusServiceUnavailable, 1105) })
	stop()
	group.Wait()
	for client, n := range asked {
		if n == 0 {
			t.Errorf("client %d asked nothing", client)
		}
	}
}

// With a browser, so not parallel: see networkChanged.
func TestHotReloadWorksThroughAStandby(t *testing.T) {
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	first := startCaddy(t, options{Templates: viteTemplate})
	made := first.api.create(t, createRequest{})
	standby := startStandby(t, first)
	b := openBrowser(t, standby)
	b.openVite(t, standby.urlOf(made.Prefix))
	b.countTo(t, 2)
	loads := b.pageLoads()
	first.kill(t)
	b.seesEdit(t, made, "Hello from the sandbox", "Edited behind a standby")
	b.stillCountsTo(t, 2, loads)
}

// startStandby starts a Caddy that has nothing but the routes file of first: no
// sandbox app, no API, no Docker.
func startStandby(t testing.TB, first *caddyServer) *caddyServer {
	t.Helper()
	c := prepareCaddy(t, options{Wrap: []string{"env", "DOCKER_HOST=unix:///nowhere/docker.sock"}})
	config := strings.NewReplacer(
		"{admin}", c.adminAddr,
		"{http}", fmt.Sprint(c.httpPort),
		"{https}", fmt.Sprint(c.httpsPort),
		"{domain}", domain,
		"{file}", filepath.Join(first.StateDir, "config", "subdomain-proxy.json"),
	).Replace(`{
	admin {admin}
	http_port {http}
	https_port {https}
	skip_install_trust
	grace_period 2s
}

*.{domain} {
	tls internal
	sandbox_proxy {
		routes_file {file}
	}
}

http:// {
	sandbox_proxy {
		routes_file {file}
	}
}
`)
	if err := c.writeConfig(config); err != nil {
		t.Fatal(err)
	}
	if err := c.launch(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 60*time.Second, func() error {
		select {
		case <-c.exited:
			return stopPolling{fmt.Errorf("the standby ended during start (%w):\n%s", c.exitErr, c.logTail(0))}
		default:
		}
		// A certificate for all hosts is there when the site is.
		conn, err := c.visitor.handshake(t.Context(), "anything."+domain)
		if err != nil {
			return err
		}
		return conn.Close()
	})
	return c
}

// answersFor checks the JSON that comes for a prefix.
func (c *caddyServer) answersFor(t testing.TB, prefix string, status, code int) {
	t.Helper()
	if err := c.tryFor(prefix, status, code); err != nil {
		t.Error(err)
	}
}

func (c *caddyServer) tryFor(prefix string, status, code int) error {
	page, err := c.visitor.try(http.MethodGet, c.urlOf(prefix), "")
	if err == nil && (page.StatusCode != status || !strings.Contains(page.body, fmt.Sprintf(`"code":%d`, code))) {
		err = fmt.Errorf("%s: %d %s, want %d with code %d", prefix, page.StatusCode, page.body, status, code)
	}
	return err
}
