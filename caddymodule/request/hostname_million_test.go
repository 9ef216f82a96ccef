package request

import (
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
)

// A million host names, made from those of instances by a few mistakes each:
// none may lead to an instance whose host it is not, nor miss its own, nor
// panic. The oracle knows no grammar: it compares with each instance's host.
func TestAMillionHostsLeadToTheirOwnInstance(t *testing.T) {
	const perSeed, domain = 250_000, "sandbox.example.com"
	// Names that mistakes make of one another.
	prefixes := []string{
		"abcdefgh", "abcdefgi", "bbcdefgh", "abcdefghi", "aabcdefgh", "abcdefgh0", "00000000", "00000080",
		"sandbox0", "example0", "sandboxexample", "xnabcdefgh", "5174abcdefgh", "kkkkkkkk", "ssssssss", "ssssssssss",
		strings.Repeat("a", 57), strings.Repeat("a", 56), strings.Repeat("z", 57),
	}
	spellings := spellingsOf(prefixes, domain)
	table := map[string]bool{}
	for _, p := range prefixes {
		table[p] = true
	}
	resolve := func(host string) string {
		target, ok := Host(host, domain)
		switch {
		case !ok || !table[target.Prefix]:
			return ""
		case target.Port != 0:
			return strconv.Itoa(target.Port) + "-" + target.Prefix
		}
		return target.Prefix
	}

	for seed := range uint64(4) {
		random := rand.New(rand.NewPCG(seed, 2025))
		found := 0
		for n := range perSeed {
			host := prefixes[random.IntN(len(prefixes))] + "." + domain
			for range random.IntN(4) {
				host = mistake(random, host, prefixes)
			}
			got, want := resolve(host), ownerOf(host, spellings)
			if got != want {
				t.Fatalf("seed %d, host %d: %.400q (%d bytes) leads to %q, want %q", seed, n, host, len(host), got, want)
			}
			if got != "" {
				found++
			}
		}
		t.Logf("seed %d: %d hosts, %d of them led to an instance", seed, perSeed, found)
		if found < perSeed/4 || found > perSeed*3/4 {
			t.Errorf("%d of %d hosts led to an instance: the mistakes are too many or too few to tell anything", found, perSeed)
		}
	}
}

// spelling is one of the names that an instance may be asked by, but for case
// and port.
type spelling struct{ name, prefix string }

func spellingsOf(prefixes []string, domain string) (all []spelling) {
	for _, prefix := range prefixes {
		all = append(all, spelling{prefix + "." + domain, prefix}, spelling{prefix + "." + domain + ".", prefix})
	}
	return all
}

// ownerOf finds out in the slow way whose host it is.
func ownerOf(host string, spellings []spelling) string {
	name := host
	if at := strings.LastIndexByte(host, ':'); at >= 0 && isPort(host[at+1:]) {
		name = host[:at]
	}
	if len(host) > 300 {
		return ""
	}
	for _, s := range spellings {
		port, isOne := "", sameASCII(name, s.name)
		if before := len(name) - len(s.name) - 1; before > 0 && name[before] == '-' {
			port = name[:before+1]
			isOne = isPort(name[:before]) && name[0] != '0' && sameASCII(name[before+1:], s.name)
		}
		if isOne {
			return port + s.prefix
		}
	}
	return ""
}

// isPort spells "digits, and not over 65535" without a parser.
func isPort(s string) bool {
	value := 0
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return false
		}
		if value = value*10 + int(c-'0'); value > 65535 {
			return false
		}
	}
	return s != ""
}

// sameASCII compares byte by byte; letters of ASCII alone have two forms.
func sameASCII(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		letter := 'a' <= x|0x20 && x|0x20 <= 'z'
		if x != y && (!letter || x|0x20 != y|0x20) {
			return false
		}
	}
	return true
}

var insertions = []string{
	".", "..", ":", ":80", ":8443", ":0", ":65535", ":65536", ":99999999", ":+80", ":-1", ":00080", ":٣", "-", "_", "*", "@", "/", "\\", "%2e", "%00",
	"\x00", "\r\n", " ", "\t", "[", "]", "xn--", "www.", "5174-", "\u212a", "\u017f", "ß", "\xff", "\u3002", ".sandbox.example.com", "sandbox.example.com",
	strings.Repeat("0", 250), strings.Repeat("a", 300), strings.Repeat("a.", 100),
}

// mistake makes one. Half of them leave the host what it is: case, a port, a
// dot at the end.
func mistake(random *rand.Rand, host string, prefixes []string) string {
	at := random.IntN(len(host) + 1)
	switch random.IntN(14) {
	case 0, 1, 2, 3: // another case
		if at == len(host) {
			return strings.ToUpper(host)
		}
		return host[:at] + flipCase(host[at:at+1]) + host[at+1:]
	case 4, 5: // a port, mostly a good one
		return host + insertions[2+random.IntN(8)]
	case 6:
		return host + "."
	case 7, 8:
		return host[:at] + insertions[random.IntN(len(insertions))] + host[at:]
	case 9: // a byte less
		return host[:at] + host[min(at+1, len(host)):]
	case 10: // another byte
		return host[:at] + string([]byte{byte(random.IntN(256))}) + host[min(at+1, len(host)):]
	case 11: // the end of another
		other := prefixes[random.IntN(len(prefixes))] + ".sandbox.example.com"
		return host[:at] + other[random.IntN(len(other)):]
	case 12: // some of it twice
		return host[:at] + host[random.IntN(len(host)+1):]
	default:
		return host[:at]
	}
}

func flipCase(s string) string {
	if upper := strings.ToUpper(s); upper != s {
		return upper
	}
	return strings.ToLower(s)
}
