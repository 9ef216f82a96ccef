package caddymodule

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
)

// frame is an unmasked frame of opcode with size bytes of payload.
func frame(opcode byte, size int) []byte {
	header := []byte{0x80 | opcode, byte(size)}
	switch {
	case size >= 1<<16:
		header = binary.BigEndian.AppendUint64([]byte{0x80 | opcode, 127}, uint64(size))
	case size > 125:
		header = binary.BigEndian.AppendUint16([]byte{0x80 | opcode, 126}, uint16(size))
	}
	return append(header, bytes.Repeat([]byte{0x88}, size)...) // a payload that looks like closing frames
}

// broken is a connection that breaks after what it has to say.
type broken struct{ io.Reader }

func (broken) Write(p []byte) (int, error) { return len(p), nil }
func (broken) Close() error                { return nil }

func TestABrokenWebSocketTellsItsClientThatTheServerGoesAway(t *testing.T) {
	text, closing := frame(1, 3), frame(8, 2)
	for name, test := range map[string]struct {
		sent []byte
		told bool
	}{
		"nothing was sent":       {nil, true},
		"after a frame":          {text, true},
		"after a frame of 200 B": {frame(2, 200), true},
		"after a frame of 70 KB": {frame(2, 70_000), true},
		"after many":             {bytes.Repeat(text, 9), true},
		"in a header":            {text[:1], false},
		"in a long header":       {frame(2, 200)[:3], false},
		"in a payload":           {text[:4], false},
		"after a closing frame":  {closing, false},
	} {
		for way, reader := range map[string]func(io.Reader) io.Reader{
			"at once":      func(r io.Reader) io.Reader { return r },
			"byte by byte": iotest.OneByteReader,
			"with the error": func(r io.Reader) io.Reader {
				return iotest.DataErrReader(io.MultiReader(r, iotest.ErrReader(errors.New("connection reset"))))
			},
		} {
			t.Run(name+", "+way, func(t *testing.T) {
				res := &http.Response{
					StatusCode: http.StatusSwitchingProtocols,
					Header:     http.Header{"Upgrade": {"WebSocket"}},
					Body:       broken{reader(bytes.NewReader(test.sent))},
				}
				asWebSocket(httptest.NewRequest(http.MethodGet, "/", nil), res, socketUse{})
				closer := time.AfterFunc(50*time.Millisecond, func() { res.Body.Close() }) // the client's answer
				defer closer.Stop()
				got, _ := io.ReadAll(res.Body)
				want := test.sent
				if test.told {
					want = append(bytes.Clone(want), goingAway...)
				}
				if !bytes.Equal(got, want) {
					t.Errorf("the client got %d bytes ending in % x, want %d", len(got), got[max(0, len(got)-8):], len(want))
				}
			})
		}
	}
}

func TestOtherUpgradesAreLeftAlone(t *testing.T) {
	res := &http.Response{
		StatusCode: http.StatusSwitchingProtocols,
		Header:     http.Header{"Upgrade": {"h2c"}},
		Body:       broken{bytes.NewReader([]byte("abc"))},
	}
	asWebSocket(httptest.NewRequest(http.MethodGet, "/", nil), res, socketUse{})
	if got, _ := io.ReadAll(res.Body); string(got) != "abc" {
		t.Errorf("got %q", got)
	}
}

// gone is a connection that takes nothing any more.
type gone struct{ broken }

func (gone) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestAClientThatGoesOnIsCutAfterItsFarewell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		res := &http.Response{
			StatusCode: http.StatusSwitchingProtocols,
			Header:     http.Header{"Upgrade": {"websocket"}},
			Body:       gone{broken{bytes.NewReader(nil)}},
		}
		asWebSocket(httptest.NewRequest(http.MethodGet, "/", nil), res, socketUse{})
		begun := time.Now()
		if n, err := res.Body.(io.Writer).Write([]byte("abc")); n != 3 || err != nil {
			t.Errorf("a write to what is gone: %d, %v; it would end the connection before the client was told", n, err)
		}
		got, err := io.ReadAll(res.Body)
		if !bytes.Equal(got, goingAway) || err == nil {
			t.Errorf("the client got % x, then %v", got, err)
		}
		if took := time.Since(begun); took != farewell {
			t.Errorf("cut after %s", took)
		}
	})
}
