package devserver

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
)

// serveRaw answers every request with the very bytes that came, so that one can
// see how a proxy frames what it passes on. Whatever comes after a request's
// end is part of the answer as well: smuggled bytes do not hide.
func (s *Server) serveRaw(listener net.Listener) (stop func()) {
	var serving sync.WaitGroup
	var mu sync.Mutex
	open := map[net.Conn]bool{} // nil once the server stops
	opened := func(conn net.Conn) bool {
		mu.Lock()
		defer mu.Unlock()
		if open == nil {
			return false
		}
		open[conn] = true
		return true
	}
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				if opened(conn) {
					s.answerRaw(conn)
				}
				mu.Lock()
				defer mu.Unlock()
				delete(open, conn)
			})
		}
	})
	return func() {
		_ = listener.Close()
		mu.Lock()
		for conn := range open {
			_ = conn.Close()
		}
		open = nil
		mu.Unlock()
		serving.Wait()
	}
}

func (s *Server) answerRaw(conn net.Conn) {
	var seen bytes.Buffer // since the last answer
	in := bufio.NewReader(io.TeeReader(conn, &seen))
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
		_, err = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-Served-By: %s\r\nContent-Length: %d\r\n\r\n",
			s.Env["SANDBOX_PREFIX"], seen.Len())
		if err != nil {
			return
		}
		if r.Method != http.MethodHead {
			if _, err := conn.Write(seen.Bytes()); err != nil {
				return
			}
		}
		seen.Reset()
	}
}
