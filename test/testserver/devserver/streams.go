package devserver

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// push is a stream of events whose clock is its reader: an event is sent when
// it is asked for, and nothing follows it that could push it on.
type push struct {
	mu      sync.Mutex
	streams map[string]chan string
}

func (p *push) stream(name string) chan string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams == nil {
		p.streams = map[string]chan string{}
	}
	if p.streams[name] == nil {
		p.streams[name] = make(chan string)
	}
	return p.streams[name]
}

// listen is the stream: its head at once, then an event for each text sent.
func (p *push) listen(w http.ResponseWriter, r *http.Request) {
	events := p.stream(r.PathValue("name"))
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	stream := http.NewResponseController(w)
	for stream.Flush() == nil {
		select {
		case text := <-events:
			_, _ = fmt.Fprintf(w, "data: %s\n\n", text)
		case <-r.Context().Done():
			return
		}
	}
}

// send answers when the text has been taken up by whoever listens.
func (p *push) send(w http.ResponseWriter, r *http.Request) {
	text, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err != nil {
		return
	}
	select {
	case p.stream(r.PathValue("name")) <- string(text):
		w.WriteHeader(http.StatusNoContent)
	case <-r.Context().Done():
	}
}

// count reads the whole body and says how much it was.
func count(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // a cut body must not look like a whole one
	}
	_, _ = fmt.Fprint(w, n)
}

// early answers before it has read anything, then reads on, and ends its answer
// with how much it got.
func early(w http.ResponseWriter, r *http.Request) {
	code, err := strconv.Atoi(r.PathValue("code"))
	if err != nil || code < 200 || code > 599 {
		http.Error(w, "the status must be a number from 200 to 599", http.StatusBadRequest)
		return
	}
	stream := http.NewResponseController(w)
	_ = stream.EnableFullDuplex()
	w.WriteHeader(code)
	_, _ = io.WriteString(w, "early\n")
	_ = stream.Flush()
	n, err := io.Copy(io.Discard, r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	_, _ = fmt.Fprint(w, n)
}

// refuse answers without a look at the body, and is done: what of it is not
// yet there, nobody reads.
func refuse(w http.ResponseWriter, _ *http.Request) {
	_ = http.NewResponseController(w).EnableFullDuplex()
	w.Header().Set("Connection", "close")
	w.WriteHeader(http.StatusRequestEntityTooLarge)
	_, _ = io.WriteString(w, "too large\n")
}

// hints sends 103 before its answer.
func hints(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Link", "</src/main.js>; rel=modulepreload")
	w.WriteHeader(http.StatusEarlyHints)
	w.Header().Set("X-Final", "yes")
	_, _ = io.WriteString(w, "after the hints\n")
}

// trailers sends one that it announces, and one that it does not.
func trailers(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Trailer", "X-Announced")
	_, _ = io.WriteString(w, "the body\n")
	_ = http.NewResponseController(w).Flush()
	w.Header().Set("X-Announced", "yes")
	w.Header().Set(http.TrailerPrefix+"X-Late", "yes")
}

// rude cuts connections in place of an answer, and counts how often.
type rude struct{ cuts atomic.Int64 }

// reset breaks off before a byte of an answer, for the first times requests of
// this sort; then it says how many there were.
func (s *rude) reset(w http.ResponseWriter, r *http.Request) {
	times, err := strconv.ParseInt(r.FormValue("times"), 10, 64)
	if err != nil {
		times = 1 << 62
	}
	if n := s.cuts.Load(); n >= times {
		_, _ = fmt.Fprint(w, n)
		return
	}
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		s.cut(conn)
	}
}

// stale answers and keeps the connection open, as servers do, until the next
// request has come over it.
func (s *rude) stale(w http.ResponseWriter, _ *http.Request) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstale\n")
	_ = conn.SetReadDeadline(time.Now().Add(time.Minute)) // of a test's life
	if next, err := http.ReadRequest(bufio.NewReader(buffered)); err == nil {
		_, _ = io.Copy(io.Discard, next.Body)
		s.cut(conn)
		return
	}
	_ = conn.Close()
}

func (s *rude) cut(conn net.Conn) {
	s.cuts.Add(1)
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // by a reset, not by an orderly end
	}
	_ = conn.Close()
}
