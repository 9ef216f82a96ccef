package caddymodule

import (
	"encoding/json"
	"strconv"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("sandbox", parseApp)
	httpcaddyfile.RegisterHandlerDirective("sandbox_api", parseSiteAPI)
	httpcaddyfile.RegisterDirective("sandbox_proxy", parseProxy)

	// What the API does not answer goes on, so it comes before whatever
	// answers everything. The proxy is itself of that sort.
	httpcaddyfile.RegisterDirectiveOrder("sandbox_api", httpcaddyfile.Before, "respond")
	httpcaddyfile.RegisterDirectiveOrder("sandbox_proxy", httpcaddyfile.Before, "reverse_proxy")
}

// parseApp reads the global option. Syntax:
//
//	sandbox {
//	    domain           <name>
//	    state_dir        <folder>
//	    ports            <first>-<last>
//	    prefix_length    <number>
//	    docker           <endpoint>
//	    url              <form>
//	    reserved         <prefixes...>
//	    builder_origin   <origin>
//	    default_template <name>
//	    tls_budget       <number>/hour|day|week
//	    tls_ahead        on|off
//	    wake_budget      <number>/minute
//	    start_on_boot    on|off
//	    defaults {
//	        # the words of a template
//	    }
//	    template <name> {
//	        image   <name>
//	        pull    missing|never|always
//	        port    <container port>
//	        ports   <further container ports...>|any
//	        command <words...>
//	        env     <name> <value>
//	        env {
//	            <name> <value>
//	        }
//	        workdir <folder>
//	        user    <user>
//	        memory  <size>
//	        cpus    <number>
//	        pids    <number>
//	        ready   <duration>
//	        inject  all|env|none
//
//	        pool     <number>
//	        late_env <file>
//	        dev         auto|vite|next|webpack|none
//	        host_header auto|preserve|localhost
//
//	        idle_timeout         <duration>|never
//	        on_idle              stop|pause|delete
//	        ttl                  <duration>|never
//	        delete_after_stopped <duration>|never
//
//	        wake               navigate|any|authenticated|never
//	        hold               <duration>
//	        websocket_activity data|open|none
//	        page_logs          authenticated|anyone|nobody
//	        pages              <folder>
//	    }
//	    reload_hook {
//	        signal   <name> <pid file>
//	        command  <words...>
//	        post     <url>
//	        files    <files...>
//	        debounce <duration>
//	        timeout  <duration>
//	    }
//	}
//
// The words builder_origin, template and reload_hook may come again; a hook has one of signal,
// command and post.
func parseApp(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // the option's name
	if existing != nil {
		return nil, d.Err("the global option sandbox is given twice")
	}
	app := new(App)
	if err := parseBlock(d, app.words()); err != nil {
		return nil, err
	}
	return httpcaddyfile.App{Name: "sandbox", Value: caddyconfig.JSON(app, nil)}, nil
}

func (a *App) words() words {
	return words{
		"domain":           textWord(&a.Domain),
		"state_dir":        textWord(&a.StateDir),
		"ports":            textWord(&a.Ports),
		"prefix_length":    intWord(&a.PrefixLength),
		"docker":           textWord(&a.Docker),
		"url":              textWord(&a.URL),
		"reserved":         listWord(&a.Reserved),
		"builder_origin":   repeated(&a.BuilderOrigins),
		"default_template": textWord(&a.DefaultTemplate),
		"tls_budget":       textWord(&a.TLSBudget),
		"tls_ahead":        onOffWord(&a.TLSAhead),
		"wake_budget":      textWord(&a.WakeBudget),
		"start_on_boot":    onOffWord(&a.StartOnBoot),
		"defaults":         {parse: a.parseDefaults},
		"template":         {parse: a.parseTemplate, repeatable: true},
		"reload_hook":      {parse: a.parseReloadHook, repeatable: true},
	}
}

func (a *App) parseDefaults(d *caddyfile.Dispenser) error {
	a.Defaults = new(Template)
	return a.Defaults.parse(d)
}

func (a *App) parseTemplate(d *caddyfile.Dispenser) error {
	if !d.NextArg() {
		return d.Err("template: its name is missing")
	}
	name := d.Val()
	if _, ok := a.Templates[name]; ok {
		return d.Errf("template %s is given twice", name)
	}
	if a.Templates == nil {
		a.Templates = map[string]*Template{}
	}
	t := new(Template)
	a.Templates[name] = t
	return t.parse(d)
}

