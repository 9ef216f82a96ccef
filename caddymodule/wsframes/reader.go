package wsframes

import (
	"encoding/binary"
)

// Side is one end of a WebSocket.
type Side uint8

// The sides.
const (
	Client Side = iota
	Server
)

// Parts of a frame's header: RFC 6455, section 5.2.
const (
	final      = 0x80
	compressed = 0x40 // RFC 7692: the first frame of a message that is
	reserved   = 0x30
	opcodeBits = 0x0F
	masked     = 0x80

	continuation = 0x0
	text         = 0x1
	binaryData   = 0x2
	closing      = 0x8
	ping         = 0x9
	pong         = 0xA

	maxControl = 125 // bytes of payload
)

// maxRead is how much of a message is read: no keep-alive needs more to be known.
const maxRead = 64

// Reader follows the frames that one side of a WebSocket sends. It does not
// allocate, and stays right wherever frames are split. What it cannot follow
// it gives up on; from then on all that passes counts as use, for ending what
// somebody uses is worse than keeping what nobody does.
//
// It is not safe for concurrent use. Make one with [NewReader].
type Reader struct {
	from  Side
	terms Terms

	header [14]byte // of the frame that has begun
	had    uint8    // how much of it has come
	left   uint64   // what is still to come of the payload of the present frame

	first  [maxRead]byte // of the payload, unmasked
	got    uint8         // how much of it has come
	wanted uint8         // how much of it decides what the frame is; 0: it is decided
	using  bool          // the present frame is use, as far as that is decided

	within bool // a message has begun that further frames continue
	closed bool
	lost   bool
}

// NewReader returns a Reader of what from sends on a WebSocket of those terms.
func NewReader(from Side, terms Terms) Reader { return Reader{from: from, terms: terms} }

// Closed reports whether a closing frame has passed.
func (r *Reader) Closed() bool { return r.closed }

// Complete reports whether no frame is half-way, so that another one may follow.
func (r *Reader) Complete() bool { return r.left == 0 && r.had == 0 && !r.lost }

// Pass follows p, which comes next, and reports whether anything in it is use of
// what is at the other end: data that is no keep-alive.
func (r *Reader) Pass(p []byte) (used bool) { return r.pass(p, true) }

// Skip follows p as Pass does, in half the time: it does not look at what
// begins in it.
func (r *Reader) Skip(p []byte) { r.pass(p, false) }

func (r *Reader) pass(p []byte, look bool) (used bool) {
	for len(p) > 0 && !r.lost {
		var n int
		var is bool
		if r.left > 0 {
			n, is = r.passPayload(p)
		} else {
			n, is = r.passHeader(p, look)
		}
		used = used || is
		p = p[n:]
	}
	return used || len(p) > 0
}

// passHeader takes what p has of the present header. It reports use where the
// header alone shows it.
func (r *Reader) passHeader(p []byte, look bool) (n int, used bool) {
	n = copy(r.header[r.had:r.headerSize(r.had)], p)
	r.had += uint8(n)
	if r.had < 2 || r.had < r.headerSize(r.had) {
		return n, false
	}
	r.had = 0
	r.left = r.payloadSize()
	if !r.sound() {
		r.lost = true
		return n, true
	}
	return n, r.begin(look)
}

// headerSize is how long the present header is, as far as that shows in the
// first had bytes of it.
func (r *Reader) headerSize(had uint8) uint8 {
	if had < 2 {
		return 2
	}
	size := uint8(2)
	switch r.header[1] &^ masked {
	case 126:
		size += 2
	case 127:
		size += 8
	}
	if r.header[1]&masked != 0 {
		size += 4
	}
	return size
}

func (r *Reader) payloadSize() uint64 {
	switch size := r.header[1] &^ masked; size {
	case 126:
		return uint64(binary.BigEndian.Uint16(r.header[2:]))
	case 127:
		return binary.BigEndian.Uint64(r.header[2:])
	default:
		return uint64(size)
	}
}

// sound reports whether the present header can be one. What it rules out no end
// may send, so it is no WebSocket, or not where we believe to be in it.
func (r *Reader) sound() bool {
	head, opcode := r.header[0], r.header[0]&opcodeBits
	if r.left>>63 != 0 || (r.header[1]&masked != 0) != (r.from == Client) {
		return false
	}
	if r.terms.unknown { // another extension may have changed all but this
		return true
	}
	if head&reserved != 0 || head&compressed != 0 && (!r.terms.deflate || opcode != text && opcode != binaryData) {
		return false
	}
	switch opcode {
	case continuation:
		return r.within
	case text, binaryData:
		return !r.within
	case closing, ping, pong:
		return head&final != 0 && r.left <= maxControl
	}
	return false
}

// begin sets out to read the payload of the present frame as far as it matters,
// if it is to be looked at. It reports use where that is clear without.
func (r *Reader) begin(look bool) (used bool) {
	head, opcode := r.header[0], r.header[0]&opcodeBits
	r.got, r.wanted, r.using = 0, 0, false
	if opcode >= closing {
		r.closed = r.closed || opcode == closing
		return false
	}
	r.within = head&final == 0
	switch {
	case r.left == 0: // nothing passes
	case !look: // what comes of it later on, when somebody looks, is of a long one
		r.using = true
		return false
	case opcode == continuation, r.within, r.terms.unknown, head&compressed != 0 && !r.terms.alone[r.from]:
		r.using = true // keep-alives are short: nobody sends them in parts
	default:
		r.wanted = uint8(min(r.left, maxRead))
	}
	return r.using
}

// passPayload takes what p has of the present payload. It reports use once
// enough of it has come to tell, and from then on: a long one may take its time.
func (r *Reader) passPayload(p []byte) (n int, used bool) {
	p = p[:min(r.left, uint64(len(p)))]
	r.left -= uint64(len(p))
	if r.got < r.wanted {
		r.read(p)
		r.using = r.got == r.wanted && !r.keepsAlive()
	}
	return len(p), r.using
}

// read keeps the first bytes of a payload, as they were before they were masked.
func (r *Reader) read(p []byte) {
	begun := r.got
	r.got += uint8(copy(r.first[begun:r.wanted], p))
	if r.from != Client {
		return
	}
	mask := r.header[r.headerSize(2)-4:]
	for i := begun; i < r.got; i++ {
		r.first[i] ^= mask[i%4]
	}
}
