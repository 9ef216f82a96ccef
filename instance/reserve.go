package instance

import "path/filepath"

// reserveFile holds space for the time when the disk is full: a delete then
// takes it, because ending instances is how space is won back.
const reserveFile = ".instances.reserve"

// minReserve is enough for the state of hundreds of instances.
const minReserve = 256 << 10

// reserve is the reserveFile of a store, whose writer alone uses it.
type reserve struct {
	disk disk
	path string
	held int // bytes
}

func newReserve(d disk, dir string) *reserve {
	return &reserve{disk: d, path: filepath.Join(dir, reserveFile)}
}

// fill holds enough to write a state of that many bytes twice, if the disk has
// as much; that it has not is no error.
func (r *reserve) fill(state int) {
	size := max(minReserve, 2*state)
	if r.held >= size {
		return
	}
	size += size / 2 // so that it is not made anew for every record
	r.held = 0
	if writeAndSync(r.disk, r.path, 0o600, make([]byte, size)) == nil {
		r.held = size
	}
}

// give gives the space back and reports whether there was any.
func (r *reserve) give() bool {
	given := r.held > 0 && r.disk.Remove(r.path) == nil
	r.held = 0
	return given
}
