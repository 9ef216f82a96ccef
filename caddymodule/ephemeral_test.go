package caddymodule

import (
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestPortsThatTheKernelTakesForItself(t *testing.T) {
	const usual = "32768\t60999\n"
	for name, test := range map[string]struct {
		ports            instance.PortRange
		kernel, reserved string
		want             string // empty: no advice
	}{
		"apart":               {instance.PortRange{First: 5174, Last: 32767}, usual, "\n", ""},
		"one in common":       {instance.PortRange{First: 5174, Last: 32768}, usual, "\n", "ports 32768 to 32768 "},
		"below and inside":    {instance.PortRange{First: 30000, Last: 40000}, usual, "\n", "ports 32768 to 40000 "},
		"above and inside":    {instance.PortRange{First: 60000, Last: 65000}, usual, "\n", "ports 60000 to 60999 "},
		"all of the kernel's": {instance.PortRange{First: 1024, Last: 65535}, usual, "\n", "ip_local_reserved_ports=32768-60999"},
		"kept free":           {instance.PortRange{First: 30000, Last: 40000}, usual, "80,32768-40000,50000\n", ""},
		"kept free in part":   {instance.PortRange{First: 30000, Last: 40000}, usual, "32768-39999\n", "ports 32768 to 40000 "},
		"no range":            {instance.PortRange{First: 30000, Last: 40000}, "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := overlapAdvice(test.ports, test.kernel, test.reserved)
			if test.want == "" && got != "" || !strings.Contains(got, test.want) {
				t.Errorf("advice %q, want it to say %q", got, test.want)
			}
		})
	}
}
