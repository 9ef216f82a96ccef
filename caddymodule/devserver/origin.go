package devserver

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Origins are the origins whose pages may use an instance: its own, and those
// of the app builder. It never changes.
type Origins struct {
	builders []string
	// The public origin of an instance, before and after its prefix.
	before, after string
}

// NewOrigins returns the origins by the form of public URLs, with {prefix} and
// {domain} in it, and the builders' as [ParseOrigin] returns them.
func NewOrigins(form, domain string, builders []string) *Origins {
	form = strings.ReplaceAll(form, "{domain}", domain)
	o := &Origins{builders: builders}
	before, after, found := strings.Cut(form, "{prefix}")
	if !found {
		return o
	}
	after, _, _ = strings.Cut(after, "/")
	scheme, _, _ := strings.Cut(before, "://")
	o.before, o.after = before, withoutDefaultPort(scheme, after)
	return o
}

// ParseOrigin reads an origin as an operator writes it and returns it as
// browsers send it.
func ParseOrigin(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Contains(u.Host, "*"),
		u.User != nil, u.Path != "" && u.Path != "/", u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%q is not an origin: write it like https://app.example.com or http://localhost:3000", text)
	}
	return u.Scheme + "://" + withoutDefaultPort(u.Scheme, strings.ToLower(u.Host)), nil
}

func withoutDefaultPort(scheme, host string) string {
	switch scheme {
	case "https":
		return strings.TrimSuffix(host, ":443")
	case "http":
		return strings.TrimSuffix(host, ":80")
	}
	return host
}

// Foreign returns the Origin of r if a browser sent it from a page that is
// neither the instance's own nor a builder's; empty: there is none such.
// Whoever sends none is no browser that calls across sites. scheme is that of
// the client's connection.
func (o *Origins) Foreign(r *http.Request, scheme, prefix string) string {
	origins, sent := r.Header["Origin"]
	switch {
	case !sent:
		return ""
	case len(origins) != 1:
		return strings.Join(origins, ", ")
	case o.known(origins[0], r.Host, scheme, prefix):
		return ""
	case origins[0] == "null" && r.Header.Get("Sec-Fetch-Site") == "same-origin":
		return "" // the instance's own page, whose referrer policy hides where it is
	case origins[0] == "":
		return "an empty one"
	}
	return origins[0]
}

// Vouches reports whether r is for what Next.js keeps from other sites, and
// comes from the page of another site that may have it, such as the builder's.
// Such requests of scripts and images have no Origin; their Referer tells.
func (o *Origins) Vouches(r *http.Request, scheme, prefix string) bool {
	return guarded(r.URL.Path) && r.Header.Get("Sec-Fetch-Site") == "cross-site" && r.Header.Get("Sec-Fetch-Mode") == "no-cors" &&
		o.known(r.Header.Get("Referer"), r.Host, scheme, prefix)
}

// known reports whether page, an origin or a URL, is the instance's own or a
// builder's.
func (o *Origins) known(page, host, scheme, prefix string) bool {
	pageScheme, rest, found := strings.Cut(page, "://")
	if !found {
		return false
	}
	authority, _, _ := strings.Cut(rest, "/")
	if pageScheme == scheme && ownHost(authority, withoutDefaultPort(scheme, host), prefix) {
		return true
	}
	origin := page[:len(pageScheme)+len("://")+len(authority)]
	if label, ok := strings.CutPrefix(origin, o.before); ok && o.before != "" {
		if label, ok = strings.CutSuffix(label, o.after); ok && ownLabel(label, prefix) {
			return true
		}
	}
	return slices.Contains(o.builders, origin)
}

// ownHost reports whether page is the host that a request came to, or another
// one of the same instance: with another of its ports before the prefix.
func ownHost(page, requested, prefix string) bool {
	if strings.EqualFold(page, requested) {
		return true
	}
	label, parent, _ := strings.Cut(page, ".")
	requestedLabel, requestedParent, _ := strings.Cut(requested, ".")
	return ownLabel(label, prefix) && ownLabel(requestedLabel, prefix) && strings.EqualFold(parent, requestedParent)
}

// ownLabel reports whether label is prefix, or <port>-<prefix>.
func ownLabel(label, prefix string) bool {
	if port, rest, found := strings.Cut(label, "-"); found && isNumber(port) {
		label = rest
	}
	return strings.EqualFold(label, prefix)
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
