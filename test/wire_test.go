package test

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// wire is a connection to Caddy on which a test writes the bytes itself: what
// strangers send need not be what an HTTP client would.
type wire struct {
	net.Conn
	in *bufio.Reader
}

// dialWire connects, without TLS if sni is empty.
func (c *caddyServer) dialWire(t testing.TB, sni string) wire {
	t.Helper()
	var conn net.Conn
	var err error
	if sni == "" {
		conn, err = net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", c.httpPort))
	} else {
		conn, err = c.visitor.handshake(t.Context(), sni, "http/1.1")
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return wire{conn, bufio.NewReader(conn)}
}

// exchange writes data and returns all answers until the other side closes.
func (w wire) exchange(t testing.TB, data string) (answers []reply) {
	t.Helper()
	written := make(chan struct{})
	defer func() { w.Close(); <-written }()
	go func() { // it may answer and close before it has read all
		defer close(written)
		_, _ = io.WriteString(w.Conn, data)
	}()
	for {
		if _, err := w.in.Peek(1); closedByPeer(err) {
			return answers
		} else if err != nil {
			t.Fatalf("after %d answers: %v", len(answers), err)
		}
		res, err := http.ReadResponse(w.in, nil)
		if err != nil {
			t.Fatalf("answer %d: %v", len(answers)+1, err)
		}
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("body of answer %d (%s): %v", len(answers)+1, res.Status, err)
		}
		answers = append(answers, reply{res, string(body)})
	}
}

func closedByPeer(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

// servedBy is who answered: the prefix of an instance in mode raw, or nobody
// but Caddy.
func (r reply) servedBy() string { return r.Header.Get("X-Served-By") }

// summary is "200 someprefix, 404": statuses, and instances that answered.
func summary(answers []reply) string {
	var parts []string
	for _, a := range answers {
		parts = append(parts, strings.TrimSpace(fmt.Sprint(a.StatusCode, " ", a.servedBy())))
	}
	return strings.Join(parts, ", ")
}

// shakesHands reports whether Caddy completes TLS with a client that asks for
// the name sni, whatever certificate it then shows.
func (c *caddyServer) shakesHands(t testing.TB, sni string) bool {
	t.Helper()
	plain, err := net.Dial("tcp", c.visitor.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	if err := plain.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return tls.Client(plain, &tls.Config{ServerName: sni, InsecureSkipVerify: true}).Handshake() == nil
}
