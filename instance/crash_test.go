package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// modelDisk is a disk in memory that knows what a power cut would leave: a
// file's bytes only once they are synced, a folder's entries only once it is.
// It can fail, or cut the power, at a given operation.
type modelDisk struct {
	live    map[string]*modelFile // what a running process sees
	durable map[string]*modelFile // entries that a power cut leaves
	ops     int
	faultAt int   // the operation that fails; 0: none
	fault   error // with this; errPowerCut: and every later one
}

type modelFile struct {
	data   []byte
	synced []byte
}

var errPowerCut = errors.New("power cut")

func newModelDisk() *modelDisk {
	return &modelDisk{live: map[string]*modelFile{}, durable: map[string]*modelFile{}}
}

// step counts an operation, and fails it if it is its turn.
func (d *modelDisk) step() error {
	d.ops++
	if d.faultAt != 0 && (d.ops == d.faultAt || d.ops > d.faultAt && errors.Is(d.fault, errPowerCut)) {
		return d.fault
	}
	return nil
}

// cut returns the disk after a power cut: of what was not synced, a part may
// have reached it all the same.
func (d *modelDisk) cut(random *rand.Rand) *modelDisk {
	after := newModelDisk()
	names := maps.Clone(d.durable)
	for name, f := range d.live {
		if random.IntN(2) == 0 {
			names[name] = f
		}
	}
	for name := range d.durable {
		if d.live[name] == nil && random.IntN(2) == 0 {
			delete(names, name)
		}
	}
	for name, f := range names {
		data := f.synced
		if random.IntN(2) == 0 { // a part of the new bytes
			data = f.data[:random.IntN(len(f.data)+1)]
		}
		if f.synced != nil && string(f.synced) == string(f.data) {
			data = f.synced
		}
		after.live[name] = &modelFile{data: data, synced: data}
		after.durable[name] = after.live[name]
	}
	return after
}

func (d *modelDisk) ReadFile(path string) ([]byte, error) {
	f := d.live[path]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return f.data, nil
}

func (d *modelDisk) Stat(path string) (fs.FileInfo, error) {
	f := d.live[path]
	if f == nil {
		return nil, fs.ErrNotExist
	}
	return modelInfo{f}, nil
}

func (d *modelDisk) Create(path string, _ fs.FileMode) (diskFile, error) {
	if err := d.step(); err != nil {
		return nil, err
	}
	d.live[path] = &modelFile{}
	return &modelHandle{d, d.live[path]}, nil
}

func (d *modelDisk) Rename(from, to string) error {
	if err := d.step(); err != nil {
		return err
	}
	d.live[to] = d.live[from]
	delete(d.live, from)
	return nil
}

func (d *modelDisk) Remove(path string) error {
	if err := d.step(); err != nil {
		return err
	}
	delete(d.live, path)
	return nil
}

func (d *modelDisk) SyncDir(dir string) error {
	if err := d.step(); err != nil {
		return err
	}
	for name := range d.durable {
		if filepath.Dir(name) == dir && d.live[name] == nil {
			delete(d.durable, name)
		}
	}
	for name, f := range d.live {
		if filepath.Dir(name) == dir {
			d.durable[name] = f
		}
	}
	return nil
}

type modelHandle struct {
	disk *modelDisk
	file *modelFile
}

func (h *modelHandle) Write(p []byte) (int, error) {
	if err := h.disk.step(); err != nil {
		h.file.data = append(h.file.data, p[:len(p)/2]...) // a short write
		return len(p) / 2, err
	}
	h.file.data = append(h.file.data, p...)
	return len(p), nil
}

func (h *modelHandle) Sync() error {
	if err := h.disk.step(); err != nil {
		return err
	}
	h.file.synced = append([]byte{}, h.file.data...)
	return nil
}

func (h *modelHandle) Close() error { return h.disk.step() }

type modelInfo struct{ file *modelFile }

func (i modelInfo) Name() string       { return "" }
func (i modelInfo) Size() int64        { return int64(len(i.file.data)) }
func (i modelInfo) Mode() fs.FileMode  { return 0o600 }
func (i modelInfo) ModTime() time.Time { return time.Time{} }
func (i modelInfo) IsDir() bool        { return false }
func (i modelInfo) Sys() any           { return i.file }

