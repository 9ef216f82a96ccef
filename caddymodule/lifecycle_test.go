package caddymodule

import (
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// brittleApp is an app that fails when told to. Its random place among the
// apps is Caddy's doing, so what is tested must hold in each.
type brittleApp struct {
	FailProvision bool `json:"fail_provision,omitempty"`
	FailStart     bool `json:"fail_start,omitempty"`
}

func init() { caddy.RegisterModule(new(brittleApp)) }

func (*brittleApp) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "brittle", New: func() caddy.Module { return new(brittleApp) }}
}

func (b *brittleApp) Provision(caddy.Context) error {
	if b.FailProvision {
		return errors.New("failing to be provisioned")
	}
	return nil
}

func (b *brittleApp) Start() error {
	if b.FailStart {
		return errors.New("failing to start")
	}
	return nil
}

func (*brittleApp) Stop() error { return nil }

// withBrittle adds the brittle app to a configuration.
func (s *server) withBrittle(t *testing.T, c config, app brittleApp) []byte {
	t.Helper()
	adapted, err := adapt(s.caddyfile(c))
	if err != nil {
		t.Fatal(err)
	}
	var whole map[string]any
	if err := json.Unmarshal(adapted, &whole); err != nil {
		t.Fatal(err)
	}
	whole["apps"].(map[string]any)["brittle"] = app
	adapted, err = json.Marshal(whole)
	if err != nil {
		t.Fatal(err)
	}
	return adapted
}

func (s *server) references(t *testing.T) int {
	t.Helper()
	n, ok := engines.References(s.state())
	if !ok {
		t.Fatalf("there is no engine for %s", s.state())
	}
	return n
}

// serves checks that prefix is served, by the configuration that has this
// prefix_length, and that the API on both mounts agrees.
func (s *server) serves(t *testing.T, prefix string, prefixLength int) {
	t.Helper()
	if body := read(t, s.get(t, hostOf(prefix), "/", nil)); !strings.Contains(body, prefix) {
		t.Errorf("the instance's page is %q", body)
	}
	s.call(t, http.MethodGet, "/api/instances/"+prefix, "").expect(t, http.StatusOK, 0)
	s.callSite(t, http.MethodGet, "/api/instances/"+prefix, "").expect(t, http.StatusOK, 0)
	generated := s.call(t, http.MethodPost, "/api/instances?wait=none", "").expect(t, http.StatusAccepted, 0).text("prefix")
	if len(generated) != prefixLength {
		t.Errorf("generated prefix %q has %d characters, want the %d of the configuration in force", generated, len(generated), prefixLength)
	}
}

func TestReloadKeepsManagerAndTakesNewSettings(t *testing.T) {
	s := startServer(t, config{sandbox: "prefix_length 20"})
	s.create(t, "keepsake")
	manager := inForce.top().manager()
	for _, length := range []string{"21", "22"} {
		if err := s.load(t, config{sandbox: "prefix_length " + length}); err != nil {
			t.Fatal(err)
		}
	}
	if inForce.top().manager() != manager {
		t.Error("the reload made another Manager")
	}
	if n := s.references(t); n != 1 {
		t.Errorf("%d references after the reloads, want 1", n)
	}
	s.serves(t, "keepsake", 22)
}

func TestReloadThatFailsToStartChangesNothing(t *testing.T) {
	s := startServer(t, config{sandbox: "prefix_length 20"})
	s.create(t, "keepsake")
	// Several times, for Caddy starts the apps in random order: ours is
	// started and stopped, or cleaned up without having been started.
	for range 8 {
		if err := caddy.Load(s.withBrittle(t, config{sandbox: "prefix_length 21"}, brittleApp{FailStart: true}), true); err == nil {
			t.Fatal("the reload was to fail")
		}
		if n := s.references(t); n != 1 {
			t.Fatalf("%d references after the failed reload, want 1", n)
		}
	}
	s.serves(t, "keepsake", 20)
}

func TestReloadThatFailsToBeProvisionedChangesNothing(t *testing.T) {
	s := startServer(t, config{sandbox: "prefix_length 20"})
	s.create(t, "keepsake")
	for range 8 {
		if err := caddy.Load(s.withBrittle(t, config{sandbox: "prefix_length 21"}, brittleApp{FailProvision: true}), true); err == nil {
			t.Fatal("the reload was to fail")
		}
	}
	if err := s.load(t, config{sandbox: "prefix_length 3"}); err == nil || !strings.Contains(err.Error(), "prefix_length") {
		t.Fatalf("the reload with a bad prefix_length gave %v", err)
	}
	if n := s.references(t); n != 1 {
		t.Errorf("%d references after the failed reloads, want 1", n)
	}
	s.serves(t, "keepsake", 20)
}

