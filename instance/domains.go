package instance

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// maxDomains bounds the custom hosts of one instance: each may cost a
// certificate.
const maxDomains = 16

// HostRule says in words what a custom host must be; errors carry it.
const HostRule = "a full host name, such as app.example.com: at least two labels of letters, digits and dashes, " +
	"in ASCII (xn--… for other letters), without scheme, port, path or wildcard, and no IP address"

var hostGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)+$`)

// punycode is strict both ways: what it takes has one spelling.
var punycode = idna.New(idna.MapForLookup(), idna.Transitional(false), idna.StrictDomainName(true),
	idna.ValidateLabels(true), idna.CheckHyphens(false), idna.BidiRule())

// ParseHost returns the one spelling of a custom host: case does not matter in
// names, and neither does the dot of the root at the end. Errors are BadHost
// and say what is wrong.
func ParseHost(text string) (host string, err error) {
	const longest = 253 // of a DNS name without the root's dot
	if len(text) > longest+1 {
		return "", badHost("the host is longer than %d bytes", longest)
	}
	host = strings.TrimSuffix(strings.ToLower(text), ".")
	switch _, ipErr := netip.ParseAddr(strings.Trim(host, "[]")); {
	case strings.ContainsFunc(text, func(r rune) bool { return r > '~' }):
		return "", notASCII(text)
	case strings.Contains(host, "*"):
		return "", badHost("host %s is a wildcard: add each host by its full name", quote(text))
	case ipErr == nil || numericEnd.MatchString(host):
		return "", badHost("host %s is an IP address: use a name", quote(text))
	case !strings.Contains(host, "."):
		return "", badHost("host %s has a single label: use a full name, such as app.example.com", quote(text))
	case len(host) > longest || !hostGrammar.MatchString(host):
		return "", badHost("host %s is malformed: use %s", quote(text), HostRule)
	case !canonical(host):
		return "", badHost("host %s has a label that is no valid punycode: use what your registrar shows as its ASCII form", quote(text))
	}
	return host, nil
}

// numericEnd matches what browsers take for an IPv4 address, however strange.
var numericEnd = regexp.MustCompile(`(^|\.)([0-9]+|0x[0-9a-f]*)$`)

// canonical reports whether the labels of host that stand for other letters
// are the ones that those letters have.
func canonical(host string) bool {
	if !strings.HasPrefix(host, "xn--") && !strings.Contains(host, ".xn--") {
		return true
	}
	letters, err := punycode.ToUnicode(host)
	if err != nil {
		return false
	}
	again, err := punycode.ToASCII(letters)
	return err == nil && again == host
}

func notASCII(text string) error {
	if ascii, err := punycode.ToASCII(strings.TrimSuffix(text, ".")); err == nil && hostGrammar.MatchString(ascii) {
		return badHost("the host has letters beyond ASCII: write it in punycode, as %s", ascii)
	}
	return badHost("the host has letters beyond ASCII: write it in punycode (xn--…)")
}

func badHost(format string, args ...any) error {
	return Errorf(BadHost, format, args...).With("rule", HostRule)
}

// checkHost reports why no instance may have host, if so: it is ours.
func (s *Settings) checkHost(host string) error {
	switch {
	case host == s.Domain || strings.HasSuffix(host, "."+s.Domain):
		return badHost("host %s belongs to the domain of all instances, %s: use one of your own", host, s.Domain)
	case slices.Contains(s.OwnHosts, host):
		return badHost("host %s is that of this server's API: use one of your own", host)
	}
	return nil
}

// HostOwner returns the instance that has the custom host, which must be as
// [ParseHost] returns it. It is a lookup in memory: m.hosts also has claims
// that are not durable yet, so the record has the last word.
func (m *Manager) HostOwner(host string) (prefix string, ok bool) {
	m.mu.RLock()
	prefix = m.hosts[host]
	e := m.table[prefix]
	m.mu.RUnlock()
	return prefix, e != nil && slices.Contains(e.record().Domains, host)
}

// AddHost has the instance answer at a custom host too; one that it has
// already is no error. Errors: BadHost, HostTaken, NotFound, Busy while another
// operation holds the instance, DiskFull, StateFailed.
func (m *Manager) AddHost(ctx context.Context, prefix, host string) (Instance, error) {
	host, err := ParseHost(host)
	if err != nil {
		return Instance{}, err
	}
	if err := m.isOpen(); err != nil {
		return Instance{}, err
	}
	if err := m.settings.Load().checkHost(host); err != nil {
		return Instance{}, err
	}
	return m.changeHosts(ctx, prefix, "add domain", func(rec *Record) ([]string, error) {
		switch owner, _ := m.HostOwner(host); {
		case slices.Contains(rec.Domains, host):
			return rec.Domains, nil
		case owner != "" && owner != prefix:
			return nil, hostTaken(host)
		case len(rec.Domains) >= maxDomains:
			return nil, badHost("the instance has %d custom hosts: no more are allowed", maxDomains)
		}
		domains := append(slices.Clone(rec.Domains), host)
		slices.Sort(domains)
		return domains, nil
	})
}

// RemoveHost takes a custom host from the instance, so that any may have it.
// Errors: NotFound, also where the instance has no such host, Busy, DiskFull,
// StateFailed.
func (m *Manager) RemoveHost(ctx context.Context, prefix, host string) (Instance, error) {
	given := quote(host)
	host, _ = ParseHost(host) // what is malformed, no instance has
	return m.changeHosts(ctx, prefix, "remove domain", func(rec *Record) ([]string, error) {
		at, found := slices.BinarySearch(rec.Domains, host)
		if !found {
			return nil, Errorf(NotFound, "the instance has no custom host %s", given)
		}
		return slices.Delete(slices.Clone(rec.Domains), at, at+1), nil
	})
}

// changeHosts has the custom hosts be what change makes of the record. change
// is asked twice: before anything is done, so that what a caller got wrong is
// no failed operation, and as the operation that alone may change the record.
func (m *Manager) changeHosts(ctx context.Context, prefix, name string, change func(*Record) ([]string, error)) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	rec := e.record()
	domains, err := change(rec)
	if err != nil && rec.Status != Deleting {
		return Instance{}, err
	}
	if slices.Equal(domains, rec.Domains) && rec.Status != Deleting {
		return m.view(e), nil
	}
	op := newOperation(ctx, name, WaitReady)
	op.brief.Store(true)
	if _, err := m.claim(ctx, e, op); err != nil {
		return Instance{}, err
	}
	m.run(e, op, func(context.Context) error { return m.saveHosts(e, change) })
	return m.await(ctx, e, op, WaitReady)
}

// saveHosts makes a change of custom hosts durable. Whatever happens, m.hosts
// has afterwards what the record has.
func (m *Manager) saveHosts(e *entry, change func(*Record) ([]string, error)) error {
	before := e.record()
	rec := *before
	var err error
	if rec.Domains, err = change(before); err != nil {
		return err
	}
	if err := m.claimHosts(&rec); err != nil {
		return err
	}
	if err := m.save(e, &rec); err != nil {
		m.dropHosts(rec.Domains, before.Domains)
		return err
	}
	m.dropHosts(before.Domains, rec.Domains)
	return nil
}

// claimHosts notes in m.hosts what rec is to have, or says which host is
// another's.
func (m *Manager) claimHosts(rec *Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, host := range rec.Domains {
		if owner, taken := m.hosts[host]; taken && owner != rec.Prefix {
			return hostTaken(host)
		}
	}
	for _, host := range rec.Domains {
		m.hosts[host] = rec.Prefix
	}
	return nil
}

// dropHosts gives up the hosts that are in had and not in keep.
func (m *Manager) dropHosts(had, keep []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, host := range had {
		if !slices.Contains(keep, host) {
			delete(m.hosts, host)
		}
	}
}

func hostTaken(host string) error {
	return Errorf(HostTaken, "host %s belongs to another instance: remove it there first", host).With("host", host)
}

// checkDomains reports what is wrong with the custom hosts of a record in a
// file; owners has those of the records before, and gets these.
func checkDomains(r *Record, owners map[string]string) error {
	for _, host := range r.Domains {
		if same, err := ParseHost(host); err != nil || same != host {
			return fmt.Errorf("record %q has the malformed host %s", r.Prefix, quote(host))
		}
		if other, taken := owners[host]; taken {
			return fmt.Errorf("records %q and %q have the same host %s", r.Prefix, other, host)
		}
		owners[host] = r.Prefix
	}
	if !slices.IsSorted(r.Domains) {
		return fmt.Errorf("record %q has its hosts out of order", r.Prefix)
	}
	return nil
}
