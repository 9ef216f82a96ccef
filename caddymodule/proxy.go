package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// leaseVar holds the request's lease in Caddy's table of variables, where the
// upstream source finds it.
const leaseVar = "sandbox.lease"

// Handler finds the instance that a request is for, by its host name, which is
// `<prefix>.<domain>`, `<container port>-<prefix>.<domain>` or a custom host, and
// keeps it awake while the request or its WebSocket lasts. It belongs before a
// `reverse_proxy` with `dynamic_upstreams` of the source `sandbox`, as the
// Caddyfile directive `sandbox_proxy` makes it.
//
// Of an instance that sleeps, the visits that the template's `wake` names begin
// the start, and calls wait for it as long as `hold` says. Requests of machines
// and pings of pages that were left open are served, but keep nothing awake.
//
// It answers for instances that cannot be served: 404 for unknown hosts and
// ports that were not declared, 503 with Retry-After for instances that do not
// run and for ports that nothing listens on; and 403 to pages of other sites,
// whose Origin is neither the instance's nor a `builder_origin`; with a small page to
// browsers that navigate, else in the form of the API. Errors of the proxy
// behind it, as when the dev server is gone, are answered alike. What the dev
// server answers is never changed.
//
// These placeholders are set:
//
// Placeholder | Description
// ------------|-------------
// `{http.sandbox.prefix}` | The prefix of the instance
// `{http.sandbox.port}` | Its host port
// `{http.sandbox.status}` | The state of its container, such as `running` or `stopped`
// `{http.sandbox.template}` | Its template
type Handler struct {
	app    *App
	ending <-chan struct{} // closed when the configuration ends: see endsStreams
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sandbox",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision finds the sandbox app and tells it of the server it is reached by.
func (h *Handler) Provision(ctx caddy.Context) error {
	var err error
	if h.app, err = appOf(ctx); err != nil {
		return fmt.Errorf("sandbox handler: %w", err)
	}
	h.app.servedBy(ctx)
	return errors.Join(sparesReloads(ctx), endsWaits(ctx, h.app), h.endsStreams(ctx))
}

// ServeHTTP implements caddyhttp.MiddlewareHandler. It returns when the
// response is complete, or the upgraded connection closed.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	target, ok := h.app.resolve(r.Host)
	prefix := target.Prefix
	setPlaceholders(r, prefix, h.get)
	if h.keeps(w, r, prefix) {
		return nil
	}
	if !ok {
		refuse(w, r, noInstance(), h.app.settings.Log)
		return nil
	}
	lease, err := h.lease(r, target)
	if err != nil {
		h.turnAway(w, r, h.withOpenPorts(r, prefix, err))
		return nil
	}
	defer lease.Release()
	if err := h.checkOrigin(r, prefix, lease.Mode()); err != nil {
		refuse(w, r, err, h.app.settings.Log)
		return nil
	}
	dropClaims(r)
	if beginsStream(r) && !openFiles.takeForStream() {
		h.refuseStream(w, r)
		return nil
	}
	caddyhttp.SetVar(r.Context(), leaseVar, lease)
	if asksForWebSocket(r) {
		caddyhttp.SetVar(r.Context(), socketVar, h.app.edgeOf(lease.Template).socket)
	}
	w, r, done := streaming(w, r)
	defer done()
	err = next.ServeHTTP(w, r)
	if failed, ok := explainFailure(r, prefix, err, h.get, h.app.settings.Log); ok {
		h.turnAway(w, r, h.explainPort(r, lease, failed))
		return nil
	}
	return err
}

func (h *Handler) get(prefix string) (instance.Instance, error) { return h.app.manager().Get(prefix) }

func noInstance() *instance.Error {
	return instance.Errorf(instance.NotFound, "there is no instance at this host")
}

// getter looks an instance up as it is now.
type getter func(prefix string) (instance.Instance, error)

// setPlaceholders lets the placeholders be looked up, by whoever asks; without
// an instance they are empty.
func setPlaceholders(r *http.Request, prefix string, get getter) {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Map(func(key string) (any, bool) {
		switch key {
		case "http.sandbox.prefix":
			return prefix, true
		case "http.sandbox.port", "http.sandbox.status", "http.sandbox.template":
			return lookUp(prefix, key, get)
		}
		return nil, false
	})
}

func lookUp(prefix, key string, get getter) (any, bool) {
	got, err := get(prefix)
	if err != nil {
		return "", true
	}
	switch key {
	case "http.sandbox.port":
		return got.Port, true
	case "http.sandbox.status":
		return string(got.Status), true
	default:
		return got.Template, true
	}
}

// explainFailure turns an error of the proxy behind us, which means that nothing was
// written yet, into ours. Others pass: of a client that left, and those that
// the operator's own routes for responses of dev servers end in.
func explainFailure(r *http.Request, prefix string, err error, get getter, log *zap.Logger) (*instance.Error, bool) {
	failed, ok := errors.AsType[caddyhttp.HandlerError](err)
	if !ok || devServerAnswered(r) {
		return nil, false
	}
	switch failed.StatusCode {
	case http.StatusGatewayTimeout:
		return &instance.Error{Kind: instance.Timeout, Message: "the dev server did not answer in time", Err: err}, true
	case http.StatusBadGateway, http.StatusServiceUnavailable:
	default:
		return nil, false
	}
	if c := log.Check(zap.WarnLevel, "dev server does not answer"); c != nil {
		c.Write(zap.String("prefix", prefix), zap.Error(failed.Err))
	}
	return notServed(prefix, failed, get), true
}

// devServerAnswered reports whether reverse_proxy got a response.
func devServerAnswered(r *http.Request) bool {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	_, answered := repl.Get("http.reverse_proxy.status_code")
	return answered
}

// notServed says why prefix did not answer, as far as its state tells now.
func notServed(prefix string, failed caddyhttp.HandlerError, get getter) *instance.Error {
	got, err := get(prefix)
	if err != nil {
		return noInstance()
	}
	e := &instance.Error{
		Kind:       instance.NotRunning,
		Message:    fmt.Sprintf("the instance is %s", got.Status),
		RetryAfter: time.Second,
		Err:        failed.Err,
	}
	if got.Status == instance.Running {
		if brokeOff(failed) {
			return &instance.Error{Kind: brokenOff, Message: brokenOffMessage, Err: failed.Err}
		}
		e.Message = instance.NotAnswering
	}
	return e.With("status", got.Status).With("reason", got.Reason)
}

// brokenOffMessage has no "try again": of what changes something, that may
// happen twice.
const brokenOffMessage = "the dev server closed the connection before it answered; whether it did what was asked is unknown"

// brokeOff reports whether the request may have reached the dev server.
func brokeOff(failed caddyhttp.HandlerError) bool {
	_, dialling := errors.AsType[reverseproxy.DialError](failed.Err)
	return !dialling && failed.StatusCode == http.StatusBadGateway
}

// refuse answers a request that reaches no dev server.
func refuse(w http.ResponseWriter, r *http.Request, err error, log *zap.Logger) {
	id := requestID(r)
	boundLog(r, id, log)
	w.Header().Set("X-Request-Id", id)
	if wantsPage(r) && writePage(w, r, err, log) {
		return
	}
	writeError(w, err, id, log)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
