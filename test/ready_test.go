package test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// lessThanReady is well below what template web gives a server to get ready, which
// is a minute: it tells who waits for the server from who waits for that to pass.
const lessThanReady = 50 * time.Second

func TestASilentServerFailsTheCreateWithItsLog(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	a, took := timed(func() answer {
		return c.api.call(t, http.MethodPost, "/api/instances", createRequest{
			Prefix: "silentone", Port: c.Ports.last - 1, Template: "quick", Env: map[string]string{"TEST_MODE": "silent"}})
	})
	a.expect(t, http.StatusGatewayTimeout, 1103).says(t, "3s")
	if took < 3*time.Second || took > lessThanReady {
		t.Errorf("it took %s, the template's ready time is 3 s", took)
	}
	details := a.details(t)
	if details["waited_for"] != "dev server" || details["after"] != "3s" {
		t.Errorf("details %v do not say what was waited for and how long", details)
	}
	hasLog(t, a, "testserver: listening on")
	c.leftNothing(t, createRequest{Prefix: "silentone", Template: "quick", Port: c.Ports.last - 1})
}

func TestAServerThatExitsFailsTheCreateWithItsLog(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	a, took := timed(func() answer {
		return c.api.call(t, http.MethodPost, "/api/instances", createRequest{
			Prefix: "exitsatonce", Port: c.Ports.last - 2, Env: map[string]string{"TEST_MODE": "exit", "TEST_EXIT_CODE": "42"}})
	})
	a.expect(t, http.StatusBadGateway, 1107).says(t, "42")
	if took > lessThanReady {
		t.Errorf("it took %s to see that the container had ended", took)
	}
	if got := a.details(t)["exit_code"]; got != 42.0 {
		t.Errorf("exit_code %v, want 42", got)
	}
	hasLog(t, a, "testserver: error: cannot load the configuration", "testserver: giving up, as TEST_MODE=exit asks")
	c.leftNothing(t, createRequest{Prefix: "exitsatonce", Template: "web", Port: c.Ports.last - 2})
}

func TestAServerThatNeedsTooMuchMemoryIsNamed(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: "template small {\n image {image}\n port 8080\n memory 32MiB\n}\n"})
	c.api.call(t, http.MethodPost, "/api/instances", createRequest{
		Prefix: "outofmemory", Env: map[string]string{"TEST_MODE": "oom"}}).
		expect(t, http.StatusBadGateway, 1107).says(t, "out of memory", "137")
	c.leftNothing(t, createRequest{Prefix: "outofmemory"})
}

func TestASlowServerIsWaitedFor(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made, took := timed(func() instanceView {
		return c.api.create(t, createRequest{
			Prefix: "slowserver", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "3s"}})
	})
	if took < 3*time.Second || took > lessThanReady {
		t.Errorf("201 after %s, the server needs 3 s", took)
	}
	c.visitor.mustGet(t, made.URL)
}

func TestAnInstanceThatIsNotReadyIsNotServed(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{
		Prefix: "notready", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "1h"}}).
		expect(t, http.StatusCreated, 0)
	c.api.removeAfter(t, "notready")
	page := c.visitor.get(t, c.urlOf("notready"), asPerson) // calls are held
	if page.StatusCode != http.StatusServiceUnavailable || page.Header.Get("Retry-After") == "" {
		t.Errorf("%d with Retry-After %q before the server listens: %s", page.StatusCode, page.Header.Get("Retry-After"), page.body)
	}

	c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{
		Prefix: "readylater", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "3s"}}).
		expect(t, http.StatusCreated, 0)
	c.api.removeAfter(t, "readylater")
	eventually(t, 15*time.Second, func() error {
		_, err := c.visitor.answers200(c.urlOf("readylater"))
		return err
	})
}

func TestARestartThatNeverGetsReadyFails(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	a := c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{
		Prefix: "neverready", Template: "quick", Env: map[string]string{"TEST_MODE": "silent"}})
	a.expect(t, http.StatusCreated, 0)
	c.api.removeAfter(t, "neverready")
	failed := c.api.awaitStatus(t, 15*time.Second, "neverready", "failed", "")
	if failed.Reason == "" || failed.Ready {
		t.Errorf("a server that never got ready: %+v", failed)
	}
	c.api.call(t, http.MethodPost, "/api/instances/neverready/restart", nil).expect(t, http.StatusGatewayTimeout, 1103)
	c.api.awaitStatus(t, 5*time.Second, "neverready", "failed", "")
}

func timed[T any](f func() T) (T, time.Duration) {
	start := time.Now()
	v := f()
	return v, time.Since(start)
}

// hasLog checks that the details hold the container's last lines, these among
// them and in this order.
func hasLog(t testing.TB, a answer, want ...string) {
	t.Helper()
	var details struct{ Log []string }
	if err := json.Unmarshal(a.Data, &details); err != nil {
		t.Fatal(err)
	}
	at := 0
	for _, line := range want {
		i := slices.IndexFunc(details.Log[at:], func(got string) bool { return strings.Contains(got, line) })
		if i < 0 {
			t.Errorf("log lines %q lack %q", details.Log, line)
			return
		}
		at += i + 1
	}
}

// leftNothing checks that a failed create left neither record, nor container,
// nor port: then req, which asks for the same, succeeds.
func (c *caddyServer) leftNothing(t testing.TB, req createRequest) {
	t.Helper()
	c.api.call(t, http.MethodGet, "/api/instances/"+req.Prefix, nil).expect(t, http.StatusNotFound, 1004)
	for _, name := range []string{".instances.json", "config/subdomain-proxy.json", "docker-compose.yml"} {
		if strings.Contains(c.readFile(t, name), req.Prefix) {
			t.Errorf("%s is still in %s", req.Prefix, name)
		}
	}
	for _, left := range c.containers(t) {
		if left.Labels["sandbox.prefix"] == req.Prefix {
			t.Errorf("container %s is still there", left.ID)
		}
	}
	c.api.create(t, req)
}
