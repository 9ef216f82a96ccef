package test

import (
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Lifecycle changes touch no configuration, and a configuration no socket.
func TestAThousandSocketsOutliveAHundredCreatesAndReloads(t *testing.T) {
	const creates, callers, reloads = 100, 4, 5
	c := startCaddy(t, options{Ports: freeRange(200)})
	made := c.api.create(t, createRequest{})
	open := make([]webSocket, thousand)
	for n := range open {
		open[n] = c.visitor.dialWebSocket(t, made.URL+"/ws")
		open[n].echoes(t, fmt.Sprint("before ", n))
	}
	var asked sync.WaitGroup
	for caller := range callers {
		asked.Go(func() {
			w := worker{api: c.api, name: fmt.Sprint("caller-", caller)}
			for n := range creates / callers {
				// A connection that a reload drops unread is no answer.
				a, err := w.insist(http.MethodPost, "/api/instances", createRequest{}, header{"Idempotency-Key", fmt.Sprint(caller, "-", n)})
				if err != nil || a.Status != http.StatusCreated {
					t.Errorf("create: %d %s, %v", a.Status, a.raw, err)
					continue
				}
				if a, err := w.insist(http.MethodDelete, "/api/instances/"+prefixIn(a), nil); err != nil || a.Status != http.StatusOK && a.Code != 1004 {
					t.Errorf("delete: %d %s, %v", a.Status, a.raw, err)
				}
			}
		})
	}
	for n := range reloads {
		next := *c
		next.Proxy = fmt.Sprintf("header_up X-Config %d", n)
		if status, err := c.load(next.caddyfile()); err != nil || status != http.StatusOK {
			t.Errorf("reload %d: %d %v", n, status, err)
		}
		for k := n; k < len(open); k += reloads {
			open[k].echoes(t, fmt.Sprint("after reload ", n))
		}
	}
	asked.Wait()
	for n := range open {
		open[n].echoes(t, fmt.Sprint("after all ", n))
	}
}

func TestADevServerHasAMinuteToAnswer(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{})
	page, took := timed(func() reply {
		return c.visitor.get(t, made.URL+"/slow?ms=100000", header{"Accept", "text/html"}, header{"Sec-Fetch-Mode", "navigate"})
	})
	if page.StatusCode != http.StatusGatewayTimeout || !strings.Contains(page.body, "did not answer in time") {
		t.Errorf("%d %s", page.StatusCode, page.body)
	}
	if took < time.Minute || took > 70*time.Second {
		t.Errorf("it took %s, want a minute", took)
	}
}
