package caddymodule

import (
	"cmp"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/devserver"
	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// vouchedVar tells in Caddy's table of variables that a dev server may give the
// page of another site what it asks for.
const vouchedVar = "sandbox.vouched"

// useOrigins works out whose pages may use instances. Until the app has
// started, public URLs may be missing; requests tell their own origin.
func (a *App) useOrigins() {
	a.origins.Store(devserver.NewOrigins(a.settings.URL, a.settings.Domain, a.builders))
}

func parseOrigins(texts []string) ([]string, error) {
	var origins []string
	for _, text := range texts {
		origin, err := devserver.ParseOrigin(text)
		if err != nil {
			return nil, err
		}
		origins = append(origins, origin)
	}
	return origins, nil
}

// hostnames are the names in origins.
func hostnames(origins []string) (names []string) {
	for _, origin := range origins {
		if u, err := url.Parse(origin); err == nil {
			names = append(names, u.Hostname())
		}
	}
	return names
}

// checkOrigin refuses the pages of other sites. Dev servers do so themselves,
// since what they serve is the user's source and their sockets obey; but those
// checks are blind once we have masked what they go by.
func (h *Handler) checkOrigin(r *http.Request, prefix string, mode instance.Mode) error {
	origins := h.app.origins.Load()
	if origins.Vouches(r, schemeOf(r), prefix) {
		caddyhttp.SetVar(r.Context(), vouchedVar, true)
	}
	if r.Header["Origin"] == nil || mode == (instance.Mode{Dev: instance.DevNone, HostHeader: instance.HostPreserve}) {
		return nil
	}
	origin := origins.Foreign(r, schemeOf(r), prefix)
	if origin == "" || h.isOtherHost(origin, r, prefix) {
		return nil
	}
	return instance.Errorf(foreignOrigin, "pages of another site may not use this instance: "+
		"its own may, and those that the operator names by builder_origin").With("origin", request.Shorten(origin))
}

// isOtherHost reports whether origin is another host of the instance that r is
// for, one of its custom hosts say, reached as r was.
func (h *Handler) isOtherHost(origin string, r *http.Request, prefix string) bool {
	scheme := schemeOf(r)
	host, ok := strings.CutPrefix(origin, scheme+"://")
	if !ok || portOf(host, scheme) != portOf(r.Host, scheme) {
		return false
	}
	t, ok := h.app.resolve(host)
	return ok && t.Prefix == prefix
}

// portOf is the port in host, or the scheme's own.
func portOf(host, scheme string) string {
	_, port, _ := strings.Cut(host, ":")
	return cmp.Or(port, map[string]string{"http": "80", "https": "443"}[scheme])
}

// claims are what proxies say of a request, besides the headers that
// reverse_proxy sets or drops itself.
var claims = []string{"Forwarded", "X-Forwarded-Port", "X-Forwarded-Prefix", "X-Forwarded-Scheme", "X-Forwarded-Server", "X-Forwarded-Ssl"}

// dropClaims takes from r what its client claims of itself, unless the operator
// trusts it as a proxy: a dev server would make URLs of it.
func dropClaims(r *http.Request) {
	if trusted(r) {
		return
	}
	for _, name := range claims {
		delete(r.Header, name)
	}
}

func trusted(r *http.Request) bool {
	is, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return is
}

// schemeOf is the scheme of the client's connection, to us or to a proxy before
// us that the operator trusts.
func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	if values := r.Header["X-Forwarded-Proto"]; len(values) > 0 && trusted(r) && strings.EqualFold(values[len(values)-1], "https") {
		return "https"
	}
	return "http"
}

// persuade sends r in the way that the dev server takes it. Where it refuses
// all the same, what that shows is remembered, and r sent once more if that is
// harmless. port is where the dev server listens in its container.
func (t *Transport) persuade(r *http.Request, port int) (*http.Response, error) {
	lease, ok := caddyhttp.GetVar(r.Context(), leaseVar).(*instance.Lease)
	if !ok { // nobody has looked at the Origin
		return t.pool.RoundTrip(r)
	}
	port = cmp.Or(lease.ContainerPort, port)
	vouched, _ := caddyhttp.GetVar(r.Context(), vouchedVar).(bool)
	mode := lease.Mode()
	disguised, mask := devserver.Disguise(r, mode, port, vouched)
	res, err := t.sendAs(disguised, mask, r)
	if !lease.Learns() {
		return res, err
	}
	better, refused := refusedBy(r, res, err)
	if !refused {
		if err == nil && mode.Dev == instance.DevAuto {
			recognise(lease, mode, r, res)
		}
		return res, err
	}
	lease.Learn(better)
	again, other := devserver.Disguise(r, lease.Mode(), port, vouched)
	if other == mask || !devserver.Repeatable(r) {
		return res, err
	}
	if err == nil {
		res.Body.Close()
	}
	return t.sendAs(again, other, r)
}

// recognise remembers what a dev server is that refuses nothing.
func recognise(lease *instance.Lease, mode instance.Mode, r *http.Request, res *http.Response) {
	if dev, ok := devserver.Recognised(r, res); ok {
		lease.Learn(instance.Mode{Dev: dev, HostHeader: mode.HostHeader})
	}
}

func refusedBy(r *http.Request, res *http.Response, err error) (better instance.Mode, refused bool) {
	if err != nil {
		return devserver.RefusedUpgrade(r, err)
	}
	return devserver.Refused(r, res)
}

// sendAs sends what was made of r, and returns the response as it answers r.
func (t *Transport) sendAs(disguised *http.Request, mask devserver.Mask, r *http.Request) (*http.Response, error) {
	res, err := t.pool.RoundTrip(disguised)
	if err != nil || disguised == r {
		return res, err
	}
	mask.Undo(res.Header,
		cmp.Or(r.Header.Get("X-Forwarded-Proto"), schemeOf(r)),
		cmp.Or(r.Header.Get("X-Forwarded-Host"), r.Host))
	return res, nil
}
