package instance

import (
	"io/fs"
	"time"
)

// Projection is a file generated from the records and never read back as
// truth. A record's part is made once and kept until the record changes, so a
// write of thousands only joins bytes.
type Projection struct {
	Path string // below the state directory
	Mode fs.FileMode
	// MayLag lets the file be late where there are many instances.
	MayLag bool
	// Block returns the part of one record; nil leaves it out.
	Block func(Record) ([]byte, error)
	// Join makes the whole file of the parts, in the order of their prefixes.
	Join func(head Head, blocks [][]byte) []byte
}

// Head is what the files say besides the records.
type Head struct {
	Owner  string // uuid of the state directory
	Domain string
	// For the state file alone:
	Degraded string
	NextPort int
	Resting  map[int]time.Time
	// Lifetimes are the templates' in force, once all have their reprieve.
	Lifetimes lifetimes
}
