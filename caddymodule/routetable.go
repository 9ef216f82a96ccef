package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// routeTable is what a config/subdomain-proxy.json says. It never changes: a file
// that did makes another one. Nil is what there is before the first good file.
type routeTable struct {
	domain string
	table  map[string]route  // by prefix
	hosts  map[string]string // custom host to prefix
}

// route is the way to one instance.
type route struct {
	dial    string // host and port
	port    int
	status  instance.Status
	domains []string
}

// parseRoutes reads a file of routes:
//
//	{"domain":"…","routes":{"<prefix>":{"target":"http://127.0.0.1:5174","status":"running"}}}
//
// Entries that cannot be served are skipped, and said why. Of the rest of the
// file nothing may be amiss: what was cut off in the middle of being written
// must not take the routes away that are not there yet.
func parseRoutes(data []byte) (r *routeTable, skipped []string, err error) {
	var file struct {
		Domain string                     `json:"domain"`
		Routes map[string]json.RawMessage `json:"routes"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, nil, fmt.Errorf("reading JSON: %w", err)
	}
	if file.Routes == nil {
		return nil, nil, errors.New(`it has no "routes"`)
	}
	r = &routeTable{table: make(map[string]route, len(file.Routes)), hosts: map[string]string{}}
	if r.domain, err = parseDomain(file.Domain); err != nil {
		return nil, nil, fmt.Errorf("domain: %w", err)
	}
	for _, prefix := range slices.Sorted(maps.Keys(file.Routes)) {
		one, err := parseRoute(prefix, file.Routes[prefix])
		if err != nil {
			skipped = append(skipped, fmt.Sprintf("%q: %v", request.Shorten(prefix), err))
			continue
		}
		r.table[prefix] = one
		for _, host := range one.domains {
			if err := r.addHost(host, prefix); err != nil {
				skipped = append(skipped, fmt.Sprintf("%q: %v", request.Shorten(prefix), err))
			}
		}
	}
	return r, skipped, nil
}

// addHost gives prefix a custom host. Two instances cannot have one.
func (r *routeTable) addHost(host, prefix string) error {
	parsed, err := instance.ParseHost(host)
	if err != nil {
		return err
	}
	if other, taken := r.hosts[parsed]; taken {
		return fmt.Errorf("its host %s is also that of %q", parsed, other)
	}
	r.hosts[parsed] = prefix
	return nil
}

func parseRoute(prefix string, value json.RawMessage) (route, error) {
	var entry struct {
		Target  string          `json:"target"`
		Status  instance.Status `json:"status"`
		Domains []string        `json:"domains"`
	}
	if !instance.ValidPrefix(prefix) {
		return route{}, errors.New("its prefix is not " + instance.PrefixRule)
	}
	if err := json.Unmarshal(value, &entry); err != nil {
		return route{}, errors.New("it is no object with target and status")
	}
	host, port, err := parseTarget(entry.Target)
	if err != nil {
		return route{}, err
	}
	return route{
		dial:    net.JoinHostPort(host, strconv.Itoa(port)),
		port:    port,
		status:  cmp.Or(entry.Status, instance.Running),
		domains: entry.Domains,
	}, nil
}

var hostGrammar = regexp.MustCompile(`^[A-Za-z0-9._-]{1,253}$`)

// parseTarget takes http://host:port and nothing else. Caddy replaces
// placeholders in what it dials, so a host with braces would let the file ask
// for the server's environment.
func parseTarget(target string) (host string, port int, err error) {
	u, err := url.Parse(target)
	if err != nil || u.Scheme != "http" || u.Port() == "" || *u != (url.URL{Scheme: u.Scheme, Host: u.Host}) {
		return "", 0, fmt.Errorf("its target %q is not http://host:port", request.Shorten(target))
	}
	host = u.Hostname()
	if ip, err := netip.ParseAddr(host); (err != nil || ip.Zone() != "") && !hostGrammar.MatchString(host) {
		return "", 0, fmt.Errorf("its target %q names no host", request.Shorten(target))
	}
	port, err = strconv.Atoi(u.Port())
	if err != nil || port < 1 || port > 65535 {
		return "", 0, fmt.Errorf("its target %q has no valid port", request.Shorten(target))
	}
	return host, port, nil
}

// resolve returns what host names; the zero target if it names nothing.
func (r *routeTable) resolve(host string) request.Target {
	if r == nil {
		return request.Target{}
	}
	if t, ok := request.Host(host, r.domain); ok {
		return t
	}
	name, _ := request.Name(host)
	return request.Target{Prefix: r.hosts[name]}
}

// get returns what there is to know of an instance: prefix, port and status.
func (r *routeTable) get(prefix string) (instance.Instance, error) {
	if r == nil {
		return instance.Instance{}, errNoRoutes()
	}
	one, ok := r.table[prefix]
	if !ok {
		return instance.Instance{}, noInstance()
	}
	return instance.Instance{Prefix: prefix, Port: one.port, Status: one.status}, nil
}

// find returns where t is dialled, or why it is not. Where its status leaves a
// doubt, the dial will tell.
func (r *routeTable) find(t request.Target) (dial string, err error) {
	got, err := r.get(t.Prefix)
	if err != nil {
		return "", err
	}
	if t.Port != 0 {
		return "", instance.Errorf(instance.NoSuchPort, "port %d is not served here: this is a stand-by proxy, "+
			"which reaches the dev servers of instances alone", t.Port).With("port", t.Port)
	}
	e := &instance.Error{
		Kind:       instance.NotRunning,
		Message:    "the instance is " + string(got.Status),
		RetryAfter: 5 * time.Second,
	}
	switch got.Status {
	case instance.Creating:
		e.Message, e.RetryAfter = "the instance is starting", time.Second
	case instance.Stopped, instance.Failed, instance.Paused, instance.Deleting:
	default:
		return r.table[t.Prefix].dial, nil
	}
	return "", e.With("status", got.Status).With("reason", "")
}

// errNoRoutes is the answer until the file of routes was good once.
func errNoRoutes() *instance.Error {
	return &instance.Error{
		Kind:       instance.NotOpen,
		Message:    "the routes are not known yet: their file is missing or broken, as this server's log tells",
		RetryAfter: time.Second,
	}
}
