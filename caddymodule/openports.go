package caddymodule

import (
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// explainPort turns the failure of a request for a further port, which nothing
// answered on, into what there is to say of ports.
func (h *Handler) explainPort(r *http.Request, lease *instance.Lease, failed *instance.Error) error {
	port := lease.ContainerPort
	if port == 0 || failed.Kind != instance.NotRunning || failed.Details["status"] != instance.Running {
		return failed
	}
	if caddyhttp.GetVar(r.Context(), noWayVar) != nil {
		return instance.Errorf(instance.NoSuchPort, "port %d cannot be reached from here: this proxy has no way to the container "+
			"but its published port, which leads to the dev server alone; use upstream auto, on the host of the Docker Engine", port).
			With("port", port)
	}
	e := &instance.Error{
		Kind:       instance.PortClosed,
		Message:    "nothing that can be reached listens on this port of the instance: start it, on 0.0.0.0",
		RetryAfter: time.Second,
		Err:        failed.Err,
	}
	return h.withOpenPorts(r, lease.Prefix, e.With("port", port))
}

// withOpenPorts adds to an error about a port what listens instead, if that can
// be told: details listening, and whether that is all.
func (h *Handler) withOpenPorts(r *http.Request, prefix string, err error) error {
	e, ok := err.(*instance.Error) //nolint:errorlint // as Acquire and explainPort make them
	if !ok || e.Kind != instance.NoSuchPort && e.Kind != instance.PortClosed {
		return err
	}
	open, known := h.app.manager().OpenPorts(r.Context(), prefix)
	if open == nil {
		open = []instance.OpenPort{} // never null
	}
	return e.With("listening", open).With("complete", known)
}
