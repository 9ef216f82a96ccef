package request

import (
	"strconv"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestHost(t *testing.T) {
	longest := strings.Repeat("z", 57)
	for _, row := range []struct{ host, prefix string }{
		{"abcdefgh.sandbox.example.com", "abcdefgh"},
		{"01234567.sandbox.example.com", "01234567"},
		{longest + ".sandbox.example.com", longest},
		{"ABCdefGH.Sandbox.EXAMPLE.com", "abcdefgh"},
		{"abcdefgh.sandbox.example.com.", "abcdefgh"},
		{"abcdefgh.sandbox.example.com:8443", "abcdefgh"},
		{"abcdefgh.sandbox.example.com.:8443", "abcdefgh"},

		{"", ""},
		{".", ""},
		{":", ""},
		{"sandbox.example.com", ""},
		{".sandbox.example.com", ""},
		{"..sandbox.example.com", ""},
		{"abcdefgh", ""},
		{"abcdefgh.example.com", ""},
		{"abcdefgh.sandbox.example.org", ""},
		{"abcdefghsandbox.example.com", ""},
		{"abcdefgh.notsandbox.example.com", ""},
		{"abcdefgh.sandbox.example.com.evil.org", ""},
		{"abcdefgh.sandbox.example.com..", ""},
		{"x.abcdefgh.sandbox.example.com", ""},
		{"seven77.sandbox.example.com", ""},
		{longest + "z.sandbox.example.com", ""},
		{strings.Repeat("a", 300) + ".sandbox.example.com", ""},
		{strings.Repeat("a", 20000) + ".sandbox.example.com", ""},
		{"*.sandbox.example.com", ""},
		{"abcd_fgh.sandbox.example.com", ""},
		{"abcd-fgh.sandbox.example.com", ""},
		{"abcd fgh.sandbox.example.com", ""},
		{"abcdefgh\x00.sandbox.example.com", ""},
		{"abcdefgh\n.sandbox.example.com", ""},
		{"xn--bcdefgh-4ya.sandbox.example.com", ""},
		{"äbcdefgh.sandbox.example.com", ""},
		{"abcdefg\u212A.sandbox.example.com", ""}, // Kelvin sign, which is k in lower case
		{"abcdefgh.sandbox.example.com:", ""},
		{"abcdefgh.sandbox.example.com:http", ""},
		{"abcdefgh.sandbox.example.com:+80", ""},
		{"abcdefgh.sandbox.example.com:65536", ""},
		{"abcdefgh.sandbox.example.com:99999999", ""},
		{"abcdefgh.sandbox.example.com:80:80", ""},
		{"127.0.0.1", ""},
		{"[::1]:443", ""},
	} {
		got, ok := Host(row.host, "sandbox.example.com")
		if ok != (row.prefix != "") || got != (Target{Prefix: row.prefix}) {
			t.Errorf("%.60q: got %v, %v, want %q", row.host, got, ok, row.prefix)
		}
	}
}

func TestHostWithAPort(t *testing.T) {
	longest := strings.Repeat("z", 57)
	for _, row := range []struct {
		label string
		want  Target
	}{
		{"1-abcdefgh", Target{"abcdefgh", 1}},
		{"3000-abcdefgh", Target{"abcdefgh", 3000}},
		{"65535-" + longest, Target{longest, 65535}},
		{"3000-12345678", Target{"12345678", 3000}},
		{"3000-ABCDEFGH", Target{"abcdefgh", 3000}},

		{"0-abcdefgh", Target{}},
		{"00-abcdefgh", Target{}},
		{"03000-abcdefgh", Target{}},
		{"+3000-abcdefgh", Target{}},
		{"3_000-abcdefgh", Target{}},
		{"0x50-abcdefgh", Target{}},
		{"1e3-abcdefgh", Target{}},
		{"65536-abcdefgh", Target{}},
		{"99999999999999999999-abcdefgh", Target{}},
		{"-abcdefgh", Target{}},
		{"--abcdefgh", Target{}},
		{"3000-", Target{}},
		{"3000-short", Target{}},
		{"3000--abcdefgh", Target{}},
		{"-3000-abcdefgh", Target{}},
		{"3000-80-abcdefgh", Target{}},
		{"abcdefgh-3000", Target{}},
		{"12345678-abcdefgh", Target{}},
		{"http-abcdefgh", Target{}},
		{"3000.abcdefgh", Target{}},
		{"3000-abcdefgh.x", Target{}},
		{"３000-abcdefgh", Target{}},      // a digit, but not of ASCII
		{"3000\u2010abcdefgh", Target{}}, // a dash, but not that one
	} {
		for _, port := range []string{"", ":8443"} {
			got, ok := Host(row.label+".sandbox.example.com"+port, "sandbox.example.com")
			if got != row.want || ok != (row.want != Target{}) {
				t.Errorf("%q: got %v, %v, want %v", row.label, got, ok, row.want)
			}
		}
	}
}

func TestName(t *testing.T) {
	for host, want := range map[string]string{
		"App.Example.COM.:8443": "app.example.com", "app.example.com": "app.example.com", "": "", "a:b": "", ":99999": "",
		strings.Repeat("a", 301): "",
	} {
		if got, ok := Name(host); ok && got != want || !ok && want != "" {
			t.Errorf("%.20q: got %q, %v, want %q", host, got, ok, want)
		}
	}
}

func FuzzHostname(f *testing.F) {
	for _, host := range []string{
		"abcdefgh.sandbox.example.com", "ABCDEFGH.SANDBOX.EXAMPLE.COM.:443", "a.abcdefgh.sandbox.example.com",
		"[::1]:443", "abcdefg\u212A.sandbox.example.com", ".sandbox.example.com", "abcdefgh.sandbox.example.com:99999",
		"3000-abcdefgh.sandbox.example.com", "65536-abcdefgh.sandbox.example.com", "03-abcdefgh.sandbox.example.com:443",
		"1-2-abcdefgh.sandbox.example.com", "-abcdefgh.sandbox.example.com", "65535-ABCDEFGH.sandbox.example.com.",
	} {
		f.Add(host)
	}
	const domain = "sandbox.example.com"
	f.Fuzz(func(t *testing.T, host string) {
		target, ok := Host(host, domain)
		if !ok {
			return
		}
		if !instance.ValidPrefix(target.Prefix) || target.Port != 0 && !instance.ValidPort(target.Port) {
			t.Fatalf("%q gave the malformed target %v", host, target)
		}
		own := target.Prefix + "." + domain
		if target.Port != 0 {
			own = strconv.Itoa(target.Port) + "-" + own
		}
		// Whatever names an instance is a spelling of the one host it has.
		if !strings.EqualFold(host[:len(own)], own) {
			t.Fatalf("%q gave %v, whose host it is not", host, target)
		}
		if again, ok := Host(own, domain); !ok || again != target {
			t.Fatalf("%q gave %v, whose own host gives %v", host, target, again)
		}
		if name, ok := Name(host); !ok || name != own {
			t.Fatalf("%q has the name %q, want %q", host, name, own)
		}
	})
}

func TestHostAllocatesNothing(t *testing.T) {
	const host = "3000-abcdefgh.sandbox.example.com:8443"
	if n := testing.AllocsPerRun(100, func() { Host(host, "sandbox.example.com") }); n > 0 {
		t.Errorf("%v allocations for a host in lower case, want none", n)
	}
}
