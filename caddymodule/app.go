package caddymodule

import (
	"crypto/tls"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/devserver"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func init() {
	caddy.RegisterModule(new(App))
}

// App gives every user, agent or branch a live dev server of its own: an
// instance, which is one container, served at `https://<prefix>.<domain>`.
//
// Instances are made and removed by calls of an API, on the admin endpoint
// and wherever the handler `sandbox_api` is mounted; the configuration says
// what they may be. Changing it and reloading leaves running instances, their
// connections and open WebSockets alone: new settings hold for the instances
// made from then on.
//
// Text fields may hold global placeholders such as `{env.NAME}`; they stay
// unexpanded in the stored configuration.
type App struct {
	// The parent of all instance host names, such as `sandbox.example.com`.
	// Required. Its DNS needs a wildcard record. Code in the instances can set
	// cookies for it, so let nothing else of value live below it.
	Domain string `json:"domain,omitempty"`

	// The folder of `.instances.json`, which is the truth about all instances,
	// and of the files generated from it. One server at a time may use it. A
	// relative path is taken from the server's working folder. It cannot be
	// changed by a reload while there are instances. Default: `sandbox` in
	// Caddy's data folder.
	StateDir string `json:"state_dir,omitempty"`

	// The host ports that instances may get, on 127.0.0.1, as `<first>-<last>`.
	// Keep them out of the kernel's range of ephemeral ports, which begins at
	// 32768 on most systems. Default: `5174-32767`.
	Ports string `json:"ports,omitempty"`

	// The number of characters of generated prefixes, 8 to 57. Default: 16.
	PrefixLength int `json:"prefix_length,omitempty"`

	// Where the Docker Engine listens, such as `unix:///run/docker.sock`.
	// A change takes a restart. Default: as the docker command finds it.
	Docker string `json:"docker,omitempty"`

	// The form of the URLs under which clients reach instances; `{prefix}` and
	// `{domain}` stand for these. Needed where clients do not talk to this
	// server directly. Default: `https://{prefix}.{domain}` with the port of
	// the site that has the handler `sandbox`, if that is not the default one.
	URL string `json:"url,omitempty"`

	// The template of instances whose creator names none. Default: the only
	// template; with several, the creator has to name one.
	DefaultTemplate string `json:"default_template,omitempty"`

	// Prefixes that no instance gets, beside the built-in ones (`localhost`,
	// `dashboard`, `webmaster` and the like).
	Reserved []string `json:"reserved,omitempty"`

	// The exact origins of the app builder's UI, such as
	// `https://app.example.com`: pages that may call into instances from another
	// site, as a preview in a frame's parent does. Pages of all others are
	// refused with 403, but for instances of `dev none`. What sleeps wakes in the
	// frames of these pages and of those on its own site, below the same
	// registrable domain; in frames of others it asks to be opened in a tab. In the
	// Caddyfile this is `builder_origin`, which may come again. Default: none.
	BuilderOrigins []string `json:"builder_origins,omitempty"`

	// Whether to start, once Docker is back after a restart of it or of the
	// machine, the instances that ran when it went down: a few at a time, the
	// last used first. Those that were asleep or stopped stay so. Otherwise each
	// is started when its first visitor comes, as `wake` says. Default: false.
	StartOnBoot bool `json:"start_on_boot,omitempty"`

	// Values for all templates that do not say otherwise. The variables of
	// `env` are added to each template's own.
	Defaults *Template `json:"defaults,omitempty"`

	// The recipes for instances, by name. At least one is needed.
	Templates map[string]*Template `json:"templates,omitempty"`

	// What is done after a generated file in the state directory changed, so
	// that other programs follow.
	ReloadHooks []*ReloadHook `json:"reload_hooks,omitempty"`

	// How many certificates may be made on demand for hosts of instances, as
	// `<number>/hour`, `<number>/day` or `<number>/week`: at most so many in
	// any hour, day or week, whatever restarts and reloads come between. When
	// it is spent, instances that have no certificate yet get none; renewals
	// and certificates that exist are not affected. Public authorities have
	// limits of their own, per registered domain: Let's Encrypt's is 50 a week,
	// so leave some for your other names. Default: no limit.
	TLSBudget string `json:"tls_budget,omitempty"`

	// Whether to have the certificate of a new instance made while its dev
	// server starts, so that the first visitor need not wait for it. Instances
	// that nobody ever visits then cost a certificate, too. Where a wildcard
	// certificate covers the instances, it does nothing. Default: false.
	TLSAhead bool `json:"tls_ahead,omitempty"`

	// How many starts of sleeping instances the visits from one address may
	// cause, as `<number>/minute`; so many at once, too. Of IPv6, a /64 network
	// counts as one address. Behind another proxy, name that one in the server's
	// `trusted_proxies`: else all visitors share its address. Whoever comes
	// beyond it is answered 429; joining a start that is under way is free.
	// Default: `30/minute`.
	WakeBudget string `json:"wake_budget,omitempty"`

	ctx        caddy.Context
	settings   *instance.Settings // complete but for the URL, which Start may have to find
	edges      map[string]edge    // by template
	dockerHost string             // Docker, expanded
	engine     *engine
	hooks      []*hook
	builders   []string                          // BuilderOrigins, as browsers send them
	origins    atomic.Pointer[devserver.Origins] // complete once the URL is known
	sites      []*caddyhttp.Server               // servers with our proxy handler; they tell the URL
	budget     *tlsBudget
	wakeBudget int         // starts a minute, of each client
	tlsAhead   *tls.Config // for handshakes with ourselves; set by Start if TLSAhead
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "sandbox",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision reads the configuration and takes hold of the engine. It touches
// neither the state directory nor Docker, for `caddy validate` runs it beside
// a live server.
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx = ctx
	expand := newExpander()
	var err error
	if a.settings, err = a.makeSettings(expand); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	if a.builders, err = parseOrigins(expand.all(a.BuilderOrigins)); err != nil {
		return fmt.Errorf("sandbox: builder_origin: %w", err)
	}
	a.useOrigins()
	a.settings.Log = ctx.Logger()
	if advice := adviseOnPorts(a.settings.Ports); advice != "" {
		a.settings.Log.Warn(advice)
	}
	a.dockerHost = expand(a.Docker)
	dir, err := stateDir(expand(a.StateDir))
	if err != nil {
		return fmt.Errorf("sandbox: state_dir: %w", err)
	}
	a.settings.Projected = a.projected
	a.settings.Created = a.created
	if a.wakeBudget, err = parseWakeBudget(expand(a.WakeBudget)); err != nil {
		return fmt.Errorf("sandbox: wake_budget: %w", err)
	}
	if err := a.provisionTLSBudget(ctx, expand); err != nil {
		return err
	}
	if err := ctx.GetMetricsRegistry().Register(instanceMetrics{}); err != nil {
		return fmt.Errorf("sandbox: registering metrics: %w", err)
	}
	if a.engine, err = acquireEngine(dir, a.dockerHost); err != nil {
		return err
	}
	for i, config := range a.ReloadHooks {
		h, err := config.acquire(dir, expand)
		if err != nil {
			return fmt.Errorf("sandbox: reload_hook %d: %w", i+1, err)
		}
		a.hooks = append(a.hooks, h)
	}
	return nil
}

