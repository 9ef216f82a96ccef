package test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
)

// The protocols that browsers speak.
var protocols = []string{"HTTP/1.1", "HTTP/2", "HTTP/3"}

// over is a transport that speaks one protocol only.
func (v *visitor) over(t testing.TB, protocol string) http.RoundTripper {
	t.Helper()
	switch protocol {
	case "HTTP/1.1", "HTTP/2":
		offered := map[string]string{"HTTP/1.1": "http/1.1", "HTTP/2": "h2"}[protocol]
		transport := &http.Transport{
			ForceAttemptHTTP2: protocol == "HTTP/2",
			DialTLSContext: func(ctx context.Context, _, hostPort string) (net.Conn, error) {
				host, _, err := net.SplitHostPort(hostPort)
				if err != nil {
					return nil, err
				}
				return v.handshake(ctx, host, offered)
			},
		}
		t.Cleanup(transport.CloseIdleConnections)
		return transport
	case "HTTP/3":
		roots, err := v.roots()
		if err != nil {
			t.Fatal(err)
		}
		transport := &http3.Transport{
			TLSClientConfig: &tls.Config{RootCAs: roots},
			Dial: func(ctx context.Context, _ string, config *tls.Config, options *quic.Config) (*quic.Conn, error) {
				return quic.DialAddrEarly(ctx, v.addr, config, options)
			},
			QUICConfig: &quic.Config{KeepAlivePeriod: 10 * time.Second}, // as browsers do while requests are open
		}
		t.Cleanup(func() { transport.Close() })
		return transport
	}
	t.Fatalf("no such protocol: %s", protocol)
	return nil
}

// request sends a request whose answer has to come in the protocol that the
// transport speaks. It ends with the test.
func request(t testing.TB, transport http.RoundTripper, protocol, method, url string, body io.Reader, headers ...header) *http.Response {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, body)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		req.Header.Set(h.name, h.value)
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		t.Fatalf("%s %s over %s: %v", method, url, protocol, err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if want := protocol[:len("HTTP/1")]; res.Proto[:len(want)] != want {
		t.Fatalf("the answer came over %s, not %s", res.Proto, protocol)
	}
	return res
}

// echo sends a text of up to 125 bytes over a WebSocket and reads it back.
type echo func(text string) error

// openSocket opens a WebSocket in the way that protocol has for it: by an
// upgrade, or by an extended CONNECT (RFC 8441, RFC 9220).
func (v *visitor) openSocket(t testing.TB, protocol, url string) (echo, error) {
	t.Helper()
	if protocol == "HTTP/1.1" {
		socket := v.dialWebSocket(t, url)
		return socket.tryEcho, nil
	}
	in, out := io.Pipe()
	t.Cleanup(func() { out.Close() })
	req, err := http.NewRequestWithContext(t.Context(), http.MethodConnect, url, in)
	if err != nil {
		t.Fatal(err)
	}
	transport := v.over(t, protocol)
	req.Header.Set("Sec-WebSocket-Version", "13")
	req.Header.Set("Sec-WebSocket-Protocol", "vite-hmr")
	if protocol == "HTTP/2" {
		req.Header[":protocol"] = []string{"websocket"} // a pseudo-header, so not canonical
		h2 := transport.(*http.Transport)
		transport = &http2.Transport{DialTLSContext: func(ctx context.Context, _, hostPort string, _ *tls.Config) (net.Conn, error) { //nolint:staticcheck // net/http, which replaces it, cannot do this
			return h2.DialTLSContext(ctx, "tcp", hostPort)
		}}
	} else {
		req.Proto = "websocket"
	}
	res, err := transport.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { res.Body.Close() })
	if res.StatusCode != http.StatusOK || res.Header.Get("Sec-WebSocket-Protocol") != "vite-hmr" {
		return nil, fmt.Errorf("the handshake was answered by %s %v", res.Status, res.Header)
	}
	return echoOver(bufio.NewReader(res.Body), out), nil
}

// echoOver makes the frames by hand: a text, masked with zeros.
func echoOver(in *bufio.Reader, out io.Writer) echo {
	return func(text string) error {
		size := byte(len(text))
		if _, err := out.Write(append([]byte{0x81, 0x80 | size, 0, 0, 0, 0}, text...)); err != nil {
			return err
		}
		got := make([]byte, 2+len(text))
		read := make(chan error, 1)
		go func() {
			_, err := io.ReadFull(in, got)
			read <- err
		}()
		select {
		case err := <-read:
			if want := "\x81" + string(size) + text; err == nil && string(got) != want {
				err = fmt.Errorf("got %q, want %q", got, want)
			}
			return err
		case <-time.After(10 * time.Second):
			return errors.New("no echo within 10 s")
		}
	}
}
