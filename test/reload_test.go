package test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestAWebSocketOutlivesTenReloads(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "manyreloads"})
	socket := c.visitor.dialWebSocket(t, made.URL+"/ws")
	for n := range 10 {
		c.Sandbox = fmt.Sprintf("prefix_length %d", 20+n)
		c.Proxy = fmt.Sprintf("header_up X-Config %d", n)
		c.reload(t, c.caddyfile())
		socket.echoes(t, fmt.Sprintf("after reload %d", n))
	}
	// The new configuration is in force, and the table is the old one.
	var seen struct{ Headers http.Header }
	c.visitor.getJSON(t, made.URL+"/headers", &seen)
	if got := seen.Headers.Get("X-Config"); got != "9" {
		t.Errorf("X-Config %q, want 9", got)
	}
	if next := c.api.create(t, createRequest{}); len(next.Prefix) != 29 {
		t.Errorf("prefix %q has %d characters, want 29", next.Prefix, len(next.Prefix))
	}
	sameInstance(t, c.api.get(t, "manyreloads"), made)
}

func TestRequestsOutliveAReload(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "inflight"})
	answered := make(chan error, 1)
	go func() {
		_, err := c.visitor.answers200(made.URL + "/slow?ms=4000")
		answered <- err
	}()
	created := make(chan error, 1)
	go func() {
		a, err := c.api.try(http.MethodPost, "/api/instances", createRequest{
			Prefix: "duringreload", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "4s"}})
		if err == nil && a.Status != http.StatusCreated {
			err = fmt.Errorf("create: %s", a.raw)
		}
		created <- err
	}()
	c.api.awaitPresent(t, "duringreload")
	c.Sandbox = "prefix_length 20"
	c.reload(t, c.caddyfile())
	for _, done := range []chan error{answered, created} {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	c.visitor.mustGet(t, c.urlOf("duringreload"))
}

func TestAFailedReloadChangesNothing(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "failedreload"})
	socket := c.visitor.dialWebSocket(t, made.URL+"/ws")
	good := c.caddyfile()

	// It adapts and provisions, and fails when it is started: the port is taken.
	taken := listenOn(t, freePort())
	c.Sites = fmt.Sprintf("https://other.localhost:%d {\n\tbind 127.0.0.1\n\ttls internal\n}\n", taken)
	if said, err := c.tryReload(t, c.caddyfile()); err == nil {
		t.Fatalf("the reload was to fail: %s", said)
	}

	socket.echoes(t, "after the failed reload")
	for _, api := range []apiClient{c.api, c.admin} {
		sameInstance(t, api.get(t, "failedreload"), made)
		api.create(t, createRequest{})
	}
	c.Sandbox = "prefix_length 24"
	c.Sites = ""
	c.reload(t, c.caddyfile())
	socket.echoes(t, "after a good reload")
	if next := c.admin.create(t, createRequest{}); len(next.Prefix) != 24 {
		t.Errorf("prefix %q: the good reload had no effect", next.Prefix)
	}
	c.reload(t, good)
}

func TestTheStateDirectoryCannotChangeUnderInstances(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "staysput"})
	other := *c
	other.StateDir += "-other"
	said, err := c.tryReload(t, other.caddyfile())
	if err == nil {
		t.Fatal("the reload was to be refused")
	}
	t.Logf("caddy reload said: %s", said)
	sameInstance(t, c.admin.get(t, "staysput"), made)
	c.visitor.mustGet(t, made.URL)
	eventually(t, 5*time.Second, c.answers)
}
