package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/caddymodule/visit"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// glance is how long a navigation waits for the instance that it wakes, before
// a page stands in: what is paused is back by then, and nobody has wondered yet.
const glance = time.Second

// reception is what becomes of a request for an instance that does not run; of
// the zero value, an answer that says so at once.
type reception struct {
	wakes bool          // it may start one that sleeps
	waits time.Duration // for a start that is under way, or that it began
}

// receive decides by who sends a request, and what for. Machines, pings,
// WebSockets and reloads wake nothing: somebody's open tab has many of them.
func (e edge) receive(kind visit.Kind, authenticated bool) reception {
	wakes := authenticated
	switch e.wake {
	case wakeNever:
		wakes = false
	case wakeAny:
		wakes = true
	case wakeNavigate:
		wakes = wakes || kind == visit.Navigation
	}
	switch {
	case kind == visit.Call:
		return reception{wakes, e.hold}
	case kind == visit.Navigation && wakes:
		return reception{wakes, min(glance, e.hold)}
	}
	return reception{}
}

// isAuthenticated reports whether a handler before us has found out who sends r.
func isAuthenticated(r *http.Request) bool {
	repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	id, _ := repl.GetString("http.auth.user.id")
	return id != ""
}

// lease returns a lease on the instance that r is for; of one that does not
// run, once it does, if r is to wait for that. The error is for the client.
func (h *Handler) lease(r *http.Request, t request.Target) (*instance.Lease, error) {
	lease, err := h.app.acquire(r, t)
	if instance.KindOf(err) != instance.NotRunning {
		return lease, err
	}
	in, getErr := h.get(t.Prefix)
	if getErr != nil {
		return nil, getErr
	}
	kind := h.app.kindOf(r)
	how := h.app.edgeOf(in.Template).receive(kind, isAuthenticated(r))
	if how == (reception{}) {
		return nil, err
	}
	if err := h.checkOrigin(r, t.Prefix, instance.Mode{Dev: in.Dev, HostHeader: in.HostHeader}); err != nil {
		return nil, err
	}
	lease, err = h.waitFor(r, t, how)
	if kind == visit.Navigation && instance.KindOf(err) == instance.Overloaded {
		return h.app.acquire(r, t) // the page tells how far it is
	}
	return lease, err
}

// acquire takes a lease on t for r. Being asked by machines is no use of an
// instance, unless somebody let them in: an agent is known by who it is, not by
// what it calls itself. Nor is it a use that a forgotten tab asks whether it is
// back, or loads itself again, as pages of ours do; what a page of an app's then
// asks for is. It is none, either, what pages of strangers show in frames.
func (a *App) acquire(r *http.Request, t request.Target) (*instance.Lease, error) {
	rests := false
	switch a.kindOf(r) {
	case visit.Ping, visit.Reload:
		rests = true
	case visit.Machine, visit.Frame:
		rests = !isAuthenticated(r)
	}
	if rests {
		return a.manager().AcquireResting(t.Prefix, t.Port)
	}
	return a.manager().Acquire(t.Prefix, t.Port)
}

// held are the requests of this process that wait for a start, which all
// configurations share. Each costs about what one to a slow dev server does:
// up to 40 KiB. A share is more than the tabs of a person ask for at once.
var held = newCrowd(8192, 2048, 256)

