package request

import (
	"strconv"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Prefix returns the prefix that host names below domain, if it names one.
// host is what a stranger sent, with or without a port; domain is ours and in
// lower case. What comes back fits the grammar of prefixes, so it may be a map
// key, a log field or part of a metric.
func Prefix(host, domain string) (prefix string, ok bool) {
	const longest = 300 // a DNS name, a dot and a port; do not lower-case megabytes
	if len(host) > longest {
		return "", false
	}
	name, ok := withoutPort(host)
	if !ok {
		return "", false
	}
	name = lowerASCII(strings.TrimSuffix(name, "."))
	label, ok := strings.CutSuffix(name, domain)
	if !ok {
		return "", false
	}
	// One label and the dot: the grammar has no dot, so "a.b" fails it.
	prefix, ok = strings.CutSuffix(label, ".")
	return prefix, ok && instance.ValidPrefix(prefix)
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
