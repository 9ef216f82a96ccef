package devserver

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// The parts of RFC 6455 that an echo needs.
const (
	handshakeGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	opClose       = 0x8
	opPing        = 0x9
	opPong        = 0xA
	maxPayload    = 16 << 20
)

func webSocket(w http.ResponseWriter, r *http.Request) {
	buffered, done := upgrade(w, r)
	if buffered == nil {
		return
	}
	defer done()
	for buffered.Flush() == nil {
		frame, err := readFrame(buffered.Reader)
		if err != nil {
			return
		}
		frame.answer().writeTo(buffered.Writer)
		if frame.opcode() == opClose {
			_ = buffered.Flush()
			return
		}
	}
}

// chatter is a WebSocket that says a text again and again and does not listen.
func chatter(w http.ResponseWriter, r *http.Request) {
	pause, err := time.ParseDuration(r.FormValue("every"))
	if err != nil || pause <= 0 {
		http.Error(w, "every must be a duration", http.StatusBadRequest)
		return
	}
	buffered, done := upgrade(w, r)
	if buffered == nil {
		return
	}
	defer done()
	tick := time.NewTicker(pause)
	defer tick.Stop()
	for buffered.Flush() == nil {
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		}
		frame{head: 0x81, payload: []byte(r.FormValue("text"))}.writeTo(buffered.Writer)
	}
}

// upgrade makes a WebSocket of r, with the answer not yet flushed. The caller
// calls done. It returns nil if r is none, which it then has been told.
func upgrade(w http.ResponseWriter, r *http.Request) (conn *bufio.ReadWriter, done func()) {
	if !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") || r.Header.Get("Sec-WebSocket-Key") == "" {
		http.Error(w, "this path speaks WebSocket only", http.StatusUpgradeRequired)
		return nil, nil
	}
	raw, conn, err := http.NewResponseController(w).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return nil, nil
	}
	// The server has forgotten a hijacked connection; ctx ends with the server.
	forget := context.AfterFunc(r.Context(), func() { _ = raw.Close() })
	writeHandshake(conn, r)
	return conn, func() {
		forget()
		_ = raw.Close()
	}
}

func writeHandshake(w io.Writer, r *http.Request) {
	sum := sha1.Sum([]byte(r.Header.Get("Sec-WebSocket-Key") + handshakeGUID))
	_, _ = fmt.Fprintf(w, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
		"Sec-WebSocket-Accept: %s\r\n", base64.StdEncoding.EncodeToString(sum[:]))
	accepted := []string{"Sec-WebSocket-Protocol"}
	if r.URL.Query().Has("deflate") {
		accepted = append(accepted, "Sec-WebSocket-Extensions")
	}
	for _, name := range accepted {
		if first, _, _ := strings.Cut(r.Header.Get(name), ","); first != "" {
			_, _ = fmt.Fprintf(w, "%s: %s\r\n", name, strings.TrimSpace(first))
		}
	}
	_, _ = io.WriteString(w, "\r\n")
}

// frame is one WebSocket frame, unmasked. Fragments are echoed one by one, so
// nobody has to put messages together.
type frame struct {
	head    byte // FIN, reserved bits, opcode
	payload []byte
}

func (f frame) opcode() byte { return f.head & 0x0F }

// answer is f itself, or the pong to a ping.
func (f frame) answer() frame {
	if f.opcode() == opPing {
		f.head = f.head&^0x0F | opPong
	}
	return f
}

func readFrame(r *bufio.Reader) (frame, error) {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return frame{}, err
	}
	if head[1]&0x80 == 0 {
		return frame{}, errors.New("the client's frame is not masked")
	}
	size, err := readSize(r, head[1]&0x7F)
	if err != nil {
		return frame{}, err
	}
	var mask [4]byte
	if _, err := io.ReadFull(r, mask[:]); err != nil {
		return frame{}, err
	}
	payload := make([]byte, size)
	if _, err := io.ReadFull(r, payload); err != nil {
		return frame{}, err
	}
	for i := range payload {
		payload[i] ^= mask[i%4]
	}
	return frame{head: head[0], payload: payload}, nil
}

// readSize reads the rest of a payload's size, of which short is the start.
func readSize(r io.Reader, short byte) (size uint64, err error) {
	switch short {
	case 126:
		var size16 uint16
		err = binary.Read(r, binary.BigEndian, &size16)
		size = uint64(size16)
	case 127:
		err = binary.Read(r, binary.BigEndian, &size)
	default:
		size = uint64(short)
	}
	if err == nil && size > maxPayload {
		err = fmt.Errorf("a frame of %d bytes is over the limit of %d", size, maxPayload)
	}
	return size, err
}

// writeTo leaves errors to the Flush that follows: bufio keeps the first one.
func (f frame) writeTo(w *bufio.Writer) {
	head := []byte{f.head}
	switch size := len(f.payload); {
	case size < 126:
		head = append(head, byte(size))
	case size <= 0xFFFF:
		head = binary.BigEndian.AppendUint16(append(head, 126), uint16(size))
	default:
		head = binary.BigEndian.AppendUint64(append(head, 127), uint64(size))
	}
	_, _ = w.Write(head)
	_, _ = w.Write(f.payload)
}
