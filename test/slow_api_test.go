package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// Caddy's admin endpoint allows a request 10 s to be read. That must not end
// the wait for an answer, which may take longer.
func TestACallOfTheAdminEndpointMayTakeLongerThanItsRequest(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.admin.call(t, http.MethodPost, "/api/instances",
		createRequest{Prefix: "longwait", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "12s"}}).
		expect(t, http.StatusCreated, 0)
}

// slowCaller sends a byte a second.
type slowCaller struct {
	what   string
	dial   func() (net.Conn, error)
	head   string        // sent at once
	limit  time.Duration // within which it is to be sent away
	answer string        // that it is to get; empty: none, for there was no request
}

// Whoever sends a byte a second is sent away in the end, and nobody else
// notices.
func TestSlowCallersHoldNobodyUp(t *testing.T) {
	t.Parallel()
	const ofEach = 60
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "quickenough"})
	toAdmin := func() (net.Conn, error) { return net.Dial("tcp", c.adminAddr) }
	toSite := func() (net.Conn, error) {
		return c.visitor.handshake(context.Background(), "api.localhost", "http/1.1")
	}
	const bodyComes = "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
	post := func(host string) string { return "POST /api/instances HTTP/1.1\r\nHost: " + host + "\r\n" }
	kinds := []slowCaller{
		{"a header to the admin endpoint", toAdmin, post(c.adminAddr) + "X-Slow: ", 5 * time.Second, ""},
		{"a body to the admin endpoint", toAdmin, post(c.adminAddr) + bodyComes, 10 * time.Second, `"code":1006`},
		{"a body to the site", toSite, post("api.localhost") + "Authorization: Bearer " + apiToken + "\r\n" + bodyComes, 10 * time.Second, `"code":1006`},
		{"a body to the site, without a token", toSite, post("api.localhost") + bodyComes, 10 * time.Second, `"code":1301`},
	}
	var slow sync.WaitGroup
	for _, kind := range kinds {
		for range ofEach {
			slow.Go(func() { kind.call(t) })
		}
	}
	gone := make(chan struct{})
	go func() {
		slow.Wait()
		close(gone)
	}()

	// Meanwhile the others go on.
	visitors := c.visitor.keepVisiting(made.URL, 2)
	calls := 0
	for slowest := time.Duration(0); ; { // of those that need no Docker
		select {
		case <-gone:
			visited, p99 := visitors.stop(t)
			t.Logf("beside %d callers who sent a byte a second: %d calls, the slowest %s; %d visits, p99 %s",
				len(kinds)*ofEach, calls, slowest.Round(time.Millisecond), visited, p99.Round(time.Millisecond))
			if calls < 4 || slowest > 5*time.Second {
				t.Error("the others were held up")
			}
			return
		default:
		}
		for _, api := range []apiClient{c.admin, c.api} {
			other := api.create(t, createRequest{})
			begun := time.Now()
			api.get(t, other.Prefix)
			slowest = max(slowest, time.Since(begun))
			api.delete(t, other.Prefix)
			calls += 3
		}
	}
}

// call sends until it is sent away.
func (k slowCaller) call(t *testing.T) {
	conn, err := k.dial()
	if err != nil {
		t.Errorf("%s: %v", k.what, err)
		return
	}
	defer conn.Close()
	begun := time.Now()
	ended := make(chan string, 1)
	go func() {
		got, _ := io.ReadAll(conn) // that it is cut is what is wanted
		ended <- string(got)
	}()
	_, _ = io.WriteString(conn, k.head)
	second := time.NewTicker(time.Second)
	defer second.Stop()
	for {
		select {
		case got := <-ended:
			if k.answer != "" && !strings.Contains(got, k.answer) {
				t.Errorf("%s: answered %q, want %s", k.what, got, k.answer)
			}
			return
		case <-second.C:
			_, _ = fmt.Fprint(conn, " ")
			if over := time.Since(begun) - k.limit; over > 20*time.Second { // the machine is busy
				t.Errorf("%s: not sent away %s after its %s", k.what, over, k.limit)
				return
			}
		}
	}
}
