package caddymodule

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// sparesReloads keeps `grace_period` from cutting HTTP/3 connections at a
// reload. Of HTTP/1.1 and HTTP/2, Caddy leaves what still goes on when the
// period is over to its own end, since the process lives on; of HTTP/3 it
// closes all connections of the old configuration then, with their downloads,
// uploads and events. Without a period it waits for their end, as with the
// others. When the process ends, the period holds, for what earlier
// configurations have left open, too.
//
// It is called in Provision of handlers whose streams are to outlive reloads.
func sparesReloads(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	return events.(*caddyevents.App).On("stopping", spareReload{ctx})
}

// spareReload hears of the end of the configuration that it belongs to, before
// the http app does, and on the same goroutine.
type spareReload struct{ ctx caddy.Context }

// Handle implements caddyevents.Handler.
func (s spareReload) Handle(context.Context, caddy.Event) error {
	if caddy.Exiting() {
		return nil
	}
	app, err := s.ctx.AppIfConfigured("http")
	if err != nil {
		return fmt.Errorf("getting the http app: %w", err)
	}
	app.(*caddyhttp.App).GracePeriod = 0
	return nil
}

// Interface guards
var _ caddyevents.Handler = spareReload{}
