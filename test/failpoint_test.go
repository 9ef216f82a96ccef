package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// crash is one failpoint, the operation on the target that passes it, and what
// is left of the target then.
type crash struct {
	point     string // with @n: the n-th passing
	op        string // see prepare and die
	record    string // its status on disk; empty: no record
	container string // Docker's word on its container; empty: there is none
}

// crashes has every failpoint of the product, see TestEveryFailpointIsTried.
var crashes = []crash{
	{"create.reserved", "create", "", ""},
	{"create.intent", "create", "creating", ""},
	{"create.created", "create", "creating", "created"},
	{"create.started", "create", "creating", "running"},
	{"create.recorded", "create", "running", "running"},
	{"create.acked", "create", "running", "running"},

	{"undo.removed", "fail", "creating", ""},
	{"undo.tombstone", "fail", "", ""},

	{"start.intent", "start", "starting", "exited"},
	{"start.started", "start", "starting", "running"},
	{"start.recorded", "start", "running", "running"},
	{"start.acked", "start", "running", "running"},

	{"restart.intent", "restart", "starting", "running"},
	{"restart.started", "restart", "starting", "running"},
	{"restart.recorded", "restart", "running", "running"},
	{"restart.acked", "restart", "running", "running"},

	{"stop.intent", "stop", "stopping", "running"},
	{"stop.stopped", "stop", "stopping", "exited"},
	{"stop.recorded", "stop", "stopped", "exited"},
	{"stop.acked", "stop", "stopped", "exited"},

	{"delete.intent", "delete", "deleting", "running"},
	{"delete.stopped", "delete", "deleting", "exited"},
	{"delete.removed", "delete", "deleting", ""},
	{"delete.tombstone", "delete", "", ""},
	{"delete.acked", "delete", "", ""},

	// The files: a create writes the state twice, a route once, its service in
	// the Compose file twice.
	{"tmp..instances.json", "create", "", ""},
	{"renamed..instances.json", "create", "creating", ""},
	{"tmp..instances.json@2", "create", "creating", "running"},
	{"renamed..instances.json@2", "create", "running", "running"},
	{"tmp.subdomain-proxy.json", "create", "running", "running"},
	{"renamed.subdomain-proxy.json", "create", "running", "running"},
	{"tmp.docker-compose.yml", "create", "creating", ""},
	{"renamed.docker-compose.yml", "create", "creating", ""},
	{"tmp..instances.json@2", "delete", "deleting", ""},
	{"renamed..instances.json@2", "delete", "", ""},

	{"tmp..instances.json", "recover", "creating", ""},
	{"renamed..instances.json", "recover", "", ""},
	{"tmp.subdomain-proxy.json", "boot", "running", "running"},
	{"renamed.subdomain-proxy.json", "boot", "running", "running"},
	{"tmp.docker-compose.yml", "boot", "running", "running"},
	{"renamed.docker-compose.yml", "boot", "running", "running"},
}

func TestEveryFailpointIsTried(t *testing.T) {
	t.Parallel()
	command := exec.Command(plainCaddy(t))
	command.Env = append(os.Environ(), "SANDBOX_FAILPOINT=list")
	out, err := command.Output()
	if err != nil {
		t.Fatal(err)
	}
	points := strings.Fields(string(out))
	t.Logf("%d failpoints, in %d crashes:\n%s", len(points), len(crashes), out)
	for _, point := range points {
		if !slices.ContainsFunc(slices.Concat(crashes, poolCrashes), func(k crash) bool { return k.name() == point }) {
			t.Errorf("no test crashes at %s", point)
		}
	}
	for _, must := range []string{
		"create.reserved", "create.intent", "create.created", "create.started", "create.recorded", "create.acked",
		"delete.intent", "delete.removed", "delete.tombstone", "start.intent", "stop.intent",
		"tmp..instances.json", "tmp.subdomain-proxy.json", "tmp.docker-compose.yml",
	} {
		if !slices.Contains(points, must) {
			t.Errorf("there is no failpoint %s", must)
		}
	}
}

// name is the failpoint without the count of passings.
func (k crash) name() string {
	name, _, _ := strings.Cut(k.point, "@")
	return name
}

// crashRun is one crash, in a Caddy of its own.
type crashRun struct {
	crash
	*caddyServer
	target, bystander, sleeper string // prefixes; nobody touches the latter two
}

func TestACrashAtAnyStep(t *testing.T) {
	t.Parallel()
	for i, crash := range crashes {
		t.Run(crash.op+"/"+crash.point, func(t *testing.T) {
			t.Parallel()
			r := crashRun{
				crash, startCaddy(t, options{Binary: plainCaddy(t)}),
				fmt.Sprintf("crashed%02d", i), fmt.Sprintf("bystander%02d", i), fmt.Sprintf("sleeper%02d", i),
			}
			r.prepare(t)
			bystander, sleeper := r.stateOf(t, r.bystander), r.stateOf(t, r.sleeper)
			r.kill(t)

			r.die(t)
			crashed := r.checkCrash(t)
			r.mustStart(t)

			r.checkOutcome(t, crashed)
			r.undisturbed(t, r.bystander, bystander)
			r.undisturbed(t, r.sleeper, sleeper)
			r.visitor.mustGet(t, r.urlOf(r.bystander))
			if got := r.api.get(t, r.sleeper); got.Status != "stopped" || got.Reason != "user" {
				t.Errorf("the stopped bystander is %s (%s)", got.Status, got.Reason)
			}
			r.useAgain(t, crashed)
			r.checkProjections(t)
		})
	}
}

