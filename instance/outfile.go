package instance

import (
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
)

// outFile is one of the files that the store writes. Not safe for concurrent
// use.
type outFile struct {
	Projection
	disk    disk
	path    string // the whole one
	index   int    // among the store's files, and of its part in each row
	logEdit func(path, aside string)

	madeOf  source      // of what content was made
	content bytesOf     // what is on disk, as far as we know; zero: nothing is known
	onDisk  fs.FileInfo // how it looked when we had found or written it; nil: unknown
}

// source is what a file is made of: where it is the same, so are the bytes.
type source struct {
	head    Head
	records uint64 // their version
}

// bytesOf stands for the bytes of a file, of which thousands of records make many:
// where two are the same, so are the bytes, but for one time in 2^64.
type bytesOf struct {
	size int
	hash uint64
}

var hashSeed = maphash.MakeSeed()

func hashed(data []byte) bytesOf { return bytesOf{len(data), maphash.Bytes(hashSeed, data)} }

func newOutFile(d disk, dir string, index int, p Projection, logEdit func(path, aside string)) *outFile {
	f := &outFile{Projection: p, disk: d, path: filepath.Join(dir, p.Path), index: index, logEdit: logEdit}
	f.onDisk, _ = d.Stat(f.path)
	if data, err := d.ReadFile(f.path); err == nil { // else the first write makes it
		f.content = hashed(data)
	}
	return f
}

// write writes the file if its bytes changed, or if somebody else changed it,
// and reports whether it did.
func (f *outFile) write(of source, rows []*row) (written bool, err error) {
	edited := f.edited()
	if !edited && f.content != (bytesOf{}) && reflect.DeepEqual(of, f.madeOf) {
		return false, nil // thousands of records are not joined to see that
	}
	blocks, err := f.blocks(rows)
	if err != nil {
		return false, err
	}
	data := f.Join(of.head, blocks)
	content := hashed(data)
	if !edited && content == f.content {
		f.madeOf = of
		return false, nil
	}
	if edited {
		if err := f.keepEdit(); err != nil {
			return false, err
		}
	}
	f.content, f.onDisk = bytesOf{}, nil // unknown, until it went well
	if err := writeFile(f.disk, f.path, f.Mode, data); err != nil {
		return false, err
	}
	f.content, f.madeOf = content, of
	f.onDisk, _ = f.disk.Stat(f.path)
	return true, nil
}

// blocks returns the parts of all records, making those that changed.
func (f *outFile) blocks(rows []*row) ([][]byte, error) {
	blocks := make([][]byte, 0, len(rows))
	for _, row := range rows {
		part := &row.parts[f.index]
		if part.of != row.record {
			block, err := f.Block(*row.record)
			if err != nil {
				return nil, fmt.Errorf("encoding %s for %s: %w", row.record.Prefix, f.Path, err)
			}
			part.of, part.block = row.record, block
		}
		if part.block != nil {
			blocks = append(blocks, part.block)
		}
	}
	return blocks, nil
}

// edited reports whether the file is no longer as we left it. The truth is in
// memory, and what somebody wrote into a file is not taken over.
func (f *outFile) edited() bool {
	if f.onDisk == nil {
		return false
	}
	now, err := f.disk.Stat(f.path)
	return err != nil || !os.SameFile(now, f.onDisk) ||
		now.Size() != f.onDisk.Size() || !now.ModTime().Equal(f.onDisk.ModTime())
}

// keepEdit keeps a copy of an edited file; one that was only touched, or is
// gone, needs none.
func (f *outFile) keepEdit() error {
	data, err := f.disk.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && hashed(data) == f.content {
		return nil
	}
	if err != nil {
		return err
	}
	aside := asideName(f.path, "edited")
	if err := writeFile(f.disk, aside, 0o600, data); err != nil {
		return err
	}
	f.logEdit(f.path, aside)
	return nil
}
