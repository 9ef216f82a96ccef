package caddymodule

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

//go:embed page.html
var pageSource string

//go:embed page.css
var pageStyle string

var pageTemplate = template.Must(template.New("page").Parse(pageSource))

// The pages carry no script, load nothing and show nothing that the request
// brought, but for the number of a port. They may be framed, as the dev servers
// in whose place they stand are by app builders; there is nothing on them to
// click but the way to another port of the same instance.
var pagePolicy = func() string {
	hash := sha256.Sum256([]byte(pageStyle))
	return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(hash[:]) +
		"'; base-uri 'none'; form-action 'none'; frame-ancestors *"
}()

// pageText is what a page says.
type pageText struct {
	Title string
	Text  string
	// Refresh is after how many seconds the page loads again; zero: never.
	Refresh int
	// Ports are what listens in the instance instead; Partial tells that there
	// may be more.
	Ports   []instance.OpenPort
	Partial bool
	Style   template.CSS
}

var (
	unknownPage  = pageText{Title: "No sandbox here", Text: "There is no sandbox at this address. It may have been deleted."}
	timeoutPage  = pageText{Title: "No answer", Text: "The dev server of this sandbox did not answer in time."}
	brokenPage   = pageText{Title: "No answer", Text: "The dev server of this sandbox closed the connection before it answered."}
	silentPage   = pageText{Title: "No answer yet", Text: "This sandbox runs, but its dev server does not answer yet. The page loads again by itself.", Refresh: 2}
	busyPage     = pageText{Title: "Too much at once", Text: "This server has as many connections as it can. The page loads again by itself.", Refresh: 10}
	tooOftenPage = pageText{Title: "Too many starts", Text: "Sandboxes were started too often from here, or this one was. The page loads again by itself.", Refresh: 10}
	downPage     = pageText{Title: "Not now", Text: "This server cannot start sandboxes at the moment. The page loads again by itself.", Refresh: 10}
	noRoutesPage = pageText{Title: "Not ready", Text: "This proxy does not know its sandboxes yet. The page loads again by itself.", Refresh: 2}
	foreignPage  = pageText{Title: "Not from here", Text: "A page of another site sent you here, which this sandbox does not take. Open its address yourself."}
	startingPage = pageText{Title: "Starting", Text: "This sandbox is starting. The page loads again by itself.", Refresh: 2}
)

var statusPages = map[instance.Status]pageText{
	instance.Creating: startingPage,
	instance.Starting: startingPage,
	instance.Running:  silentPage,
	instance.Stopping: {Title: "Stopping", Text: "This sandbox is being stopped."},
	instance.Stopped:  {Title: "Stopped", Text: "This sandbox is stopped. Whoever made it can start it again."},
	instance.Failed:   {Title: "Failed", Text: "This sandbox has failed. Whoever made it can see why, and start it again."},
	instance.Deleting: {Title: "Being deleted", Text: "This sandbox is being deleted."},
}

// pageFor returns the page for an error that a visitor may meet.
func pageFor(e *instance.Error) (pageText, bool) {
	switch e.Kind {
	case instance.NotFound:
		return unknownPage, true
	case foreignOrigin:
		return foreignPage, true
	case instance.Timeout:
		return timeoutPage, true
	case brokenOff:
		return brokenPage, true
	case instance.NotOpen:
		return noRoutesPage, true
	case instance.Overloaded:
		return busyPage, true
	case instance.RateLimited:
		return tooOftenPage, true
	case instance.EngineDown:
		return downPage, true
	case instance.NotRunning:
		status, _ := e.Details["status"].(instance.Status)
		page, ok := statusPages[status]
		return page, ok
	case instance.NoSuchPort, instance.PortClosed:
		return portPage(e), true
	}
	return pageText{}, false
}

// portPage is that for an error about a port. Its message is for visitors too.
func portPage(e *instance.Error) pageText {
	page := pageText{Title: fmt.Sprintf("Nothing at port %v", e.Details["port"]), Text: sentence(e.Message)}
	if e.Kind == instance.PortClosed {
		page.Text += " The page loads again by itself."
		page.Refresh = 2
	}
	page.Ports, _ = e.Details["listening"].([]instance.OpenPort)
	complete, told := e.Details["complete"].(bool)
	page.Partial = told && !complete
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
func writePage(w http.ResponseWriter, err error) bool {
	e, ok := errors.AsType[*instance.Error](err)
	if !ok {
		return false
	}
	page, ok := pageFor(e)
	if !ok {
		return false
	}
	page.Style = template.CSS(pageStyle) //nolint:gosec // embedded, not from a stranger
	var body bytes.Buffer
	if pageTemplate.Execute(&body, page) != nil {
		return false
	}
	header := w.Header()
	header.Set("Content-Type", "text/html; charset=utf-8")
	header.Set("Content-Security-Policy", pagePolicy)
	header.Set("Cache-Control", "no-store")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Referrer-Policy", "no-referrer")
	setRetryAfter(w, e)
	w.WriteHeader(failures[e.Kind].status)
	_, _ = w.Write(body.Bytes()) // that the client has gone is no concern of ours
	return true
}
