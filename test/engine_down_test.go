package test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

func TestWithoutDockerCaddyServesAndSaysSo(t *testing.T) {
	t.Parallel()
	socket := socketPath(t)
	shim := startShim(t, socket)
	c := startCaddy(t, options{Docker: "unix://" + socket})
	made := c.api.create(t, createRequest{Prefix: "dockerdown"})

	// From here on there is no Docker, at a start of Caddy as well.
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	shim.socket.Close()
	shim.cut()
	c.mustStart(t)

	sameInstance(t, c.api.get(t, "dockerdown"), made)
	c.visitor.mustGet(t, made.URL)
	for _, path := range []string{"", "/dockerdown/stop", "/dockerdown/restart"} {
		a := c.api.call(t, http.MethodPost, "/api/instances"+path, nil).expect(t, http.StatusServiceUnavailable, 1102)
		if a.Header.Get("Retry-After") == "" {
			t.Errorf("POST %s: no Retry-After", path)
		}
	}
	c.api.call(t, http.MethodDelete, "/api/instances/dockerdown", nil).expect(t, http.StatusServiceUnavailable, 1102)
	if total := c.api.list(t, "").Total; total != 1 {
		t.Errorf("%d instances, want the one that there was", total)
	}
	c.visitor.mustGet(t, made.URL)

	// It comes back, and nobody restarts Caddy.
	startShim(t, socket)
	eventually(t, 40*time.Second, func() error {
		a, err := c.api.try(http.MethodPost, "/api/instances", createRequest{Prefix: "dockerback"})
		if err == nil && a.Status != http.StatusCreated {
			err = fmt.Errorf("create: %s", a.raw)
		}
		return err
	})
	c.visitor.mustGet(t, c.urlOf("dockerback"))
	sameInstance(t, c.api.act(t, "dockerdown", "restart"), made)
}

// lessThanDocker is well below what anybody takes who waits for a silent Docker:
// that is given up after 3 s at the earliest.
const lessThanDocker = 2 * time.Second

func TestASilentDockerHoldsNobodyUp(t *testing.T) {
	t.Parallel()
	socket := socketPath(t)
	shim := startShim(t, socket)
	c := startCaddy(t, options{Docker: "unix://" + socket})
	made := c.api.create(t, createRequest{Prefix: "dockersilent"})
	c.visitor.mustGet(t, made.URL)

	shim.fallSilent()
	failed := make(chan answer, 1)
	go func() {
		a, _ := c.api.try(http.MethodPost, "/api/instances", createRequest{Prefix: "neverborn"})
		failed <- a
	}()
	// While the create hangs, nothing that needs no Docker waits for it.
	eventually(t, 15*time.Second, func() error {
		var a answer
		err := endsWithin(lessThanDocker, func() (err error) {
			a, err = c.api.try(http.MethodGet, "/api/instances/neverborn", nil)
			return err
		})
		switch {
		case err != nil: // nobody knows yet that Docker is silent: this one would wait
			return stopPolling{fmt.Errorf("GET of the instance that is created: %w", err)}
		case a.Status != http.StatusOK:
			return fmt.Errorf("GET neverborn: %s", a.raw)
		}
		return nil
	})
	for range 20 {
		for what, ask := range map[string]func() error{
			"GET of the instance": func() error { return c.admin.answers200("/api/instances/dockersilent") },
			"GET of the list":     func() error { return c.api.answers200("/api/instances") },
			"a proxied request":   func() error { _, err := c.visitor.answers200(made.URL); return err },
		} {
			if err := endsWithin(lessThanDocker, ask); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	}
	select {
	case a := <-failed:
		if !(a.Status == http.StatusServiceUnavailable && a.Code == 1102) && !(a.Status == http.StatusGatewayTimeout && a.Code == 1103) {
			t.Errorf("the create that hung: %d %s", a.Status, a.raw)
		}
	case <-time.After(60 * time.Second):
		t.Fatal("the create still hangs after a minute")
	}
	// By now it is known that Docker does not answer, so nobody waits for it.
	var next answer
	err := endsWithin(lessThanDocker, func() (err error) {
		next, err = c.api.try(http.MethodPost, "/api/instances", nil)
		return err
	})
	if err != nil {
		t.Fatalf("the next create does not say that Docker is down: %v", err)
	}
	next.expect(t, http.StatusServiceUnavailable, 1102)

	shim.speak()
	eventually(t, 40*time.Second, func() error {
		a, err := c.api.try(http.MethodPost, "/api/instances", createRequest{Prefix: "neverborn"})
		if err == nil && a.Status != http.StatusCreated {
			err = fmt.Errorf("create: %s", a.raw)
		}
		return err
	})
	if n := len(c.containers(t)); n != 2 {
		t.Errorf("%d containers, want 2", n)
	}
}

func TestTooManyCreatesAreTurnedAway(t *testing.T) {
	t.Parallel()
	socket := socketPath(t)
	shim := startShim(t, socket)
	c := startCaddy(t, options{Docker: "unix://" + socket, Ports: freeRange(150)})
	c.api.create(t, createRequest{}) // Docker is known to be there

	shim.fallSilent()
	const callers = 120
	answers := make(chan answer, callers)
	for range callers {
		go func() {
			a, _ := c.admin.try(http.MethodPost, "/api/instances", nil)
			answers <- a
		}()
	}
	turnedAway := 0
	for range callers {
		a := <-answers
		switch a.Code {
		case 1106:
			a.expect(t, http.StatusServiceUnavailable, 1106)
			if a.Header.Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %s", a.raw)
			}
			turnedAway++
		case 1102, 1103:
		default:
			t.Errorf("with a silent Docker: %d %s", a.Status, a.raw)
		}
	}
	if turnedAway == 0 || turnedAway == callers {
		t.Errorf("%d of %d were turned away, want some: the queue is short, not closed", turnedAway, callers)
	}
	eventually(t, 10*time.Second, func() error {
		if total := c.api.list(t, "").Total; total != 1 {
			return fmt.Errorf("%d instances, want the first alone", total)
		}
		return nil
	})
}
