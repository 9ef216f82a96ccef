package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// tlsBudget is how many certificates may be made on demand in any window of
// time. A nil one is no limit.
type tlsBudget struct {
	limit  int
	window time.Duration
	text   string // as it was written
}

func (b *tlsBudget) String() string { return b.text }

var budgetWindows = map[string]time.Duration{
	"hour": time.Hour,
	"day":  24 * time.Hour,
	"week": longestWindow,
}

// parseTLSBudget reads "<number>/<hour, day or week>"; empty is no limit.
func parseTLSBudget(s string) (*tlsBudget, error) {
	if s == "" {
		return nil, nil
	}
	number, per, _ := strings.Cut(s, "/")
	limit, err := strconv.Atoi(number)
	window := budgetWindows[per]
	switch {
	case err != nil || window == 0:
		return nil, fmt.Errorf("%q is not a budget: write <number>/hour, /day or /week, such as 40/week", s)
	case limit < 1 || limit > mostIssuances:
		return nil, fmt.Errorf("%q: the number is not from 1 to %d", s, mostIssuances)
	}
	return &tlsBudget{limit, window, s}, nil
}

// provisionTLSBudget reads the word and has the budget asked about every order.
//
// The permission is not the place to count: it is asked about certificates that
// are only to be loaded from storage, and about renewals. Right before an order
// the event cert_obtaining comes, under the lock of that name and only where
// storage has no certificate for it, and whoever handles it can call the order
// off.
func (a *App) provisionTLSBudget(ctx caddy.Context, expand expander) (err error) {
	if a.budget, err = parseTLSBudget(expand(a.TLSBudget)); err != nil {
		return fmt.Errorf("sandbox: tls_budget: %w", err)
	}
	if a.budget == nil {
		return nil
	}
	app, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("sandbox: tls_budget: %w", err)
	}
	return app.(*caddyevents.App).Subscribe(&caddyevents.Subscription{
		Events:   []string{"cert_obtaining", "cert_failed"},
		Modules:  []caddy.ModuleID{"tls"},
		Handlers: []caddyevents.Handler{orderHandler{a}},
	})
}

// orderHandler is told of the orders of certificates. Those of a handshake that
// outlives its configuration it is not told of: Caddy drops the events.
type orderHandler struct{ app *App }

// Handle implements caddyevents.Handler. Renewals, and certificates for other
// hosts than those of instances, are none of the budget's business.
func (h orderHandler) Handle(_ context.Context, event caddy.Event) error {
	host, _ := event.Data["identifier"].(string)
	renewal, _ := event.Data["renewal"].(bool)
	switch {
	case renewal:
		return nil
	case event.Name() == "cert_failed": // also of an instance that was deleted meanwhile
		return h.app.engine.ledger.giveBack(host)
	case !h.app.isHost(host):
		return nil
	}
	if err := h.app.spend(host); err != nil {
		// Without ErrNoRetry the handshake would wait, and ask again in a minute.
		return fmt.Errorf("%w: %w", caddy.ErrEventAborted, certmagic.ErrNoRetry{Err: err})
	}
	return nil
}

// spend takes a certificate for host out of the budget, or says why there is
// none.
func (a *App) spend(host string) error {
	const nearly = 0.8
	log := a.settings.Log.With(zap.Stringer("budget", a.budget))
	ledger := a.engine.ledger
	used, err := ledger.take(host, a.budget)
	if refused, ok := errors.AsType[*spentError](err); ok {
		if ledger.firstTime(spent, a.budget) {
			log.Error("tls_budget is spent: instances that have no certificate yet get none, until the oldest one in the budget has left it",
				zap.String("host", host), zap.Time("until", refused.until))
		}
		return err
	}
	if err != nil {
		log.Error("no certificate is ordered, for it could not be counted", zap.String("host", host), zap.Error(err))
		return err
	}
	if float64(used) >= nearly*float64(a.budget.limit) && ledger.firstTime(nearlySpent, a.budget) {
		log.Warn("tls_budget is nearly spent", zap.Int("used", used))
	}
	return nil
}

// mayOrder returns why there is no use in trying to get a certificate for host:
// trying would write to storage and to the log, at each handshake.
func (a *App) mayOrder(host string) error {
	if a.budget == nil {
		return nil
	}
	if err := a.engine.ledger.refuses(host, a.budget); err != nil {
		return fmt.Errorf("%w: %w", err, caddytls.ErrPermissionDenied)
	}
	return nil
}

// Interface guards
var _ caddyevents.Handler = orderHandler{}
