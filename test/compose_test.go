package test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
)

func TestComposeTakesTheFile(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "composevalid", Env: hostileValues(), Labels: hostileLabels()})
	c.compose(t, "config", "--quiet")
	if got := strings.TrimSpace(c.compose(t, "config", "--services")); got != "composevalid" {
		t.Errorf("Compose sees the services %q", got)
	}
	// This label decides whether `up` makes a container anew.
	_, hash, _ := strings.Cut(strings.TrimSpace(c.compose(t, "config", "--hash", "*")), " ")
	if label := inspect(t, made.ContainerID).Config.Labels["com.docker.compose.config-hash"]; label != hash || hash == "" {
		t.Errorf("the container's hash is %q, Compose's %q", label, hash)
	}
	c.api.delete(t, "composevalid")
	c.compose(t, "config", "--quiet") // without any service, too
}

func TestComposeSeesAndDrivesInstances(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	for _, prefix := range []string{"composeaa", "composebb"} {
		c.api.create(t, createRequest{Prefix: prefix})
	}
	if got := c.composePS(t); !slices.Equal(got, []string{"composeaa running", "composebb running"}) {
		t.Errorf("compose ps: %q", got)
	}
	if log := c.compose(t, "logs", "composeaa"); !strings.Contains(log, "testserver: listening on") || strings.Contains(log, "composebb") {
		t.Errorf("compose logs composeaa: %q", log)
	}

	c.compose(t, "stop", "composeaa")
	c.api.awaitStatus(t, byHand, "composeaa", "stopped", "stopped outside")
	if status := c.api.get(t, "composebb").Status; status != "running" {
		t.Errorf("the other one is %s", status)
	}
	c.compose(t, "start", "composeaa")
	c.awaitServed(t, "composeaa")

	c.compose(t, "stop")
	for _, prefix := range []string{"composeaa", "composebb"} {
		c.api.awaitStatus(t, byHand, prefix, "stopped", "stopped outside")
	}
	c.compose(t, "start")
	for _, prefix := range []string{"composeaa", "composebb"} {
		c.awaitServed(t, prefix)
	}
}

func TestComposeUpMakesNothingAnew(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	runs := c.api.create(t, createRequest{Prefix: "composeruns", Env: hostileValues(), Labels: hostileLabels()})
	rests := c.api.create(t, createRequest{Prefix: "composerests"})
	c.api.act(t, "composerests", "stop")

	c.compose(t, "up", "--detach")
	c.awaitServed(t, "composerests") // up starts what is stopped
	for _, was := range []instanceView{runs, rests} {
		now := c.api.get(t, was.Prefix)
		if now.ContainerID != was.ContainerID || now.Generation != 1 {
			t.Errorf("%s: container %s of generation %d, was %s", was.Prefix, now.ContainerID, now.Generation, was.ContainerID)
		}
	}
	if started := c.api.get(t, "composeruns").StartedAt; !started.Equal(*runs.StartedAt) {
		t.Errorf("the running one was started anew at %s", started)
	}
}

func TestAfterComposeDownInstancesComeBack(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	for _, prefix := range []string{"composedown", "composedown2"} {
		c.api.create(t, createRequest{Prefix: prefix})
	}
	c.compose(t, "down")
	for _, prefix := range []string{"composedown", "composedown2"} {
		c.api.awaitStatus(t, byHand, prefix, "stopped", "container removed")
	}
	if c.networkExists(t) {
		t.Fatal("the network is still there: this test proves nothing")
	}

	back := c.api.act(t, "composedown", "start")
	c.visitor.mustGet(t, back.URL)
	if back.Generation != 2 || !c.networkExists(t) {
		t.Errorf("after a start: generation %d, network %t", back.Generation, c.networkExists(t))
	}
	c.compose(t, "up", "--detach")
	c.awaitServed(t, "composedown2")
	if now := c.api.get(t, "composedown"); now.ContainerID != back.ContainerID {
		t.Error("up made the container anew that the start had made")
	}
}

