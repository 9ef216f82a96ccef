package visit

import (
	"net/http"
	"strings"
)

// Kind is who sends a request, and for what.
type Kind string

// The kinds.
const (
	// Navigation: a person opens a page.
	Navigation Kind = "navigation"
	// Reload: a page that is open loads itself again, or another of its server,
	// without anybody having touched it. Next.js's do, when their server has been
	// away for a while.
	Reload Kind = "reload"
	// Call: a page's script, or a program that somebody runs, wants an answer.
	Call Kind = "call"
	// WebSocket: a page or a program wants one.
	WebSocket Kind = "websocket"
	// Ping: a page of Vite's asks, every second, whether its server is back.
	Ping Kind = "ping"
	// Machine: nobody waits for the answer. Icons, robots, previews of links,
	// monitors, what browsers fetch in case it is wanted.
	Machine Kind = "machine"
)

// Of returns the kind of r. It errs on the side of machines: a person can
// load the page again.
func Of(r *http.Request) Kind {
	switch {
	case isPing(r):
		return Ping
	case isWebSocket(r):
		return WebSocket
	case r.Method == http.MethodHead || isAhead(r.Header) || isErrand(r.URL.Path) || isRobot(r.UserAgent()):
		return Machine
	case navigates(r):
		if isUntouched(r.Header) {
			return Reload
		}
		return Navigation
	}
	return Call
}

// isUntouched reports whether it was a page of the same server that navigates,
// by itself. Browsers tell when a person did it, in the page or by their own
// buttons; those that tell neither are believed to be a person's.
func isUntouched(h http.Header) bool {
	return h.Get("Sec-Fetch-Site") == "same-origin" && h.Get("Sec-Fetch-User") == ""
}

// isWebSocket reports whether r asks for a WebSocket, over whatever HTTP.
func isWebSocket(r *http.Request) bool {
	if r.Method == http.MethodConnect {
		return true
	}
	return strings.EqualFold(r.Header.Get("Upgrade"), "websocket")
}

// isPing knows both forms: a WebSocket of that subprotocol from Vite 6 on, and
// before that a fetch.
func isPing(r *http.Request) bool {
	if r.Header.Get("Accept") == "text/x-vite-ping" {
		return true
	}
	for _, name := range []string{"Sec-WebSocket-Protocol", "Sec-Websocket-Protocol"} {
		if values := r.Header[name]; len(values) == 1 && values[0] == "vite-ping" {
			return true
		}
	}
	return false
}

// isAhead reports whether a browser fetches something in case it is wanted.
func isAhead(h http.Header) bool {
	for _, name := range []string{"Sec-Purpose", "Purpose", "X-Purpose", "X-Moz"} {
		if value := strings.ToLower(h.Get(name)); strings.Contains(value, "prefetch") || strings.Contains(value, "preview") {
			return true
		}
	}
	return false
}

// isErrand reports whether a path is one that browsers and machines ask for by
// themselves.
func isErrand(path string) bool {
	path = strings.ToLower(path)
	switch path {
	case "/favicon.ico", "/robots.txt", "/sitemap.xml", "/ads.txt", "/browserconfig.xml", "/manifest.json", "/site.webmanifest":
		return true
	}
	return strings.HasPrefix(path, "/.well-known/") || strings.HasPrefix(path, "/apple-touch-icon")
}

// robots are parts of the names that machines go by, in lower case. Those that
// give themselves out for browsers are not known by this. HeadlessChrome is not
// among them: agents look at their work with it.
var robots = []string{
	"bot", "crawl", "spider", "slurp", "preview", "unfurl", "embed", "fetcher", "scrap", "archiv",
	"facebookexternalhit", "whatsapp", "skypeuripreview", "vkshare", "pinterest", "quora link", "outbrain",
	"monitor", "pingdom", "uptime", "statuscake", "site24x7", "newrelic", "datadog", "checkly", "kube-probe", "elb-healthchecker",
	"googleimageproxy", "lighthouse", "scan", "nmap", "masscan", "zgrab", "nuclei", "censys",
}

// robotsBy are the robots by the first byte of their names: this is asked of each
// request, and one look at each byte is cheaper than one for each name.
var robotsBy = func() (by [256][]string) {
	for _, name := range robots {
		by[name[0]] = append(by[name[0]], name)
	}
	return by
}()

func isRobot(agent string) bool {
	const longest = 1024 // a name that is longer is none
	if len(agent) > longest {
		return true
	}
	agent = strings.ToLower(agent)
	for i := range len(agent) {
		for _, name := range robotsBy[agent[i]] {
			if strings.HasPrefix(agent[i:], name) {
				return true
			}
		}
	}
	return false
}

// navigates reports whether r opens a page, in a tab or in a frame. Browsers
// say so; of those that do not, it shows in what they accept.
func navigates(r *http.Request) bool {
	if r.Method != http.MethodGet {
		return false
	}
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}
