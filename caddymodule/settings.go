package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const (
	defaultPorts        = "5174-32767"
	defaultPrefixLength = 16
	minPrefixLength     = 8
	maxPrefixLength     = 57 // so that <port>-<prefix> fits the 63 bytes of a label
)

// expander replaces the global placeholders in a text of the configuration and
// leaves other braces alone: a command or a variable may well have some.
type expander func(string) string

func newExpander() expander {
	repl := caddy.NewReplacer()
	return func(s string) string { return repl.ReplaceKnown(s, "") }
}

func (expand expander) all(texts []string) []string {
	var expanded []string
	for _, s := range texts {
		expanded = append(expanded, expand(s))
	}
	return expanded
}

// makeSettings checks the configuration and brings it into the form that the
// Manager takes.
func (a *App) makeSettings(expand expander) (*instance.Settings, error) {
	s := &instance.Settings{
		URL:             expand(a.URL),
		PrefixLength:    cmp.Or(a.PrefixLength, defaultPrefixLength),
		DefaultTemplate: expand(a.DefaultTemplate),
		StartOnBoot:     a.StartOnBoot,
		Templates:       make(map[string]instance.Template, len(a.Templates)),
	}
	for _, word := range expand.all(a.Reserved) {
		s.Reserved = append(s.Reserved, strings.ToLower(word))
	}
	var err error
	if s.Domain, err = parseDomain(expand(a.Domain)); err != nil {
		return nil, fmt.Errorf("domain: %w", err)
	}
	if s.Ports, err = parsePorts(expand(cmp.Or(a.Ports, defaultPorts))); err != nil {
		return nil, fmt.Errorf("ports: %w", err)
	}
	if s.PrefixLength < minPrefixLength || s.PrefixLength > maxPrefixLength {
		return nil, fmt.Errorf("prefix_length: %d is not from %d to %d", s.PrefixLength, minPrefixLength, maxPrefixLength)
	}
	if err := checkURL(s.URL); err != nil {
		return nil, fmt.Errorf("url: %w", err)
	}
	a.edges = make(map[string]edge, len(a.Templates)+1)
	if a.edges[""], err = a.Defaults.edge(nil, expand); err != nil {
		return nil, fmt.Errorf("defaults: %w", err)
	}
	for name, t := range a.Templates {
		if s.Templates[name], err = t.make(name, a.Defaults, expand); err != nil {
			return nil, fmt.Errorf("template %q: %w", name, err)
		}
		if a.edges[name], err = t.edge(a.Defaults, expand); err != nil {
			return nil, fmt.Errorf("template %q: %w", name, err)
		}
	}
	return s, chooseDefaultTemplate(s)
}

func chooseDefaultTemplate(s *instance.Settings) error {
	if len(s.Templates) == 0 {
		return errors.New("there is no template: add one, with the image of the dev server")
	}
	if s.DefaultTemplate != "" {
		if _, ok := s.Templates[s.DefaultTemplate]; !ok {
			return fmt.Errorf("default_template: there is no template %q", s.DefaultTemplate)
		}
		return nil
	}
	if len(s.Templates) == 1 {
		for s.DefaultTemplate = range s.Templates {
		}
	}
	return nil
}

var domainGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*$`)

func parseDomain(s string) (string, error) {
	const maxName = 253 // of a DNS name, without the trailing dot
	s = strings.ToLower(s)
	switch {
	case s == "":
		return "", errors.New("it is missing: name the parent of all instance host names, such as sandbox.example.com")
	case strings.HasPrefix(s, "*."):
		return "", fmt.Errorf("write it without the wildcard: %s", s[2:])
	case !domainGrammar.MatchString(s) || maxPrefixLength+len(".")+len(s) > maxName:
		return "", fmt.Errorf("%q is not a domain name", s)
	}
	return s, nil
}

// parsePorts reads "<first>-<last>".
func parsePorts(s string) (instance.PortRange, error) {
	first, last, found := strings.Cut(s, "-")
	from, err1 := strconv.Atoi(first)
	to, err2 := strconv.Atoi(last)
	switch {
	case !found || err1 != nil || err2 != nil:
		return instance.PortRange{}, fmt.Errorf("%q is not a range: write <first>-<last>, such as %s", s, defaultPorts)
	case from < 1 || to > 65535 || from > to:
		return instance.PortRange{}, fmt.Errorf("%q is not a range of ports from 1 to 65535", s)
	}
	return instance.PortRange{First: from, Last: to}, nil
}

// checkURL checks a form of URLs as it will look for some instance.
func checkURL(form string) error {
	if form == "" {
		return nil
	}
	if !strings.Contains(form, "{prefix}") {
		return fmt.Errorf("%q lacks {prefix}", form)
	}
	example := strings.NewReplacer("{prefix}", "abcdefgh", "{domain}", "example.com").Replace(form)
	u, err := url.Parse(example)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return fmt.Errorf("%q is not the form of a URL: write it like https://{prefix}.{domain}:8443", form)
	}
	return nil
}

// stateDir returns the one path of a state directory that may be spelled in
// several ways. A relative path is taken from the working folder of this
// process: the parser leaves it alone, since `caddy reload` parses in another.
// The directory itself is not looked at; `caddy validate` comes through here.
func stateDir(dir string) (string, error) {
	if dir == "" {
		dir = filepath.Join(caddy.AppDataDir(), "sandbox")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return filepath.Join(resolveLinks(filepath.Dir(dir)), filepath.Base(dir)), nil
}

// resolveLinks follows the symbolic links in as much of path as exists, so
// that the answer stays the same when the rest is made.
func resolveLinks(path string) string {
	if resolved, err := filepath.EvalSymlinks(path); err == nil {
		return resolved
	}
	parent := filepath.Dir(path)
	if parent == path {
		return path
	}
	return filepath.Join(resolveLinks(parent), filepath.Base(path))
}