// waitFor begins or joins the start of an instance and waits for it as long as
// r is to; the start goes on without it. The body of r is not touched. Where
// there is no place to wait, the start begins all the same.
//
// Over HTTP/1.1, a client that leaves is noticed at once only if it sent no
// body: net/http looks no further until that has been read.
func (h *Handler) waitFor(r *http.Request, t request.Target, how reception) (*instance.Lease, error) {
	if h.app.engine.leaving.Err() != nil {
		return nil, errLeaving()
	}
	leave, ok := held.join(t.Prefix, clientOf(r))
	if ok {
		defer leave()
	} else {
		how.waits = 0
	}
	ctx, cancel := context.WithTimeout(instance.WithRequestID(r.Context(), requestID(r)), how.waits)
	defer cancel()
	stop := context.AfterFunc(h.app.engine.leaving, cancel)
	defer stop()
	for {
		var err error
		if how.wakes {
			_, err = h.app.manager().Wake(ctx, t.Prefix, h.permit(r))
		} else {
			_, err = h.app.manager().AwaitStart(ctx, t.Prefix)
		}
		if err != nil && !endedBy(ctx, err) {
			return h.withoutStart(r, t, err)
		}
		lease, err := h.app.acquire(r, t)
		switch {
		case err == nil:
			lease.Held = true
			return lease, nil
		case instance.KindOf(err) != instance.NotRunning: // it is gone
			return nil, err
		case h.app.engine.leaving.Err() != nil:
			return nil, errLeaving()
		case !ok:
			return nil, errCrowded()
		case ctx.Err() != nil:
			return nil, err
		}
		// It was put to sleep again, before its visitor had his turn.
	}
}

// permit takes the start that r causes out of the budget of whoever sent it.
func (h *Handler) permit(r *http.Request) instance.Permit {
	return func() (giveBack func(), err error) { return h.app.engine.wakes.take(clientOf(r), h.app.wakeBudget) }
}

// endedBy reports whether err only says that ctx has ended.
func endedBy(ctx context.Context, err error) bool {
	return ctx.Err() != nil && instance.KindOf(err) == instance.Internal
}

// withoutStart is what a visitor is told after err: how the instance is now. Why
// it did not start is in its reason, or else in the log, where its owner finds it.
func (h *Handler) withoutStart(r *http.Request, t request.Target, err error) (*instance.Lease, error) {
	switch instance.KindOf(err) {
	case instance.Overloaded, instance.RateLimited:
		return nil, err
	case instance.EngineDown:
		return nil, &instance.Error{
			Kind:       instance.EngineDown,
			Message:    "instances cannot be started at the moment: the server's container engine does not answer",
			RetryAfter: 5 * time.Second,
		}
	}
	lease, now := h.app.acquire(r, t)
	e, ok := errors.AsType[*instance.Error](now)
	if ok && e.Details["status"] == instance.Stopped && instance.KindOf(err) != instance.NotRunning {
		e.Message = "the instance could not be started: try again in a few seconds"
	}
	return lease, now
}

func errCrowded() error {
	return &instance.Error{
		Kind:       instance.Overloaded,
		Message:    "too many visitors wait for an instance to start: try again in a few seconds",
		RetryAfter: 2 * time.Second,
	}
}

func errLeaving() error {
	return &instance.Error{
		Kind:       instance.Overloaded,
		Message:    "the server is shutting down: try again in a few seconds",
		RetryAfter: 5 * time.Second,
	}
}

// turnAway answers a request that reaches no dev server. To the pages of Vite up
// to 5 any answer to a ping says that their server is back: they would load
// again, which is a visit, and so wake what sleeps. They get none.
func (h *Handler) turnAway(w http.ResponseWriter, r *http.Request, err error) {
	if visit.Of(r) == visit.Ping && !beginsStream(r) && failures[instance.KindOf(err)].status >= http.StatusInternalServerError {
		panic(http.ErrAbortHandler)
	}
	refuse(w, r, err, h.app.settings.Log)
}

// endsWaits has the requests that wait for an instance of a end with the process.
// It is called in Provision.
func endsWaits(ctx caddy.Context, a *App) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	return events.(*caddyevents.App).On("stopping", endOfWaits{a})
}

// endOfWaits lets requests that wait for an instance go when the process ends,
// which else would wait for them. It hears of that before the http app does.
type endOfWaits struct{ app *App }

// Handle implements caddyevents.Handler.
func (e endOfWaits) Handle(context.Context, caddy.Event) error {
	if caddy.Exiting() {
		e.app.engine.leave()
	}
	return nil
}

// Interface guards
var _ caddyevents.Handler = endOfWaits{}
