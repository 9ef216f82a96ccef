package caddymodule

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestHealthTellsHowTheServerIs(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "healthy1")
	for _, call := range []func(*testing.T, string, string, string) answer{s.call, s.callSite} {
		a := call(t, http.MethodGet, "/api/health", "").expect(t, http.StatusOK, 0)
		if a.text("status") != "ok" || a.detail("instances") != `{"running":1}` || a.detail("drift") != "[]" ||
			a.detail("docker") != `{"status":"ok","error":"","version":"in memory","api":"1.0"}` || a.detail("advice") != "[]" ||
			!strings.Contains(a.detail("state"), s.state()) || !strings.Contains(a.detail("versions"), `"go":"go1.`) {
			t.Errorf("health is %s", a.raw)
		}
	}
	s.engine.Fault(func(context.Context, string, string) error {
		return &instance.Error{Kind: instance.EngineDown, Message: "nobody answers"}
	})
	a := s.call(t, http.MethodGet, "/api/health", "").expect(t, http.StatusOK, 0)
	if a.text("status") != "degraded" || !strings.Contains(a.detail("docker"), "nobody answers") || !strings.Contains(a.detail("advice"), "Docker Engine") {
		t.Errorf("health without an engine is %s", a.raw)
	}
}

func TestALostStateIsConfirmedByACall(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "survivor")
	if err := caddy.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(s.state(), ".instances.json")); err != nil {
		t.Fatal(err)
	}
	if err := s.load(t, config{}); err != nil {
		t.Fatal(err)
	}
	a := s.call(t, http.MethodPost, "/api/instances", "").expect(t, http.StatusInternalServerError, 1201)
	if !strings.Contains(a.Message, "POST /api/health/confirm") {
		t.Errorf("the message %q does not say what to do", a.Message)
	}
	a = s.call(t, http.MethodPost, "/api/health/confirm", "").expect(t, http.StatusOK, 0)
	if a.text("status") != "ok" {
		t.Errorf("health after the confirmation is %s", a.raw)
	}
	s.create(t, "newcomer")
	s.call(t, http.MethodGet, "/api/health/confirm", "").expect(t, http.StatusMethodNotAllowed, 1009)
	s.call(t, http.MethodGet, "/api/health/other", "").expect(t, http.StatusNotFound, 1011)
}

func TestWhatTheDoctorPrints(t *testing.T) {
	h := health{
		Health: instance.Health{
			Status:    "degraded",
			Instances: map[instance.Status]int{instance.Running: 2, instance.Failed: 1},
			Pools: map[string]instance.PoolHealth{
				"next": {Wanted: 5, Ready: 2, Error: "the image is missing"}, "vite": {Wanted: 3, Ready: 3},
			},
			Docker: instance.EngineHealth{Status: "down", Error: "nobody answers"},
			State:  instance.StateHealth{Dir: "/state", Owner: "uuid", Degraded: "the state file was gone"},
			Drift:  []string{"correct abcdefgh to stopped: container removed"},
			Advice: []string{"see to the Docker Engine"},
		},
		Versions: map[string]string{"caddy": "v2", "go": "go1"},
	}
	var out strings.Builder
	if exit := printHealth(&out, h); exit != exitFailed {
		t.Errorf("exit status %d", exit)
	}
	want := `status      degraded
versions    Caddy v2, go1
instances   2 running, 1 failed
pools       next 2 of 5 ready: the image is missing
            vite 3 of 3 ready
docker      down: nobody answers
state       /state (owner uuid)
            the state file was gone
drift       1
            correct abcdefgh to stopped: container removed
to do       see to the Docker Engine
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
	out.Reset()
	fine := instance.Health{Status: "ok", Docker: instance.EngineHealth{Status: "ok", Version: "27.3.1", API: "1.47"}, Advice: []string{"set live-restore"}}
	if exit := printHealth(&out, health{Health: fine}); exit != 0 ||
		!strings.Contains(out.String(), "docker      ok, version 27.3.1 (API 1.47)\n") || !strings.Contains(out.String(), "to do       set live-restore\n") || !strings.Contains(out.String(), "instances   none\n") {
		t.Errorf("exit status %d, printed %s", exit, out.String())
	}
	out.Reset()
	if exit := printDrift(&out, health{Health: instance.Health{Docker: instance.EngineHealth{Status: "ok"}}}); exit != 0 ||
		out.String() != "nothing: records and containers agree\n" {
		t.Errorf("exit status %d, printed %s", exit, out.String())
	}
}
