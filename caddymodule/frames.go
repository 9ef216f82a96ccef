package caddymodule

import (
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/caddymodule/visit"
)

// kindOf is [visit.Of] for those who know the builders: the page of one of them
// opens an instance in a frame for a person to see. The pages of all other
// sites would start whatever they please, in frames that nobody sees.
func (a *App) kindOf(r *http.Request) visit.Kind {
	kind := visit.Of(r)
	if kind == visit.Frame && a.isBuilder(r.Referer()) {
		return visit.Navigation
	}
	return kind
}

// isBuilder reports whether page, a URL, is one of a builder's.
func (a *App) isBuilder(page string) bool {
	u, err := url.Parse(page)
	return err == nil && slices.Contains(a.builders, u.Scheme+"://"+u.Host)
}

// framers are the sources of the policy frame-ancestors for a page of host with
// something to click on it: others could lead the click of a person there who
// means to click on something of theirs. As with [visit.Frame], the pages of the
// same site may, so that a builder on app.example.com needs no configuration for
// sandboxes below sandbox.example.com, and those of the builders. Neighbours are
// of the same site; what they get by it is what any click on a link of theirs
// gets them, a start that the visitor may cause.
func (a *App) framers(host string) string {
	sources := []string{"'self'"}
	name, _ := request.Name(host)
	if site, err := publicsuffix.EffectiveTLDPlusOne(name); err == nil {
		sources = append(sources, site+":*", "*."+site+":*")
	}
	return strings.Join(append(sources, a.builders...), " ")
}
