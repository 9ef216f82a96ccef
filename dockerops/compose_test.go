package dockerops

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestComposeFileIsTheGoldenOne(t *testing.T) {
	second := fullSpec()
	second.Prefix, second.Port = "zzzzzzzz", 5201
	second.Command, second.Labels, second.WorkDir, second.User, second.Pull = nil, nil, "", "", ""
	second.ContainerPorts, second.AnyPort, second.LateEnv, second.LateDir = nil, false, "", ""
	golden(t, "docker-compose.yml", composeText(t, fixedClient(t), fullSpec(), second))
}

func TestComposeFileWithoutInstancesLoads(t *testing.T) {
	c := fixedClient(t)
	project := loadAsCompose(t, composeText(t, c))
	if project.Name != c.project || len(project.Services) != 0 {
		t.Errorf("project %s with %d services", project.Name, len(project.Services))
	}
}

func TestComposeFileIsPrivate(t *testing.T) {
	projection := fixedClient(t).Projection()
	if projection.Mode != 0o600 || projection.Path != "docker-compose.yml" {
		t.Errorf("%s has mode %o: it holds what the environments hold", projection.Path, projection.Mode)
	}
}

func TestAnInstanceThatIsBeingDeletedIsNotInTheComposeFile(t *testing.T) {
	block, err := fixedClient(t).Projection().Block(instance.Record{Spec: fullSpec(), Status: instance.Deleting})
	if block != nil || err != nil {
		t.Errorf("block %q, error %v", block, err)
	}
}

