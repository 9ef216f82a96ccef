package wsframes

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
)

// frame is one frame as from sends it. Clients mask with bytes that differ.
func frame(from Side, head byte, payload []byte) []byte {
	size, mask := len(payload), byte(0)
	if from == Client {
		mask = masked
	}
	var f []byte
	switch {
	case size >= 1<<16:
		f = binary.BigEndian.AppendUint64([]byte{head, mask | 127}, uint64(size))
	case size > 125:
		f = binary.BigEndian.AppendUint16([]byte{head, mask | 126}, uint16(size))
	default:
		f = []byte{head, mask | byte(size)}
	}
	if from == Server {
		return append(f, payload...)
	}
	key := []byte{0x37, 0xFA, 0x21, 0x3D}
	f = append(f, key...)
	for i, b := range payload {
		f = append(f, b^key[i%4])
	}
	return f
}

// message is a text message in one frame.
func message(from Side, text string) []byte { return frame(from, final|1, []byte(text)) }

// pack compresses as RFC 7692 has it, section 7.2.1.
func pack(t testing.TB, text string) []byte {
	t.Helper()
	var packed bytes.Buffer
	w, err := flate.NewWriter(&packed, flate.BestCompression)
	if err == nil {
		_, err = w.Write([]byte(text))
	}
	if err == nil {
		err = w.Flush()
	}
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(packed.Bytes(), tail[:4])
}

// passes sends what is in stream at once, then byte by byte and in pieces of
// other sizes, and returns whether it is use; that must not depend on the pieces.
func passes(t testing.TB, from Side, terms Terms, stream []byte) bool {
	t.Helper()
	whole := NewReader(from, terms)
	used := whole.Pass(stream)
	for size := 1; size < len(stream); size += 1 + size/3 {
		r := NewReader(from, terms)
		got := false
		for piece := range slices.Chunk(stream, size) {
			got = r.Pass(piece) || got
		}
		if got != used || r.Complete() != whole.Complete() || r.Closed() != whole.Closed() {
			t.Fatalf("% x, in pieces of %d: use %v, complete %v, closed %v; at once: %v, %v, %v",
				stream[:min(len(stream), 40)], size, got, r.Complete(), r.Closed(), used, whole.Complete(), whole.Closed())
		}
	}
	return used
}

func TestKeepAlivesAreNoUse(t *testing.T) {
	both := []Side{Client, Server}
	for _, row := range []struct {
		what string
		text string
		from []Side // those from whom it is a keep-alive
	}{
		{"Vite", `{"type":"ping"}`, both},
		{"Next.js with webpack, app router", `{"event":"ping","tree":["",{"children":["__PAGE__",{},null,null]},null,null,true],"appDirRoute":true}`, both},
		{"Next.js with webpack, pages", `{"event":"ping","page":"/"}`, both},
		{"the answer of Next.js 12", `{"success":true,"event":"pong"}`, both},
		{"the answer of Next.js 13", `{"invalid":true,"action":"pong"}`, both},
		{"webpack-dev-server with SockJS", `h`, []Side{Server}},
		{"graphql-transport-ws", `{"type":"pong"}`, both},
		{"subscriptions-transport-ws", `{"type":"ka"}`, both},
		{"SignalR", "{\"type\":6}\x1e", both},
		{"SignalR in MessagePack", "\x02\x91\x06", both},
		{"Meteor", `{"msg":"ping"}`, both},
		{"Rails", `{"type":"ping","message":1700000000}`, both},
		{"Phoenix", `[null,"17","phoenix","heartbeat",{}]`, both},
		{"Phoenix answers", `[null,"17","phoenix","phx_reply",{"status":"ok","response":{}}]`, both},
		{"Phoenix 1.2", `{"topic":"phoenix","event":"heartbeat","payload":{},"ref":"17"}`, both},
		{"VS Code", "\x09\x00\x00\x00\x00\x00\x00\x00\x12\x00\x00\x00\x00", both},
		{"a receipt of VS Code", "\x03\x00\x00\x00\x00\x00\x00\x00\x12\x00\x00\x00\x00", both},
		{"written by hand", `ping`, both},
		{"nothing", ``, both},

		{"an update of Vite", `{"type":"update","updates":[{"type":"js-update","path":"/src/App.jsx"}]}`, nil},
		{"what Vite's pages send", `{"type":"custom","event":"vite:invalidate","data":{}}`, nil},
		{"a ping that asks for more", `{"type":"ping","then":"build"}`, nil},
		{"the beginning of one", `{"type":"ping"`, nil},
		{"longer than one", `{"type":"ping"} and on`, nil},
		{"another event of Next.js", `{"event":"pings","page":"/"}`, nil},
		{"a key in a terminal", `h`, []Side{Server}},
		{"a digit in a terminal", `2`, nil},
		{"a message of VS Code", "\x01\x00\x00\x00\x07\x00\x00\x00\x12\x00\x00\x00\x00", nil},
		{"Phoenix's own topic is another's text", `[null,"17","room:1","new_msg",{"body":"phoenix"}]`, nil},
		{"a list of towns", `["flagstaff","phoenix","tucson"]`, nil},
		{"text of 64 bytes", strings.Repeat("x", 64), nil},
		{"text of 65 bytes", strings.Repeat("x", 65), nil},
		{"text of 70 000 bytes", strings.Repeat("x", 70_000), nil},
		{"many zeros, which compress to nothing", strings.Repeat("\x00", 1000), nil},
	} {
		for _, from := range both {
			t.Run(fmt.Sprint(row.what, " from ", from), func(t *testing.T) {
				want := !slices.Contains(row.from, from)
				for _, opcode := range []byte{text, binaryData} {
					if got := passes(t, from, Terms{}, frame(from, final|opcode, []byte(row.text))); got != want {
						t.Errorf("use: %v, want %v", got, want)
					}
				}
				readable := Terms{deflate: true, alone: [2]bool{true, true}}
				if got := passes(t, from, readable, frame(from, final|compressed|text, pack(t, row.text))); got != want {
					t.Errorf("compressed, use: %v, want %v", got, want)
				}
			})
		}
	}
}

