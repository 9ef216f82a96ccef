package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
)

// wakePolicy says whose requests start an instance that sleeps.
type wakePolicy string

// The policies. Machines, pings and WebSockets wake nothing, whatever it is.
const (
	wakeNavigate      wakePolicy = "navigate"      // people who open a page, and calls of authenticated ones
	wakeAny           wakePolicy = "any"           // those, and all calls
	wakeAuthenticated wakePolicy = "authenticated" // those whom Caddy has authenticated
	wakeNever         wakePolicy = "never"         // nobody's: the API alone does
)

// socketActivity says what about an open WebSocket counts as use of its instance.
type socketActivity string

// The choices.
const (
	socketData socketActivity = "data" // what passes over it, but for keep-alives
	socketOpen socketActivity = "open" // that it is open
	socketNone socketActivity = "none" // nothing
)

// logsFor says who sees the last lines of an instance's log on the pages that
// stand in for it.
type logsFor string

// The choices.
const (
	logsAuthenticated logsFor = "authenticated" // those whom Caddy has authenticated
	logsAnyone        logsFor = "anyone"
	logsNobody        logsFor = "nobody"
)

// defaultHold is how long a call is held while its instance starts.
const defaultHold = 30 * time.Second

// maxHold bounds it: clients and proxies give up before.
const maxHold = 10 * time.Minute

// edge is the part of a template that visitors meet. It belongs to the
// configuration in force, for the instances that exist as well.
type edge struct {
	wake   wakePolicy
	hold   time.Duration
	socket socketActivity
	logs   logsFor
	own    *ownPages // the operator's own pages; nil: ours
}

// edge checks what t says to visitors.
func (t *Template) edge(defaults *Template, expand expander) (edge, error) {
	if t == nil {
		t = new(Template)
	}
	if defaults == nil {
		defaults = new(Template)
	}
	made := edge{
		wake:   wakePolicy(expand(cmp.Or(t.Wake, defaults.Wake, string(wakeNavigate)))),
		hold:   defaultHold,
		socket: socketActivity(expand(cmp.Or(t.WebSocketActivity, defaults.WebSocketActivity, string(socketData)))),
		logs:   logsFor(expand(cmp.Or(t.PageLogs, defaults.PageLogs, string(logsAuthenticated)))),
	}
	if hold := cmp.Or(t.Hold, defaults.Hold); hold != nil {
		made.hold = time.Duration(*hold)
	}
	switch {
	case !slices.Contains([]wakePolicy{wakeNavigate, wakeAny, wakeAuthenticated, wakeNever}, made.wake):
		return made, fmt.Errorf("wake: %q is not navigate, any, authenticated or never", request.Shorten(string(made.wake)))
	case !slices.Contains([]socketActivity{socketData, socketOpen, socketNone}, made.socket):
		return made, fmt.Errorf("websocket_activity: %q is not data, open or none", request.Shorten(string(made.socket)))
	case !slices.Contains([]logsFor{logsAuthenticated, logsAnyone, logsNobody}, made.logs):
		return made, fmt.Errorf("page_logs: %q is not authenticated, anyone or nobody", request.Shorten(string(made.logs)))
	case made.hold < 0 || made.hold > maxHold:
		return made, errors.New("hold: it must be from 0 to 10m")
	}
	var err error
	if made.own, err = loadPages(expand(cmp.Or(t.Pages, defaults.Pages))); err != nil {
		return made, fmt.Errorf("pages: %w", err)
	}
	return made, nil
}

// edgeOf returns what visitors of instances of a template meet. One that was
// taken out of the configuration is like one that says nothing; so is none.
func (a *App) edgeOf(template string) edge {
	if found, ok := a.edges[template]; ok {
		return found
	}
	return a.edges[""]
}
