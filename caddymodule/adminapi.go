package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/uuid"
)

func init() {
	caddy.RegisterModule(new(AdminAPI))
}

// AdminAPI serves the API on Caddy's admin endpoint, at `/api/instances` and
// `/api/health`.
// There it needs no token: whoever reaches that endpoint may reconfigure the
// whole server. Caddy refuses browsers and foreign hosts by itself.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.sandbox",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes implements caddy.AdminRouter. Each path needs both patterns: with the
// second alone, Caddy's mux redirects a POST to the first.
func (*AdminAPI) Routes() []caddy.AdminRoute {
	handler := caddy.AdminHandlerFunc(serveAdmin)
	return []caddy.AdminRoute{
		{Pattern: apiPath, Handler: handler},
		{Pattern: apiPath + "/", Handler: handler},
		{Pattern: healthPath, Handler: handler},
		{Pattern: healthPath + "/", Handler: handler},
	}
}

// serveAdmin asks anew on every call whose configuration is in force. A router
// that kept an App would be wrong after a reload that failed: Caddy then goes
// on with the old apps and the new admin server.
func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	requestID := uuid.NewString()
	app := inForce.top()
	if app == nil {
		w.Header().Set("X-Request-Id", requestID)
		writeError(w, errNotServing(), requestID, caddy.Log())
		return nil
	}
	call := api{manager: app.manager(), ports: app.settings.Ports, requestID: requestID, log: app.settings.Log}
	call.serve(w, r)
	return nil
}

// Interface guards
var _ caddy.AdminRouter = (*AdminAPI)(nil)
