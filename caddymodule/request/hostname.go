package request

import (
	"strconv"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Target is what a host names below the domain of the instances.
type Target struct {
	Prefix string
	// Port is the container port of <port>-<prefix>; zero: the host names none.
	Port int
}

// Host returns what host names below domain, if it names something. host is
// what a stranger sent, with or without a port; domain is ours and in lower
// case. What comes back fits the grammar of prefixes, so it may be a map key, a
// log field or part of a metric.
func Host(host, domain string) (t Target, ok bool) {
	name, ok := Name(host)
	if !ok {
		return Target{}, false
	}
	label, ok := strings.CutSuffix(name, domain)
	if !ok {
		return Target{}, false
	}
	// One label and the dot: the grammar has no dot, so "a.b" fails it.
	if label, ok = strings.CutSuffix(label, "."); !ok {
		return Target{}, false
	}
	// Nor has it a dash, so there is one way to split.
	if port, prefix, found := strings.Cut(label, "-"); found {
		t.Port, ok = parsePort(port)
		label = prefix
	}
	if !ok || !instance.ValidPrefix(label) {
		return Target{}, false
	}
	t.Prefix = label
	return t, true
}

// Name returns the bare name in host, which is what a stranger sent: without a
// port and the dot of the root, in lower case. It may still be no name at all.
func Name(host string) (name string, ok bool) {
	const longest = 300 // a DNS name, a dot and a port; do not lower-case megabytes
	if len(host) > longest {
		return "", false
	}
	name, ok = withoutPort(host)
	return lowerASCII(strings.TrimSuffix(name, ".")), ok
}

// parsePort takes the one spelling of a port: what it takes besides would be
// further names, with certificates of their own, for the same thing.
func parsePort(s string) (port int, ok bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	return int(n), err == nil && n > 0 && s[0] != '0'
}

func withoutPort(host string) (name string, ok bool) {
	name, port, found := strings.Cut(host, ":")
	if !found {
		return name, true
	}
	_, err := strconv.ParseUint(port, 10, 16)
	return name, err == nil
}

// lowerASCII is strings.ToLower for ASCII alone: that one also makes a "k" of
// the Kelvin sign, and so of a name that nobody can have a name that somebody
// has.
func lowerASCII(s string) string {
	for i := range len(s) {
		if 'A' <= s[i] && s[i] <= 'Z' {
			lower := []byte(s)
			for ; i < len(lower); i++ {
				if 'A' <= lower[i] && lower[i] <= 'Z' {
					lower[i] += 'a' - 'A'
				}
			}
			return string(lower)
		}
	}
	return s
}