// parse reads the block of a template. Each word is checked where it stands, so
// that an error has its line.
func (t *Template) parse(d *caddyfile.Dispenser) error {
	checked := t.words()
	for name, w := range checked {
		parse := w.parse
		w.parse = func(d *caddyfile.Dispenser) error {
			if err := parse(d); err != nil {
				return err
			}
			if err := t.checkSaid(); err != nil {
				return d.WrapErr(err)
			}
			return nil
		}
		checked[name] = w
	}
	return parseBlock(d, checked)
}

func (t *Template) words() words {
	return words{
		"image":   textWord(&t.Image),
		"pull":    textWord(&t.Pull),
		"port":    intWord(&t.ContainerPort),
		"ports":   {parse: t.parsePorts},
		"command": listWord(&t.Command),
		"env":     pairsWord(&t.Env),
		"workdir": textWord(&t.WorkDir),
		"user":    textWord(&t.User),
		"memory":  sizeWord(&t.Memory),
		"cpus":    numberWord(&t.CPUs),
		"pids":    intWord(&t.Pids),
		"ready":   durationWord(&t.Ready),
		"inject":  textWord(&t.Inject),

		"pool":     countWord(&t.Pool),
		"late_env": textWord(&t.LateEnv),

		"dev":         textWord(&t.Dev),
		"host_header": textWord(&t.HostHeader),

		"idle_timeout":         spanWord(&t.IdleTimeout),
		"on_idle":              textWord(&t.OnIdle),
		"ttl":                  spanWord(&t.TTL),
		"delete_after_stopped": spanWord(&t.DeleteAfterStopped),

		"wake":               textWord(&t.Wake),
		"hold":               givenDurationWord(&t.Hold),
		"websocket_activity": textWord(&t.WebSocketActivity),
		"page_logs":          textWord(&t.PageLogs),
		"pages":              textWord(&t.Pages),
	}
}

// parsePorts reads further container ports. any is a word of its own because in
// JSON the ports are numbers.
func (t *Template) parsePorts(d *caddyfile.Dispenser) error {
	var values []string
	if err := listWord(&values).parse(d); err != nil {
		return err
	}
	for _, value := range values {
		if value == "any" {
			t.AnyPort = true
			continue
		}
		port, err := strconv.Atoi(value)
		if err != nil {
			return d.Errf("ports: %q is neither the number of a port nor any", value)
		}
		t.ContainerPorts = append(t.ContainerPorts, port)
	}
	return nil
}

func (a *App) parseReloadHook(d *caddyfile.Dispenser) error {
	hook := new(ReloadHook)
	a.ReloadHooks = append(a.ReloadHooks, hook)
	return parseBlock(d, hook.words())
}

func (h *ReloadHook) words() words {
	return words{
		"signal":   {parse: h.parseSignal},
		"command":  listWord(&h.Command),
		"post":     textWord(&h.Post),
		"files":    listWord(&h.Files),
		"debounce": durationWord(&h.Debounce),
		"timeout":  durationWord(&h.Timeout),
	}
}

func (h *ReloadHook) parseSignal(d *caddyfile.Dispenser) error {
	if !d.AllArgs(&h.Signal, &h.PIDFile) {
		return d.Err("signal: write <name> <pid file>, such as HUP /run/proxy.pid")
	}
	return endOfWord(d)
}

// parseSiteAPI reads the directive. Syntax:
//
//	sandbox_api [<matcher>] {
//	    token <token>
//	}
//
// The word token may come again.
func parseSiteAPI(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	h.Next() // the directive's name
	s := new(SiteAPI)
	if err := parseBlock(h.Dispenser, words{"token": repeated(&s.Tokens)}); err != nil {
		return nil, err
	}
	return s, nil
}

// How the proxy of sandbox_proxy differs from a bare reverse_proxy.
const (
	// A reload replaces the proxy, not the instances: their WebSockets stay.
	// The old proxy's memory is held until the last one has gone, at most so
	// long.
	streamCloseDelay = 24 * time.Hour

	// A dev server that restarts refuses connections for a moment. A refused
	// request was never sent, so it may be sent again; of those that were sent
	// only GETs are.
	proxyRetries     = 3
	proxyTryDuration = time.Second
	proxyTryInterval = 250 * time.Millisecond
)