// Engine.IO's keep-alives are single digits, so they count as such only where
// it is Engine.IO that talks.
func TestEngineIOIsKnownByItsURL(t *testing.T) {
	for target, want := range map[string]bool{"/socket.io/?EIO=4&transport=websocket": false, "/terminal": true} {
		terms := TermsOf(httptest.NewRequest(http.MethodGet, target, nil), http.Header{})
		for _, digit := range []string{"2", "3"} {
			if got := passes(t, Client, terms, message(Client, digit)); got != want {
				t.Errorf("%q at %s is use: %v, want %v", digit, target, got, want)
			}
		}
	}
}

func TestOnlyDataIsUse(t *testing.T) {
	for _, row := range []struct {
		what string
		from Side
		sent [][]byte
		want bool
	}{
		{"nothing", Client, nil, false},
		{"a ping", Client, [][]byte{frame(Client, final|ping, []byte("are you there?"))}, false},
		{"a pong", Server, [][]byte{frame(Server, final|pong, []byte("are you there?"))}, false},
		{"a closing frame", Server, [][]byte{frame(Server, final|closing, []byte{3, 0xE9})}, false},
		{"pings and keep-alives", Client, [][]byte{frame(Client, final|ping, nil), message(Client, `{"type":"ping"}`), frame(Client, final|ping, nil)}, false},
		{"a word after keep-alives", Client, [][]byte{message(Client, `{"type":"ping"}`), message(Client, `{"type":"ping"}`), message(Client, "a word")}, true},
		{"a word before keep-alives", Client, [][]byte{message(Client, "a word"), message(Client, `{"type":"ping"}`)}, true},
		{"a message in parts", Client, [][]byte{frame(Client, text, []byte("a")), frame(Client, final|ping, nil), frame(Client, final, []byte(" word"))}, true},
		{"a message whose first part is empty", Server, [][]byte{frame(Server, text, nil), frame(Server, final, []byte("x"))}, true},
		{"an empty message in parts", Server, [][]byte{frame(Server, text, nil), frame(Server, 0, nil), frame(Server, final, nil)}, false},
	} {
		t.Run(row.what, func(t *testing.T) {
			stream := slices.Concat(row.sent...)
			if got := passes(t, row.from, Terms{}, stream); got != row.want {
				t.Errorf("use: %v, want %v", got, row.want)
			}
			r := NewReader(row.from, Terms{})
			if r.Pass(stream); !r.Complete() {
				t.Error("it is taken for incomplete")
			}
		})
	}
}

