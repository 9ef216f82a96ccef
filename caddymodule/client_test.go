package caddymodule

import (
	"fmt"
	"testing"
)

func TestClientOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":           "[192.0.2.1/32×1]",
		"::ffff:192.0.2.1":    "[192.0.2.1/32×1]",
		"2001:db8:1:2:3::4":   "[2001:db8:1::/48×8 2001:db8:1:2::/64×1]",
		"2001:db8:1:2:ffff::": "[2001:db8:1::/48×8 2001:db8:1:2::/64×1]",
		"fe80::1%eth0":        "[fe80::/48×8 fe80::/64×1]",
		"":                    "[invalid Prefix×1]",
		"@":                   "[invalid Prefix×1]",
	} {
		var got []string
		for _, n := range at(text) {
			got = append(got, fmt.Sprintf("%s×%d", n.Prefix, n.clients))
		}
		if fmt.Sprint(got) != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
