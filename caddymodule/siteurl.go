package caddymodule

import (
	"cmp"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// siteURL is the form of the URLs that clients use, found from the listeners.
// It needs the http app, so it is for Start: in Provision each would wait for
// the other.
func (a *App) siteURL() string {
	httpPort, httpsPort := caddyhttp.DefaultHTTPPort, caddyhttp.DefaultHTTPSPort
	if app, err := a.ctx.AppIfConfigured("http"); err == nil {
		httpApp := app.(*caddyhttp.App)
		httpPort = cmp.Or(httpApp.HTTPPort, httpPort)
		httpsPort = cmp.Or(httpApp.HTTPSPort, httpsPort)
	}
	return urlOf(a.sites, httpPort, httpsPort)
}

// urlOf prefers a listener with TLS; without any site, another proxy is in
// front of Caddy's HTTPS port, if anything is.
func urlOf(sites []*caddyhttp.Server, httpPort, httpsPort int) string {
	listeners := listenersOf(sites, httpPort)
	for _, l := range listeners {
		if l.scheme == "https" {
			return l.url()
		}
	}
	if len(listeners) > 0 {
		return listeners[0].url()
	}
	return listener{"https", httpsPort}.url()
}

// listener is one way in for clients.
type listener struct {
	scheme string
	port   int
}

func (l listener) url() string {
	url := l.scheme + "://{prefix}.{domain}"
	if l == (listener{"http", caddyhttp.DefaultHTTPPort}) || l == (listener{"https", caddyhttp.DefaultHTTPSPort}) {
		return url
	}
	return url + ":" + strconv.Itoa(l.port)
}

// listenersOf tells the TCP listeners of servers, with TLS or not by the http
// app's own rule.
func listenersOf(servers []*caddyhttp.Server, httpPort int) []listener {
	var all []listener
	for _, server := range servers {
		for _, address := range server.Listen {
			addr, err := caddy.ParseNetworkAddress(address)
			if err != nil || addr.IsUnixNetwork() {
				continue
			}
			l := listener{"http", int(addr.StartPort)}
			if len(server.TLSConnPolicies) > 0 && l.port != httpPort {
				l.scheme = "https"
			}
			all = append(all, l)
		}
	}
	return all
}
