package caddymodule

import (
	"fmt"
	"math"
	"net/http"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/visit"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// describe returns the page for e as the instance that r is for is now, and the
// operator's own pages for it. page is what the error alone says.
func (h *Handler) describe(r *http.Request, e *instance.Error, page Page) (Page, *ownPages) {
	target, ok := h.app.resolve(r.Host)
	var p instance.Progress
	if ok {
		var err error
		p, _, err = h.app.manager().Progress(target.Prefix)
		ok = err == nil
	}
	if !ok { // it is gone, or never was
		if e.Kind == instance.NotRunning {
			page = unknownPage
		}
		return page, h.app.edgeOf("").own
	}
	edge := h.app.edgeOf(p.Template)
	if e.Kind == instance.NotRunning {
		page = h.statusPage(r, target.Prefix, p, edge)
	}
	return page, edge.own
}

// statusPage is that of an instance that does not run, or does not answer.
func (h *Handler) statusPage(r *http.Request, prefix string, p instance.Progress, edge edge) Page {
	var page Page
	kind := h.app.kindOf(r)
	switch p.Status {
	case instance.Running:
		if p.Phase == instance.PhaseReady {
			page = silentPage
			break
		}
		page = startingPage
	case instance.Creating, instance.Starting:
		page = startingPage
	case instance.Failed:
		page = failedPage(p, edge.mayStart(r))
		if edge.showsLog(r) {
			page.Log = h.app.manager().LastLines(r.Context(), prefix)
		}
	case instance.Deleting:
		page = deletingPage
	default:
		page = edge.restingPage(r, kind, p)
	}
	if page.Start != "" && kind == visit.Frame {
		page = page.embedded()
	}
	page.Status, page.Reason, page.Phase = p.Status, p.Reason, p.Phase
	return page
}

// startingPage follows a start.
var startingPage = Page{
	Name: startingName, Title: "Starting", Text: "This sandbox is starting. It opens by itself once it is ready.",
	Refresh: 2, Events: eventsPath,
}

// restingPage is that of an instance that is stopped, paused, or just about to
// be.
func (e edge) restingPage(r *http.Request, kind visit.Kind, p instance.Progress) Page {
	switch {
	case !p.Wakes() && p.Status == instance.Paused:
		return Page{Name: stoppedName, Title: "Paused", Text: "Its owner has paused this sandbox. Only its owner can resume it."}
	case !p.Wakes():
		return Page{Name: stoppedName, Title: "Stopped", Text: "Its owner has stopped this sandbox. Only its owner can start it again."}
	case e.receive(kind, isAuthenticated(r)).wakes:
		return startingPage // it is being woken
	}
	page := Page{Name: sleepingName, Title: "Asleep", Text: "This sandbox sleeps. "}
	if p.Reason == instance.ReasonIdle {
		page.Text = "Nobody has used this sandbox for a while, so it sleeps. "
	}
	switch {
	case e.mayStart(r): // a tab that loaded itself again, or sent a form; or one whose browser bears the name of a robot
		page.Text += "You can wake it up."
		page.Start = startPath
	case e.wake == wakeNever:
		page.Text += "Its owner can start it again."
	default:
		page.Text += "It wakes up when somebody opens it who has signed in."
	}
	return page
}

// failedPage says why, and has a button for those who may start it.
func failedPage(p instance.Progress, mayStart bool) Page {
	page := Page{Name: failedName, Title: "Failed", Text: failureText(p.Reason)}
	switch {
	case !mayStart:
		page.Text += " Its owner can start it again."
	case p.StartIn > 0:
		page.Text += fmt.Sprintf(" It has failed %d times in a row, so it can only be started again in %s.", p.Failures, inSeconds(p.StartIn))
		page.Refresh = int(math.Ceil(p.StartIn.Seconds()))
	default:
		page.Start = startPath
	}
	return page
}

// failureText puts the reason of a failure into a sentence.
func failureText(reason string) string {
	code, why, _ := strings.Cut(strings.TrimPrefix(reason, "exited "), ": ")
	switch {
	case strings.HasPrefix(reason, "exited ") && why == "":
		return "The dev server of this sandbox ended with exit code " + code + "."
	case strings.HasPrefix(reason, "exited "):
		return "The dev server of this sandbox was ended: " + why + " (exit code " + code + ")."
	case reason == "never became ready":
		return "The dev server of this sandbox did not answer in time."
	case reason == "":
		return "This sandbox has failed."
	}
	return "This sandbox has failed: " + reason + "."
}

// mayStart reports whether whoever sends r may start an instance that failed:
// those whose visit would wake it if it slept.
func (e edge) mayStart(r *http.Request) bool {
	return e.receive(visit.Navigation, isAuthenticated(r)).wakes
}

// showsLog reports whether whoever sends r may see an instance's log.
func (e edge) showsLog(r *http.Request) bool {
	return e.logs == logsAnyone || e.logs == logsAuthenticated && isAuthenticated(r)
}
