package instance

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/google/uuid"
)

// gatherTime is how long a write waits for other operations in progress to
// join it. One operation alone never waits.
const gatherTime = 15 * time.Millisecond

// store keeps the records on disk: the state file, which is the truth, and the
// projections. One goroutine writes; all changes that wait share one write.
type store struct {
	dir  string
	lock *os.File
	head func() Head // as it is now: the domain may change by a reload
	// nextPort and inFlight are asked at each write.
	nextPort func() int
	inFlight func() int
	logError func(msg string, err error)

	changes chan change
	done    chan struct{} // closed when the writer has ended
	files   []*stateWriter
	order   []string // the prefixes, sorted
}

// stateWriter is one file and its cached parts.
type stateWriter struct {
	Projection
	blocks  map[string][]byte
	written []byte // what is on disk, as far as we know
}

// change is a record's new state; a nil record leaves the table. An empty
// prefix only has the files written again.
type change struct {
	prefix string
	record *Record
	done   chan error
}

// openStore locks dir, reads the state file and starts the writer. lost tells
// that there had been one and it is gone or unreadable: the records then have
// to come from the containers.
func openStore(dir string, s *store) (loaded state, lost bool, err error) {
	s.dir = dir
	if err := makeDirs(dir); err != nil {
		return state{}, false, err
	}
	lock, lockOwner, err := lockDir(dir)
	if err != nil {
		return state{}, false, err
	}
	s.lock = lock
	loaded, lost, err = s.load(lockOwner)
	if err == nil {
		err = signLock(lock, loaded.Owner)
	}
	if err != nil {
		lock.Close()
		return state{}, false, err
	}
	return loaded, lost, nil
}

// makeDirs makes the folders that are missing; those that exist keep the mode
// that the operator gave them.
func makeDirs(dir string) error {
	if err := makeDir(dir, 0o711); err != nil {
		return err
	}
	return makeDir(filepath.Join(dir, "config"), 0o755)
}

func makeDir(path string, mode fs.FileMode) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	err := os.MkdirAll(path, mode)
	if err == nil {
		err = os.Chmod(path, mode) // the umask had its say
	}
	if err != nil {
		return stateError(path, err)
	}
	return nil
}

// load reads the state file. A corrupt one is set aside, never overwritten.
func (s *store) load(lockOwner string) (loaded state, lost bool, err error) {
	path := filepath.Join(s.dir, stateFile)
	data, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// A first start, or a lost file where the lock remembers an owner.
		if lockOwner == "" {
			return state{Owner: uuid.NewString()}, false, nil
		}
		s.logError("the state file is gone: its records come back from the containers", err)
		return state{Owner: lockOwner}, true, nil
	case err != nil:
		return state{}, false, stateError(path, err)
	}
	loaded, err = parseState(data)
	switch {
	case err == nil:
		return loaded, false, nil
	case loaded.Version != stateVersion && lockOwner == "":
		return state{}, false, Errorf(StateFailed, "%s is of another program or version (%w): "+
			"move it away, or start the version that wrote it", path, err)
	case loaded.Version > stateVersion:
		return state{}, false, Errorf(StateFailed, "%s was written by a newer version (%w): "+
			"start that version, or move the file away", path, err)
	}
	if lockOwner = cmp.Or(lockOwner, loaded.Owner); lockOwner == "" {
		lockOwner = uuid.NewString()
	}
	aside := path + ".corrupt-" + time.Now().UTC().Format("20060102T150405.000000000")
	if renameErr := os.Rename(path, aside); renameErr != nil {
		return state{}, false, stateError(path, renameErr)
	}
	s.logError("the state file is corrupt and was kept as "+aside+": its records come back from the containers", err)
	return state{Owner: lockOwner}, true, nil
}

// begin takes over the loaded records, writes every file and starts the
// writer. projections come after the state file in each write.
func (s *store) begin(records map[string]*Record, projections []Projection) error {
	truth := Projection{
		Path:  stateFile,
		Mode:  0o600,
		Block: encodeRecord,
		Join: func(head Head, blocks [][]byte) []byte {
			return joinState(head.Owner, s.nextPort(), blocks)
		},
	}
	for _, p := range append([]Projection{truth}, projections...) {
		w := &stateWriter{Projection: p, blocks: map[string][]byte{}}
		w.written, _ = os.ReadFile(filepath.Join(s.dir, p.Path)) // absent: written below
		s.files = append(s.files, w)
	}
	for _, r := range records {
		if err := s.stage(r.Prefix, r); err != nil {
			return err
		}
	}
	if err := s.write(); err != nil {
		return err
	}
	s.changes = make(chan change, 1024)
	s.done = make(chan struct{})
	go s.writeLoop()
	return nil
}

// put makes r durable.
func (s *store) put(r *Record) error { return s.submit(change{prefix: r.Prefix, record: r}) }

