package wsframes

import (
	"bytes"
	"compress/flate"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
)

// Terms are what the ends of a WebSocket agreed on, as far as it bears on
// reading what they send.
type Terms struct {
	deflate  bool    // messages may be compressed
	alone    [2]bool // by [Side]: each of its messages is compressed by itself
	unknown  bool    // there is an extension that we do not know
	engineIO bool
}

// permessage-deflate and those of its parameters that matter: RFC 7692.
const (
	permessageDeflate = "permessage-deflate"
	serverAlone       = "server_no_context_takeover"
	clientAlone       = "client_no_context_takeover"
)

// TermsOf reads the terms of the WebSocket that r asked for from the header that
// it was answered with.
func TermsOf(r *http.Request, answer http.Header) (t Terms) {
	t.engineIO = hasEngineIO(r.URL)
	for extension := range extensions(answer) {
		if t.deflate || extension[0] != permessageDeflate {
			t.unknown = true
			continue
		}
		t.deflate = true
		t.alone[Client] = slices.Contains(extension, clientAlone)
		t.alone[Server] = slices.Contains(extension, serverAlone)
	}
	return t
}

// hasEngineIO reports whether a URL has the parameter that Engine.IO demands.
func hasEngineIO(u *url.URL) bool {
	query, _ := url.ParseQuery(u.RawQuery) // what can be read of it
	return query.Has("EIO")
}

// AskForReadable has the ends of a WebSocket, for which h asks, compress each
// message by itself if they compress. By default they go on from what went
// before: to read a message of ten bytes one would have to have unpacked all the
// others. Not offering compression would do, too, but cost those bandwidth who
// now have it: web servers in Python agree to it by default, which dev servers
// do not.
//
// No end can tell: a client must take both parameters whether it asked for them
// or not, and a server may always put them into its answer. Where a server puts
// in but one, all compressed messages from the other side count as use.
func AskForReadable(h http.Header) {
	for _, name := range extensionHeaders {
		for i, value := range h[name] {
			if strings.Contains(value, `"`) { // allowed, and never seen: commas may be in it
				continue
			}
			offers := strings.Split(value, ",")
			for n, offer := range offers {
				offers[n] = readable(offer)
			}
			h[name][i] = strings.Join(offers, ",")
		}
	}
}

func readable(offer string) string {
	params := split(offer)
	if params[0] != permessageDeflate {
		return offer
	}
	for _, param := range []string{serverAlone, clientAlone} {
		if !slices.Contains(params, param) { // twice would be malformed
			offer += "; " + param
		}
	}
	return offer
}

// extensionHeaders are the spellings of net/http and of Caddy.
var extensionHeaders = []string{"Sec-Websocket-Extensions", "Sec-WebSocket-Extensions"}

// extensions are those in h, each with its name first and then its parameters.
func extensions(h http.Header) func(yield func([]string) bool) {
	return func(yield func([]string) bool) {
		for _, name := range extensionHeaders {
			for _, value := range h[name] {
				for extension := range strings.SplitSeq(value, ",") {
					if !yield(split(extension)) {
						return
					}
				}
			}
		}
	}
}

func split(extension string) (params []string) {
	for param := range strings.SplitSeq(extension, ";") {
		params = append(params, strings.ToLower(strings.TrimSpace(param)))
	}
	return params
}

// tail is what a sender leaves off the end of a compressed message, and an empty
// last block behind it, so that the end can be seen.
var tail = []byte{0, 0, 0xFF, 0xFF, 1, 0, 0, 0xFF, 0xFF}

// inflater unpacks the beginnings of messages.
type inflater struct {
	packed []byte
	from   bytes.Reader
	to     io.ReadCloser
	more   [1]byte
}

var inflaters = sync.Pool{New: func() any { return &inflater{to: flate.NewReader(new(bytes.Reader))} }}

// inflate appends to message, which is empty, what packed begins with, as far as
// it has room; both may share their bytes. whole says whether packed is all of a
// message, and comes to whether message is.
func inflate(message, packed []byte, whole bool) (unpacked []byte, all bool) {
	in := inflaters.Get().(*inflater)
	defer inflaters.Put(in)
	in.packed = append(in.packed[:0], packed...)
	if whole {
		in.packed = append(in.packed, tail...)
	}
	in.from.Reset(in.packed)
	if err := in.to.(flate.Resetter).Reset(&in.from, nil); err != nil {
		return nil, false
	}
	var err error
	for len(message) < cap(message) && err == nil {
		var n int
		n, err = in.to.Read(message[len(message):cap(message)])
		message = message[:len(message)+n]
	}
	if err == nil { // it has no room for more: is there more?
		_, err = io.ReadFull(in.to, in.more[:])
	}
	return message, whole && err == io.EOF
}
