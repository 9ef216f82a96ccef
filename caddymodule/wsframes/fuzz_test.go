package wsframes

import (
	"slices"
	"testing"
)

// FuzzReader sends anything in pieces of any size. What is use, in total, must
// not depend on the pieces; nothing may be written to; and a frame of a word
// that follows on complete ones is use.
func FuzzReader(f *testing.F) {
	for _, from := range []Side{Client, Server} {
		f.Add(uint8(from), uint8(0), uint16(1), message(from, `{"type":"ping"}`))
		f.Add(uint8(from), uint8(0), uint16(3), slices.Concat(frame(from, final|ping, []byte("x")), message(from, "a word")))
		f.Add(uint8(from), uint8(0), uint16(5), slices.Concat(frame(from, text, []byte("a")), frame(from, final, []byte("b"))))
		f.Add(uint8(from), uint8(3), uint16(2), frame(from, final|compressed|text, pack(f, `{"type":"ping"}`)))
		f.Add(uint8(from), uint8(4), uint16(2), frame(from, final|3, []byte("of an extension")))
		f.Add(uint8(from), uint8(8), uint16(1), message(from, "2"))
	}
	f.Add(uint8(Server), uint8(0), uint16(1), []byte{final | 2, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 'x'})
	f.Fuzz(func(t *testing.T, side, agreed uint8, size uint16, stream []byte) {
		from := Side(side % 2)
		terms := Terms{deflate: agreed&1 != 0, unknown: agreed&4 != 0, engineIO: agreed&8 != 0}
		terms.alone = [2]bool{agreed&2 != 0, agreed&2 != 0}
		sent := slices.Clone(stream)
		whole := NewReader(from, terms)
		used := whole.Pass(sent)
		if !slices.Equal(sent, stream) {
			t.Fatal("it was written to")
		}
		pieces := NewReader(from, terms)
		got := false
		for piece := range slices.Chunk(stream, 1+int(size)) {
			got = pieces.Pass(piece) || got
		}
		pieces.got, whole.got = 0, 0 // of what is decided
		if got != used || pieces != whole {
			t.Fatalf("in pieces of %d: use %v and %+v, at once %v and %+v", 1+size, got, pieces, used, whole)
		}
		skipping := NewReader(from, terms)
		skipping.Skip(stream)
		if skipping.Complete() != whole.Complete() || skipping.Closed() != whole.Closed() || skipping.lost != whole.lost {
			t.Fatalf("it is followed as %+v where nobody looks, else as %+v", skipping, whole)
		}
		if whole.Complete() && !whole.within && !whole.Pass(message(from, "a word")) {
			t.Error("a word after it is no use")
		}
	})
}
