package caddymodule

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/caddymodule/visit"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// What is below keptPath, on every host of an instance, is ours whatever
// state it is in: it never reaches the dev server, wakes nothing, and is no use
// of the instance.
const (
	keptPath   = "/.well-known/sandbox/"
	eventsPath = keptPath + "events" // how the start of the instance goes
	startPath  = keptPath + "start"  // starts it, after it failed or fell asleep
)

// handlerVar holds the handler that a request came through in Caddy's table of
// variables, where the pages find it.
const handlerVar = "sandbox.handler"

// mayNotStart is the kind of error for those who ask for a start that the
// template, or the instance's owner, leaves to others.
const mayNotStart instance.Kind = "may not start"

// keeps answers r if its path is ours, and reports whether it did. It also
// lets the pages that other answers become know whose they are.
func (h *Handler) keeps(w http.ResponseWriter, r *http.Request, prefix string) bool {
	caddyhttp.SetVar(r.Context(), handlerVar, h)
	// In the form that Caddy's path matcher compares: an operator's routes and
	// ours shall mean the same paths.
	path := strings.ToLower(caddyhttp.CleanPath(r.URL.Path, true))
	kept := strings.HasPrefix(path, keptPath) || strings.HasPrefix(r.URL.Path, keptPath)
	if !kept || prefix == "" {
		return false
	}
	var err error
	switch path {
	case eventsPath:
		err = h.serveEvents(w, r, prefix)
	case startPath:
		err = h.startAgain(w, r, prefix)
	default:
		err = instance.Errorf(noRoute, "there is nothing at this path, which is kept for the server")
	}
	if err != nil {
		refuse(w, r, err, h.app.settings.Log)
	}
	return true
}

// allowMethod refuses all methods but one.
func allowMethod(w http.ResponseWriter, r *http.Request, method string) error {
	if r.Method == method {
		return nil
	}
	w.Header().Set("Allow", method)
	return instance.Errorf(methodNotAllowed, "this takes %s only", method)
}

// startAgain begins to start an instance that failed or sleeps, for the form on its page,
// and leads back to where that was. What keeps it from starting shows there.
func (h *Handler) startAgain(w http.ResponseWriter, r *http.Request, prefix string) error {
	if err := allowMethod(w, r, http.MethodPost); err != nil {
		return err
	}
	in, err := h.get(prefix)
	if err != nil {
		return err
	}
	if err := h.checkForm(r, prefix); err != nil {
		return err
	}
	switch in.Status {
	case instance.Failed, instance.Stopped, instance.Paused:
		if err := h.start(r, in); err != nil {
			return err
		}
	}
	w.Header().Set("Location", cameFrom(r))
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusSeeOther)
	return nil
}

// start begins to start in. What the page of in tells by itself is no error: that
// it has failed too often to be started now.
func (h *Handler) start(r *http.Request, in instance.Instance) error {
	if err := h.mayStart(r, in); err != nil {
		return err
	}
	err := h.app.manager().Retry(instance.WithRequestID(r.Context(), requestID(r)), in.Prefix, h.permit(r))
	if p, _, gone := h.app.manager().Progress(in.Prefix); gone == nil && p.StartIn > 0 {
		return nil
	}
	return err
}

// mayStart refuses those who may not start in.
func (h *Handler) mayStart(r *http.Request, in instance.Instance) error {
	switch {
	case in.Status != instance.Failed && in.Reason == instance.ReasonUser:
		return instance.Errorf(mayNotStart, "its owner has stopped this sandbox: only its owner can start it again")
	case !h.app.edgeOf(in.Template).mayStart(r):
		return instance.Errorf(mayNotStart, "only its owner can start this sandbox")
	}
	return nil
}

// checkForm refuses what no person sends by a form on a page of the instance
// itself, such as what a script of any page fetches or submits. Within the five
// seconds after somebody has touched a page, browsers take what its scripts do
// for that person's doing.
func (h *Handler) checkForm(r *http.Request, prefix string) error {
	site, mode := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Sec-Fetch-Mode")
	foreign := h.app.origins.Load().Foreign(r, schemeOf(r), prefix)
	switch {
	case site != "" && site != "same-origin", mode != "" && mode != "navigate":
	case foreign != "", site == "" && r.Header["Origin"] == nil, visit.SentByScript(r):
	default:
		return nil
	}
	return instance.Errorf(foreignOrigin, "only the button on the sandbox's own page starts it: open its address yourself").
		With("origin", request.Shorten(foreign))
}

// cameFrom is the path and query of the page of this host that r was sent from;
// else the root.
func cameFrom(r *http.Request) string {
	from, err := url.Parse(r.Referer())
	if err != nil || !strings.EqualFold(from.Host, r.Host) || strings.HasPrefix(from.Path, keptPath) {
		return "/"
	}
	path := from.EscapedPath()
	if !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") { // which names another host
		return "/"
	}
	if from.RawQuery != "" {
		path += "?" + from.RawQuery
	}
	return path
}