// parseProxy reads the directive, which stands for the handler `sandbox` and a
// `reverse_proxy` to the instance that it finds, both in one route. Syntax:
//
//	sandbox_proxy [<matcher>] {
//	    upstream    auto|container|published
//	    routes_file <path>
//
//	    # any subdirective of reverse_proxy, except those that choose the
//	    # upstream: to and dynamic
//	}
//
// With routes_file it is a stand-by proxy: the handler is `sandbox_file`, and
// needs no sandbox app.
func parseProxy(h httpcaddyfile.Helper) ([]httpcaddyfile.ConfigValue, error) {
	h.Next() // the directive's name
	matcher, err := h.ExtractMatcherSet()
	if err != nil {
		return nil, err
	}
	h.Next()
	d := h.NewFromNextSegment()
	own, err := takeOwnWords(d)
	if err != nil {
		return nil, err
	}
	proxy := &reverseproxy.Handler{
		StreamCloseDelay: caddy.Duration(streamCloseDelay),
		LoadBalancing: &reverseproxy.LoadBalancing{
			Retries:     proxyRetries,
			TryDuration: caddy.Duration(proxyTryDuration),
			TryInterval: caddy.Duration(proxyTryInterval),
		},
	}
	if err := proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(h); err != nil {
		return nil, err
	}
	finder := own.complete(proxy)
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		finder,
		caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
	}}
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// ownWords is what sandbox_proxy itself has to know of its block.
type ownWords struct {
	upstream   string
	routesFile string
	transport  string // name of the one that the block has
}

// complete gives proxy the upstreams, and a transport unless the block has
// one, and returns the handler that goes before it.
func (own ownWords) complete(proxy *reverseproxy.Handler) (finder json.RawMessage) {
	var transport json.RawMessage
	if own.routesFile != "" {
		proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(&FileUpstreams{Path: own.routesFile}, "source", "sandbox_file", nil)
		transport = caddyconfig.JSONModuleObject(fileTransport(), "protocol", "http", nil)
		finder = caddyconfig.JSONModuleObject(&FileHandler{Path: own.routesFile}, "handler", "sandbox_file", nil)
	} else {
		proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(&Upstreams{Upstream: own.upstream}, "source", "sandbox", nil)
		transport = caddyconfig.JSONModuleObject(new(Transport), "protocol", "sandbox", nil)
		finder = caddyconfig.JSONModuleObject(new(Handler), "handler", "sandbox", nil)
	}
	if own.transport == "" {
		proxy.TransportRaw = transport
	}
	return finder
}

// check refuses words that mean nothing beside a file of routes.
func (own ownWords) check(d *caddyfile.Dispenser) error {
	switch {
	case own.routesFile == "":
	case own.upstream != "":
		return d.Err("upstream does not go with routes_file: the file says what to dial")
	case own.transport == "sandbox":
		return d.Err("transport sandbox does not go with routes_file: it connects to instances of this server")
	}
	return nil
}

// takeOwnWords reads the words that are not reverse_proxy's out of d, refuses
// those that would bypass the instance, and leaves d at its start.
func takeOwnWords(d *caddyfile.Dispenser) (own ownWords, err error) {
	take := words{
		"upstream":    upstreamWord(&own.upstream),
		"routes_file": textWord(&own.routesFile),
	}
	seen := map[string]bool{}
	d.Next() // the directive's name
	if d.NextArg() {
		return own, d.Errf("sandbox_proxy takes no upstream (%s): it proxies to the instance that the host names", d.Val())
	}
	for d.NextBlock(0) {
		if d.Nesting() > 1 {
			continue // inside a subdirective's own block
		}
		name := d.Val()
		if word, ok := take[name]; ok {
			if seen[name] {
				return own, d.Errf("%s is given twice", name)
			}
			seen[name] = true
			if err := word.parse(d); err != nil {
				return own, err
			}
			d.DeleteN(2)
			continue
		}
		switch name {
		case "to", "dynamic":
			return own, d.Errf("sandbox_proxy takes no %q: it proxies to the instance that the host names", name)
		case "transport":
			if d.NextArg() {
				own.transport = d.Val()
			}
		}
		d.RemainingArgs() // a value may look like a word of ours
	}
	if err := own.check(d); err != nil {
		return own, err
	}
	d.Reset()
	return own, nil
}

func upstreamWord(into *string) word { return oneOf(into, viaAuto, viaContainer, viaPublished) }
