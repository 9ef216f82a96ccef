package dockerops

import (
	"context"
	"errors"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const someName = "sandbox-abcdefgh"

// ownContainer is what an engine says of a stopped container of clientOn.
const ownContainer = `{"Id":"c1","Name":"/sandbox-abcdefgh","Image":"sha256:1",
	"State":{"Running":false},"HostConfig":{"PortBindings":{"5174/tcp":[{"HostIp":"127.0.0.1","HostPort":"5200"}]}},
	"Config":{"Labels":{"sandbox.manager":"01234567-89ab-4def-8123-456789abcdef","sandbox.prefix":"abcdefgh"}},
	"NetworkSettings":{"Networks":{"sandbox-01234567-0":{"NetworkID":"n1"}}}}`

const ownNetwork = `{"Id":"n1","Labels":{"sandbox.manager":"01234567-89ab-4def-8123-456789abcdef"}}`

func TestEngineErrorsOfAStart(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		words  string
		want   instance.Kind
	}{
		{
			"the port belongs to another container", http.StatusInternalServerError,
			"driver failed programming external connectivity on endpoint sandbox-abcdefgh (0123): " +
				"Bind for 127.0.0.1:5200 failed: port is already allocated", instance.PortTaken,
		},
		{
			"the port belongs to another process", http.StatusInternalServerError,
			"driver failed programming external connectivity on endpoint sandbox-abcdefgh (0123): " +
				"Error starting userland proxy: listen tcp4 127.0.0.1:5200: bind: address already in use", instance.PortTaken,
		},
		{
			"the port belongs to another process, in newer words", http.StatusInternalServerError,
			"failed to set up container networking: driver failed programming external connectivity on endpoint x: " +
				"failed to bind host port 127.0.0.1:5200/tcp: address already in use", instance.PortTaken,
		},
		{"the container has gone", http.StatusNotFound, "No such container: c1", instance.NotFound},
		{"its network has gone just now", http.StatusNotFound, "network n1 not found", instance.EngineFailed},
		{
			"the command does not exist", http.StatusBadRequest,
			`OCI runtime create failed: exec: "vite": executable file not found in $PATH`, instance.EngineFailed,
		},
		{"the engine is in trouble", http.StatusServiceUnavailable, "no space left on device", instance.EngineFailed},
	} {
		t.Run(test.name, func(t *testing.T) {
			engine := newFakeEngine(t)
			engine.answer("GET /containers/{ref}/json", ownContainer)
			engine.answer("GET /networks/{name}", ownNetwork)
			engine.fail("POST /containers/c1/start", test.status, test.words)
			err := wantError(t, clientOn(t, engine.host()).Start(t.Context(), someName), test.want)
			if err.Details["engine"] != test.words {
				t.Errorf("detail engine is %q, want %q", err.Details["engine"], test.words)
			}
			if strings.Contains(err.Message, test.words) {
				t.Errorf("the message is for every caller and repeats the engine: %q", err.Message)
			}
			if !strings.Contains(err.Message, "starting container "+someName) {
				t.Errorf("the message does not say what failed: %q", err.Message)
			}
		})
	}
}

func TestNoSocketSaysToStartDocker(t *testing.T) {
	host := "unix://" + socketPath(t)
	err := wantError(t, inspectOn(t, host), instance.EngineDown)
	wantText(t, err.Message, host, "start the Docker Engine")
	if err.RetryAfter == 0 {
		t.Error("no time to retry after")
	}
}

func TestARefusedConnectionSaysToStartDocker(t *testing.T) {
	socket := socketPath(t)
	listener := listenOn(t, socket)
	must(t, os.Rename(socket, socket+".kept")) // Close removes the socket by name
	must(t, listener.Close())
	must(t, os.Rename(socket+".kept", socket))
	err := wantError(t, inspectOn(t, "unix://"+socket), instance.EngineDown)
	wantText(t, err.Message, socket, "start the Docker Engine")
}

// As root, no socket refuses permission: hence the library's error by hand.
func TestNoPermissionNamesTheGroup(t *testing.T) {
	c := clientOn(t, "unix:///var/run/docker.sock")
	refused := errors.New("permission denied while trying to connect to the Docker daemon socket at unix:///var/run/docker.sock")
	err := wantError(t, c.unreachable(refused), instance.EngineDown)
	wantText(t, err.Message, "unix:///var/run/docker.sock", "no permission", "group")
}

