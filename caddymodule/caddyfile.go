package caddymodule

import (
	"encoding/json"
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
//	    default_template <name>
//	    defaults {
//	        # the words of a template
//	    }
//	    template <name> {
//	        image   <name>
//	        pull    missing|never|always
//	        port    <container port>
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
//	    }
//	}
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
		"default_template": textWord(&a.DefaultTemplate),
		"defaults":         {parse: a.parseDefaults},
		"template":         {parse: a.parseTemplate, repeatable: true},
	}
}

func (a *App) parseDefaults(d *caddyfile.Dispenser) error {
	a.Defaults = new(Template)
	return parseBlock(d, a.Defaults.words())
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
	return parseBlock(d, t.words())
}

func (t *Template) words() words {
	return words{
		"image":   textWord(&t.Image),
		"pull":    textWord(&t.Pull),
		"port":    intWord(&t.ContainerPort),
		"command": listWord(&t.Command),
		"env":     pairsWord(&t.Env),
		"workdir": textWord(&t.WorkDir),
		"user":    textWord(&t.User),
		"memory":  sizeWord(&t.Memory),
		"cpus":    numberWord(&t.CPUs),
		"pids":    intWord(&t.Pids),
		"ready":   durationWord(&t.Ready),
	}
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
	token := word{repeatable: true, parse: func(d *caddyfile.Dispenser) error {
		var one string
		err := textWord(&one).parse(d)
		s.Tokens = append(s.Tokens, one)
		return err
	}}
	if err := parseBlock(h.Dispenser, words{"token": token}); err != nil {
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
//	    upstream auto|container|published
//
//	    # any subdirective of reverse_proxy, except those that choose the
//	    # upstream: to and dynamic
//	}
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
	proxy.DynamicUpstreamsRaw = caddyconfig.JSONModuleObject(&own.upstreams, "source", "sandbox", nil)
	if !own.transport {
		proxy.TransportRaw = caddyconfig.JSONModuleObject(new(Transport), "protocol", "sandbox", nil)
	}
	route := caddyhttp.Route{HandlersRaw: []json.RawMessage{
		caddyconfig.JSONModuleObject(new(Handler), "handler", "sandbox", nil),
		caddyconfig.JSONModuleObject(proxy, "handler", "reverse_proxy", nil),
	}}
	if matcher != nil {
		route.MatcherSetsRaw = []caddy.ModuleMap{matcher}
	}
	return []httpcaddyfile.ConfigValue{{Class: "route", Value: route}}, nil
}

// ownWords is what sandbox_proxy itself has to know of its block.
type ownWords struct {
	upstreams Upstreams
	transport bool // the block has a transport
}

// takeOwnWords reads the words that are not reverse_proxy's out of d, refuses
// those that would bypass the instance, and leaves d at its start.
func takeOwnWords(d *caddyfile.Dispenser) (ownWords, error) {
	var own ownWords
	d.Next() // the directive's name
	if d.NextArg() {
		return own, d.Errf("sandbox_proxy takes no upstream (%s): it proxies to the instance that the host names", d.Val())
	}
	for d.NextBlock(0) {
		if d.Nesting() > 1 {
			continue // inside a subdirective's own block
		}
		switch name := d.Val(); name {
		case "to", "dynamic":
			return own, d.Errf("sandbox_proxy takes no %q: it proxies to the instance that the host names", name)
		case "upstream":
			if own.upstreams.Upstream != "" {
				return own, d.Err("upstream is given twice")
			}
			if err := upstreamWord(&own.upstreams.Upstream).parse(d); err != nil {
				return own, err
			}
			d.DeleteN(2)
		case "transport":
			own.transport = true
			fallthrough
		default:
			d.RemainingArgs() // a value may look like a word of ours
		}
	}
	d.Reset()
	return own, nil
}

func upstreamWord(into *string) word { return oneOf(into, viaAuto, viaContainer, viaPublished) }
