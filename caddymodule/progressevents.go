package caddymodule

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const (
	// heartbeat keeps proxies on the way from taking silence for the end.
	heartbeat = 15 * time.Second
	// restPatience is how long an instance that rests has to begin to wake.
	restPatience = 5 * time.Second
	// linePause bounds how often lines are sent. A container that prints without
	// end has the last of them shown.
	linePause = 50 * time.Millisecond
	// slowest is how long a client may take to take what is written.
	slowest = 10 * time.Second
)

// viewers are those who follow a start, of this process, which all
// configurations share. What comes too much loads its page again from time to
// time, as browsers without scripts do. A share is what a person has open, and
// a few more behind the same address.
var viewers = newCrowd(1000, 100, 20)

// serveEvents tells how the start of an instance goes, until it is over.
func (h *Handler) serveEvents(w http.ResponseWriter, r *http.Request, prefix string) error {
	if err := allowMethod(w, r, http.MethodGet); err != nil {
		return err
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return instance.Errorf(foreignOrigin, "only the sandbox's own pages follow its start").With("origin", request.Shorten(r.Header.Get("Origin")))
	}
	p, _, err := h.app.manager().Progress(prefix)
	if err != nil {
		return err
	}
	leave, ok := viewers.join(prefix, clientOf(r))
	if !ok {
		return &instance.Error{
			Kind:       instance.Overloaded,
			Message:    "too many follow the start of this instance, or starts from this address, or on this server: try again in a few seconds",
			RetryAfter: 5 * time.Second,
		}
	}
	defer leave()
	if r.ProtoMajor == 1 && !openFiles.takeForStream() { // over others, it is a part of a connection that others use
		h.refuseStream(w, r)
		return nil
	}
	var output *instance.Output
	if h.app.edgeOf(p.Template).showsLog(r) {
		if output, err = h.app.manager().Output(prefix); err != nil {
			return err
		}
		defer output.Close()
	}
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store, no-transform")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Accel-Buffering", "no") // or nginx before us keeps them to itself
	w.WriteHeader(http.StatusOK)
	s := &eventStream{w: w, control: http.NewResponseController(w)}
	defer s.end()
	s.follow(r.Context(), h, prefix, output)
	return nil
}

// eventStream is the answer to one who follows a start.
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
	told    string // the last status
	gone    bool   // nobody takes what is written
}

// follow returns when the start is over, nobody reads on, or the configuration
// ends: browsers then come again. output is nil for those who may not see it.
func (s *eventStream) follow(ctx context.Context, h *Handler, prefix string, output *instance.Output) {
	s.write("retry: 1000\n\n")
	beat := time.NewTicker(heartbeat)
	defer beat.Stop()
	var rested <-chan time.Time
	for !s.gone {
		p, changed, err := h.app.manager().Progress(prefix)
		more := s.passOn(output)
		s.tell(p, err)
		switch {
		case err != nil || isOver(p):
			return
		case p.Phase != "" || p.Status == instance.Stopping:
			rested = nil
		case rested == nil:
			rested = time.After(restPatience)
		}
		select {
		case <-changed:
		case <-more:
			pause := time.NewTimer(linePause)
			select {
			case <-pause.C:
			case <-changed:
			case <-ctx.Done():
			}
			pause.Stop()
		case <-beat.C:
			s.write(":\n\n")
		case <-rested:
			return
		case <-h.ending:
			return
		case <-ctx.Done():
			return
		}
	}
}

// isOver reports whether nothing more is to be waited for.
func isOver(p instance.Progress) bool {
	switch p.Status {
	case instance.Failed, instance.Deleting:
		return true
	case instance.Stopped, instance.Paused:
		return !p.Wakes()
	}
	return p.Phase == instance.PhaseReady
}

// progress is the data of an event status.
type progress struct {
	Status instance.Status `json:"status"` // deleted: there is none any more
	Phase  instance.Phase  `json:"phase"`
	Reason string          `json:"reason"`
}

// tell sends the status, if that is news.
func (s *eventStream) tell(p instance.Progress, err error) {
	now := progress{p.Status, p.Phase, p.Reason}
	if err != nil {
		now.Status = "deleted"
	}
	data, _ := json.Marshal(now) // texts only
	if string(data) != s.told {
		s.told = string(data)
		s.write("event: status\ndata: " + s.told + "\n\n")
	}
}

// passOn sends the lines that are new, and returns what tells of more.
func (s *eventStream) passOn(output *instance.Output) (more <-chan struct{}) {
	if output == nil {
		return nil
	}
	lines, more := output.Next()
	for _, line := range lines {
		data, _ := json.Marshal(line) // a text
		s.write(fmt.Sprintf("event: log\ndata: %s\n\n", data))
	}
	return more
}

func (s *eventStream) write(text string) {
	if s.gone {
		return
	}
	_ = s.control.SetWriteDeadline(time.Now().Add(slowest)) // HTTP/3 has none, and limits of its own
	_, err := s.w.Write([]byte(text))
	if err == nil {
		err = s.control.Flush()
	}
	s.gone = err != nil
}

// end leaves the connection to what comes after.
func (s *eventStream) end() { _ = s.control.SetWriteDeadline(time.Time{}) }

// endsStreams has the streams of h end when its configuration does: neither a
// reload nor the end of the process is to wait for them. It is called in
// Provision.
func (h *Handler) endsStreams(ctx caddy.Context) error {
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting the events app: %w", err)
	}
	ending := make(chan struct{})
	h.ending = ending
	return events.(*caddyevents.App).On("stopping", endOfStreams{sync.OnceFunc(func() { close(ending) })})
}

// endOfStreams hears of the end of the configuration that it belongs to, before
// the http app does.
type endOfStreams struct{ end func() }

// Handle implements caddyevents.Handler.
func (e endOfStreams) Handle(context.Context, caddy.Event) error {
	e.end()
	return nil
}

// Interface guards
var _ caddyevents.Handler = endOfStreams{}
