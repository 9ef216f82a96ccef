package dockerops

import (
	"slices"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

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
