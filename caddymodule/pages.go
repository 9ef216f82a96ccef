package caddymodule

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"math"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

//go:embed page.js
var pageScript string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// Our pages load nothing and show nothing that the request brought, but for the
// number of a port; the one script follows the start of the instance. They may
// be framed, as the dev servers in whose place they stand are; for those with a
// button see [App.framers].
var pagePolicy = "default-src 'none'; script-src " + hashOf(pageScript) + "; connect-src 'self'; style-src " + hashOf(pageStyle) +
	"; form-action 'self'; base-uri 'none'"

// hashOf is how a policy names a text that may stand in the page.
func hashOf(text string) string {
	hash := sha256.Sum256([]byte(text))
	return "'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) + "'"
}

// The pages by name. Operators may have their own in place of each: see
// [ownPages].
const (
	startingName = "starting" // it is on its way, and the page goes there by itself
	sleepingName = "sleeping" // it sleeps, and this visitor does not wake it
	stoppedName  = "stopped"  // its owner stopped or paused it
	failedName   = "failed"   // it ended by itself, or did not come up
	unknownName  = "unknown"  // there is no instance at this host
	errorName    = "error"    // all else, such as a dev server that does not answer
)

// Page is what a page is made of. Ours is, and so are the operator's own, for
// which it is the data of the template.
type Page struct {
	// Name is that of the page, such as starting.
	Name string
	// Status is that of the instance, as in the API; empty: there is none, or
	// the page is not about it. Reason is why it is so.
	Status instance.Status
	Reason string
	// Phase is how far it has come: starting, open (its port takes connections)
	// or ready; empty: it is not on its way.
	Phase instance.Phase
	// Title and Text are what our page says.
	Title string
	Text  string
	// Refresh is after how many seconds the page is to load again; zero: never.
	// Where Events is set, that is for browsers without scripts.
	Refresh int
	// Events is the path of the events that tell how the start goes; empty: none
	// does. An event status has the JSON {"status":…,"phase":…,"reason":…}, and
	// an event log a line of the log as JSON, for those who may see them.
	Events string
	// Start is the path that a form is to POST to, to start the instance again;
	// empty: this visitor may not, or not yet.
	Start string
	// Embedded tells that there would be a Start, if the page of another site did
	// not show this one in a frame: in a tab of its own, there is.
	Embedded bool
	// Unsent tells that the request was to bring something, such as a form, which
	// went nowhere. Loading the page again would ask to send it again.
	Unsent bool
	// Log are the last lines of its log, oldest first, for those who may see them.
	Log []string
	// Ports are what listens in the instance instead of the port that was asked
	// for; Partial tells that there may be more.
	Ports   []instance.OpenPort
	Partial bool
}

var (
	unknownPage  = Page{Name: unknownName, Title: "No sandbox here", Text: "There is no sandbox at this address. It may have been deleted."}
	timeoutPage  = Page{Title: "No answer", Text: "The dev server of this sandbox did not answer in time."}
	brokenPage   = Page{Title: "No answer", Text: "The dev server of this sandbox closed the connection before it answered."}
	silentPage   = Page{Title: "No answer yet", Text: "This sandbox runs, but its dev server does not answer yet. The page loads again by itself.", Refresh: 2}
	busyPage     = Page{Title: "Too much at once", Text: "This server has as many connections as it can. The page loads again by itself.", Refresh: 10}
	downPage     = Page{Title: "Not now", Text: "This server cannot start sandboxes at the moment. Try again in a few seconds."}
	noRoutesPage = Page{Title: "Not ready", Text: "This proxy does not know its sandboxes yet. The page loads again by itself.", Refresh: 2}
	foreignPage  = Page{Title: "Not from here", Text: "A page of another site sent you here, which this sandbox does not take. Open its address yourself."}
	deletingPage = Page{Title: "Being deleted", Text: "This sandbox is being deleted."}
)

// pageFor returns the page for an error that a visitor may meet, but for an
// instance that does not run.
func pageFor(e *instance.Error) (Page, bool) {
	switch e.Kind {
	case instance.NotFound:
		return unknownPage, true
	case foreignOrigin:
		return foreignPage, true
	case mayNotStart:
		return Page{Title: "Not for you to start", Text: sentence(e.Message)}, true
	case instance.Timeout:
		return timeoutPage, true
	case brokenOff:
		return brokenPage, true
	case instance.NotOpen:
		return noRoutesPage, true
	case instance.Overloaded:
		return busyPage, true
	case instance.RateLimited:
		return tooOftenPage(e), true
	case instance.EngineDown:
		return downPage, true
	case instance.NoSuchPort, instance.PortClosed:
		return portPage(e), true
	}
	return Page{}, false
}

// tooOftenPage says when to come again. It does not load again by itself: that
// would be nobody's visit, which starts nothing.
func tooOftenPage(e *instance.Error) Page {
	return Page{Title: "Too many starts", Text: "Sandboxes were started too often from here, or this one was. Try again in " + inSeconds(e.RetryAfter) + "."}
}