// hostile are values that mean something to Compose, YAML or a shell.
var hostile = []string{
	"", " ", "$", "$$", "$HOME", "${HOME}", "${HOME:-x}", "${HOME:?no}", "$${HOME}", "{env.HOME}", "`id`", "$(id)",
	"'", `"`, `\`, `\n`, `\u0000`, "#", "a # b", "a: b", "- a", "? a", "*a", "&a", "!!binary aGk=", "%TAG", "@x", "|", ">", "|2-",
	"no", "on", "y", "null", "~", "true", "0x10", "1e3", "1_000", "12:30:45", "2026-01-02", ".inf", "<<", "=", "---", "...",
	"a\nb", "\n", "\na", "a\n", "a\n\n", "  a\n b", "a\r\nb", "\ttab", "\t\n", "\ta\nb", " \n\tb", "\n\tb", "trailing ", " leading", "a\n  \nb",
	"grüße", "你好", "🙂", "\u0085", "\u2028", "\ufeff", "\x01\x02", "\x7f", "e\u0301", strings.Repeat("long ", 1000),
}

func hostileSpec() instance.Spec {
	spec := fullSpec()
	spec.Env, spec.Labels, spec.Command = map[string]string{}, map[string]string{}, hostile
	for i, value := range hostile {
		spec.Env["V"+strconv.Itoa(i)] = value
		spec.Labels["v"+strconv.Itoa(i)] = value
	}
	for _, name := range []string{"null", "y", "NO", "true", "_", "on", "PATH", "HOME"} { // names that YAML could mistake
		spec.Env[name] = name
	}
	spec.WorkDir, spec.User, spec.Image = "/a $b/'c'", "1000:1000", "registry.example:5000/$x/y@sha256:0"
	return spec
}

func TestHostileValuesReachComposeUnchanged(t *testing.T) {
	t.Setenv("HOME", "/root") // what a careless file would let in
	c := fixedClient(t)
	spec := hostileSpec()
	sameAsSpec(t, c, loadAsCompose(t, composeText(t, c, spec)).Services[spec.Prefix], spec)
}

func FuzzComposeValues(f *testing.F) {
	for _, value := range hostile {
		f.Add(value)
	}
	f.Fuzz(func(t *testing.T, value string) {
		if !utf8.ValidString(value) || strings.ContainsRune(value, 0) {
			t.Skip("neither JSON nor an environment can hold it")
		}
		c := fixedClient(t)
		spec := fullSpec()
		spec.Env, spec.Labels, spec.Command = map[string]string{"V": value}, map[string]string{"v": value}, []string{value, value}
		sameAsSpec(t, c, loadAsCompose(t, composeText(t, c, spec)).Services[spec.Prefix], spec)
	})
}

func sameAsSpec(t *testing.T, c *Client, service types.ServiceConfig, spec instance.Spec) {
	t.Helper()
	if got := service.Environment.ToMapping(); !reflect.DeepEqual(map[string]string(got), spec.Env) {
		for name, want := range spec.Env {
			if got[name] != want {
				t.Errorf("env %s is %q, want %q", name, got[name], want)
			}
		}
		t.Errorf("%d variables, want %d", len(got), len(spec.Env))
	}
	if want := sandboxLabels(spec, c.owner); !reflect.DeepEqual(map[string]string(service.Labels), want) {
		t.Errorf("labels are %q, want %q", service.Labels, want)
	}
	if !slices.Equal(service.Command, spec.Command) {
		t.Errorf("command is %q, want %q", service.Command, spec.Command)
	}
	if service.WorkingDir != spec.WorkDir || service.User != spec.User || service.Image != spec.Image {
		t.Errorf("folder %q, user %q, image %q", service.WorkingDir, service.User, service.Image)
	}
}

// Compose must make the container that we make.
func TestComposeSaysWhatTheBlueprintSays(t *testing.T) {
	c := fixedClient(t)
	spec := fullSpec()
	project := loadAsCompose(t, composeText(t, c, spec))
	service := project.Services[spec.Prefix]
	plan := c.blueprint(spec, image{}, "")
	host := plan.HostConfig
	for _, each := range []struct {
		what              string
		compose, ourPlans any
	}{
		{"name", service.ContainerName, instance.ContainerName(spec.Prefix)},
		{"image", service.Image, plan.Config.Image},
		{"command", []string(service.Command), []string(plan.Config.Cmd)},
		{"environment", service.Environment.ToMapping().Values(), plan.Config.Env},
		{"folder", service.WorkingDir, plan.Config.WorkingDir},
		{"user", service.User, plan.Config.User},
		{"init", service.Init, host.Init},
		{"restart", service.Restart, string(host.RestartPolicy.Name)},
		{"dropped capabilities", service.CapDrop, []string(host.CapDrop)},
		{"security options", service.SecurityOpt, host.SecurityOpt},
		{"memory", int64(service.MemLimit), host.Memory},
		{"memory and swap", int64(service.MemSwapLimit), host.MemorySwap},
		{"CPUs", int64(float64(service.CPUS) * 1e9), host.NanoCPUs},
		{"CPU shares", service.CPUShares, host.CPUShares},
		{"pids", service.PidsLimit, *host.PidsLimit},
		{"OOM score", service.OomScoreAdj, int64(host.OomScoreAdj)},
		{"log driver", service.Logging.Driver, host.LogConfig.Type},
		{"log options", map[string]string(service.Logging.Options), host.LogConfig.Config},
		{"grace", time.Duration(*service.StopGracePeriod).Seconds(), float64(*plan.Config.StopTimeout)},
		{"core size", service.Ulimits["core"], &types.UlimitsConfig{}},
		{"open files", service.Ulimits["nofile"], &types.UlimitsConfig{Soft: maxOpenFiles, Hard: maxOpenFiles}},
		{"ulimits", len(service.Ulimits), len(host.Ulimits)},
		{"folder on the host", service.Volumes[0].Source, host.Mounts[0].Source},
		{"folder in the container", service.Volumes[0].Target, host.Mounts[0].Target},
		{"which it only reads", service.Volumes[0].ReadOnly, host.Mounts[0].ReadOnly},
		{"how", service.Volumes[0].Type, string(host.Mounts[0].Type)},
		{"whether Compose makes it", service.Volumes[0].Bind.CreateHostPath, false},
		{"folders", len(service.Volumes), len(host.Mounts)},
		{"network", project.Networks[networkKey].Name, string(host.NetworkMode)},
		{"networks", len(service.Networks), len(plan.Networking.EndpointsConfig)},
		{"pull policy", service.PullPolicy, string(spec.Pull)},
	} {
		if !reflect.DeepEqual(each.compose, each.ourPlans) {
			t.Errorf("%s: Compose %#v, we %#v", each.what, each.compose, each.ourPlans)
		}
	}
	port := service.Ports[0]
	if len(service.Ports) != 1 || port.HostIP != "127.0.0.1" || port.Published != "5200" || port.Target != 5174 {
		t.Errorf("ports %+v", service.Ports)
	}
}

func TestComposeDeclaresOurNetwork(t *testing.T) {
	c := fixedClient(t)
	found := loadAsCompose(t, composeText(t, c, fullSpec())).Networks[networkKey]
	if bool(found.External) || found.Driver != "bridge" || !reflect.DeepEqual(map[string]string(found.DriverOpts), c.networkOptions()) {
		t.Errorf("network %+v", found)
	}
	if found.Labels[labelManager] != c.owner {
		t.Errorf("Compose would make a network with labels %v, which we take for somebody else's", found.Labels)
	}
}

// The hashes on containers and network must be those that Compose makes of the
// file, in whatever environment it runs; else `docker compose up` makes all
// containers anew.
func TestHashesAreThoseThatComposeMakesOfTheFile(t *testing.T) {
	t.Setenv("COMPOSE_PROJECT_NAME", "")
	t.Setenv("HOME", "/somewhere")
	c := fixedClient(t)
	specs := []instance.Spec{fullSpec(), hostileSpec()}
	specs[1].Prefix = "hostile0"
	project := loadAsCompose(t, composeText(t, c, specs...))
	for _, spec := range specs {
		ours, err := c.serviceHash(t.Context(), spec)
		must(t, err)
		if want := composeServiceHash(t, project.Services[spec.Prefix]); ours != want {
			t.Errorf("%s: our hash is %s, Compose's %s", spec.Prefix, ours, want)
		}
	}
	ours, err := c.networkHash(t.Context())
	must(t, err)
	if want, err := hashJSON(project.Networks[networkKey]); err != nil || ours != want {
		t.Errorf("network: our hash is %s, Compose's %s (%v)", ours, want, err)
	}
}

// composeServiceHash is ServiceHash of Compose 2.40.
func composeServiceHash(t *testing.T, service types.ServiceConfig) string {
	t.Helper()
	service.Build = nil
	service.PullPolicy = ""
	service.Scale = nil
	if service.Deploy != nil {
		service.Deploy.Replicas = nil
	}
	service.DependsOn = nil
	service.Profiles = nil
	hash, err := hashJSON(service)
	must(t, err)
	return hash
}

func TestTheHashFollowsTheSpecButNotThePullPolicy(t *testing.T) {
	c := fixedClient(t)
	hash := func(change func(*instance.Spec)) string {
		spec := fullSpec()
		change(&spec)
		got, err := c.serviceHash(t.Context(), spec)
		must(t, err)
		return got
	}
	same := hash(func(*instance.Spec) {})
	if hash(func(s *instance.Spec) { s.Pull = instance.PullAlways }) != same {
		t.Error("the pull policy changes the hash")
	}
	for name, change := range map[string]func(*instance.Spec){
		"image":      func(s *instance.Spec) { s.Image = "other" },
		"env":        func(s *instance.Spec) { s.Env = map[string]string{"PORT": "1"} },
		"port":       func(s *instance.Spec) { s.Port++ },
		"generation": func(s *instance.Spec) { s.Generation++ },
		"memory":     func(s *instance.Spec) { s.Memory++ },
		"ports":      func(s *instance.Spec) { s.ContainerPorts = nil },
		"late env":   func(s *instance.Spec) { s.LateEnv = "" },
		"late dir":   func(s *instance.Spec) { s.LateDir = "/elsewhere" },
		"any port":   func(s *instance.Spec) { s.AnyPort = false },
	} {
		if hash(change) == same {
			t.Errorf("another %s leaves the hash as it is", name)
		}
	}
}

// Custom hosts come and go while the container runs: the file tells them, and
// Compose must not think that the container is another one.
func TestCustomHostsAreInTheFileAndNotInTheHash(t *testing.T) {
	c := fixedClient(t)
	spec := fullSpec()
	projection := c.Projection()
	block, err := projection.Block(instance.Record{Spec: spec, Status: instance.Running, Domains: []string{"a.example.org", "no"}})
	must(t, err)
	service := loadAsCompose(t, projection.Join(instance.Head{Owner: c.owner}, [][]byte{block})).Services[spec.Prefix]
	if got := fmt.Sprintf("%q", service.Extensions["x-sandbox-domains"]); got != `["a.example.org" "no"]` {
		t.Errorf("the file has the hosts %s", got)
	}
	sameAsSpec(t, c, service, spec)
	ours, err := c.serviceHash(t.Context(), spec)
	must(t, err)
	if want := composeServiceHash(t, service); ours != want {
		t.Errorf("our hash is %s, that of the file with hosts %s", ours, want)
	}
}

// A spare has the labels of the instance that it may become: what changes with
// that is its name, which Compose does not look at, and a profile, which does
// not count in its hash.
func TestASpareIsNoServiceUntilItIsTaken(t *testing.T) {
	c := fixedClient(t)
	spec := fullSpec()
	spec.Labels, spec.Prefix, spec.Spare = nil, "pool-"+spec.Prefix, spec.Prefix
	project := loadAsCompose(t, composeText(t, c, spec))
	if len(project.Services) != 0 || !slices.Equal(project.DisabledServiceNames(), []string{spec.Spare}) {
		t.Errorf("Compose would run %v, and leave out %v", project.ServiceNames(), project.DisabledServiceNames())
	}
	before, err := c.serviceHash(t.Context(), spec)
	must(t, err)
	asSpare := c.blueprint(spec, image{id: "sha256:0123"}, before).Config.Labels
	spec.Prefix = spec.Spare
	service := loadAsCompose(t, composeText(t, c, spec)).Services[spec.Prefix]
	if hash := composeServiceHash(t, service); hash != before || service.ContainerName != instance.ContainerName(spec.Prefix) {
		t.Errorf("taken, it is %s with hash %s; was made with %s", service.ContainerName, hash, before)
	}
	if taken := c.blueprint(spec, image{id: "sha256:0123"}, before).Config.Labels; !maps.Equal(asSpare, taken) {
		t.Errorf("the labels are %q, and should be %q", asSpare, taken)
	}
	if asSpare[labelPrefix] != spec.Prefix || asSpare[composeService] != spec.Prefix || asSpare[labelPool] != spec.Template {
		t.Errorf("the labels are %q", asSpare)
	}
}

func TestTheNameSaysWhoseAContainerOfAPoolIs(t *testing.T) {
	c := fixedClient(t)
	pool := map[string]string{labelManager: c.owner, labelPrefix: "bornfor1", labelPool: "vite"}
	plain := map[string]string{labelManager: c.owner, labelPrefix: "bornfor1"}
	for _, test := range []struct {
		labels map[string]string
		name   string
		key    string
		ours   bool
	}{
		{pool, "sandbox-pool-bornfor1", "pool-bornfor1", true},
		{pool, "sandbox-bornfor1", "bornfor1", true},
		{pool, "sandbox-another1", "another1", true},
		{pool, "sandbox-1b4e28ba-bornfor1-run-0123456789ab", "", false},
		{pool, "sandbox-short", "", false},
		{pool, "bornfor1", "", false},
		{plain, "sandbox-bornfor1", "bornfor1", true},
		{plain, "sandbox-another1", "", false},
		{plain, "sandbox-pool-bornfor1", "", false},
		{map[string]string{labelManager: "another", labelPrefix: "bornfor1", labelPool: "vite"}, "sandbox-bornfor1", "", false},
	} {
		if key, ours := c.keyOf(test.labels, test.name); ours != test.ours || ours && key != test.key {
			t.Errorf("%v %s: %q, ours %v; want %q, %v", test.labels, test.name, key, ours, test.key, test.ours)
		}
	}
}

func composeText(t *testing.T, c *Client, specs ...instance.Spec) []byte {
	t.Helper()
	projection := c.Projection()
	var blocks [][]byte
	for _, spec := range specs {
		block, err := projection.Block(instance.Record{Spec: spec, Status: instance.Running})
		must(t, err)
		blocks = append(blocks, block)
	}
	return projection.Join(instance.Head{Owner: c.owner}, blocks)
}

// loadAsCompose loads the file as `docker compose config` and `up` do.
func loadAsCompose(t *testing.T, file []byte) *types.Project {
	t.Helper()
	path := filepath.Join(t.TempDir(), composeFile)
	must(t, os.WriteFile(path, file, 0o600))
	options, err := cli.NewProjectOptions([]string{path},
		cli.WithInterpolation(true), cli.WithResolvedPaths(true), cli.WithNormalization(true), cli.WithConsistency(true),
		cli.WithDiscardEnvFile, cli.WithOsEnv, cli.WithDotEnv, cli.WithDefaultProfiles())
	must(t, err)
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatalf("Compose does not load the file: %v\n%s", err, file)
	}
	return project
}
