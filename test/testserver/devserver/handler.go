package devserver

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// handler serves what comes in at port.
func (s *Server) handler(port string) http.Handler {
	mux := http.NewServeMux()
	push, rude := new(push), new(rude)
	mux.HandleFunc("GET /", s.hello)
	mux.HandleFunc("GET /env", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Env) })
	mux.HandleFunc("GET /port", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, port) })
	mux.HandleFunc("GET /pid", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, s.Process.PID) })
	mux.HandleFunc("GET /process", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.Process) })
	mux.HandleFunc("GET /headers", headers)
	mux.HandleFunc("GET /bytes/{n}", someBytes)
	mux.HandleFunc("POST /echo", echo)
	mux.HandleFunc("GET /sse", events)
	mux.HandleFunc("GET /push/{name}", push.listen)
	mux.HandleFunc("POST /push/{name}", push.send)
	mux.HandleFunc("POST /count", count)
	mux.HandleFunc("POST /early/{code}", early)
	mux.HandleFunc("POST /refuse", refuse)
	mux.HandleFunc("GET /hints", hints)
	mux.HandleFunc("GET /trailers", trailers)
	mux.HandleFunc("GET /reset", rude.reset)
	mux.HandleFunc("POST /reset", rude.reset)
	mux.HandleFunc("GET /stale", rude.stale)
	mux.HandleFunc("GET /cuts", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, rude.cuts.Load()) })
	for _, path := range []string{"/ws", "/_next/hmr", "/_next/webpack-hmr"} {
		mux.HandleFunc("GET "+path, webSocket)
	}
	mux.HandleFunc("GET /chatter", chatter)
	mux.HandleFunc("GET /status/{code}", status)
	mux.HandleFunc("GET /seen", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, s.seen.all()) })
	mux.HandleFunc("GET /redirect", redirect)
	mux.HandleFunc("GET /slow", slow)
	mux.HandleFunc("GET /exit", s.exitOnRequest)
	return mux
}

func (s *Server) hello(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = fmt.Fprintf(w, "hello from %s\n", s.Env["SANDBOX_PREFIX"])
}

func headers(w http.ResponseWriter, r *http.Request) {
	writeJSON(w, map[string]any{"host": r.Host, "uri": r.RequestURI, "headers": r.Header})
}

func someBytes(w http.ResponseWriter, r *http.Request) {
	n, err := strconv.Atoi(r.PathValue("n"))
	if err != nil || n < 0 {
		http.Error(w, "n must be a number of bytes", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Content-Length", strconv.Itoa(n))
	for block := make([]byte, min(n, 64<<10)); n > 0; n -= len(block) {
		if _, err := w.Write(block[:min(n, len(block))]); err != nil {
			return
		}
	}
}

func echo(w http.ResponseWriter, r *http.Request) {
	stream := http.NewResponseController(w)
	// Without full duplex the server reads the whole body before the first
	// byte of an answer. HTTP/2 has it anyway and reports an error.
	_ = stream.EnableFullDuplex()
	w.Header().Set("Content-Type", r.Header.Get("Content-Type"))
	buffer := make([]byte, 32<<10)
	for {
		n, err := r.Body.Read(buffer)
		if n > 0 {
			if _, err := w.Write(buffer[:n]); err != nil {
				return
			}
			_ = stream.Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler) // a cut body must not look like a whole one
		}
	}
}

func events(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	stream := http.NewResponseController(w)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 1; ; n++ {
		if _, err := fmt.Fprintf(w, "id: %d\ndata: event %d\n\n", n, n); err != nil {
			return
		}
		_ = stream.Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
	}
}

func status(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "the status must be a number from 200 to 599", http.StatusBadRequest)
		return
	}
	w.WriteHeader(code)
	_, _ = io.WriteString(w, r.FormValue("body")) // which some statuses do not have
}

func redirect(w http.ResponseWriter, r *http.Request) {
	host, _, _ := strings.Cut(r.Host, ":")
	w.Header().Set("Location", "http://"+r.Host+"/there")
	w.Header().Set("Set-Cookie", "from=here; Path=/; Domain="+host+"; HttpOnly")
	w.WriteHeader(http.StatusFound)
}

func slow(w http.ResponseWriter, r *http.Request) {
	ms, err := strconv.Atoi(r.FormValue("ms"))
	if err != nil || ms < 0 {
		http.Error(w, "ms must be a number of milliseconds", http.StatusBadRequest)
		return
	}
	select {
	case <-time.After(time.Duration(ms) * time.Millisecond):
		_, _ = fmt.Fprintf(w, "answered after %d ms\n", ms)
	case <-r.Context().Done():
	}
}

func (s *Server) exitOnRequest(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.FormValue("code"))
	if err != nil || code < 0 || code > 255 {
		http.Error(w, "code must be a number from 0 to 255", http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Length", "4")
	_, _ = io.WriteString(w, "bye\n")
	_ = http.NewResponseController(w).Flush()
	s.endWith(code)
}

func writeJSON(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value)
}
