package wsframes

import "bytes"

// keepsAlive reports whether the message whose beginning has been read is one
// that programs send by themselves, at fixed times, only to keep a connection
// open or to see that it is.
func (r *Reader) keepsAlive() bool {
	message, whole := r.first[:r.got], r.payloadSize() <= maxRead
	if r.header[0]&compressed != 0 {
		message, whole = inflate(r.first[:0], message, whole)
	}
	return whole && r.isKeepAlive(message) || beginsKeepAlive(message)
}

// isKeepAlive knows whole messages.
func (r *Reader) isKeepAlive(message []byte) bool {
	switch string(message) {
	case "": // compressed; else it did not come so far
		return true
	case `{"type":"ping"}`, `{"type":"pong"}`: // Vite's client, each 30 s; graphql-transport-ws
		return true
	case `{"type":"ka"}`: // subscriptions-transport-ws
		return true
	case `{"msg":"ping"}`, `{"msg":"pong"}`: // Meteor
		return true
	case "{\"type\":6}\x1e", "\x02\x91\x06": // SignalR and Blazor, each 15 s, in both of its forms
		return true
	case "ping", "pong", "PING", "PONG": // what people write themselves
		return true
	case "h": // SockJS, as in webpack-dev-server 3 and 4, each 25 s
		return r.from == Server
	case "2", "3", "2probe", "3probe": // Engine.IO, so Socket.IO and Browsersync, each 25 s
		return r.terms.engineIO // elsewhere it may be what somebody types
	}
	return isVSCodeKeepAlive(message)
}

// isVSCodeKeepAlive knows what VS Code in a browser and its server send each
// 5 s, and the receipts for it: a header of 13 bytes, which begins with its kind
// and ends with the length of what follows it.
func isVSCodeKeepAlive(message []byte) bool {
	const receipt, keepAlive = 3, 9
	return len(message) == 13 && (message[0] == receipt || message[0] == keepAlive) &&
		bytes.Equal(message[9:], []byte{0, 0, 0, 0})
}

// openings are how keep-alives begin that say more.
var openings = [][]byte{
	[]byte(`{"event":"ping",`), // the client of Next.js with webpack, each 2.5 s, with the page that is open
	// The answers of Next.js to it, up to 13.4.
	[]byte(`{"event":"pong"`), []byte(`{"action":"pong"`),
	[]byte(`{"success":true,"event":"pong"`), []byte(`{"success":true,"action":"pong"`),
	[]byte(`{"invalid":true,"event":"pong"`), []byte(`{"invalid":true,"action":"pong"`),
	[]byte(`{"type":"ping","message":`), // Rails, each 3 s, with the time
	[]byte(`{"topic":"phoenix",`),       // Phoenix, each 30 s: its topic has nothing else
}

// beginsKeepAlive knows messages by how they begin.
func beginsKeepAlive(message []byte) bool {
	for _, opening := range openings {
		if bytes.HasPrefix(message, opening) {
			return true
		}
	}
	// Phoenix since 1.3 sends [null,"<number>","phoenix","heartbeat",{}].
	numbered, ok := bytes.CutPrefix(message, []byte(`[null,"`))
	return ok && bytes.HasPrefix(bytes.TrimLeft(numbered, "0123456789"), []byte(`","phoenix","`))
}
