package caddymodule

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestMetricsCountInstances(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	s.create(t, "sleeping")
	s.call(t, http.MethodPost, "/api/instances/sleeping/stop", "").expect(t, http.StatusOK, 0)
	check := func() {
		t.Helper()
		metrics := read(t, s.getAdmin(t, "/metrics"))
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

func TestPoolsAreSeenByOperatorsAlone(t *testing.T) {
	s := startServer(t, config{templates: `
		template spare {
			image caddy-sandbox/testserver
			memory 64MiB
			pool 2
		}`})
	eventually(t, func() error {
		if pools := s.call(t, http.MethodGet, "/api/health", "").detail("pools"); pools != `{"spare":{"wanted":2,"ready":2,"error":""}}` {
			return fmt.Errorf("the pools are %s", pools)
		}
		return nil
	})
	a := s.call(t, http.MethodGet, "/api/instances", "").expect(t, http.StatusOK, 0)
	if a.detail("instances") != "[]" || a.detail("total") != "0" {
		t.Errorf("listed %s", a.raw)
	}
	metrics := read(t, s.getAdmin(t, "/metrics"))
	for _, want := range []string{
		`caddy_sandbox_instances{status="running"} 0`, `caddy_sandbox_pool_wanted{template="spare"} 2`, `caddy_sandbox_pool_ready{template="spare"} 2`,
	} {
		if !strings.Contains(metrics, want+"\n") {
			t.Errorf("the metrics lack %s", want)
		}
	}
	made := s.call(t, http.MethodPost, "/api/instances", "").expect(t, http.StatusCreated, 0)
	if !slices.ContainsFunc(s.engine.Containers(), func(c instance.Container) bool {
		return c.ID == made.text("container_id") && c.Spec.Spare == made.text("prefix")
	}) {
		t.Errorf("created %s of no spare", made.raw)
	}
	if err := s.load(t, config{state: "another"}); err == nil || !strings.Contains(err.Error(), "has a pool") && !strings.Contains(err.Error(), "there are instances") {
		t.Errorf("the spares were left behind: %v", err)
	}
}