// Caddy once took the container that Compose had made for a leftover, because
// its id was not the recorded one, and replaced it.
func TestACaddyThatRunsKeepsTheContainersThatComposeMade(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "composemakes"})
	c.compose(t, "up", "--detach", "--force-recreate")
	ofCompose := inspect(t, containerName("composemakes")).ID
	if ofCompose == made.ContainerID {
		t.Fatal("Compose made none")
	}
	eventually(t, 2*byHand, func() error {
		if now := c.api.get(t, "composemakes"); now.ContainerID != ofCompose || !now.Ready {
			return fmt.Errorf("container %s, ready %t, want Compose's %s", now.ContainerID, now.Ready, ofCompose)
		}
		return nil
	})
	c.awaitServed(t, "composemakes")
	c.api.act(t, "composemakes", "stop")
	for _, action := range []string{"start", "restart"} {
		if now := c.api.act(t, "composemakes", action); now.ContainerID != ofCompose || now.Generation != 1 {
			t.Errorf("after a %s: container %s of generation %d", action, now.ContainerID, now.Generation)
		}
	}
}

// The eject button: with the file alone, all goes on without Caddy.
func TestComposeBringsEverythingBackWithoutCaddy(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: strings.Replace(standardTemplates, "port 8080", "port 8080\nmemory 64MiB\ncpus 0.5\npids 99", 1)})
	env, labels := hostileValues(), hostileLabels()
	instances := []instanceView{
		c.api.create(t, createRequest{Prefix: "ejectone", Env: env, Labels: labels}),
		c.api.create(t, createRequest{Prefix: "ejecttwo", Template: "quick"}),
	}
	before := map[string]container.InspectResponse{}
	for _, each := range instances {
		before[each.Prefix] = inspect(t, each.ContainerID)
	}
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if err := removeAllOf(c.owner()); err != nil {
		t.Fatal(err)
	}

	c.compose(t, "up", "--detach")
	ids := map[string]string{}
	for _, each := range instances {
		awaitPort(t, each.Port, each.Prefix)
		now := inspect(t, containerName(each.Prefix))
		ids[each.Prefix] = now.ID
		sameContainer(t, before[each.Prefix], now)
	}
	var seen map[string]string
	if body, err := askPort(instances[0].Port, "/env"); err != nil || json.Unmarshal([]byte(body), &seen) != nil {
		t.Fatalf("the environment that the server sees: %v %s", err, body)
	}
	for name, want := range env {
		if seen[name] != want {
			t.Errorf("the server sees %s=%q, want %q", name, seen[name], want)
		}
	}

	c.mustStart(t)
	for _, was := range instances {
		c.awaitServed(t, was.Prefix)
		now := c.api.get(t, was.Prefix)
		if now.ContainerID != ids[was.Prefix] || now.Generation != was.Generation || !reflect.DeepEqual(now.Labels, was.Labels) {
			t.Errorf("Caddy made of Compose's container %s: %+v", ids[was.Prefix], now)
		}
		if now := inspect(t, containerName(was.Prefix)); now.ID != ids[was.Prefix] || now.RestartCount != 0 {
			t.Errorf("Caddy replaced or restarted the container of %s", was.Prefix)
		}
	}
}

func TestManagersAreNoOrphansOfEachOther(t *testing.T) {
	t.Parallel()
	one, two := startCaddy(t, options{}), startCaddy(t, options{})
	ofOne := one.api.create(t, createRequest{Prefix: "orphanone"})
	two.api.create(t, createRequest{Prefix: "orphantwo"})
	two.compose(t, "up", "--detach", "--remove-orphans")
	if got := two.composePS(t); !slices.Equal(got, []string{"orphantwo running"}) {
		t.Errorf("the second project holds %q", got)
	}
	two.compose(t, "down", "--remove-orphans")
	two.api.awaitStatus(t, byHand, "orphantwo", "stopped", "container removed")
	one.visitor.mustGet(t, ofOne.URL)
	sameInstance(t, one.api.get(t, "orphanone"), ofOne)
}

// hostileValues mean something to Compose, YAML or a shell.
func hostileValues() map[string]string {
	return map[string]string{
		"DOLLARS":  "$HOME ${HOME:-x} $$ ${HOME:?no} $(id) `id` $",
		"QUOTES":   `'single' "double" \n \\`,
		"LINES":    "one\n  two: x\n\n# three\r\n\tfour\n",
		"COMMENT":  "a # b",
		"MAPPING":  "a: b",
		"UNICODE":  "grüße 你好 🙂 \u2028 e\u0301",
		"BOOLEAN":  "no",
		"NULL":     "~",
		"NUMBER":   "0x10",
		"EMPTY":    "",
		"SPACES":   "  both ends  ",
		"CONTROLS": "\x01\x7f\u0085",
		"null":     "a name that YAML could mistake",
	}
}

func hostileLabels() map[string]string {
	labels := map[string]string{}
	for name, value := range hostileValues() {
		labels["label-"+strings.ToLower(name)] = value
	}
	return labels
}

