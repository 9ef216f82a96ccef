package caddymodule

import (
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
)

// longestHost is what the name of a host can be (253), a dot at its end, and a
// port.
const longestHost = 253 + len(".:65535")

// boundLog keeps the host of a refused request from filling the access log:
// Caddy writes it as it came, and 20 KB may come. Where it is longer
// than any host can be, a line of our own stands in for Caddy's, if the server
// has an access log.
func boundLog(r *http.Request, requestID string, log *zap.Logger) {
	if len(r.Host) <= longestHost {
		return
	}
	caddyhttp.SetVar(r.Context(), caddyhttp.LogSkipVar, true)
	server, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	if c := log.Check(zap.InfoLevel, "refused a host that is longer than any name"); c != nil {
		c.Write(
			zap.String("host", request.Shorten(r.Host)),
			zap.Int("host_bytes", len(r.Host)),
			zap.String("remote", r.RemoteAddr),
			zap.String("method", r.Method),
			zap.String("request_id", requestID),
		)
	}
}
