package wsframes

import (
	"bytes"
	"compress/flate"
	"net/http"
	"net/http/httptest"
	"testing"
)

func TestOffersOfCompressionAreMadeReadable(t *testing.T) {
	for offer, want := range map[string]string{
		"permessage-deflate": "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
		// What Chromium and Firefox send.
		"permessage-deflate; client_max_window_bits":                                "permessage-deflate; client_max_window_bits; server_no_context_takeover; client_no_context_takeover",
		"permessage-deflate; server_no_context_takeover":                            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
		"permessage-deflate; client_no_context_takeover;server_no_context_takeover": "permessage-deflate; client_no_context_takeover;server_no_context_takeover",
		"permessage-deflate; server_max_window_bits=10, permessage-deflate": "permessage-deflate; server_max_window_bits=10; server_no_context_takeover; client_no_context_takeover, " +
			"permessage-deflate; server_no_context_takeover; client_no_context_takeover",
		"x-other; a=1": "x-other; a=1",
		`permessage-deflate; server_max_window_bits="10"`: `permessage-deflate; server_max_window_bits="10"`,
		"":  "",
		",": ",",
	} {
		for _, name := range extensionHeaders {
			h := http.Header{name: {"x-first", offer}}
			AskForReadable(h)
			AskForReadable(h) // as for a request that is sent again
			if got := h[name][1]; got != want || h[name][0] != "x-first" {
				t.Errorf("%s: %q becomes %q, want %q", name, offer, got, want)
			}
		}
	}
}

func TestTermsDecideWhatIsRead(t *testing.T) {
	const pinged = `{"type":"ping"}`
	for _, row := range []struct {
		answer string
		from   Side
		sent   []byte
		want   bool
	}{
		{"", Client, message(Client, pinged), false},
		{"permessage-deflate", Client, message(Client, pinged), false}, // one that was not compressed
		{"permessage-deflate", Client, frame(Client, final|compressed|text, pack(t, pinged)), true},
		{"permessage-deflate; client_no_context_takeover", Client, frame(Client, final|compressed|text, pack(t, pinged)), false},
		{"permessage-deflate; client_no_context_takeover", Server, frame(Server, final|compressed|text, pack(t, pinged)), true},
		{"permessage-deflate ;server_no_context_takeover ", Server, frame(Server, final|compressed|text, pack(t, pinged)), false},
		{"x-other", Client, message(Client, pinged), true},
		{"x-other", Client, frame(Client, final|ping, nil), false},
		{"permessage-deflate; client_no_context_takeover, x-other", Client, frame(Client, final|compressed|text, pack(t, pinged)), true},
		{"permessage-deflate; client_no_context_takeover, permessage-deflate", Client, frame(Client, final|compressed|text, pack(t, pinged)), true},
	} {
		answer := http.Header{}
		if row.answer != "" {
			answer.Set("Sec-WebSocket-Extensions", row.answer)
		}
		terms := TermsOf(httptest.NewRequest(http.MethodGet, "/", nil), answer)
		if got := passes(t, row.from, terms, row.sent); got != row.want {
			t.Errorf("with %q, % x is use: %v, want %v", row.answer, row.sent, got, row.want)
		}
	}
}

// However a sender packs: in blocks that are stored, with the last one marked as
// such, or as nothing that can be unpacked.
func TestWaysToPack(t *testing.T) {
	const pinged = `{"type":"ping"}`
	stored := append([]byte{0, 15, 0, 0xF0, 0xFF}, pinged...)
	var marked bytes.Buffer
	w, err := flate.NewWriter(&marked, flate.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(pinged)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for _, row := range []struct {
		what   string
		packed []byte
		want   bool
	}{
		{"stored", append(stored, 0), false},
		{"the last block is marked", append(marked.Bytes(), 0), false},
		{"nothing", []byte{0}, false},
		{"no block", []byte{7}, true},
		{"cut off", stored[:10], true},
		{"goes back to an earlier message", []byte{0xAA, 0x1E, 0x10, 0x60, 0, 0}, true},
	} {
		terms := Terms{deflate: true, alone: [2]bool{true, true}}
		if got := passes(t, Client, terms, frame(Client, final|compressed|text, row.packed)); got != row.want {
			t.Errorf("%s: use is %v, want %v", row.what, got, row.want)
		}
	}
}