// prepare makes the instances, the target as the operation needs it.
func (r crashRun) prepare(t *testing.T) {
	t.Helper()
	prefixes := []string{r.bystander, r.sleeper}
	if !slices.Contains([]string{"create", "fail", "recover"}, r.op) {
		prefixes = append(prefixes, r.target)
	}
	var made sync.WaitGroup
	for _, prefix := range prefixes {
		made.Go(func() {
			a, err := r.admin.try(http.MethodPost, "/api/instances", createRequest{Prefix: prefix})
			if a.Status != http.StatusCreated {
				t.Errorf("creating %s: %s (%v)", prefix, a.raw, err)
			}
		})
	}
	if made.Wait(); t.Failed() {
		t.FailNow()
	}
	r.admin.act(t, r.sleeper, "stop")
	if r.op == "start" {
		r.admin.act(t, r.target, "stop")
	}
}

// die runs Caddy with the failpoint armed until it has ended there: in the
// operation that passes it; at boot, in a start that has projections to write;
// or in one that has to recover from a crash before.
func (r crashRun) die(t *testing.T) {
	t.Helper()
	switch r.op {
	case "recover":
		before := r
		before.crash = crash{point: "create.started", op: "create"}
		before.die(t)
		r.launchArmed(t)
	case "boot":
		r.touchProjections(t)
		r.launchArmed(t)
	default:
		r.launchArmed(t)
		eventually(t, 20*time.Second, r.answers)
		r.operate(t)
	}
	select {
	case <-r.exited:
	case <-time.After(20 * time.Second):
		t.Fatalf("%s was never passed", r.point)
	}
	r.visitor.forgetConnections()
	if code := r.cmd.ProcessState.ExitCode(); code != 137 {
		t.Fatalf("Caddy ended with %d, want 137, as if killed: %v", code, r.exitErr)
	}
}

func (r crashRun) launchArmed(t *testing.T) {
	t.Helper()
	r.Wrap = []string{"env", "SANDBOX_FAILPOINT=" + r.point}
	defer func() { r.Wrap = nil }()
	if err := r.launch(); err != nil {
		t.Fatal(err)
	}
}

// operate begins the operation. Only at an .acked point may its answer come.
func (r crashRun) operate(t *testing.T) {
	t.Helper()
	method, path, body := http.MethodPost, "/api/instances", any(nil)
	switch r.op {
	case "create":
		body = createRequest{Prefix: r.target}
	case "fail":
		body = createRequest{Prefix: r.target, Env: map[string]string{"TEST_MODE": "exit"}}
	case "delete":
		method, path = http.MethodDelete, path+"/"+r.target
	default:
		path += "/" + r.target + "/" + r.op
	}
	a, err := r.admin.try(method, path, body, crashKey)
	if acked := strings.HasSuffix(r.point, ".acked"); err == nil && (!acked || a.Status >= 300) {
		t.Errorf("Caddy was to die at %s, but answered %d %s", r.point, a.Status, a.raw)
	}
}

var crashKey = header{"Idempotency-Key", "crash"}