func TestValidateTouchesNothing(t *testing.T) {
	s := newServer(t)
	adapted, err := adapt(s.caddyfile(config{}))
	if err != nil {
		t.Fatal(err)
	}
	validate := func() {
		t.Helper()
		var c caddy.Config
		if err := json.Unmarshal(adapted, &c); err != nil {
			t.Fatal(err)
		}
		if err := caddy.Validate(&c); err != nil {
			t.Fatal(err)
		}
	}

	validate()
	if _, err := os.Stat(s.state()); !os.IsNotExist(err) {
		t.Errorf("validating made the state directory (%v)", err)
	}
	if n := s.engineCalls(); n != 0 {
		t.Errorf("validating called the container engine %d times", n)
	}
	if _, ok := engines.References(s.state()); ok {
		t.Error("validating left an engine in the pool")
	}

	if err := s.load(t, config{sandbox: "prefix_length 20"}); err != nil {
		t.Fatal(err)
	}
	s.create(t, "keepsake")
	validate() // beside the live server
	if n := s.references(t); n != 1 {
		t.Errorf("%d references after validating, want 1", n)
	}
	s.serves(t, "keepsake", 20)
}

func TestStateDirectoryCannotChangeUnderInstances(t *testing.T) {
	s := startServer(t, config{sandbox: "prefix_length 20"})
	if err := s.load(t, config{sandbox: "prefix_length 20", state: "second"}); err != nil {
		t.Fatalf("without instances it may change: %v", err)
	}
	if err := s.load(t, config{sandbox: "prefix_length 20"}); err != nil {
		t.Fatalf("and back: %v", err)
	}
	s.create(t, "keepsake")
	err := s.load(t, config{sandbox: "prefix_length 21", state: "third"})
	if err == nil || !strings.Contains(err.Error(), "state_dir cannot change from "+s.state()) {
		t.Fatalf("the reload gave %v", err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "third")); !os.IsNotExist(err) {
		t.Errorf("the refused directory was made (%v)", err)
	}
	s.serves(t, "keepsake", 20)
}

func TestDockerCannotChangeByAReload(t *testing.T) {
	s := startServer(t, config{})
	err := s.load(t, config{sandbox: "docker unix:///elsewhere.sock"})
	if err == nil || !strings.Contains(err.Error(), "docker cannot change") {
		t.Fatalf("the reload gave %v", err)
	}
}

func TestOneStateDirectoryUnderTwoNames(t *testing.T) {
	s := startServer(t, config{})
	if err := os.Symlink(s.dir, filepath.Join(s.dir, "link")); err != nil {
		t.Fatal(err)
	}
	s.create(t, "keepsake")
	if err := s.load(t, config{sandbox: "prefix_length 20", state: "link/state"}); err != nil {
		t.Fatal(err)
	}
	s.serves(t, "keepsake", 20)
}

func TestStateDirectoryInUseFailsTheStart(t *testing.T) {
	s := newServer(t)
	if err := os.WriteFile(s.state(), nil, 0o600); err != nil { // a file is in the way
		t.Fatal(err)
	}
	err := s.load(t, config{})
	if err == nil || !strings.Contains(err.Error(), s.state()) {
		t.Fatalf("starting gave %v, want an error that names the directory", err)
	}
	if _, ok := engines.References(s.state()); ok {
		t.Error("the failed start left an engine in the pool")
	}
	if err := os.Remove(s.state()); err != nil {
		t.Fatal(err)
	}
	if err := s.load(t, config{}); err != nil {
		t.Fatalf("starting again gave %v", err)
	}
}

func TestAppRemovedByAReload(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	without, err := adapt("{\n admin localhost:" + strings.TrimPrefix(s.admin(), "http://localhost:") + "\n persist_config off\n}\n")
	if err != nil {
		t.Fatal(err)
	}
	if err := caddy.Load(without, true); err != nil {
		t.Fatal(err)
	}
	a := s.call(t, http.MethodGet, "/api/instances", "").expect(t, http.StatusServiceUnavailable, 1108)
	if a.Header.Get("Retry-After") != "1" || a.RequestID == "" || a.Header.Get("X-Request-Id") != a.RequestID {
		t.Errorf("headers %v, request id %q", a.Header, a.RequestID)
	}
	if n := len(s.engine.Containers()); n != 1 {
		t.Errorf("%d containers run on, want 1", n)
	}
	if err := s.load(t, config{}); err != nil {
		t.Fatal(err)
	}
	s.serves(t, "keepsake", defaultPrefixLength)
}

func TestHandlersNeedTheApp(t *testing.T) {
	for name, directive := range map[string]string{
		"proxy":      "sandbox_proxy",
		"api":        "sandbox_api {\n token x\n }",
		"upstreams":  "reverse_proxy {\n dynamic sandbox\n }",
		"permission": "respond 200",
	} {
		t.Run(name, func(t *testing.T) {
			options := ""
			if name == "permission" {
				options = "on_demand_tls {\n permission sandbox\n }\n"
			}
			adapted, err := adapt("{\n admin off\n persist_config off\n auto_https off\n " + options + "}\nhttp://:1 {\n" + directive + "\n}\n")
			if err != nil {
				t.Fatal(err)
			}
			var c caddy.Config
			if err := json.Unmarshal(adapted, &c); err != nil {
				t.Fatal(err)
			}
			err = caddy.Validate(&c)
			if err == nil || !strings.Contains(err.Error(), "global option sandbox") {
				t.Errorf("got %v, want an error that says what is missing", err)
			}
		})
	}
}
