package request

import (
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestPrefix(t *testing.T) {
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
		prefix, ok := Prefix(row.host, "sandbox.example.com")
		if ok != (row.prefix != "") || ok && prefix != row.prefix {
			t.Errorf("%.60q: got %q, %v, want %q", row.host, prefix, ok, row.prefix)
		}
	}
}

func FuzzHostname(f *testing.F) {
	for _, host := range []string{
		"abcdefgh.sandbox.example.com", "ABCDEFGH.SANDBOX.EXAMPLE.COM.:443", "a.abcdefgh.sandbox.example.com",
		"[::1]:443", "abcdefg\u212A.sandbox.example.com", ".sandbox.example.com", "abcdefgh.sandbox.example.com:99999",
	} {
		f.Add(host)
	}
	const domain = "sandbox.example.com"
	f.Fuzz(func(t *testing.T, host string) {
		prefix, ok := Prefix(host, domain)
		if !ok {
			return
		}
		if !instance.ValidPrefix(prefix) {
			t.Fatalf("%q gave the malformed prefix %q", host, prefix)
		}
		// Whatever names an instance is a spelling of the one host it has.
		if !strings.EqualFold(host[:len(prefix)+1+len(domain)], prefix+"."+domain) {
			t.Fatalf("%q gave %q, whose host it is not", host, prefix)
		}
		if again, ok := Prefix(prefix+"."+domain, domain); !ok || again != prefix {
			t.Fatalf("%q gave %q, whose own host gives %q", host, prefix, again)
		}
	})
}

func TestPrefixAllocatesNothing(t *testing.T) {
	const host = "abcdefgh.sandbox.example.com:8443"
	if n := testing.AllocsPerRun(100, func() { Prefix(host, "sandbox.example.com") }); n > 0 {
		t.Errorf("%v allocations for a host in lower case, want none", n)
	}
}
