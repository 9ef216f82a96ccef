package dockerops

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// fullSpec has a value in every field.
func fullSpec() instance.Spec {
	return instance.Spec{
		Prefix: "k3v9x2m4q8w1z7ab", Port: 5200, Template: "vite", Generation: 3,
		Image: "caddy-sandbox/vite-demo:1", Pull: instance.PullNever, ContainerPort: 5174,
		ContainerPorts: []int{3000, 9229}, AnyPort: true,
		Command: []string{"npm", "run", "dev", "--", "--port=$PORT"},
		Env:     map[string]string{"PORT": "5174", "HOST": "0.0.0.0", "GREETING": "hällo $USER\n\"you\""},
		WorkDir: "/app", User: "1000:1000",
		Memory: 512 << 20, CPUs: 1.5, Pids: 512,
		Labels:  map[string]string{"team": "red $1", "sandbox.manager": "me"},
		LateEnv: "/run/sandbox $1/env", LateDir: "/var/lib/caddy-sandbox/env/k3v9x2m4q8w1z7ab",
	}
}

func fixedClient(t *testing.T) *Client {
	t.Helper()
	return clientOn(t, "unix:///nowhere/docker.sock")
}

// All that a container may be and do is in one file, so that no change of it
// goes unseen.
func TestBlueprintIsTheGoldenOne(t *testing.T) {
	plan := fixedClient(t).blueprint(fullSpec(), image{id: "sha256:0123"}, "the-hash")
	text, err := json.MarshalIndent(plan, "", "  ")
	must(t, err)
	golden(t, "container.json", append(text, '\n'))
}

func TestACallerCanSetNoLabelButItsOwn(t *testing.T) {
	c := fixedClient(t)
	spec := fullSpec()
	spec.Labels = nil
	without := c.blueprint(spec, image{id: "sha256:0123"}, "hash").Config.Labels
	spec.Labels = maps.Clone(without) // each label there is, with a wish
	for key := range spec.Labels {
		spec.Labels[key] = "hijacked"
	}
	with := c.blueprint(spec, image{id: "sha256:0123"}, "hash").Config.Labels
	for key, value := range without {
		if with[key] != value {
			t.Errorf("the caller changed label %s to %q", key, with[key])
		}
	}
	if len(with) != 2*len(without) {
		t.Errorf("%d labels, want the %d of ours and as many of the caller's", len(with), len(without))
	}
}

func TestTheEngineKeepsWhatTheBlueprintSays(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	spec := testSpec(t)
	id, err := c.Create(t.Context(), spec)
	must(t, err)
	found := h.inspect(t, id)
	plan := c.blueprint(spec, image{id: found.Image}, found.Config.Labels[composeConfigHash])
	kept(t, "HostConfig", plan.HostConfig, found.HostConfig)
	kept(t, "Config", plan.Config.Labels, found.Config.Labels)
	if found.HostConfig.Privileged || len(found.Mounts) > 0 || len(found.HostConfig.Binds) > 0 {
		t.Errorf("privileged %v, mounts %v, binds %v", found.HostConfig.Privileged, found.Mounts, found.HostConfig.Binds)
	}
}

// kept checks that each value that is set in asked is the same in got.
func kept(t *testing.T, name string, asked, got any) {
	t.Helper()
	askedFields, gotFields := fields(t, asked), fields(t, got)
	for field, want := range askedFields {
		if want == nil || reflect.ValueOf(want).IsZero() {
			continue // the engine's default
		}
		if !reflect.DeepEqual(gotFields[field], want) {
			t.Errorf("%s.%s is %v, want %v", name, field, gotFields[field], want)
		}
	}
}

func fields(t *testing.T, value any) (all map[string]any) {
	t.Helper()
	text, err := json.Marshal(value)
	must(t, err)
	must(t, json.Unmarshal(text, &all))
	return all
}

func TestCPUsSurviveTheEnginesUnits(t *testing.T) {
	for _, cpus := range []float64{0, 0.1, 0.25, 0.75, 1, 1.1, 1.5, 2.333, 64} {
		if got := cpusOf(nanoCPUs(cpus)); got != cpus {
			t.Errorf("%v became %v", cpus, got)
		}
		// Compose's number has 32 bits.
		if got := cpusOf(int64(float64(float32(cpus)) * 1e9)); got != cpus {
			t.Errorf("%v became %v on the way through Compose", cpus, got)
		}
	}
}

func TestImageDefaultsAreNotReadBackAsTheSpecs(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	spec := testSpec(t)
	base := spec.Image
	spec.Image = base + "-defaults"
	must(t, buildImage(spec.Image, map[string][]byte{
		"Dockerfile": []byte("FROM " + base + "\nENV FROM_IMAGE=1\nWORKDIR /srv\nUSER 1234\nCMD [\"--of-the-image\"]\n"),
	}))
	t.Cleanup(func() { h.removeImage(t, spec.Image) })
	id, err := c.Create(t.Context(), spec)
	must(t, err)
	for _, reader := range []*Client{c, clientOf(t, c.owner)} { // one that knows the image, one that has to ask
		got, err := reader.Inspect(t.Context(), id)
		must(t, err)
		if got.Spec.Command != nil || got.Spec.WorkDir != "" || got.Spec.User != "" {
			t.Errorf("command %q, folder %q, user %q: those are the image's", got.Spec.Command, got.Spec.WorkDir, got.Spec.User)
		}
		if got.Spec.Env["FROM_IMAGE"] != "1" {
			t.Errorf("env %v lacks what the image brought", got.Spec.Env)
		}
	}
}

func TestSpecIsReadBackThoughItsImageIsGone(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	spec := testSpec(t)
	base := spec.Image
	spec.Image = base + "-gone"
	must(t, buildImage(spec.Image, map[string][]byte{
		"Dockerfile": []byte("FROM " + base + "\nLABEL run=" + strconv.Quote(c.owner) + "\n"),
	}))
	id, err := c.Create(t.Context(), spec)
	must(t, err)
	h.removeImage(t, spec.Image)
	got, err := clientOf(t, c.owner).Inspect(t.Context(), id)
	must(t, err)
	if got.Spec.Prefix != spec.Prefix || got.Spec.Image != spec.Image {
		t.Errorf("spec %+v", got.Spec)
	}
}

// golden compares got with a file of testdata, or writes it with -update.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(path, got, 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("differs from %s (go test -update writes it):\n%s", path, got)
	}
}
