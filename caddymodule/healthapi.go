package caddymodule

import (
	"net/http"
	"net/url"
	"runtime"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// healthPath is where the server tells how it is.
const healthPath = "/api/health"

// health is the Manager's, and the versions of what runs.
type health struct {
	instance.Health
	Versions map[string]string `json:"versions"`
}

// health answers with status 200 even where the server is degraded: it serves.
func (a *api) health(_ http.ResponseWriter, r *http.Request, _ string, _ url.Values) (reply, error) {
	how, err := a.manager.Health(r.Context())
	if err != nil {
		return reply{}, err
	}
	if advice := adviseOnPorts(a.ports); advice != "" {
		how.Advice = append(how.Advice, advice)
	}
	version, _ := caddy.Version()
	return reply{data: health{
		Health:   how,
		Versions: map[string]string{"caddy": version, "go": runtime.Version()},
	}}, nil
}

// confirm ends the degraded mode that follows a lost state file.
func (a *api) confirm(w http.ResponseWriter, r *http.Request, prefix string, query url.Values) (reply, error) {
	if err := decodeBody(w, r, &noBody{}); err != nil {
		return reply{}, err
	}
	if err := a.manager.Confirm(); err != nil {
		return reply{}, err
	}
	return a.health(w, r, prefix, query)
}