// projected tells the hooks that a generated file has new bytes. The Manager
// calls it for the configuration in force, from the goroutine that writes.
func (a *App) projected(file string) {
	for _, h := range a.hooks {
		h.notify(file)
	}
}

// Start puts this configuration in force; the first one opens the state
// directory.
func (a *App) Start() error {
	if a.settings.URL == "" {
		a.settings.URL = a.siteURL()
		a.useOrigins()
	}
	if httpApp, err := a.ctx.AppIfConfigured("http"); err == nil {
		a.settings.OwnHosts = append(apiHosts(httpApp.(*caddyhttp.App).Servers), hostnames(a.builders)...)
	}
	if err := a.startTLSAhead(); err != nil {
		return err
	}
	return a.engine.attach(a)
}

// Stop lets the configuration below take over, if there is one: this one may
// have been started for a reload that then failed elsewhere.
func (a *App) Stop() error {
	a.engine.detach(a)
	return nil
}

// Cleanup gives the engine back. It runs without Stop when Start failed, and
// on a half-built App when Provision did.
func (a *App) Cleanup() error {
	if a.engine == nil {
		return nil
	}
	a.engine.detach(a)
	err := a.engine.release() // before the hooks: closing may write once more
	return errors.Join(err, releaseHooks(a.hooks))
}

func (a *App) manager() *instance.Manager { return a.engine.manager }

// appOf returns the sandbox app of the configuration that ctx belongs to. It
// does not create one, as ctx.App would: what is not configured is missing.
func appOf(ctx caddy.Context) (*App, error) {
	app, err := ctx.AppIfConfigured("sandbox")
	if errors.Is(err, caddy.ErrNotConfigured) {
		return nil, errors.New("the sandbox app is not configured: add the global option sandbox, with a domain and a template")
	}
	if err != nil {
		return nil, err
	}
	return app.(*App), nil
}

// servedBy tells the App of a server that instances are reached through.
func (a *App) servedBy(ctx caddy.Context) {
	if server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok {
		a.sites = append(a.sites, server)
	}
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)
