package test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
)

// webSocket is an open WebSocket to an instance.
type webSocket struct{ *websocket.Conn }

func (v *visitor) dialWebSocket(t testing.TB, rawURL string) webSocket {
	t.Helper()
	socket, err := v.tryWebSocket(t, rawURL, rawURL)
	if err != nil {
		t.Fatalf("opening a WebSocket to %s: %v", rawURL, err)
	}
	return socket
}

// tryWebSocket opens a WebSocket for a page of some origin.
func (v *visitor) tryWebSocket(t testing.TB, rawURL, origin string, protocols ...string) (webSocket, error) {
	t.Helper()
	config, err := websocket.NewConfig(strings.Replace(rawURL, "https:", "wss:", 1), origin)
	if err != nil {
		t.Fatal(err)
	}
	config.Protocol = protocols
	conn, err := v.handshake(t.Context(), hostOf(t, rawURL), "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	socket, err := websocket.NewClient(config, conn)
	return webSocket{socket}, err
}

func hostOf(t testing.TB, rawURL string) string {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	return u.Hostname()
}

// echoes checks that text comes back over the socket.
func (s webSocket) echoes(t testing.TB, text string) {
	t.Helper()
	if err := s.tryEcho(text); err != nil {
		t.Fatal(err)
	}
}

func (s webSocket) tryEcho(text string) error {
	if err := s.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		return err
	}
	if err := websocket.Message.Send(s.Conn, text); err != nil {
		return fmt.Errorf("writing to the WebSocket: %w", err)
	}
	var got string
	if err := websocket.Message.Receive(s.Conn, &got); err != nil {
		return fmt.Errorf("reading from the WebSocket: %w", err)
	}
	if got != text {
		return fmt.Errorf("the WebSocket sent %q back as %q", text, got)
	}
	return nil
}

// awaitClose reads until the other side closes, and returns the close code; 0
// if the connection just ended.
func (s webSocket) awaitClose(t testing.TB, limit time.Duration) (code int) {
	t.Helper()
	if err := s.SetReadDeadline(time.Now().Add(limit)); err != nil {
		t.Fatal(err)
	}
	for {
		frame, err := s.NewFrameReader()
		if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
			t.Fatalf("the WebSocket is still open after %s", limit)
		}
		if err != nil {
			return 0
		}
		payload, err := io.ReadAll(frame)
		if frame.PayloadType() == websocket.CloseFrame && err == nil && len(payload) >= 2 {
			return int(binary.BigEndian.Uint16(payload))
		}
	}
}
