package caddymodule

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func init() {
	caddy.RegisterModule(new(Transport))
}

// Defaults of the transport.
const (
	// Containers are on this host: what does not answer at once is not there.
	defaultDialTimeout = time.Second
	// Dev servers compile on demand, so it may take a while, but not for ever.
	defaultResponseHeaderTimeout = 60 * time.Second
	// Of a client that asks before it sends a body (`Expect: 100-continue`) the
	// dev server is asked, for so long; most answer at once.
	expectContinueTimeout = time.Second

	// A page of a dev server is hundreds of modules, fetched at once; more
	// connections than the two of net/http survive that.
	idleConnsPerInstance = 512
	idleConnTimeout      = 2 * time.Minute
	tcpKeepAlive         = 30 * time.Second

	maxResponseHeader = 256 << 10 // bytes; Node's own limit is 16 KiB
)

// Transport connects to instances: plain HTTP/1.1 to this host, never through
// a proxy. A connection belongs to one container and one start of it; it is
// never used for another, although that may get the same address, and it is
// closed when the container ends, with what goes on in it: idle connections
// as well as open WebSockets.
//
// It puts requests to dev servers in the way that these take them, as the words
// `dev` and `host_header` of templates say, or as a refusal has shown; and puts
// back in responses what that changes. The handler `sandbox` has to come before
// it for that: it refuses the pages of other sites, as dev servers do.
//
// It needs the upstreams to come from the source `sandbox`.
type Transport struct {
	// How long a connection may take to be made. Default: `1s`.
	DialTimeout caddy.Duration `json:"dial_timeout,omitempty"`

	// How long the dev server may take from the end of the request to the
	// beginning of its response; after that the answer is 504. Negative: for
	// ever. Default: `60s`.
	ResponseHeaderTimeout caddy.Duration `json:"response_header_timeout,omitempty"`

	dialer net.Dialer
	pool   *http.Transport
	log    *zap.Logger
	warn   seldom
}

// CaddyModule returns the Caddy module information.
func (*Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.sandbox",
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision makes the pool of connections.
func (t *Transport) Provision(ctx caddy.Context) error {
	t.log = ctx.Logger()
	t.dialer = net.Dialer{
		Timeout:   cmp.Or(time.Duration(t.DialTimeout), defaultDialTimeout),
		KeepAlive: tcpKeepAlive,
	}
	t.pool = &http.Transport{
		DialContext:           t.dial,
		ResponseHeaderTimeout: cmp.Or(time.Duration(t.ResponseHeaderTimeout), defaultResponseHeaderTimeout),
		ExpectContinueTimeout: expectContinueTimeout,
		MaxIdleConnsPerHost:   idleConnsPerInstance,
		// What runs in a container is not to fill the memory that all share.
		MaxResponseHeaderBytes: maxResponseHeader,
		IdleConnTimeout:        idleConnTimeout,
		DisableCompression:     true, // the client's Accept-Encoding goes on as it is
	}
	return nil
}

// Cleanup closes the idle connections; those in use go on to their end.
func (t *Transport) Cleanup() error {
	if t.pool != nil {
		t.pool.CloseIdleConnections()
	}
	return nil
}

// target is where to dial for a request.
type target struct {
	endpoint *instance.Endpoint
	address  string
}

type targetKey struct{}

// RoundTrip implements http.RoundTripper. It writes to the URL of r, which
// reverse_proxy sets for each attempt.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	endpoint, ok := caddyhttp.GetVar(r.Context(), endpointVar).(*instance.Endpoint)
	to, toOK := reverseproxy.GetDialInfo(r.Context())
	if !ok || !toOK {
		return nil, errors.New("transport sandbox: the upstream is no instance: use it with dynamic sandbox")
	}
	r.URL.Scheme = "http"
	// What connections are pooled by: the endpoint, and which of its ports. Only
	// dial knows the address.
	r.URL.Host = endpoint.Key() + ":" + to.Port
	// A dial may outlast this request, so what it needs is not in Caddy's
	// variables, which others write.
	ctx := context.WithValue(r.Context(), targetKey{}, target{endpoint, to.Address})
	if lease, ok := caddyhttp.GetVar(r.Context(), leaseVar).(*instance.Lease); ok && lease.Held {
		defer endpoint.TakeTurn(r.Context())()
	}
	use := socketUseOf(r)
	use.prepare(r)
	res, err := t.persuade(r.WithContext(ctx), endpoint.Port)
	if short := shortage(err); short != nil {
		if t.warn.mayDo(10 * time.Second) {
			t.log.Warn("connecting to an instance: "+short.Message, zap.String("address", to.Address), zap.Error(err))
		}
		return refusal(r, short, t.log), nil
	}
	if err == nil {
		asWebSocket(r, res, use)
	}
	return res, err
}

// dial makes a connection that ends with its endpoint.
func (t *Transport) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	to := ctx.Value(targetKey{}).(target)
	conn, err := t.dialer.DialContext(ctx, "tcp", to.address)
	if shortage(err) != nil {
		return nil, err
	}
	if err != nil {
		return nil, reverseproxy.NewDialError(err) // nothing was sent: any request may be tried again
	}
	tcp := conn.(*net.TCPConn)
	return &trackedConn{TCPConn: tcp, forget: to.endpoint.Track(tcp)}, nil
}

// trackedConn is a connection that its endpoint knows of until it is closed.
type trackedConn struct {
	*net.TCPConn
	forget func()
}

func (c *trackedConn) Close() error {
	c.forget()
	return c.TCPConn.Close()
}

// UnmarshalCaddyfile sets t up from Caddyfile tokens. Syntax:
//
//	transport sandbox {
//	    dial_timeout            <duration>
//	    response_header_timeout <duration>
//	}
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the transport
	return parseBlock(d, words{
		"dial_timeout":            durationWord(&t.DialTimeout),
		"response_header_timeout": durationWord(&t.ResponseHeaderTimeout),
	})
}

// Interface guards
var (
	_ caddy.Provisioner     = (*Transport)(nil)
	_ caddy.CleanerUpper    = (*Transport)(nil)
	_ caddyfile.Unmarshaler = (*Transport)(nil)
	_ http.RoundTripper     = (*Transport)(nil)
)
