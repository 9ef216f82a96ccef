package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// http2Answer is what came of a request that was put together frame by frame.
type http2Answer struct {
	status   string
	servedBy string
	body     string
	err      string // the stream or connection was ended by an error instead
}

// summary is like that of an HTTP/1.1 exchange.
func (a http2Answer) summary() string {
	if a.err != "" {
		return a.err
	}
	return strings.TrimSpace(a.status + " " + a.servedBy)
}

// askHTTP2 sends a GET with these fields on a connection of its own.
func (c *caddyServer) askHTTP2(t testing.TB, sni string, fields []header) http2Answer {
	t.Helper()
	conn, err := c.visitor.handshake(t.Context(), sni, "h2")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	_, err = io.WriteString(conn, http2.ClientPreface)
	err = errors.Join(err, framer.WriteSettings(), writeRequest(framer, fields))
	if err != nil {
		t.Fatal(err)
	}
	answer, err := readHTTP2Answer(framer)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// writeRequest writes the fields after those that every request has.
func writeRequest(framer *http2.Framer, fields []header) error {
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, f := range append([]header{{":method", "GET"}, {":scheme", "https"}, {":path", "/path"}}, fields...) {
		if err := encoder.WriteField(hpack.HeaderField{Name: f.name, Value: f.value}); err != nil {
			return err
		}
	}
	const most = 16 << 10 // of one frame
	first := block.Next(most)
	err := framer.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: first, EndStream: true, EndHeaders: block.Len() == 0,
	})
	for block.Len() > 0 && err == nil {
		rest := block.Next(most)
		err = framer.WriteContinuation(1, block.Len() == 0, rest)
	}
	return err
}

func readHTTP2Answer(framer *http2.Framer) (answer http2Answer, err error) {
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return answer, fmt.Errorf("after %+v: %w", answer, err)
		}
		switch f := frame.(type) {
		case *http2.MetaHeadersFrame:
			answer.status = f.PseudoValue("status")
			for _, field := range f.RegularFields() {
				if field.Name == "x-served-by" {
					answer.servedBy = field.Value
				}
			}
		case *http2.DataFrame:
			answer.body += string(f.Data())
		case *http2.RSTStreamFrame:
			answer.err = "RST_STREAM " + f.ErrCode.String()
			return answer, nil
		case *http2.GoAwayFrame:
			answer.err = "GOAWAY " + f.ErrCode.String()
			return answer, nil
		case *http2.SettingsFrame:
			if !f.IsAck() {
				if err := framer.WriteSettingsAck(); err != nil {
					return answer, err
				}
			}
		}
		ends, ok := frame.(interface{ StreamEnded() bool })
		if ok && ends.StreamEnded() {
			return answer, nil
		}
	}
}
