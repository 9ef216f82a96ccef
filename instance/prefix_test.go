package instance

import (
	"strings"
	"testing"
)

func TestPrefixGrammar(t *testing.T) {
	for prefix, want := range map[string]bool{
		"":                      false,
		"abcdefg":               false, // 7
		"abcdefgh":              true,
		"12345678":              true,
		strings.Repeat("a", 57): true,
		strings.Repeat("a", 58): false,
		"Abcdefgh":              false,
		"abcd-efgh":             false,
		"abcd_efgh":             false,
		"abcd.efgh":             false,
		"../../etc":             false,
		"abcdefgh\n":            false,
		"abcdefgé":              false,
		"xn--abcdef":            false,
	} {
		if got := ValidPrefix(prefix); got != want {
			t.Errorf("ValidPrefix(%q) = %v, want %v", prefix, got, want)
		}
	}
}

func TestReservedPrefixesAreRefused(t *testing.T) {
	own := []string{"operators0wn"}
	for _, prefix := range append(own, reservedPrefixes...) {
		if !ValidPrefix(prefix) {
			t.Errorf("%q is reserved, but malformed anyway", prefix)
		}
		if err := checkPrefix(prefix, own); KindOf(err) != BadPrefix {
			t.Errorf("checkPrefix(%q) = %v, want BadPrefix", prefix, err)
		}
	}
	if err := checkPrefix("operators0wn", nil); err != nil {
		t.Errorf("not reserved, yet refused: %v", err)
	}
}

func TestGeneratedPrefixesFavourNoCharacter(t *testing.T) {
	const rounds, length = 2000, 57
	count := map[rune]int{}
	for range rounds {
		prefix := generatePrefix(length)
		if len(prefix) != length || !ValidPrefix(prefix) {
			t.Fatalf("generated %q", prefix)
		}
		for _, c := range prefix {
			count[c]++
		}
	}
	if len(count) != 36 {
		t.Fatalf("%d different characters, want 36", len(count))
	}
	// Chi-square with 35 degrees of freedom; 100 is exceeded by chance once in
	// 30 million runs. 256%36 = 4, so a plain modulo gives about 380.
	mean := float64(rounds*length) / 36
	chi := 0.0
	for _, n := range count {
		chi += (float64(n) - mean) * (float64(n) - mean) / mean
	}
	if chi > 100 {
		t.Errorf("the characters are not even: chi-square %.0f", chi)
	}
}

func FuzzPrefixIsSafeEverywhere(f *testing.F) {
	f.Add("abcdefgh")
	f.Add("a/b c$d\"e\n")
	f.Fuzz(func(t *testing.T, s string) {
		if ValidPrefix(s) && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
			t.Errorf("%q passed", s)
		}
	})
}
