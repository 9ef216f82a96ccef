package instance

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// gatherTime is how long a write waits for other operations in progress to
// join it. One operation alone never waits.
const gatherTime = 15 * time.Millisecond

// While there are more than lagAbove records, files that may lag are written
// every lagTime at most.
const (
	lagAbove = 1000
	lagTime  = 250 * time.Millisecond
)

// store keeps the records on disk: the state file, which is the truth, and the
// projections. One goroutine writes; all changes that wait share one write.
type store struct {
	dir  string
	disk disk
	lock *os.File
	// The following are asked, or told, at each write.
	head     func() Head // the domain may change by a reload
	inFlight func() int
	logError func(msg string, err error)
	logEdit  func(path, aside string)
	changed  func(path string) // a projection has new bytes

	changes chan change
	done    chan struct{} // closed when the writer has ended

	// The writer's alone:
	files   []*outFile
	reserve *reserve
	rows    []*row // ordered by prefix
	version uint64 // of rows, another one after each change
	late    bool   // files that may lag are behind
}

// row is one record, and its part of each file as made when last needed.
type row struct {
	record *Record
	parts  []part // by index of the file
}

// part is what Projection.Block made of a record.
type part struct {
	of    *Record
	block []byte
}

// change is a record's new state; a nil record leaves the table. An empty
// prefix only has the files written again.
type change struct {
	prefix string
	record *Record
	// from is the key that the record had until now, which leaves the table in
	// the same write; empty: the same one, or none.
	from string
	// stays: where it cannot be written, the next write does it.
	stays bool
	done  chan error
}

// openStore locks dir and reads the state file; begin starts the writer.
func openStore(dir string, s *store) (loaded state, err error) {
	s.dir = dir
	if s.disk == nil {
		s.disk = osDisk{}
	}
	if err := makeDirs(dir); err != nil {
		return state{}, err
	}
	lock, lockOwner, err := lockDir(dir)
	if err != nil {
		return state{}, err
	}
	s.lock = lock
	if loaded, err = s.load(lockOwner); err != nil {
		lock.Close()
		return state{}, err
	}
	return loaded, nil
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

// load reads the state file. A corrupt one is set aside, never overwritten; it
// and a lost one leave a degraded state, whose records have to come from the
// containers.
func (s *store) load(lockOwner string) (state, error) {
	path := filepath.Join(s.dir, stateFile)
	if err := s.checkFile(path, lockOwner != ""); err != nil {
		return state{}, err
	}
	data, err := s.disk.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && lockOwner == "":
		return s.firstState()
	case errors.Is(err, fs.ErrNotExist): // the lock remembers an owner
		s.logError("the state file is gone: its records come back from the containers", err)
		return state{Owner: lockOwner, Degraded: "the state file was gone"}, nil
	case err != nil:
		return state{}, stateError(path, err)
	}
	loaded, err := parseState(data)
	switch {
	case err == nil:
		return loaded, nil
	case loaded.Version == 0 && lockOwner == "":
		return s.firstState()
	case loaded.Version > stateVersion:
		return state{}, Errorf(StateFailed, "%s was written by a newer version (%w): "+
			"start that version, or move the file away", path, err)
	}
	aside := asideName(path, "corrupt")
	if renameErr := s.disk.Rename(path, aside); renameErr != nil {
		return state{}, stateError(path, renameErr)
	}
	s.logError("the state file is corrupt and was kept as "+aside+": its records come back from the containers", err)
	if !isOwner(loaded.Owner) {
		loaded.Owner = uuid.NewString()
	}
	return state{
		Owner:    cmp.Or(lockOwner, loaded.Owner),
		Degraded: "the state file was corrupt, and is kept as " + filepath.Base(aside),
	}, nil
}

// firstState is that of a directory without a state of ours.
func (s *store) firstState() (state, error) {
	old, err := findOldState(s.disk, s.dir)
	return state{Owner: uuid.NewString(), NextPort: old.nextPort, first: true, old: old}, err
}

// begin takes over the loaded records, writes every file and starts the
// writer. projections come after the state file in each write.
func (s *store) begin(records map[string]*Record, projections []Projection) error {
	truth := Projection{
		Path:  stateFile,
		Mode:  0o600,
		Block: encodeRecord,
		Join:  joinState,
	}
	for i, p := range append([]Projection{truth}, projections...) {
		s.files = append(s.files, newOutFile(s.disk, s.dir, i, p, s.logEdit))
	}
	for _, prefix := range slices.Sorted(maps.Keys(records)) {
		s.rows = append(s.rows, s.newRow(records[prefix]))
	}
	if err := s.write(); err != nil {
		return err
	}
	// Only now: a signed lock without a state file means that one was lost.
	if err := signLock(s.lock, s.head().Owner); err != nil {
		return err
	}
	s.reserve = newReserve(s.disk, s.dir)
	s.fillReserve()
	s.changes = make(chan change, 1024)
	s.done = make(chan struct{})
	go s.writeLoop()
	return nil
}

