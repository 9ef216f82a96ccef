package caddymodule

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestTransportKeepsConnectionsOfAnInstance(t *testing.T) {
	s := startServer(t, config{})
	made := s.create(t, "keepsake")
	for range 20 {
		read(t, s.get(t, hostOf("keepsake"), "/", nil))
	}
	if n := connectionsTo(t, made.Port); n != 1 {
		t.Errorf("%d connections to the dev server after requests one after another, want 1", n)
	}
}

// The dev server here is not the container's, so nobody but the endpoint
// closes connections when the container ends.
func TestTransportClosesConnectionsWithTheirContainer(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	var open atomic.Int64
	backend := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "from elsewhere")
	}))
	backend.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed:
			open.Add(-1)
		}
	}
	backend.Start()
	defer backend.Close()
	transport := new(Transport)
	if err := transport.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	request := func() error {
		ctx := context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{endpointVar: endpointOf(t, "keepsake")})
		ctx = context.WithValue(ctx, caddy.CtxKey("reverse_proxy.dial_info"), reverseproxy.DialInfo{Address: backend.Listener.Addr().String()})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://ignored/", nil)
		if err != nil {
			return err
		}
		res, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		read(t, res)
		return nil
	}

	for range 3 {
		if err := request(); err != nil {
			t.Fatal(err)
		}
	}
	if n := open.Load(); n != 1 {
		t.Fatalf("%d connections after requests one after another, want 1", n)
	}
	s.call(t, http.MethodPost, "/api/instances/keepsake/stop", "").expect(t, http.StatusOK, 0)
	eventually(t, func() error {
		if n := open.Load(); n != 0 {
			return fmt.Errorf("%d connections outlive the container", n)
		}
		return nil
	})

	s.call(t, http.MethodPost, "/api/instances/keepsake/start", "").expect(t, http.StatusOK, 0)
	if err := request(); err != nil {
		t.Fatalf("the next container is not reached: %v", err)
	}
	if err := transport.Cleanup(); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if n := open.Load(); n != 0 {
			return fmt.Errorf("%d idle connections outlive the configuration", n)
		}
		return nil
	})
}

func TestTransportNeedsItsUpstreamSource(t *testing.T) {
	transport := new(Transport)
	if err := transport.Provision(caddy.Context{}); err != nil {
		t.Fatal(err)
	}
	ctx := context.WithValue(t.Context(), caddyhttp.VarsCtxKey, map[string]any{})
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:1/", nil)
	if err != nil {
		t.Fatal(err)
	}
	if res, err := transport.RoundTrip(req); err == nil {
		res.Body.Close()
		t.Error("a request to no instance was sent")
	}
}

// endpointOf is where prefix can be dialled.
func endpointOf(t *testing.T, prefix string) *instance.Endpoint {
	t.Helper()
	lease, err := inForce.top().manager().Acquire(prefix, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	return lease.Endpoint()
}

// connectionsTo counts the established connections to a port of 127.0.0.1, as
// the kernel knows them.
func connectionsTo(t *testing.T, port int) int {
	t.Helper()
	table, err := os.ReadFile("/proc/net/tcp")
	if err != nil {
		t.Skip("needs /proc/net/tcp, which Linux alone has: only the kernel knows all connections")
	}
	const established = "01"
	remote := fmt.Sprintf("0100007F:%04X", port)
	n := 0
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[2] == remote && fields[3] == established {
			n++
		}
	}
	return n
}
