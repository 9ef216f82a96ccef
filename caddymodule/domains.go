package caddymodule

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// domainsPath is where the custom hosts of an instance are, below it.
const domainsPath = "domains/"

// resolve returns what host, as a stranger sent it, names: an instance below
// the domain, whether there is one or not, or the owner of a custom host.
func (a *App) resolve(host string) (t request.Target, ok bool) {
	if t, ok := request.Host(host, a.settings.Domain); ok {
		return t, true
	}
	name, ok := request.Name(host)
	if !ok {
		return request.Target{}, false
	}
	prefix, ok := a.manager().HostOwner(name)
	if !ok {
		return request.Target{}, false
	}
	return request.Target{Prefix: prefix}, true
}

// changingHost is a call that adds or removes the custom host in its path.
func changingHost(change func(*instance.Manager, context.Context, string, string) (instance.Instance, error)) runner {
	return func(a *api, w http.ResponseWriter, r *http.Request, prefix string, _ url.Values) (reply, error) {
		if err := decodeBody(w, r, &noBody{}); err != nil {
			return reply{}, err
		}
		path := r.URL.EscapedPath()
		host := path[strings.LastIndexByte(path, '/')+1:]
		if unescaped, err := url.PathUnescape(host); err == nil {
			host = unescaped
		}
		changed, err := change(a.manager, r.Context(), prefix, host)
		return reply{data: changed}, err
	}
}

// apiHosts are the hosts of the sites that serve the API, as the http app's
// routes name them. No instance gets one: the API's own site would win, but
// only until somebody takes it away.
func apiHosts(servers map[string]*caddyhttp.Server) []string {
	var hosts []string
	for _, server := range servers {
		for _, route := range server.Routes {
			if !servesAPI(route) {
				continue
			}
			for _, set := range route.MatcherSets {
				for _, matcher := range set {
					if m, ok := matcher.(*caddyhttp.MatchHost); ok {
						for _, host := range *m {
							hosts = append(hosts, strings.ToLower(host))
						}
					}
				}
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// servesAPI reports whether one of a route's handlers, at any depth, is the
// API.
func servesAPI(route caddyhttp.Route) bool {
	for _, handler := range route.Handlers {
		switch h := handler.(type) {
		case *SiteAPI:
			return true
		case *caddyhttp.Subroute:
			if slices.ContainsFunc(h.Routes, servesAPI) {
				return true
			}
		}
	}
	return false
}