// composeBinary is the docker-compose that docs/compose.md speaks of.
var composeBinary = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("../scripts/compose.sh").Output()
	return strings.TrimSpace(string(out)), err
})

// compose runs docker-compose on c's file and returns what it printed. There
// must be no warnings: they would be about the file.
func (c *caddyServer) compose(t testing.TB, args ...string) string {
	t.Helper()
	binary, err := composeBinary()
	if err != nil {
		t.Fatalf("making docker-compose (scripts/compose.sh): %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, append([]string{"--file", filepath.Join(c.StateDir, "docker-compose.yml")}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil || strings.Contains(stderr.String(), "level=warning") {
		t.Fatalf("docker-compose %q: %v\n%s", args, err, stderr.String())
	}
	return stdout.String()
}

// composePS is `ps` as "service state", sorted.
func (c *caddyServer) composePS(t testing.TB) (lines []string) {
	t.Helper()
	for decoder := json.NewDecoder(strings.NewReader(c.compose(t, "ps", "--all", "--format", "json"))); decoder.More(); {
		var each struct{ Service, State string }
		if err := decoder.Decode(&each); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, each.Service+" "+each.State)
	}
	slices.Sort(lines)
	return lines
}

// awaitServed waits until the instance runs and answers over Caddy.
func (c *caddyServer) awaitServed(t testing.TB, prefix string) {
	t.Helper()
	c.api.awaitStatus(t, 2*byHand, prefix, "running", "")
	eventually(t, 2*byHand, func() error {
		page, err := c.visitor.answers200(c.urlOf(prefix))
		if err == nil && page.body != "hello from "+prefix+"\n" {
			err = fmt.Errorf("%s says %q", prefix, page.body)
		}
		return err
	})
}

func (c *caddyServer) networkExists(t testing.TB) bool {
	t.Helper()
	_, err := engine.NetworkInspect(t.Context(), "sandbox-"+c.owner()[:8]+"-0", network.InspectOptions{})
	if err != nil && !errdefs.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// sameContainer checks that Compose made the container that Caddy had made.
func sameContainer(t testing.TB, was, now container.InspectResponse) {
	t.Helper()
	// Compose adds labels that only it knows, and the version is its own.
	for label, want := range was.Config.Labels {
		if got := now.Config.Labels[label]; got != want {
			t.Errorf("%s: label %s is %q, was %q", now.Name, label, got, want)
		}
	}
	slices.Sort(was.Config.Env)
	slices.Sort(now.Config.Env)
	for what, pair := range map[string][2]any{
		"image":        {was.Image, now.Image},
		"environment":  {was.Config.Env, now.Config.Env},
		"command":      {was.Config.Cmd, now.Config.Cmd},
		"user":         {was.Config.User, now.Config.User},
		"stop timeout": {was.Config.StopTimeout, now.Config.StopTimeout},
		"limits":       {limits(was.HostConfig), limits(now.HostConfig)},
		"ports":        {was.HostConfig.PortBindings, now.HostConfig.PortBindings},
		"network":      {was.HostConfig.NetworkMode, now.HostConfig.NetworkMode},
		"restart":      {was.HostConfig.RestartPolicy.Name, now.HostConfig.RestartPolicy.Name},
		"capabilities": {was.HostConfig.CapDrop, now.HostConfig.CapDrop},
		"security":     {was.HostConfig.SecurityOpt, now.HostConfig.SecurityOpt},
		"OOM score":    {was.HostConfig.OomScoreAdj, now.HostConfig.OomScoreAdj},
		"log":          {was.HostConfig.LogConfig, now.HostConfig.LogConfig},
		"init":         {was.HostConfig.Init, now.HostConfig.Init},
	} {
		if !reflect.DeepEqual(pair[0], pair[1]) {
			t.Errorf("%s: %s is %v, was %v", now.Name, what, pair[1], pair[0])
		}
	}
}

func limits(host *container.HostConfig) string {
	r := host.Resources
	return fmt.Sprint("memory ", r.Memory, " with swap ", r.MemorySwap, " CPUs ", r.NanoCPUs, " shares ", r.CPUShares,
		" pids ", *r.PidsLimit, " ulimits ", ulimits(r.Ulimits))
}

func ulimits(list []*container.Ulimit) (texts []string) {
	for _, each := range list {
		texts = append(texts, fmt.Sprintf("%+v", *each))
	}
	slices.Sort(texts)
	return texts
}