// drop makes the end of prefix durable. Even where it fails, the next write
// leaves the record out.
func (s *store) drop(prefix string) error { return s.submit(change{prefix: prefix}) }

// refresh writes the files that would now differ.
func (s *store) refresh() error { return s.submit(change{}) }

// putAll makes all records durable, in few writes.
func (s *store) putAll(records []*Record) error {
	done := make(chan error, len(records))
	for _, r := range records {
		s.changes <- change{prefix: r.Prefix, record: r, done: done}
	}
	var err error
	for range records {
		err = errors.Join(err, <-done)
	}
	return err
}

func (s *store) submit(c change) error {
	c.done = make(chan error, 1)
	s.changes <- c
	return <-c.done
}

// close ends the writer once all changes are written, and gives the directory
// free. Nobody may submit any more.
func (s *store) close() error {
	close(s.changes)
	<-s.done
	return s.lock.Close()
}

func (s *store) writeLoop() {
	defer close(s.done)
	for first := range s.changes {
		batch := s.gather(first)
		err := s.commit(batch)
		for _, c := range batch {
			c.done <- err
		}
	}
}

// gather collects the changes for one write: all that wait, and, while other
// operations are on their way here, those that come within gatherTime.
func (s *store) gather(first change) []change {
	batch := []change{first}
	patience := time.NewTimer(gatherTime)
	defer patience.Stop()
	for {
		select {
		case c, ok := <-s.changes:
			if !ok {
				return batch
			}
			batch = append(batch, c)
			continue
		default:
		}
		if len(batch) >= s.inFlight() {
			return batch
		}
		select {
		case c, ok := <-s.changes:
			if !ok {
				return batch
			}
			batch = append(batch, c)
		case <-patience.C:
			return batch
		}
	}
}

// commit makes batch durable, or undoes its puts in the parts.
func (s *store) commit(batch []change) error {
	before := make([]map[string][]byte, len(batch))
	var err error
	for i, c := range batch {
		before[i] = s.parts(c.prefix)
		err = errors.Join(err, s.stage(c.prefix, c.record))
	}
	if err == nil {
		err = s.write()
	}
	if err == nil {
		return nil
	}
	for i, c := range slices.Backward(batch) {
		if c.record != nil {
			s.restore(c.prefix, before[i])
		}
	}
	return err
}

// stage puts a record's parts in the place of the old ones.
func (s *store) stage(prefix string, r *Record) error {
	if prefix == "" {
		return nil
	}
	for _, f := range s.files {
		if r == nil {
			delete(f.blocks, prefix)
			continue
		}
		block, err := f.Block(*r)
		if err != nil {
			return fmt.Errorf("encoding %s for %s: %w", prefix, f.Path, err)
		}
		f.blocks[prefix] = block
	}
	s.list(prefix, r != nil)
	return nil
}

// parts returns the present part of prefix in each file, by path.
func (s *store) parts(prefix string) map[string][]byte {
	parts := map[string][]byte{}
	for _, f := range s.files {
		if block, ok := f.blocks[prefix]; ok {
			parts[f.Path] = block
		}
	}
	return parts
}

func (s *store) restore(prefix string, parts map[string][]byte) {
	for _, f := range s.files {
		if block, ok := parts[f.Path]; ok {
			f.blocks[prefix] = block
		} else {
			delete(f.blocks, prefix)
		}
	}
	s.list(prefix, len(parts) > 0)
}

// list keeps order in step with the parts.
func (s *store) list(prefix string, present bool) {
	at, found := slices.BinarySearch(s.order, prefix)
	switch {
	case present && !found:
		s.order = slices.Insert(s.order, at, prefix)
	case !present && found:
		s.order = slices.Delete(s.order, at, at+1)
	}
}

// write brings the files up to date, the truth first. Only its failure is an
// error: a projection that could not be written is logged and tried again
// with the next write.
func (s *store) write() error {
	head := s.head()
	for i, f := range s.files {
		err := f.write(s.dir, head, s.order)
		if err != nil && i == 0 {
			return stateError(filepath.Join(s.dir, f.Path), err)
		}
		if err != nil {
			s.logError("writing a projection failed; the next change tries again", err)
		}
	}
	return nil
}

// write writes the file if its bytes changed.
func (f *stateWriter) write(dir string, head Head, order []string) error {
	blocks := make([][]byte, 0, len(order))
	for _, prefix := range order {
		if block := f.blocks[prefix]; block != nil {
			blocks = append(blocks, block)
		}
	}
	data := f.Join(head, blocks)
	if bytes.Equal(data, f.written) {
		return nil
	}
	if err := writeFile(filepath.Join(dir, f.Path), f.Mode, data); err != nil {
		f.written = nil // unknown
		return err
	}
	f.written = data
	return nil
}
