package caddymodule

import (
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"
)

// streaming prepares a request for what a dev server may make of it: events
// for hours, an answer that begins before the upload has ended, a WebSocket
// that is silent. What it returns takes the place of w and r; done is to be
// called when the request has been served.
func streaming(w http.ResponseWriter, r *http.Request) (_ http.ResponseWriter, _ *http.Request, done func()) {
	s := &streamWriter{ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w}}
	if s.upload = takeUpload(w, r); s.upload != nil {
		s.closeAfterwards(true)
		r = r.WithContext(r.Context()) // a copy
		r.Body = s.upload
	}
	return s, r, letBeSilent(r)
}

// streamWriter sees to the head of a response.
type streamWriter struct {
	caddyhttp.ResponseWriterWrapper
	upload *upload // nil where an answer before its end takes no care
}

// WriteHeader implements http.ResponseWriter.
func (s *streamWriter) WriteHeader(status int) {
	final := status >= http.StatusOK
	if final {
		keepEvents(s.Header())
	}
	if s.upload != nil {
		s.closeAfterwards(final && !s.upload.ended.Load())
	}
	s.ResponseWriterWrapper.WriteHeader(status)
	// Of a final one the header is left alone: encode writes it later.
	if s.upload != nil && !final {
		s.closeAfterwards(true)
	}
}

func (s *streamWriter) closeAfterwards(yes bool) {
	s.Header().Del("Connection")
	if yes {
		s.Header().Set("Connection", "close")
	}
}

// upload is the body of an HTTP/1.1 request that may be answered before it has
// ended. Of such a body net/http would read up to 256 KiB itself when the
// answer begins, to make way for the next request: the dev server would never
// get them, and the answer would wait for them. With full duplex it leaves the
// body alone. Then no other request may follow, however: the rest of the body
// would be taken for one, or end in a panic when the handler has returned. So
// the connection is closed after every answer, unless the body had ended when
// the answer began, as it nearly always has.
//
// On HTTP/2 and HTTP/3 each request is a stream of its own.
type upload struct {
	io.ReadCloser
	ended atomic.Bool
}

// takeUpload returns the body of r if an early answer takes care, else nil.
func takeUpload(w http.ResponseWriter, r *http.Request) *upload {
	if r.ProtoMajor != 1 || r.ContentLength == 0 || r.Header.Get("Upgrade") != "" {
		return nil
	}
	if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
		return nil // a writer of another module hides the connection: as with any proxy
	}
	return &upload{ReadCloser: r.Body}
}

func (u *upload) Read(p []byte) (int, error) {
	n, err := u.ReadCloser.Read(p)
	if err == io.EOF {
		u.ended.Store(true)
	}
	return n, err
}

// keepEvents keeps `encode`, and the proxies and caches in front of this
// server, from compressing a stream of events. Dev servers that know of the
// problem say the same of their streams.
func keepEvents(h http.Header) {
	const noTransform = "no-transform"
	kind, _, _ := strings.Cut(h.Get("Content-Type"), ";")
	if !strings.EqualFold(strings.TrimSpace(kind), "text/event-stream") ||
		httpguts.HeaderValuesContainsToken(h["Cache-Control"], noTransform) {
		return
	}
	h.Add("Cache-Control", noTransform)
}

// silence is how long a WebSocket may be silent: as good as for ever.
const silence = 365 * 24 * time.Hour

// letBeSilent lifts Caddy's limit of a minute between two reads of a request's
// body where that body is a WebSocket, as it is over HTTP/2 and HTTP/3: a
// client that only listens, as that of HMR does, sends nothing for hours.
func letBeSilent(r *http.Request) (restore func()) {
	reader, _ := caddyhttp.IdleTimeoutsFromContext(r.Context())
	if r.Method != http.MethodConnect || reader == nil {
		return func() {}
	}
	return reader.Override(silence, 0)
}