// inSeconds puts a time to wait into words, never too short.
func inSeconds(wait time.Duration) string {
	n := int(math.Ceil(wait.Seconds()))
	if n == 1 {
		return "1 second"
	}
	return fmt.Sprintf("%d seconds", n)
}

// portPage is that for an error about a port. Its message is for visitors too.
func portPage(e *instance.Error) Page {
	page := Page{Title: fmt.Sprintf("Nothing at port %v", e.Details["port"]), Text: sentence(e.Message)}
	if e.Kind == instance.PortClosed {
		page.Text += " The page loads again by itself."
		page.Refresh = 2
	}
	page.Ports, _ = e.Details["listening"].([]instance.OpenPort)
	complete, told := e.Details["complete"].(bool)
	page.Partial = told && !complete && len(page.Ports) > 0
	return page
}

func sentence(text string) string { return strings.ToUpper(text[:1]) + text[1:] + "." }

// wantsPage tells a person's browser, which navigates, from the rest: scripts,
// styles, fetches, command line tools.
func wantsPage(r *http.Request) bool {
	if mode := r.Header.Get("Sec-Fetch-Mode"); mode != "" {
		return mode == "navigate"
	}
	return strings.Contains(r.Header.Get("Accept"), "text/html")
}

// writePage answers with the page for err, and reports whether there is one.
func writePage(w http.ResponseWriter, r *http.Request, err error, log *zap.Logger) bool {
	e, ok := errors.AsType[*instance.Error](err)
	if !ok {
		return false
	}
	// Where there is no handler, there is no more to know than the error says.
	h, known := caddyhttp.GetVar(r.Context(), handlerVar).(*Handler)
	page, ok := pageFor(e)
	var own *ownPages
	switch {
	case known && (ok || e.Kind == instance.NotRunning):
		page, own = h.describe(r, e, page)
	case e.Kind == instance.NotRunning:
		status, _ := e.Details["status"].(instance.Status)
		reason, _ := e.Details["reason"].(string)
		page = standbyPage(status, reason)
	case !ok:
		return false
	}
	page.Name = cmp.Or(page.Name, errorName)
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		page = page.unsent(e.Kind)
	}
	body, policy, ok := render(page, own, log)
	if !ok {
		return false
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	if policy != "" {
		header.Set("Content-Security-Policy", policy)
	}
	if page.Start != "" {
		header.Add("Content-Security-Policy", "frame-ancestors "+h.app.framers(r.Host))
	}
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "same-origin") // it tells a form's answer where to lead back to
	setRetryAfter(w, e)
	if page.Name == startingName {
		header.Set("Retry-After", "1") // whatever was known of it when e came about
	}
	w.WriteHeader(failures[e.Kind].status)
	_, _ = w.Write(body) // that the client has gone is no concern of ours
	return true
}

// embedded is p in a frame on another site's page, which could have it clicked
// unseen.
func (p Page) embedded() Page {
	p.Start, p.Embedded = "", true
	if p.Name == sleepingName {
		p.Text = strings.Replace(p.Text, "You can wake it up.", "To wake it up, open it in a tab of its own.", 1)
	} else {
		p.Text += " To start it again, open it in a tab of its own."
	}
	return p
}

// unsent is p for a request that was to bring something. To load it again would
// send that again.
func (p Page) unsent(kind instance.Kind) Page {
	p.Refresh = 0
	p.Text = strings.Replace(p.Text, " It opens by itself once it is ready.", "", 1)
	p.Text = strings.Replace(p.Text, " The page loads again by itself.", "", 1)
	p.Unsent = kind == instance.NotRunning // then nothing of it got anywhere
	return p
}

// render makes the page, of the operator's own or else of ours, with the policy
// that goes with it.
func render(page Page, own *ownPages, log *zap.Logger) (body []byte, policy string, ok bool) {
	if body, ok := own.render(page, log); ok {
		return body, "", true // what theirs may do, they say themselves
	}
	var made bytes.Buffer
	err := pageTemplate.Execute(&made, struct {
		Page
		Style  template.CSS
		Script template.JS
	}{page, template.CSS(pageStyle), template.JS(pageScript)}) //nolint:gosec // embedded, not from a stranger
	if err != nil {
		log.Error("making a page", zap.Error(err))
	}
	return made.Bytes(), pagePolicy, err == nil
}

// standbyPage is that of an instance of which only its status is known.
func standbyPage(status instance.Status, reason string) Page {
	page := Page{Status: status, Reason: reason}
	switch status {
	case instance.Creating, instance.Starting:
		page.Name, page.Title = startingName, "Starting"
		page.Text, page.Refresh = "This sandbox is starting. The page loads again by itself.", 2
	case instance.Stopping:
		page.Title, page.Text = "Stopping", "This sandbox is being stopped."
	case instance.Stopped, instance.Paused:
		page.Name, page.Title = stoppedName, "Stopped"
		page.Text = "This sandbox is stopped. Its owner can start it again."
	case instance.Failed:
		page.Name, page.Title = failedName, "Failed"
		page.Text = "This sandbox has failed. Its owner can see why, and start it again."
	case instance.Deleting:
		return deletingPage
	default:
		return silentPage
	}
	return page
}