// touchProjections adds a blank line to each, as an editor might.
func (r crashRun) touchProjections(t *testing.T) {
	t.Helper()
	for _, name := range stateFiles[1:] {
		path := filepath.Join(r.StateDir, name)
		if err := os.WriteFile(path, []byte(r.readFile(t, name)+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// atCrash is what a crash left of the target.
type atCrash struct {
	record    recordOnDisk
	container container.State
}

// checkCrash checks that the failpoint is where the table says, and that all
// files are whole.
func (r crashRun) checkCrash(t *testing.T) atCrash {
	t.Helper()
	left := atCrash{r.readFiles(t).Instances[r.target], r.stateOf(t, r.target)}
	if left.record.Status != r.record {
		t.Errorf("at the crash the record says %q, want %q", left.record.Status, r.record)
	}
	if left.container.Status != r.container {
		t.Errorf("at the crash the container is %q, want %q", left.container.Status, r.container)
	}
	return left
}

// checkOutcome holds the rule: what was recorded comes true, and a create that
// was not never was.
func (r crashRun) checkOutcome(t *testing.T, crashed atCrash) {
	t.Helper()
	switch r.record {
	case "running", "starting":
		now := r.api.awaitStatus(t, 20*time.Second, r.target, "running", "")
		if now.Port != crashed.record.Port || !now.Ready {
			t.Errorf("it has port %d, ready %v; had port %d", now.Port, now.Ready, crashed.record.Port)
		}
		r.visitor.mustGet(t, now.URL)
		if crashed.container.Running {
			r.undisturbed(t, r.target, crashed.container)
		}
	case "stopped", "stopping":
		r.api.awaitStatus(t, 20*time.Second, r.target, "stopped", "user")
		if now := r.stateOf(t, r.target); now.Status != "exited" {
			t.Errorf("the container of the stopped instance is %q", now.Status)
		}
	default:
		r.api.awaitAbsent(t, r.target)
		if now := r.stateOf(t, r.target); now.Status != "" {
			t.Errorf("the instance is gone, its container is left and %s", now.Status)
		}
	}
	r.checkProjections(t)
}

// useAgain goes on with the target, by which every file is written anew.
func (r crashRun) useAgain(t *testing.T, crashed atCrash) {
	t.Helper()
	create := func(req createRequest, headers ...header) answer {
		t.Helper()
		return r.api.call(t, http.MethodPost, "/api/instances", req, headers...)
	}
	switch r.record {
	case "creating": // nobody got to know of it: name, key and port are free
		create(createRequest{Prefix: r.target, Port: crashed.record.Port}, crashKey).expect(t, http.StatusCreated, 0)
	case "", "deleting":
		create(createRequest{Prefix: r.target}, crashKey).expect(t, http.StatusCreated, 0)
	default:
		if r.op == "create" { // its caller may not know of it: the retry gets the same answer
			kept := r.api.get(t, r.target)
			again := create(createRequest{Prefix: r.target}, crashKey).expect(t, http.StatusCreated, 0)
			sameInstance(t, again.instance(t), kept)
			create(createRequest{Prefix: r.target}).expect(t, http.StatusBadRequest, 1002)
		}
		r.api.delete(t, r.target)
	}
	for _, pattern := range []string{"*.tmp", ".*.tmp", "config/*.tmp", ".*.corrupt-*"} {
		if found, _ := filepath.Glob(filepath.Join(r.StateDir, pattern)); found != nil {
			t.Errorf("left behind: %v", found)
		}
	}
}

func (c apiClient) awaitAbsent(t testing.TB, prefix string) {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		if a := c.call(t, http.MethodGet, "/api/instances/"+prefix, nil); a.Code != 1004 {
			return fmt.Errorf("%s is still there: %s", prefix, a.raw)
		}
		return nil
	})
}

// stateOf is what Docker says of the container of prefix; the zero value where
// there is none.
func (c *caddyServer) stateOf(t testing.TB, prefix string) container.State {
	t.Helper()
	for _, found := range c.containers(t) {
		if found.Labels["sandbox.prefix"] == prefix {
			return *inspect(t, found.ID).State
		}
	}
	return container.State{}
}

// undisturbed checks that the container of prefix neither ended nor began
// since it was as before.
func (c *caddyServer) undisturbed(t testing.TB, prefix string, before container.State) {
	t.Helper()
	now := c.stateOf(t, prefix)
	if now.Status != before.Status || now.Pid != before.Pid || now.StartedAt != before.StartedAt {
		t.Errorf("%s: its container is %s, process %d since %s; was %s, %d since %s", prefix,
			now.Status, now.Pid, now.StartedAt, before.Status, before.Pid, before.StartedAt)
	}
}

var stateFiles = []string{".instances.json", "config/subdomain-proxy.json", "docker-compose.yml"}

// stateOnDisk is what tests of crashes look at of .instances.json.
type stateOnDisk struct {
	Owner     string
	Instances map[string]recordOnDisk
}

type recordOnDisk struct {
	Port   int
	Status string
}

// readFiles returns the state on disk and checks that no file is torn.
func (c *caddyServer) readFiles(t testing.TB) stateOnDisk {
	t.Helper()
	var state stateOnDisk
	c.readJSON(t, stateFiles[0], &state)
	c.readRoutes(t)
	if compose := c.readCompose(t); compose.Name == "" || state.Owner == "" {
		t.Errorf("a file is torn: Compose project %q, owner %q", compose.Name, state.Owner)
	}
	return state
}

func (c *caddyServer) readRoutes(t testing.TB) map[string]struct{ Target, Status string } {
	t.Helper()
	var file struct {
		Domain string
		Routes map[string]struct{ Target, Status string }
	}
	c.readJSON(t, stateFiles[1], &file)
	if file.Domain != domain {
		t.Errorf("%s is for domain %q", stateFiles[1], file.Domain)
	}
	return file.Routes
}

// checkProjections checks that the other files say what the state says, while
// no operation is in progress.
func (c *caddyServer) checkProjections(t testing.TB) {
	t.Helper()
	state, routes, compose := c.readFiles(t), c.readRoutes(t), c.readCompose(t)
	if len(routes) != len(state.Instances) || len(compose.Services) != len(state.Instances) {
		t.Errorf("%d instances, %d routes, %d services", len(state.Instances), len(routes), len(compose.Services))
	}
	for prefix, record := range state.Instances {
		if routes[prefix].Status != record.Status || compose.Services[prefix].ContainerName != containerName(prefix) {
			t.Errorf("%s is %s, its route %+v, its service %+v", prefix, record.Status, routes[prefix], compose.Services[prefix])
		}
	}
}
