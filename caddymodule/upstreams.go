package caddymodule

import (
	"fmt"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func init() {
	caddy.RegisterModule(new(Upstreams))
}

// endpointVar holds the endpoint of the attempt in progress in Caddy's table
// of variables, where the transport finds it.
const endpointVar = "sandbox.endpoint"

// noWayVar holds the container port that this proxy has no way to, in the same
// table, for the handler to explain.
const noWayVar = "sandbox.no_way"

// The ways to an instance.
const (
	viaAuto      = "auto"
	viaContainer = "container"
	viaPublished = "published"
)

// Upstreams is the upstream of the instance that the handler `sandbox` found
// for the request, asked anew for each attempt. Without that handler it looks
// by the host name itself; then nothing answers for an instance that does not
// run (503 without a page), and an open WebSocket does not count as its use.
type Upstreams struct {
	// Which address of an instance is dialled. `container`: its own, on the
	// bridge network, which is twice as fast but only reachable on a Linux
	// host; `published`: its port on 127.0.0.1, which leads to the dev server
	// alone and not to further ports; `auto`: the first where this host reaches
	// it, else the second. Default: `auto`.
	Upstream string `json:"upstream,omitempty"`

	app *App
}

// CaddyModule returns the Caddy module information.
func (*Upstreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.sandbox",
		New: func() caddy.Module { return new(Upstreams) },
	}
}

// Provision finds the sandbox app.
func (u *Upstreams) Provision(ctx caddy.Context) error {
	switch u.Upstream {
	case "":
		u.Upstream = viaAuto
	case viaAuto, viaContainer, viaPublished:
	default:
		return fmt.Errorf("dynamic sandbox: upstream %q is not auto, container or published", u.Upstream)
	}
	var err error
	if u.app, err = appOf(ctx); err != nil {
		return fmt.Errorf("dynamic sandbox: %w", err)
	}
	return nil
}

// GetUpstreams implements reverseproxy.UpstreamSource. No upstream is no
// error: Caddy would log one for each attempt.
func (u *Upstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	endpoint, port := u.endpoint(r)
	if endpoint == nil {
		return nil, nil
	}
	address := u.address(endpoint, port)
	if !address.IsValid() {
		caddyhttp.SetVar(r.Context(), noWayVar, port)
		return nil, nil
	}
	caddyhttp.SetVar(r.Context(), endpointVar, endpoint)
	// A new value each time, as reverse_proxy writes into it.
	return []*reverseproxy.Upstream{{Dial: address.String()}}, nil
}

// endpoint returns the endpoint of the request, nil if there is none now, and
// the container port that is wanted, zero for the dev server's.
func (u *Upstreams) endpoint(r *http.Request) (e *instance.Endpoint, port int) {
	if lease, ok := caddyhttp.GetVar(r.Context(), leaseVar).(*instance.Lease); ok {
		return lease.Endpoint(), lease.ContainerPort
	}
	// Not r.Host: on a retry it is what header_up made of it.
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	host, _ := repl.GetString("http.request.host")
	target, ok := u.app.resolve(host)
	if !ok {
		return nil, 0
	}
	lease, err := u.app.acquire(r, target)
	if err != nil {
		return nil, 0
	}
	defer lease.Release()
	return lease.Endpoint(), lease.ContainerPort
}

// address is where a port of e is dialled; invalid if the wanted way does not
// exist. Only the dev server's port is published: a host port for each of the
// others would be taken whether anybody comes or not.
func (u *Upstreams) address(e *instance.Endpoint, port int) netip.AddrPort {
	switch {
	case u.Upstream == viaContainer || u.Upstream == viaAuto && e.Direct.IsValid():
		return e.At(port)
	case port == 0:
		return e.Published
	}
	return netip.AddrPort{}
}

// UnmarshalCaddyfile sets u up from Caddyfile tokens. Syntax:
//
//	dynamic sandbox [auto|container|published]
func (u *Upstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the source
	if d.CountRemainingArgs() == 0 {
		return endOfWord(d)
	}
	return upstreamWord(&u.Upstream).parse(d)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Upstreams)(nil)
	_ caddyfile.Unmarshaler       = (*Upstreams)(nil)
	_ reverseproxy.UpstreamSource = (*Upstreams)(nil)
)
