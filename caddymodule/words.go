package caddymodule

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/dustin/go-humanize"
)

// word is one word of a Caddyfile block. parse is called on it and consumes
// what belongs to it.
type word struct {
	parse      func(d *caddyfile.Dispenser) error
	repeatable bool
}

// words are all the words that a block may hold.
type words map[string]word

// parseBlock reads the block that d is in front of, if there is one. Every
// word must be known; one that is given twice would hide its first value.
func parseBlock(d *caddyfile.Dispenser, known words) error {
	if d.NextArg() {
		return d.Errf("unexpected value %q", d.Val())
	}
	seen := map[string]bool{}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		w, ok := known[name]
		if !ok {
			return d.Errf("there is no word %q here; allowed: %s", name, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if seen[name] && !w.repeatable {
			return d.Errf("%s is given twice", name)
		}
		seen[name] = true
		if err := w.parse(d); err != nil {
			return err
		}
	}
	return nil
}

// endOfWord checks that nothing follows a word and its values.
func endOfWord(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected value %q", d.Val())
	}
	if d.NextBlock(d.Nesting()) {
		return d.Err("unexpected block: this word takes none")
	}
	return nil
}

// oneValue is a word that is followed by one value.
func oneValue[T any](into *T, parse func(string) (T, error)) word {
	return word{parse: func(d *caddyfile.Dispenser) error {
		name := d.Val()
		if !d.NextArg() {
			return d.Errf("%s: its value is missing", name)
		}
		value, err := parse(d.Val())
		if err != nil {
			return d.Errf("%s: %w", name, err)
		}
		*into = value
		return endOfWord(d)
	}}
}

func textWord(into *string) word {
	return oneValue(into, func(s string) (string, error) { return s, nil })
}

func intWord[T int | int64](into *T) word {
	return oneValue(into, func(s string) (T, error) {
		n, err := strconv.ParseInt(s, 10, 0)
		if err != nil {
			return 0, fmt.Errorf("%q is not a whole number", s)
		}
		return T(n), nil
	})
}

// countWord is for a number that may be 0, which is not the same as none.
func countWord(into **int) word {
	return oneValue(into, func(s string) (*int, error) {
		n, err := strconv.Atoi(s)
		if err != nil {
			return nil, fmt.Errorf("%q is not a whole number", s)
		}
		return &n, nil
	})
}

func numberWord(into *float64) word {
	return oneValue(into, func(s string) (float64, error) {
		n, err := strconv.ParseFloat(s, 64)
		if err != nil || math.IsNaN(n) || math.IsInf(n, 0) {
			return 0, fmt.Errorf("%q is not a number", s)
		}
		return n, nil
	})
}

func sizeWord(into *int64) word {
	return oneValue(into, func(s string) (int64, error) {
		size, err := humanize.ParseBytes(s)
		if err != nil || size > math.MaxInt64 {
			return 0, fmt.Errorf("%q is not a size: write it like 512MiB", s)
		}
		return int64(size), nil
	})
}

func durationWord(into *caddy.Duration) word {
	return oneValue(into, parseDuration)
}

// givenDurationWord is for a duration that may be 0, which is not the same as
// none.
func givenDurationWord(into **caddy.Duration) word {
	return oneValue(into, func(s string) (*caddy.Duration, error) {
		d, err := parseDuration(s)
		return &d, err
	})
}

func parseDuration(s string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(s)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration: write it like 60s", s)
	}
	return caddy.Duration(d), nil
}

// oneOf is a word whose value is one of allowed.
func oneOf(into *string, allowed ...string) word {
	return oneValue(into, func(s string) (string, error) {
		if !slices.Contains(allowed, s) {
			return "", fmt.Errorf("%q is not one of %s", s, strings.Join(allowed, ", "))
		}
		return s, nil
	})
}

// listWord is a word that is followed by at least one value.
func listWord(into *[]string) word {
	return word{parse: func(d *caddyfile.Dispenser) error {
		name := d.Val()
		values := d.RemainingArgs()
		if len(values) == 0 {
			return d.Errf("%s: its value is missing", name)
		}
		*into = append(*into, values...)
		return endOfWord(d)
	}}
}

// repeated is a word with one value that may come again.
func repeated(into *[]string) word {
	return word{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
		var one string
		err := textWord(&one).parse(d)
		*into = append(*into, one)
		return err
	}}
}

// pairsWord takes a name and its value, or a block of them; it may come again.
func pairsWord(into *map[string]string) word {
	pair := func(d *caddyfile.Dispenser) error {
		var name, value string
		if name = d.Val(); !d.AllArgs(&value) {
			return d.Errf("%s: write <name> <value>", name)
		}
		if _, ok := (*into)[name]; ok {
			return d.Errf("%s is given twice", name)
		}
		if *into == nil {
			*into = map[string]string{}
		}
		(*into)[name] = value
		return endOfWord(d)
	}
	parse := func(d *caddyfile.Dispenser) error {
		word := d.Val()
		if d.NextArg() {
			return pair(d)
		}
		found := false
		for nesting := d.Nesting(); d.NextBlock(nesting); found = true {
			if err := pair(d); err != nil {
				return err
			}
		}
		if !found {
			return d.WrapErr(errors.New(word + ": write <name> <value>, or a block of these"))
		}
		return nil
	}
	return word{parse: parse, repeatable: true}
}
