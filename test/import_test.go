package test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"
)

func TestTheFirstStartTakesOverTheOldSystem(t *testing.T) {
	t.Parallel()
	old := newOldSystem(t)
	c := old.caddy
	c.mustStart(t)

	// What ran goes on in the same containers.
	for prefix, id := range map[string]string{"importname": old.byName, "importservice": old.byService} {
		c.awaitServed(t, prefix)
		in := c.api.get(t, prefix)
		if in.ContainerID != id || in.Port != old.ports[prefix] || in.Template != "web" {
			t.Errorf("%s became %+v, want container %s and port %d", prefix, in, id, old.ports[prefix])
		}
		if info := inspect(t, id); info.RestartCount != 0 || len(info.NetworkSettings.Networks) != 1 {
			t.Errorf("%s was touched: %+v", prefix, info.NetworkSettings.Networks)
		}
	}
	// What did not says why.
	for prefix, reason := range map[string]string{
		"importgone":  fmt.Sprintf("imported: no running container publishes port %d", old.ports["importgone"]),
		"importroute": fmt.Sprintf("imported: no running container publishes port %d", old.ports["importroute"]),
		"importalien": fmt.Sprintf("imported: port %d is that of container %s, whose name does not carry the prefix", old.ports["importalien"], old.stranger),
	} {
		if in := c.api.get(t, prefix); in.Status != "stopped" || in.Reason != reason || in.Port != old.ports[prefix] {
			t.Errorf("%s is %s on port %d (%s), want it stopped (%s)", prefix, in.Status, in.Port, in.Reason, reason)
		}
	}
	if log := c.logTail(0); !strings.Contains(log, "not imported") || !strings.Contains(log, `bad`) {
		t.Error("the log does not name the entry that cannot be imported")
	}
	if got := c.api.list(t, "").Total; got != 5 {
		t.Errorf("%d instances, want 5", got)
	}
	for name, content := range old.files {
		if copies := old.copies(t, name); len(copies) != 1 || copies[0] != content {
			t.Errorf("copies of %s: %q, want one of %q", name, copies, content)
		}
	}
	// An adopted container is not Compose's to make.
	services := c.readCompose(t).names()
	slices.Sort(services)
	if want := []string{"importalien", "importgone", "importroute"}; !slices.Equal(services, want) {
		t.Errorf("docker-compose.yml has %q, want %q", services, want)
	}

	// Stopped ones start, on their old ports.
	started := c.api.act(t, "importgone", "start")
	c.visitor.mustGet(t, started.URL)
	if started.Port != old.ports["importgone"] {
		t.Errorf("started on port %d", started.Port)
	}
	if info := inspect(t, old.strangerID); !info.State.Running || info.RestartCount != 0 {
		t.Error("the stranger's container was touched")
	}
}

func TestAdoptedContainersLiveAsOurOwn(t *testing.T) {
	t.Parallel()
	old := newOldSystem(t)
	c := old.caddy
	c.mustStart(t)
	c.awaitServed(t, "importname")
	c.awaitServed(t, "importservice")

	c.kill(t)
	c.mustStart(t)
	c.awaitServed(t, "importname")

	if err := engine.ContainerStop(t.Context(), old.byName, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, byHand, "importname", "stopped", "stopped outside")
	if back := c.api.act(t, "importname", "start"); back.ContainerID != old.byName {
		t.Errorf("started as container %s, want %s", back.ContainerID, old.byName)
	}
	c.awaitServed(t, "importname")
	if again := c.api.act(t, "importname", "restart"); again.ContainerID != old.byName {
		t.Errorf("restarted as container %s, want %s", again.ContainerID, old.byName)
	}

	c.api.delete(t, "importname")
	if _, err := engine.ContainerInspect(t.Context(), old.byName); !errdefs.IsNotFound(err) {
		t.Errorf("the container of a deleted instance: %v", err)
	}
	c.api.call(t, http.MethodGet, "/api/instances/importname", nil).expect(t, http.StatusNotFound, 1004)

	// Where one is removed by hand, the next is ours, and Compose's.
	if err := engine.ContainerRemove(t.Context(), old.byService, container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, byHand, "importservice", "stopped", "container removed")
	next := c.api.act(t, "importservice", "start")
	c.visitor.mustGet(t, next.URL)
	if info := inspect(t, next.ContainerID); info.Name != "/"+containerName("importservice") || info.Config.Labels["sandbox.manager"] != c.owner() {
		t.Errorf("the next container is %s with labels %v", info.Name, info.Config.Labels)
	}
	if !slices.Contains(c.readCompose(t).names(), "importservice") {
		t.Error("docker-compose.yml lacks the container that is ours now")
	}
}

