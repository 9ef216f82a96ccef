package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(new(FileHandler))
	caddy.RegisterModule(new(FileUpstreams))
}

// FileHandler is the handler `sandbox` of a stand-by proxy: a Caddy without
// the sandbox app, without Docker and without an API, that serves instances
// from the `config/subdomain-proxy.json` of another server. It belongs before
// a `reverse_proxy` with `dynamic_upstreams` of the source `sandbox_file`, as
// the Caddyfile directive `sandbox_proxy` with `routes_file` makes it.
//
// It answers as that handler does, with pages to browsers that navigate and
// else in the form of the API: 404 for unknown hosts, 503 with Retry-After for
// instances that do not run or whose dev server does not answer, and for all
// until the file was good once. `{http.sandbox.template}` is empty here, since
// the file does not tell it; the other placeholders are the same.
type FileHandler struct {
	// The path of the file. A relative one is taken from the server's working
	// folder. A changed file is followed within a second, without a reload;
	// one that is missing, half-written or broken is logged, and the last good
	// routes stay. Required.
	Path string `json:"path,omitempty"`

	file *routesFile
	log  *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*FileHandler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sandbox_file",
		New: func() caddy.Module { return new(FileHandler) },
	}
}

// Provision takes hold of what follows the file, and leaves the file alone.
func (h *FileHandler) Provision(ctx caddy.Context) error {
	h.log = ctx.Logger()
	var err error
	if h.file, err = acquireRoutes(newExpander()(h.Path)); err != nil {
		return fmt.Errorf("sandbox_file handler: %w", err)
	}
	return sparesReloads(ctx)
}

// Cleanup gives back what Provision took.
func (h *FileHandler) Cleanup() error {
	if h.file == nil {
		return nil
	}
	return h.file.release()
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (h *FileHandler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	table := h.file.routes()
	target := table.resolve(r.Host)
	setPlaceholders(r, target.Prefix, h.file.get)
	if _, err := table.find(target); err != nil {
		refuse(w, r, err, h.log)
		return nil
	}
	w, r, done := streaming(w, r)
	defer done()
	err := next.ServeHTTP(w, r)
	if failed, ok := explainFailure(r, target.Prefix, err, h.file.get, h.log); ok {
		refuse(w, r, failed, h.log)
		return nil
	}
	return err
}

// FileUpstreams is the upstream of the instance that the request's host names,
// by the `config/subdomain-proxy.json` of another server; it is looked up anew
// for each attempt. Without the handler `sandbox_file` before it, `reverse_proxy`
// itself answers for what cannot be served: 503, unknown hosts included.
type FileUpstreams struct {
	// The path of the file, as that of the handler `sandbox_file`. Required.
	Path string `json:"path,omitempty"`

	file *routesFile
}

// CaddyModule returns the Caddy module information.
func (*FileUpstreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.upstreams.sandbox_file",
		New: func() caddy.Module { return new(FileUpstreams) },
	}
}

// Provision takes hold of what follows the file, and leaves the file alone.
func (u *FileUpstreams) Provision(caddy.Context) error {
	var err error
	if u.file, err = acquireRoutes(newExpander()(u.Path)); err != nil {
		return fmt.Errorf("dynamic sandbox_file: %w", err)
	}
	return nil
}

// Cleanup gives back what Provision took.
func (u *FileUpstreams) Cleanup() error {
	if u.file == nil {
		return nil
	}
	return u.file.release()
}

// GetUpstreams implements reverseproxy.UpstreamSource. No upstream is no
// error: Caddy would log one for each attempt.
func (u *FileUpstreams) GetUpstreams(r *http.Request) ([]*reverseproxy.Upstream, error) {
	table := u.file.routes()
	// Not r.Host: on a retry it is what header_up made of it.
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	host, _ := repl.GetString("http.request.host")
	dial, err := table.find(table.resolve(host))
	if err != nil {
		return nil, nil //nolint:nilerr // see above
	}
	return []*reverseproxy.Upstream{{Dial: dial}}, nil
}

// UnmarshalCaddyfile sets u up from Caddyfile tokens. Syntax:
//
//	dynamic sandbox_file <path>
func (u *FileUpstreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the source
	return textWord(&u.Path).parse(d)
}

// fileTransport is what the transport `sandbox` is by default, for upstreams
// whose containers nobody here knows.
func fileTransport() *reverseproxy.HTTPTransport {
	return &reverseproxy.HTTPTransport{
		DialTimeout:           caddy.Duration(defaultDialTimeout),
		ResponseHeaderTimeout: caddy.Duration(defaultResponseHeaderTimeout),
		ExpectContinueTimeout: caddy.Duration(expectContinueTimeout),
		KeepAlive: &reverseproxy.KeepAlive{
			MaxIdleConnsPerHost: idleConnsPerInstance,
			IdleConnTimeout:     caddy.Duration(idleConnTimeout),
		},
		Compression:     new(false), // the client's Accept-Encoding goes on as it is
		NetworkProxyRaw: json.RawMessage(`{"from":"none"}`),
	}
}

// Interface guards
var (
	_ caddy.Provisioner           = (*FileHandler)(nil)
	_ caddy.CleanerUpper          = (*FileHandler)(nil)
	_ caddyhttp.MiddlewareHandler = (*FileHandler)(nil)
	_ caddy.Provisioner           = (*FileUpstreams)(nil)
	_ caddy.CleanerUpper          = (*FileUpstreams)(nil)
	_ caddyfile.Unmarshaler       = (*FileUpstreams)(nil)
	_ reverseproxy.UpstreamSource = (*FileUpstreams)(nil)
)
