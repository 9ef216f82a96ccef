package dockerops

import (
	"os"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestNewChecksWhatItIsGiven(t *testing.T) {
	for _, test := range []struct {
		name    string
		options Options
		want    string
	}{
		{"no owner", Options{}, "uuid"},
		{"an owner that Compose could not name a project after", Options{Owner: "ABCDEF01-89AB-4DEF-8123-456789ABCDEF"}, "uuid"},
		{"a path instead of an endpoint", Options{Owner: newOwner(), Host: "/var/run/docker.sock"}, "unix:///path/to/socket"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := New(test.options)
			if err == nil {
				t.Fatal("no error")
			}
			wantText(t, err.Error(), test.want)
		})
	}
}

func TestNewNeedsNoEngine(t *testing.T) {
	c, err := New(Options{Host: "unix:///nowhere/docker.sock", Owner: newOwner()})
	must(t, err)
	must(t, c.Close())
}

func TestTheHostDefaultsToDOCKER_HOST(t *testing.T) {
	engine := newFakeEngine(t)
	engine.answer("GET /containers/json", `[]`)
	t.Setenv("DOCKER_HOST", engine.host())
	c := clientOn(t, "")
	if _, err := c.List(t.Context()); err != nil {
		t.Error(err)
	}
	must(t, os.Unsetenv("DOCKER_HOST"))
	if c := clientOn(t, ""); c.host != "unix:///var/run/docker.sock" {
		t.Errorf("the default host is %s", c.host)
	}
}

func TestTheAPIVersionIsNegotiated(t *testing.T) {
	for engineHas, want := range map[string]string{"1.41": "1.41", "1.44": "1.44", "1.99": "1.51"} {
		engine := newFakeEngine(t)
		engine.version.Store(engineHas)
		engine.answer("GET /containers/json", `[]`)
		if _, err := clientOn(t, engine.host()).List(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := engine.lastVersion(); got != want {
			t.Errorf("an engine with API %s was asked in %s, want %s", engineHas, got, want)
		}
	}
}

// The engine's old API may be refused by the new one: pinned, we would be
// locked out until the next restart.
func TestAnUpgradedEngineIsSpokenToInItsNewVersion(t *testing.T) {
	engine := newFakeEngine(t)
	engine.answer("GET /containers/json", `[]`)
	stream := engine.events()
	c := clientOn(t, engine.host())
	watch(t, c)
	stream.opened(t)
	list := func(want string) {
		t.Helper()
		if _, err := c.List(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := engine.lastVersion(); got != want {
			t.Errorf("asked in API %s, want %s", got, want)
		}
	}
	list("1.41")
	engine.version.Store("1.47")
	stream.cut()
	stream.opened(t)
	list("1.47")
}

func TestCallsGoOnAfterClose(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	engine.answer("GET /containers/json", `[]`)
	engine.answer("GET /containers/{ref}/json", ownContainer)
	engine.answer("GET /images/{name}/json", `{"Id":"sha256:1"}`)
	c := clientOn(t, engine.host())
	must(t, c.Close())
	if _, err := c.Inspect(t.Context(), someName); err != nil {
		t.Errorf("a request that outlives the client: %v", err)
	}
	_, err := c.Create(t.Context(), instance.Spec{Prefix: "abcdefgh", Image: "vite", ContainerPort: 5174, Port: 5200})
	wantKind(t, err, instance.EngineDown) // its network is prepared in the background
}