func TestTheImportCanBeSeenBeforehand(t *testing.T) {
	t.Parallel()
	old := newOldSystem(t)
	c := old.caddy
	out, err := c.command("sandbox", "import", "--dry-run", "--config", c.configPath()).Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	port := func(prefix string) string { return strconv.Itoa(old.ports[prefix]) }
	for _, want := range []string{
		"import importname on port " + port("importname") + ", running, adopting container " + old.name,
		"import importservice on port " + port("importservice") + ", running, adopting container " + old.serviceName,
		"import importgone on port " + port("importgone") + ", stopped: no running container publishes port " + port("importgone"),
		"import importalien on port " + port("importalien") + ", stopped: port " + port("importalien") + " is that of container " + old.stranger,
		"import importroute on port " + port("importroute") + ", stopped",
		`cannot import "bad"`,
	} {
		if !strings.Contains(string(out), want) {
			t.Errorf("the plan lacks %q:\n%s", want, out)
		}
	}
	// It was a look only.
	entries, err := os.ReadDir(c.StateDir)
	if err != nil || len(entries) != 3 { // the two files, and config
		t.Errorf("the state directory now holds %v (%v)", entries, err)
	}
	for name, content := range old.files {
		if got := c.readFile(t, name); got != content {
			t.Errorf("%s now holds %q", name, got)
		}
	}
}

// oldSystem is what the Node system left: its files, and containers that run.
type oldSystem struct {
	caddy             *caddyServer // not started yet
	ports             map[string]int
	files             map[string]string
	byName, byService string // ids of the containers of importname and importservice
	name, serviceName string
	stranger          string // name of the container that has importalien's port
	strangerID        string
}

func newOldSystem(t testing.TB) *oldSystem {
	t.Helper()
	c := prepareCaddy(t, options{})
	old := &oldSystem{caddy: c, ports: map[string]int{}}
	for i, prefix := range []string{"importname", "importservice", "importgone", "importalien", "importroute"} {
		old.ports[prefix] = c.Ports.first + i
	}
	old.files = map[string]string{
		".instances.json": fmt.Sprintf(`{"nextPort":%d,"instances":{"importname":%d,"importservice":{"port":%d},"importgone":%d,"importalien":%d,"bad":7}}`,
			c.Ports.first+9, old.ports["importname"], old.ports["importservice"], old.ports["importgone"], old.ports["importalien"]),
		"docker-compose.yml":          "services: {} # of the old system\n",
		"config/subdomain-proxy.json": fmt.Sprintf(`{"routes":{"importroute":%d,"importname":%d}}`, old.ports["importroute"], old.ports["importname"]),
	}
	if err := os.MkdirAll(filepath.Join(c.StateDir, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range old.files {
		if err := os.WriteFile(filepath.Join(c.StateDir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	// Names are of this test's own, for another may run at the same time.
	run := filepath.Base(c.dir)
	old.name, old.serviceName, old.stranger = run+"-importname-1", run+"-app-1", run+"-stranger-1"
	old.byName = oldContainer(t, old.name, "", "importname", old.ports["importname"])
	old.byService = oldContainer(t, old.serviceName, "importservice", "importservice", old.ports["importservice"])
	old.strangerID = oldContainer(t, old.stranger, "", "nobody", old.ports["importalien"])
	return old
}

// oldContainer runs a container as the old system did, and removes it at the
// end of the test.
func oldContainer(t testing.TB, name, service, prefix string, port int) (id string) {
	t.Helper()
	labels := map[string]string{}
	if service != "" {
		labels["com.docker.compose.service"] = service
	}
	made, err := engine.ContainerCreate(t.Context(),
		&container.Config{
			Image: serverImage, Env: []string{"PORT=3000", "SANDBOX_PREFIX=" + prefix}, Labels: labels,
			ExposedPorts: nat.PortSet{"3000/tcp": {}},
		},
		&container.HostConfig{PortBindings: nat.PortMap{"3000/tcp": {{HostPort: strconv.Itoa(port)}}}},
		nil, nil, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := engine.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true})
		if err != nil && !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	})
	if err := engine.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitPort(t, port, prefix)
	return made.ID
}

// copies are the contents of the copies that were kept of a file.
func (old *oldSystem) copies(t testing.TB, name string) (contents []string) {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(old.caddy.StateDir, name+".imported-*"))
	for _, path := range paths {
		content, readErr := os.ReadFile(path)
		err = errors.Join(err, readErr)
		contents = append(contents, string(content))
	}
	if err != nil {
		t.Fatal(err)
	}
	return contents
}
