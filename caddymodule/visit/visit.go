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
	// Frame: a page of another site shows one in a frame. Whether that is a visit
	// depends on whose page it is.
	Frame Kind = "frame"
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
	case r.Method == http.MethodHead || isAhead(r.Header) || isErrand(r.URL.Path):
		return Machine
	case r.Method != http.MethodGet: // even of robots: what brings something wants something done
		return Call
	case isRobot(r.UserAgent()):
		return Machine
	case !navigates(r):
		return Call
	case namesItsOwner(r.UserAgent()):
		return Machine
	case r.Header.Get("Sec-Fetch-Site") == "same-origin" && isUntouched(r):
		return Reload
	case isFramed(r.Header):
		return Frame
	}
	return Navigation
}

// SentByScript reports whether it was a script that sent r, a form. A service
// worker of the app's that passes requests on takes from them who made them;
// those are believed to be a person's, who could send none else.
func SentByScript(r *http.Request) bool {
	const fromWorker = "empty"
	return isUntouched(r) && r.Header.Get("Sec-Fetch-Dest") != fromWorker
}

// isUntouched reports whether r navigates without anybody having touched the
// page that it comes from: a script does it, or a timer. Browsers that do not
// tell are believed to be a person's.
func isUntouched(r *http.Request) bool {
	return r.Header.Get("Sec-Fetch-Mode") == "navigate" && r.Header.Get("Sec-Fetch-User") == "" && tellsTouches(r.UserAgent())
}

// tellsTouches reports whether a browser that tells from what site a request
// comes also tells, by Sec-Fetch-User, that a person made it. All do but those of
// Apple's engine: Safari, all browsers of iPhones and iPads, and WebKitGTK.
func tellsTouches(agent string) bool {
	return strings.Contains(agent, "Chrome/") || strings.Contains(agent, "Firefox/")
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

// isFramed reports whether a page of another site shows r in a frame, or the
// like. That a person made it (Sec-Fetch-User) says nothing here: after a click
// anywhere on a page, Chromium says so of each frame that its scripts make.
func isFramed(h http.Header) bool {
	dest := h.Get("Sec-Fetch-Dest")
	return h.Get("Sec-Fetch-Site") == "cross-site" && dest != "" && dest != "document"
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
