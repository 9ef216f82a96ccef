package test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkWebSocket compares sandbox_proxy with a static reverse_proxy in the
// same process, to the same container:
//
//	x-messages  messages that 64 WebSockets echo in a second, as a multiple of the static one's
//	x-p99       time within which 99 of 100 came back, likewise
//	x-cpu       processor time of Caddy for a message, likewise
func BenchmarkWebSocket(b *testing.B) {
	c, made := startCaddyOfMany(b, 10_000, unlimited)
	run := func(host string) func(*testing.B) measured {
		return func(b *testing.B) measured {
			return c.measureRound(b, func() loadResult { return c.echoLoad(b, host) })
		}
	}
	for b.Loop() {
		got := inTurns(b, 8, run(made.Prefix+"."+domain), run(staticHost))
		rate := func(m measured) float64 { return m.perSecond }
		p99 := func(m measured) float64 { return m.p99 }
		cpu := func(m measured) float64 { return m.cpu }
		b.ReportMetric(0, "ns/op") // says nothing here
		b.ReportMetric(median(each(got[0], rate)), "messages/s")
		b.ReportMetric(median(each(got[0], rate))/median(each(got[1], rate)), "x-messages")
		b.ReportMetric(median(each(got[0], p99)), "p99-ms")
		b.ReportMetric(median(each(got[0], p99))/median(each(got[1], p99)), "x-p99")
		b.ReportMetric(median(each(got[0], cpu))/median(each(got[1], cpu)), "x-cpu")
	}
}

// BenchmarkIdleWebSockets is the memory that an open WebSocket costs on which
// nothing passes, each time of a new process:
//
//	heap-KiB  in Go's heap and stacks after a collection
//	rss-KiB   of the process
//	x-heap, x-rss  as multiples of those through a static reverse_proxy
func BenchmarkIdleWebSockets(b *testing.B) {
	c, made := startCaddyOfMany(b, 10, unlimited)
	run := func(host string) func(*testing.B) socketCost {
		return func(b *testing.B) socketCost { return c.idleSockets(b, host, 2000) }
	}
	for b.Loop() {
		got := inTurns(b, 3, run(made.Prefix+"."+domain), run(staticHost))
		heap := func(s socketCost) float64 { return s.heap }
		rss := func(s socketCost) float64 { return s.rss }
		b.ReportMetric(0, "ns/op") // says nothing here
		b.ReportMetric(median(each(got[0], heap)), "heap-KiB")
		b.ReportMetric(median(each(got[0], heap))/median(each(got[1], heap)), "x-heap")
		b.ReportMetric(median(each(got[0], rss)), "rss-KiB")
		b.ReportMetric(median(each(got[0], rss))/median(each(got[1], rss)), "x-rss")
	}
}

// echoFrame is a text message of 32 bytes, masked with zeros as it comes from a
// client, and what the echo of it must be.
var (
	echoText  = strings.Repeat("message.", 4)
	echoFrame = append([]byte{0x81, 0x80 | 32, 0, 0, 0, 0}, echoText...)
	echoed    = append([]byte{0x81, 32}, echoText...)
)

// openSocket opens a WebSocket without TLS. It writes and reads bytes itself:
// a client library would take more of the machine than what is measured.
func (c *caddyServer) openSocket(host string) (net.Conn, *bufio.Reader, error) {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.httpPort))
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReaderSize(conn, 512)
	_, err = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", host)
	if err == nil {
		var res *http.Response
		if res, err = http.ReadResponse(in, nil); err == nil && res.StatusCode != http.StatusSwitchingProtocols {
			err = fmt.Errorf("the handshake was answered with %s", res.Status)
		}
	}
	if err == nil {
		err = echoOnce(conn, in)
	}
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("WebSocket to %s: %w", host, err)
	}
	return conn, in, nil
}

func echoOnce(conn net.Conn, in *bufio.Reader) error {
	if _, err := conn.Write(echoFrame); err != nil {
		return err
	}
	var got [34]byte
	if _, err := io.ReadFull(in, got[:]); err != nil {
		return err
	}
	if !bytes.Equal(got[:], echoed) {
		return fmt.Errorf("the echo is %q", got)
	}
	return nil
}

// echoLoad sends messages for loadTime over loadConnections WebSockets, the
// next one when the last has come back.
func (c *caddyServer) echoLoad(b *testing.B, host string) loadResult {
	b.Helper()
	latencies := make([][]float64, loadConnections)
	failures := make([]error, loadConnections)
	end := time.Now().Add(loadTime)
	var sockets sync.WaitGroup
	for n := range loadConnections {
		sockets.Go(func() {
			conn, in, err := c.openSocket(host)
			if err != nil {
				failures[n] = err
				return
			}
			defer conn.Close()
			for begun := time.Now(); begun.Before(end) && failures[n] == nil; {
				failures[n] = echoOnce(conn, in)
				now := time.Now()
				latencies[n] = append(latencies[n], milliseconds(now.Sub(begun)))
				begun = now
			}
		})
	}
	sockets.Wait()
	for _, err := range failures {
		if err != nil {
			b.Fatal(err)
		}
	}
	var all []float64
	for _, some := range latencies {
		all = append(all, some...)
	}
	return resultOf(all)
}

// socketCost is what one WebSocket costs, in KiB.
type socketCost struct{ heap, rss float64 }

func (c *caddyServer) idleSockets(b *testing.B, host string, n int) socketCost {
	b.Helper()
	if err := c.stop(); err != nil {
		b.Fatal(err)
	}
	c.mustStart(b)
	eventually(b, 30*time.Second, func() error { // served again, and warm
		conn, _, err := c.openSocket(host)
		if err == nil {
			conn.Close()
		}
		return err
	})
	heapBefore, rssBefore := c.memoryInUse(b)
	var open []net.Conn
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	for range n {
		conn, _, err := c.openSocket(host)
		if err != nil {
			b.Fatal(err)
		}
		open = append(open, conn)
	}
	heap, rss := c.memoryInUse(b)
	return socketCost{(heap - heapBefore) / float64(n), (rss - rssBefore) / float64(n)}
}

// memoryInUse is Caddy's in KiB, after a collection.
func (c *caddyServer) memoryInUse(b *testing.B) (heap, rss float64) {
	b.Helper()
	res, err := http.Get("http://" + c.adminAddr + "/debug/pprof/heap?gc=1")
	if _, err := statusOf(res, err); err != nil {
		b.Fatal(err)
	}
	stats := c.goMemory(b)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "VmRSS:" {
			if rss, err = strconv.ParseFloat(fields[1], 64); err != nil {
				b.Fatal(err)
			}
		}
	}
	return (stats.HeapInuse + stats.StackInuse) / 1024, rss
}
