package instancetest

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Fixture is a container engine with what a test needs around it. Its owners
// are its own: no other fixture uses them at the same time.
//
// RemoveByHand is also called while a test is being cleaned up, when t's
// context has ended; it does nothing if there is no such container.
type Fixture struct {
	Runtime instance.Runtime
	// Other is the runtime of another manager on the same engine.
	Other instance.Runtime
	// Reopen returns one more runtime of Runtime's owner, as after a restart.
	Reopen func(t *testing.T) instance.Runtime
	// Image is the name of an image with program testserver as its entry
	// point, and with neither command nor working folder.
	Image string
	// StopByHand and RemoveByHand act on the engine past any runtime. ref is a
	// container's id or name.
	StopByHand   func(t *testing.T, ref string)
	RemoveByHand func(t *testing.T, ref string)
}

// obligation is one thing that every Runtime owes its callers.
type obligation struct {
	name  string
	check func(*scene)
}

// Contract checks that the runtime of fixture does what instance.Runtime
// promises. fixture is called once per obligation.
func Contract(t *testing.T, fixture func(t *testing.T) Fixture) {
	for _, obligations := range [][]obligation{
		creating, starting, pausing, renaming, ending, reading, tailing, listening, owning, watching, bounding,
	} {
		for _, o := range obligations {
			t.Run(o.name, func(t *testing.T) {
				o.check(&scene{Fixture: fixture(t), t: t, ctx: t.Context()})
			})
		}
	}
}

// scene is one obligation being checked. Its methods end the test when
// something goes wrong that the obligation does not speak of.
type scene struct {
	Fixture
	t   *testing.T
	ctx context.Context
}

// containerPort is where the test server listens inside its containers.
const containerPort = 5174

// spec is that of an instance of its own, with env over what each gets.
func (s *scene) spec(env ...string) instance.Spec {
	s.t.Helper()
	prefix := strings.ToLower(rand.Text()[:16])
	spec := instance.Spec{
		Prefix: prefix, Port: FreePort(s.t), Template: "test", Generation: 1,
		Image: s.Image, Pull: instance.PullNever, ContainerPort: containerPort,
		Env:    map[string]string{"PORT": strconv.Itoa(containerPort), "SANDBOX_PREFIX": prefix},
		Memory: 64 << 20, CPUs: 1, Pids: 64,
	}
	for _, assignment := range env {
		name, value, _ := strings.Cut(assignment, "=")
		spec.Env[name] = value
	}
	return spec
}

// create makes a container that is removed when the test ends.
func (s *scene) create(spec instance.Spec) (id string) {
	s.t.Helper()
	return s.createBy(s.Runtime, spec)
}

func (s *scene) createBy(runtime instance.Runtime, spec instance.Spec) (id string) {
	s.t.Helper()
	s.removeAtEnd(spec)
	id, err := runtime.Create(s.ctx, spec)
	s.must(err, "creating the container")
	if id == "" {
		s.t.Fatal("Create returned no id")
	}
	return id
}

func (s *scene) removeAtEnd(spec instance.Spec) {
	s.t.Cleanup(func() { s.RemoveByHand(s.t, instance.ContainerName(spec.Prefix)) })
}

// run creates and starts a container and waits until it answers.
func (s *scene) run(spec instance.Spec) (id string) {
	s.t.Helper()
	id = s.create(spec)
	s.must(s.Runtime.Start(s.ctx, id), "starting the container")
	s.answers(spec)
	return id
}

func (s *scene) inspect(ref string) instance.Container {
	s.t.Helper()
	c, err := s.Runtime.Inspect(s.ctx, ref)
	s.must(err, "inspecting the container")
	return c
}

// ended waits until a container has ended by itself.
func (s *scene) ended(ref string) instance.Container {
	s.t.Helper()
	var c instance.Container
	s.eventually("the container ends", func() bool {
		c = s.inspect(ref)
		return !c.Running && !c.FinishedAt.IsZero()
	})
	return c
}

// answers waits until the server of spec's container does.
func (s *scene) answers(spec instance.Spec) {
	s.t.Helper()
	s.eventually("the server answers on its host port", func() bool {
		body, err := get(s.ctx, hostURL(spec)+"/")
		return err == nil && strings.Contains(body, spec.BornFor())
	})
}

// ask returns the answer of a server that runs.
func (s *scene) ask(spec instance.Spec, path string) string {
	s.t.Helper()
	body, err := get(s.ctx, hostURL(spec)+path)
	s.must(err, "asking the server")
	return body
}

func (s *scene) must(err error, doing string) {
	s.t.Helper()
	if err != nil {
		s.t.Fatalf("%s: %v", doing, err)
	}
}

// fails checks that err is an *instance.Error of kind.
func (s *scene) fails(err error, kind instance.Kind, doing string) {
	s.t.Helper()
	if err == nil {
		s.t.Fatalf("%s: no error, want one of kind %q", doing, kind)
	}
	if got := instance.KindOf(err); got != kind {
		s.t.Fatalf("%s: kind %q (%v), want %q", doing, got, err, kind)
	}
}

// eventually counts its looks, not the time: the machine may stand still.
func (s *scene) eventually(what string, check func() bool) {
	s.t.Helper()
	const looks = 1000
	for range looks {
		if check() {
			return
		}
		time.Sleep(20 * time.Millisecond) // between two looks at the condition
	}
	s.t.Fatalf("not within %d looks: %s", looks, what)
}

func hostURL(spec instance.Spec) string { return fmt.Sprintf("http://127.0.0.1:%d", spec.Port) }

// client keeps no connections, as the next container may get the same port.
var client = &http.Client{
	Transport: &http.Transport{DisableKeepAlives: true},
	Timeout:   5 * time.Second,
}

func get(ctx context.Context, url string) (body string, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", err
	}
	defer func() { _ = response.Body.Close() }()
	raw, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s", response.Status)
	}
	return string(raw), err
}
