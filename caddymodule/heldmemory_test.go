package caddymodule

import (
	"bytes"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// What a request costs while it waits for a start: its connection or stream, the
// goroutines that serve it, and what Caddy and we know of it. The clients are in
// the same process, but hold hardly more than their sockets.
func TestAHeldRequestTakesLittleMemory(t *testing.T) {
	const n, most = 1000, 96 << 10 // the race detector's part is in it
	c := sleepConfig("hold 5m")
	c.options = "servers {\n protocols h1 h2c\n }"
	s := startServer(t, c)
	s.asleep(t, "popular0", wakeAny)
	s.blockEngine(t, "Start")
	awaitHeld := func(want int) {
		t.Helper()
		eventually(t, func() error {
			held.mu.Lock()
			defer held.mu.Unlock()
			if held.taken != want {
				return fmt.Errorf("%d requests are held, want %d", held.taken, want)
			}
			return nil
		})
	}
	for protocol, send := range map[string]func(*server, *testing.T, int) []net.Conn{
		"HTTP/1.1": (*server).sendOverHTTP1, "HTTP/2": (*server).sendOverHTTP2,
	} {
		for _, conn := range send(s, t, 1) { // what is made once
			awaitHeld(1)
			conn.Close()
		}
		awaitHeld(0)
		before := memoryInUse()
		conns := send(s, t, n)
		awaitHeld(n)
		each := (memoryInUse() - before) / n
		t.Logf("a request over %s: %.1f KiB while it is held", protocol, float64(each)/1024)
		if each > most {
			t.Errorf("want at most %d KiB", most>>10)
		}
		for _, conn := range conns {
			conn.Close()
		}
		awaitHeld(0)
	}
}

// memoryInUse is that of the heap and of all stacks.
func memoryInUse() int64 {
	runtime.GC()
	runtime.GC() // pools are emptied by the second
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// ofAFetch are header fields such as a browser sends.
var ofAFetch = [][2]string{
	{"user-agent", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0.0.0 Safari/537.36"},
	{"accept", "*/*"}, {"accept-encoding", "gzip, deflate, br, zstd"}, {"accept-language", "en-GB,en;q=0.9"},
	{"cookie", "session=" + strings.Repeat("0123456789abcdef", 8)},
	{"referer", "http://" + hostOf("popular0") + "/"},
	{"sec-fetch-mode", "cors"}, {"sec-fetch-site", "same-origin"}, {"sec-fetch-dest", "empty"},
}

func (s *server) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", s.site())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// sendOverHTTP1 sends n requests to popular0, each over a connection of its own.
func (s *server) sendOverHTTP1(t *testing.T, n int) (conns []net.Conn) {
	t.Helper()
	text := "GET /api HTTP/1.1\r\nHost: " + hostOf("popular0") + "\r\n"
	for _, field := range ofAFetch {
		text += http.CanonicalHeaderKey(field[0]) + ": " + field[1] + "\r\n"
	}
	for range n {
		conn := s.dial(t)
		if _, err := conn.Write([]byte(text + "\r\n")); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return conns
}

// sendOverHTTP2 sends n requests to popular0, as many over a connection as Caddy
// takes.
func (s *server) sendOverHTTP2(t *testing.T, n int) (conns []net.Conn) {
	t.Helper()
	const perConnection = 250
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	encoder.SetMaxDynamicTableSize(0) // so that each request can have the same bytes
	for _, field := range append([][2]string{
		{":method", http.MethodGet}, {":scheme", "http"}, {":authority", hostOf("popular0")}, {":path", "/api"},
	}, ofAFetch...) {
		if err := encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}); err != nil {
			t.Fatal(err)
		}
	}
	for ; n > 0; n -= perConnection {
		conn := s.dial(t)
		conns = append(conns, conn)
		if _, err := conn.Write([]byte(http2.ClientPreface)); err != nil {
			t.Fatal(err)
		}
		framer := http2.NewFramer(conn, nil)
		if err := framer.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		for stream := range min(n, perConnection) {
			err := framer.WriteHeaders(http2.HeadersFrameParam{
				StreamID: uint32(2*stream + 1), BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return conns
}