// Counting what cannot be followed as use errs on the side of whoever uses it.
func TestWhatIsNoWebSocketIsUse(t *testing.T) {
	word := message(Server, "a word")
	for what, stream := range map[string][]byte{
		"an opcode that does not exist":          {final | 3, 0},
		"a control opcode that does not exist":   {final | 0xB, 0},
		"reserved bits":                          {final | 0x20 | 1, 1, 'x'},
		"compression that was not agreed on":     {final | compressed | 1, 1, 'x'},
		"a mask from a server":                   message(Client, "x"),
		"a ping in parts":                        {ping, 0},
		"a ping of 126 bytes":                    append([]byte{final | ping, 126, 0, 126}, make([]byte, 126)...),
		"a continuation of nothing":              {final, 1, 'x'},
		"a message within another":               {text, 1, 'x', final | text, 1, 'x'},
		"a length of 2^63":                       {final | 2, 127, 0x80, 0, 0, 0, 0, 0, 0, 0},
		"all bits":                               bytes.Repeat([]byte{0xFF}, 14),
		"HTTP":                                   []byte("HTTP/1.1 400 Bad Request\r\n\r\n"),
		"after a good frame":                     append(message(Server, `{"type":"ping"}`), 0xFF, 0),
		"keep-alives that do not begin a frame":  append([]byte{0xFF, 0xFF}, message(Server, `{"type":"ping"}`)...),
		"a closing frame, but reserved bits too": {final | 0x10 | closing, 0},
	} {
		t.Run(what, func(t *testing.T) {
			if !passes(t, Server, Terms{}, stream) {
				t.Error("it is no use")
			}
			r := NewReader(Server, Terms{})
			r.Pass(stream)
			if r.Complete() || r.Closed() {
				t.Error("it is taken for a WebSocket")
			}
			if !r.Pass(word[:1]) || !r.Pass(word[1:]) {
				t.Error("what comes after it is no use")
			}
		})
	}
}

// The largest frame that there can be is followed to its end, as far as one
// lives to see it.
func TestAFrameOfTheLargestSize(t *testing.T) {
	r := NewReader(Server, Terms{})
	if r.Pass([]byte{final | binaryData, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF}) {
		t.Error("its header is use")
	}
	for piece := range 10 { // each may come long after the one before
		if !r.Pass(make([]byte, 1<<16)) || r.Complete() {
			t.Errorf("piece %d of it is no use, or its end", piece)
		}
	}
}

// What is skipped is followed all the same.
func TestAfterASkipTheReaderIsRight(t *testing.T) {
	skipped := slices.Concat(message(Client, "a word"), frame(Client, text, []byte("a")), frame(Client, final, []byte("b")),
		frame(Client, final|binaryData, make([]byte, 70_000)), frame(Client, final|closing, nil))
	for cut := range 40 { // as well as whole
		r := NewReader(Client, Terms{})
		r.Skip(skipped[:cut])
		r.Skip(skipped[cut:])
		if !r.Complete() || !r.Closed() {
			t.Fatalf("cut at %d: complete %v, closed %v", cut, r.Complete(), r.Closed())
		}
		if r.Pass(message(Client, `{"type":"ping"}`)) || !r.Pass(message(Client, "a word")) {
			t.Fatalf("cut at %d: it takes what follows for something else", cut)
		}
	}
	long := frame(Client, final|binaryData, make([]byte, 70_000))
	r := NewReader(Client, Terms{})
	if r.Skip(long[:1000]); !r.Pass(long[1000:]) {
		t.Error("the rest of a long frame whose beginning was skipped is no use")
	}
	r = NewReader(Client, Terms{})
	r.Skip([]byte{final | 3, 0x80, 0, 0, 0, 0})
	if !r.Pass([]byte{0}) {
		t.Error("it follows what is no WebSocket")
	}
}

// What is compressed is unpacked by a reader of a pool; see the benchmark.
func TestPassDoesNotAllocate(t *testing.T) {
	stream := slices.Concat(message(Client, `{"type":"ping"}`), message(Client, "a word"), frame(Client, final|ping, nil))
	r := NewReader(Client, Terms{})
	if n := testing.AllocsPerRun(100, func() { r.Pass(stream) }); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkPass(b *testing.B) {
	for name, stream := range map[string][]byte{
		"32B":  message(Client, strings.Repeat("message.", 4)),
		"32KB": message(Server, strings.Repeat("message.", 4<<10)),
	} {
		b.Run(name, func(b *testing.B) {
			from := Server
			if stream[1]&masked != 0 {
				from = Client
			}
			r := NewReader(from, Terms{})
			b.SetBytes(int64(len(stream)))
			for b.Loop() {
				if !r.Pass(stream) {
					b.Fatal("it is no use")
				}
			}
		})
	}
	b.Run("32B-skipped", func(b *testing.B) {
		stream := message(Client, strings.Repeat("message.", 4))
		r := NewReader(Client, Terms{})
		for b.Loop() {
			r.Skip(stream)
		}
	})
	b.Run("compressed", func(b *testing.B) {
		stream := frame(Client, final|compressed|text, pack(b, `{"type":"ping"}`))
		r := NewReader(Client, Terms{deflate: true, alone: [2]bool{true, true}})
		b.ReportAllocs()
		for b.Loop() {
			if r.Pass(stream) {
				b.Fatal("it is use")
			}
		}
	})
}