func TestMissingCertificatesAreNamed(t *testing.T) {
	t.Setenv("DOCKER_CERT_PATH", t.TempDir())
	err := wantError(t, inspectOn(t, "tcp://127.0.0.1:1"), instance.EngineDown)
	wantText(t, err.Message, "DOCKER_CERT_PATH")
}

func TestABrokenConnectionIsEngineDown(t *testing.T) {
	engine := newFakeEngine(t)
	engine.HandleFunc("GET /containers/{ref}/json", func(http.ResponseWriter, *http.Request) {
		panic(http.ErrAbortHandler)
	})
	err := wantError(t, inspectOn(t, engine.host()), instance.EngineDown)
	wantText(t, err.Message, "broke", "unknown")
}

func TestAnEngineTooOldSaysWhichOneIsNeeded(t *testing.T) {
	for _, version := range []string{"1.40", ""} {
		engine := newFakeEngine(t)
		engine.version.Store(version)
		err := wantError(t, inspectOn(t, engine.host()), instance.EngineFailed)
		wantText(t, err.Message, "too old", "20.10")
	}
}

func TestTheCallersDeadlineIsTimeoutAndNotTheEnginesFault(t *testing.T) {
	c := clientOn(t, newSilentEngine(t))
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, err := c.Inspect(ctx, someName)
	wantKind(t, err, instance.Timeout)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v does not wrap the caller's deadline", err)
	}
	if c.health.down.Load() {
		t.Error("a caller in a hurry made the engine count as down")
	}
}

func TestOurDeadlineIsTimeoutAndNamesTheCallAndHowLong(t *testing.T) {
	_, err := hastyOn(t, newSilentEngine(t)).Inspect(t.Context(), someName)
	overdue := wantError(t, err, instance.Timeout)
	wantText(t, overdue.Message, "200ms", "inspecting container "+someName)
	if overdue.Details["after"] != "200ms" || overdue.Details["waited_for"] != "Docker: inspecting container "+someName {
		t.Errorf("details %v", overdue.Details)
	}
}

func TestAForeignContainerOfOurNameIsNamed(t *testing.T) {
	engine := newFakeEngine(t)
	engine.answer("GET /images/{name}/json", `{"Id":"sha256:1"}`)
	engine.answer("GET /networks/{name}", ownNetwork)
	engine.fail("POST /containers/create", http.StatusConflict, "Conflict. The container name is already in use")
	engine.answer("GET /containers/{ref}/json", `{"Id":"c2","Config":{"Labels":{"sandbox.manager":"another"}}}`)
	spec := instance.Spec{Prefix: "abcdefgh", Image: "vite", ContainerPort: 5174, Port: 5200}
	_, err := clientOn(t, engine.host()).Create(t.Context(), spec)
	failed := wantError(t, err, instance.EngineFailed)
	wantText(t, failed.Message, someName, "belongs to somebody else", "remove or rename")
	if engine.requests("DELETE /containers/c2") != 0 {
		t.Error("it was removed")
	}
}

// Somebody may remove it between our looking and our creating.
func TestAnImageThatVanishesIsImageMissing(t *testing.T) {
	engine := newFakeEngine(t)
	engine.answer("GET /images/{name}/json", `{"Id":"sha256:1"}`)
	engine.answer("GET /networks/{name}", ownNetwork)
	engine.fail("POST /containers/create", http.StatusNotFound, "No such image: vite:latest")
	_, err := clientOn(t, engine.host()).Create(t.Context(), instance.Spec{Prefix: "abcdefgh", Image: "vite", ContainerPort: 5174, Port: 5200})
	missing := wantError(t, err, instance.ImageMissing)
	if missing.Details["image"] != "vite" || missing.Details["engine"] != "No such image: vite:latest" {
		t.Errorf("details %v", missing.Details)
	}
}

func inspectOn(t *testing.T, host string) error {
	t.Helper()
	_, err := clientOn(t, host).Inspect(t.Context(), someName)
	return err
}

func wantText(t *testing.T, text string, parts ...string) {
	t.Helper()
	for _, part := range parts {
		if !strings.Contains(text, part) {
			t.Errorf("%q does not say %q", text, part)
		}
	}
}
