package caddymodule

import (
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func TestMetricsCountInstances(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	s.create(t, "sleeping")
	s.call(t, http.MethodPost, "/api/instances/sleeping/stop", "").expect(t, http.StatusOK, 0)
	check := func() {
		t.Helper()
		res, err := http.Get(s.admin() + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics := read(t, res)
		for _, want := range []string{
			`caddy_sandbox_instances{status="running"} 1`, `caddy_sandbox_instances{status="stopped"} 1`,
			`caddy_sandbox_instances{status="failed"} 0`,
		} {
			if !strings.Contains(metrics, want+"\n") {
				t.Errorf("the metrics lack %s", want)
			}
		}
	}
	check()
	if err := s.load(t, config{sandbox: "prefix_length 20"}); err != nil {
		t.Fatal(err)
	}
	check() // of the new configuration
	if err := caddy.Load(s.withBrittle(t, config{}, brittleApp{FailStart: true}), true); err == nil {
		t.Fatal("the reload was to fail")
	}
	check() // of the failed one, whose admin endpoint it is now
}
