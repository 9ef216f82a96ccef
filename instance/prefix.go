package instance

import (
	"crypto/rand"
	"slices"
)

// PrefixRule says in words what ValidPrefix checks; errors carry it.
const PrefixRule = "8 to 57 lower-case letters and digits (a-z, 0-9), and none of the reserved words"

// 57, so that <port>-<prefix> still fits the 63 bytes of a DNS label.
const shortestPrefix, longestPrefix = 8, 57

// Names that mail clients, crawlers and certificate authorities give a meaning
// to, or that would let an instance pass for the operator.
var reservedPrefixes = []string{
	"administrator", "autoconfig", "autodiscover", "dashboard", "hostmaster",
	"localhost", "postmaster", "webmaster", "wildcard",
}

// ValidPrefix reports whether s has the form of a prefix: ^[a-z0-9]{8,57}$.
// Every request asks it, and a regexp takes twenty times as long.
func ValidPrefix(s string) bool {
	if len(s) < shortestPrefix || len(s) > longestPrefix {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// checkPrefix reports why a caller may not have prefix, if so.
func checkPrefix(prefix string, reserved []string) error {
	if !ValidPrefix(prefix) {
		return Errorf(BadPrefix, "prefix is malformed: use %s", PrefixRule).With("rule", PrefixRule)
	}
	if slices.Contains(reservedPrefixes, prefix) || slices.Contains(reserved, prefix) {
		return Errorf(BadPrefix, "prefix %q is reserved: choose another", prefix).With("rule", PrefixRule)
	}
	return nil
}

// generatePrefix returns n random characters of the prefix alphabet.
func generatePrefix(n int) string {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	// Bytes from limit on would favour the first letters.
	const limit = 256 - 256%len(alphabet)
	prefix := make([]byte, 0, n)
	var pool [64]byte
	for {
		rand.Read(pool[:]) // never fails: see crypto/rand
		for _, b := range pool {
			if int(b) >= limit {
				continue
			}
			if prefix = append(prefix, alphabet[int(b)%len(alphabet)]); len(prefix) == n {
				return string(prefix)
			}
		}
	}
}
