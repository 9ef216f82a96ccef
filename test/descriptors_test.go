package test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// 500 people open a WebSocket each on a Caddy that may have 256 descriptors.
// Some get one, the others are told so, and all else works as ever: a tenth of
// the descriptors, and at least 64, are kept from streams.
func TestMoreWebSocketsThanDescriptors(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("needs prlimit, to give Caddy few file descriptors")
	}
	const descriptors, clients, spare, perWebSocket = 256, 500, 64, 2
	c := startCaddy(t, options{Wrap: []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", descriptors, descriptors)}})
	made := c.api.create(t, createRequest{Prefix: "manysockets"})

	var mu sync.Mutex
	var open []net.Conn
	refused := 0
	var asking sync.WaitGroup
	atOnce := make(chan struct{}, 100)
	for range clients {
		asking.Go(func() {
			atOnce <- struct{}{}
			defer func() { <-atOnce }()
			conn, status, err := c.visitor.askWebSocket(made.URL)
			for tries := 1; errors.Is(err, errSilent) && tries < 10; tries++ {
				conn, status, err = c.visitor.askWebSocket(made.URL)
			}
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err != nil:
				t.Errorf("asking for a WebSocket: %v", err)
			case status == http.StatusSwitchingProtocols:
				open = append(open, conn)
			default:
				refused++
			}
		})
	}
	asking.Wait()
	defer func() {
		for _, conn := range open {
			conn.Close()
		}
	}()
	if len(open)+refused != clients {
		t.Errorf("%d WebSockets were opened and %d refused, of %d", len(open), refused, clients)
	}
	// The connections of those who asked at the same time count, too, and for up
	// to a second after they have ended.
	const mostOpen = (descriptors - spare) / perWebSocket
	eventually(t, 10*time.Second, func() error {
		if len(open) >= mostOpen/2 {
			return nil
		}
		conn, status, err := c.visitor.askWebSocket(made.URL)
		if err != nil {
			return err
		}
		if status == http.StatusSwitchingProtocols {
			open = append(open, conn)
		}
		return fmt.Errorf("%d WebSockets are open, want at least %d; the last one was answered with %d", len(open), mostOpen/2, status)
	})
	if len(open) > mostOpen {
		t.Errorf("%d WebSockets are open, want at most %d", len(open), mostOpen)
	}

	// Everything else goes on: pages over new connections, reads, writes, Docker.
	begun := time.Now()
	for n := range 3 {
		c.visitor.forgetConnections()
		c.visitor.mustGet(t, made.URL)
		other := c.api.create(t, createRequest{Prefix: fmt.Sprintf("meanwhile%d", n)})
		c.visitor.mustGet(t, other.URL)
		c.api.act(t, other.Prefix, "restart")
		c.admin.delete(t, other.Prefix)
	}
	most := c.openFiles(t)
	t.Logf("%d descriptors: %d WebSockets open, %d refused; 3 creates, restarts and deletes beside them in %s; %d descriptors open",
		descriptors, len(open), refused, time.Since(begun).Round(time.Millisecond), most)
	for _, conn := range open {
		pingRaw(t, conn)
	}

	// And when some leave, others may come.
	for _, conn := range open[len(open)/2:] {
		conn.Close()
	}
	open = open[:len(open)/2]
	eventually(t, 15*time.Second, func() error {
		conn, status, err := c.visitor.askWebSocket(made.URL)
		if err == nil && status != http.StatusSwitchingProtocols {
			err = fmt.Errorf("still refused: %d", status)
		}
		if err == nil {
			conn.Close()
		}
		return err
	})
}

// errSilent is for an instance that took longer than a second to accept a
// connection, as it may on a busy machine.
var errSilent = errors.New("the dev server does not answer")

// askWebSocket asks for a WebSocket to the instance at rawURL. If it is refused,
// that has to be in our words, and conn is closed.
func (v *visitor) askWebSocket(rawURL string) (conn net.Conn, status int, err error) {
	host, _, _ := strings.Cut(strings.TrimPrefix(rawURL, "https://"), ":")
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if conn, err = v.handshake(ctx, host, "http/1.1"); err != nil {
		return nil, 0, err
	}
	defer func() {
		if status != http.StatusSwitchingProtocols {
			conn.Close()
		}
	}()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	_, _ = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\n\r\n", host, rawURL)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return conn, 0, err
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return conn, res.StatusCode, nil
	}
	defer res.Body.Close()
	var a answer
	err = json.NewDecoder(res.Body).Decode(&a)
	if a.Code == 1105 {
		return conn, res.StatusCode, errSilent
	}
	if err != nil || res.StatusCode != http.StatusServiceUnavailable || a.Code != 1106 || res.Header.Get("Retry-After") == "" || !res.Close {
		return conn, res.StatusCode, fmt.Errorf("refused with %d, Retry-After %q, close %v: %s (%v)",
			res.StatusCode, res.Header.Get("Retry-After"), res.Close, a.Message, err) //nolint:errorlint // nobody unwraps it
	}
	return conn, res.StatusCode, nil
}

// pingRaw sends a frame over a WebSocket and waits for it to come back.
func pingRaw(t testing.TB, conn net.Conn) {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, err := conn.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}) // text, masked with zeros
	got := make([]byte, 4)
	if _, readErr := io.ReadFull(conn, got); errors.Join(err, readErr) != nil || string(got) != "\x81\x02hi" {
		t.Errorf("an open WebSocket sent %q back (%v, %v)", got, err, readErr)
	}
}
