package dockerops

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// FuzzLabels has a caller and a stranger write labels: the caller through us,
// the stranger past us, onto a container of ours.
func FuzzLabels(f *testing.F) {
	f.Add("team", "a", labelPort, "5174")
	f.Add("prefix", "x", labelPrefix, "someoneelse")
	f.Add("sandbox.manager", "x", labelManager, "")
	f.Add("", "\x00", labelCaller, "99999999999999999999")
	f.Add("com.docker.compose.project", "x", composeOneoff, "True")
	f.Add("sandbox.pool", "x", labelPool, "vite")
	f.Add("pool", "x", labelLateEnv, "/run/sandbox/env")
	f.Fuzz(func(t *testing.T, key, value, strange, strangeValue string) {
		c := fixedClient(t)
		spec := fullSpec()
		plain := sandboxLabels(spec, c.owner)
		spec.Labels = map[string]string{key: value}
		labels := sandboxLabels(spec, c.owner)
		for name, was := range plain {
			if !strings.HasPrefix(name, labelCaller) && labels[name] != was {
				t.Fatalf("the caller's label %q made %s %q", key, name, labels[name])
			}
		}
		if back := callerLabels(labels); !maps.Equal(back, spec.Labels) {
			t.Fatalf("the labels %q came back as %q", spec.Labels, back)
		}

		labels[strange] = strangeValue
		found := container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{
				ID: "1", Name: "/" + instance.ContainerName(spec.Prefix), HostConfig: &container.HostConfig{},
			},
			Config: &container.Config{Labels: labels},
		}
		spoilt := strange == labelManager && strangeValue != c.owner || strange == labelPrefix && strangeValue != spec.Prefix
		if c.owns(found) == spoilt {
			t.Fatalf("with %q=%q it is ours: %v", strange, strangeValue, !spoilt)
		}
		if read := specOf(found, image{}); !spoilt && read.Prefix != spec.Prefix {
			t.Fatalf("with %q=%q it is the container of %q", strange, strangeValue, read.Prefix)
		}
	})
}

func TestPortsLabelReadsBack(t *testing.T) {
	for label, spec := range map[string]instance.Spec{
		"":            {},
		"3000":        {ContainerPorts: []int{3000}},
		"3000,9229":   {ContainerPorts: []int{3000, 9229}},
		"any":         {AnyPort: true},
		"1,65535,any": {ContainerPorts: []int{1, 65535}, AnyPort: true},
	} {
		if got := portsLabel(spec); got != label {
			t.Errorf("%+v: label %q, want %q", spec, got, label)
		}
		if ports, others := readPorts(label); !slices.Equal(ports, spec.ContainerPorts) || others != spec.AnyPort {
			t.Errorf("%q reads back as %v, %v", label, ports, others)
		}
	}
	if ports, others := readPorts("9229,x,0,65536,,-1,80,80,All"); !slices.Equal(ports, []int{80, 9229}) || others {
		t.Errorf("a spoilt label reads back as %v, %v", ports, others)
	}
}