func (s *store) newRow(r *Record) *row { return &row{record: r, parts: make([]part, len(s.files))} }

// put makes r durable.
func (s *store) put(r *Record) error { return s.submit(change{prefix: r.Prefix, record: r}) }

// note makes r durable, which tells what has happened already. Even where it
// fails, the next write has r.
func (s *store) note(r *Record) error {
	return s.submit(change{prefix: r.Prefix, record: r, stays: true})
}

// replace makes r durable, and in the same write the end of the record that
// had the key from: a power cut leaves the one or the other.
func (s *store) replace(from string, r *Record) error {
	return s.submit(change{prefix: r.Prefix, record: r, from: from})
}

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
	catchUp := time.NewTicker(lagTime)
	defer catchUp.Stop()
	for {
		select {
		case first, open := <-s.changes:
			if !open {
				s.writeLate()
				return
			}
			batch := s.gather(first)
			err := s.commit(batch)
			for _, c := range batch {
				c.done <- err
			}
			if first.prefix == "" { // a refresh, now and then
				s.fillReserve()
			}
		case <-catchUp.C:
			s.writeLate()
		}
	}
}

// gather collects the changes for one write: all that wait, and, while other
// operations are on their way here, those that come within gatherTime.
func (s *store) gather(first change) []change {
	batch := []change{first}
	patience := time.NewTimer(gatherTime)
	defer patience.Stop()
	for len(s.changes) > 0 || len(batch) < s.inFlight() {
		select {
		case c, open := <-s.changes:
			if !open {
				return batch
			}
			batch = append(batch, c)
		case <-patience.C:
			return batch
		}
	}
	return batch
}

// commit makes batch durable. If it cannot, its puts are taken back, so that
// the next write does not make durable what its caller was told had failed;
// what was only noted stays, and what left the table stays out.
func (s *store) commit(batch []change) error {
	before, moved := make([]*Record, len(batch)), make([]*Record, len(batch))
	for i, c := range batch {
		moved[i] = s.set(c.from, nil)
		before[i] = s.set(c.prefix, c.record)
	}
	err := s.write()
	if KindOf(err) == DiskFull && slices.ContainsFunc(batch, change.ends) && s.reserve.give() {
		err = s.write()
	}
	if err == nil {
		return nil
	}
	for i, c := range slices.Backward(batch) {
		if c.record != nil && !c.stays {
			s.set(c.prefix, before[i])
			s.set(c.from, moved[i])
		}
	}
	return err
}

// ends reports whether c is about the end of an instance. That of a spare can
// wait: whose container is gone is nobody's loss.
func (c change) ends() bool {
	return c.prefix != "" && !isSpare(c.prefix) && (c.record == nil || c.record.Status == Deleting)
}

func (s *store) fillReserve() { s.reserve.fill(s.files[0].content.size) }

// set makes r the record of prefix, nil: none, and returns the one before.
func (s *store) set(prefix string, r *Record) (before *Record) {
	if prefix == "" {
		return nil
	}
	s.version++
	at, found := slices.BinarySearchFunc(s.rows, prefix, func(row *row, prefix string) int {
		return strings.Compare(row.record.Prefix, prefix)
	})
	switch {
	case found && r == nil:
		before = s.rows[at].record
		s.rows = slices.Delete(s.rows, at, at+1)
	case found:
		before, s.rows[at].record = s.rows[at].record, r
	case r != nil:
		s.rows = slices.Insert(s.rows, at, s.newRow(r))
	}
	return before
}

// write brings the files up to date, the truth first. Only its failure is an
// error: a projection that could not be written is logged and tried again
// with the next write.
func (s *store) write() error {
	of := s.source()
	for i, f := range s.files {
		if f.MayLag && len(s.rows) > lagAbove {
			s.late = true
			continue
		}
		if err := s.writeOne(f, of); err != nil && i == 0 {
			return stateError(f.path, err)
		}
	}
	return nil
}

// writeLate writes the files that may lag, if they do.
func (s *store) writeLate() {
	if !s.late {
		return
	}
	s.late = false
	of := s.source()
	for _, f := range s.files {
		if f.MayLag {
			_ = s.writeOne(f, of) // it is logged, and a projection
		}
	}
}

func (s *store) source() source { return source{s.head(), s.version} }

func (s *store) writeOne(f *outFile, of source) error {
	written, err := f.write(of, s.rows)
	switch {
	case f.index == 0:
		return err
	case err != nil:
		s.logError("writing a projection failed; the next change tries again", err)
	case written:
		s.changed(f.Path)
	}
	return err
}