// modelStore opens a store whose files are on d; its lock is a real one.
func modelStore(t *testing.T, d *modelDisk, lockDir string) (*store, state, error) {
	t.Helper()
	s := lonelyStore(t, d)
	loaded, err := openStore(lockDir, s)
	if err != nil {
		return nil, state{}, err
	}
	if err := s.begin(loaded.Instances, []Projection{routesProjection}); err != nil {
		s.lock.Close()
		return nil, loaded, err
	}
	return s, loaded, nil
}

// history makes random changes to s. acked is what was acknowledged: the port
// of each prefix, 0 for none; maybe is what may be there instead, because a
// change failed since.
func history(s *store, random *rand.Rand, length int) (acked map[string]int, maybe map[string][]int) {
	acked, maybe = map[string]int{}, map[string][]int{}
	for i := range length {
		prefix := fmt.Sprintf("prefix%02d", random.IntN(12))
		port := 0
		var err error
		if random.IntN(4) == 0 {
			err = s.drop(prefix)
		} else {
			port = 6000 + i
			err = s.put(testRecord(prefix, port))
		}
		if err != nil {
			maybe[prefix] = append(maybe[prefix], port)
			continue
		}
		for other, ports := range maybe { // a write that worked settles what failed before
			if slices.Contains(ports, 0) { // a failed drop is made up for, a failed put is not
				acked[other] = 0
			}
		}
		clear(maybe)
		acked[prefix] = port
	}
	return acked, maybe
}

// checkHistory compares what was loaded with what was acknowledged.
func checkHistory(t *testing.T, loaded state, acked map[string]int, maybe map[string][]int) {
	t.Helper()
	for i := range 12 {
		prefix := fmt.Sprintf("prefix%02d", i)
		got := 0
		if r := loaded.Instances[prefix]; r != nil {
			got = r.Port
		}
		if got != acked[prefix] && !slices.Contains(maybe[prefix], got) {
			t.Errorf("%s has port %d, acknowledged was %d, possible %v", prefix, got, acked[prefix], maybe[prefix])
		}
	}
}

func TestAPowerCutAtAnyOperationLosesNothingAcknowledged(t *testing.T) {
	const length = 40
	cuts := 0
	for seed := range uint64(2) {
		total := func() int {
			d := newModelDisk()
			s, _, err := modelStore(t, d, t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			history(s, rand.New(rand.NewPCG(seed, 0)), length)
			s.close()
			return d.ops
		}()
		for at := 1; at <= total; at++ {
			d := newModelDisk()
			d.faultAt, d.fault = at, errPowerCut
			dir := t.TempDir()
			var acked map[string]int
			var maybe map[string][]int
			if s, _, err := modelStore(t, d, dir); err == nil {
				acked, maybe = history(s, rand.New(rand.NewPCG(seed, 0)), length)
				s.close()
			}
			after := d.cut(rand.New(rand.NewPCG(seed, uint64(at))))
			s, loaded, err := modelStore(t, after, dir)
			if err != nil {
				t.Fatalf("cut at operation %d: %v", at, err)
			}
			s.close()
			checkHistory(t, loaded, acked, maybe)
			if cuts++; t.Failed() {
				t.Fatalf("seed %d, cut at operation %d", seed, at)
			}
		}
	}
	t.Logf("%d power cuts, one at each operation of 2 histories", cuts)
}

func TestAFaultAtAnyOperationLosesNothingAcknowledged(t *testing.T) {
	const length = 40
	faults := 0
	for _, fault := range []error{syscall.ENOSPC, syscall.EIO} {
		for at := 7; ; at++ { // the first six are those of the first write, which must work
			d := newModelDisk()
			dir := t.TempDir()
			s, _, err := modelStore(t, d, dir)
			if err != nil {
				t.Fatal(err)
			}
			d.faultAt, d.fault = at+d.ops, fault
			acked, maybe := history(s, rand.New(rand.NewPCG(1, 0)), length)
			reached := d.ops >= d.faultAt
			d.faultAt = 0
			if err := s.refresh(); err != nil {
				t.Errorf("%v at operation %d: a write without a fault fails: %v", fault, at, err)
			}
			s.close()
			reopened, loaded, err := modelStore(t, d, dir)
			if err != nil || loaded.Degraded != "" {
				t.Fatalf("%v at operation %d: degraded %q, %v", fault, at, loaded.Degraded, err)
			}
			reopened.close()
			checkHistory(t, loaded, acked, maybe)
			if t.Failed() {
				t.Fatalf("%v at operation %d", fault, at)
			}
			if faults++; !reached {
				break
			}
		}
	}
	t.Logf("%d faults, one at each operation", faults)
}
