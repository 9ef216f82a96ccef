package instance

import (
	"errors"
	"io/fs"
	"syscall"
	"testing"
)

// smallDisk is a disk with so many bytes on it.
type smallDisk struct {
	*modelDisk
	size int
}

func (d *smallDisk) used() int {
	n := 0
	for _, f := range d.live {
		n += len(f.data)
	}
	return n
}

func (d *smallDisk) Create(path string, mode fs.FileMode) (diskFile, error) {
	f, err := d.modelDisk.Create(path, mode)
	return &smallFile{f, d}, err
}

type smallFile struct {
	diskFile
	disk *smallDisk
}

func (f *smallFile) Write(p []byte) (int, error) {
	if f.disk.used()+len(p) > f.disk.size {
		return 0, syscall.ENOSPC
	}
	return f.diskFile.Write(p)
}

func TestAFullDiskHasRoomForDeletes(t *testing.T) {
	d := &smallDisk{newModelDisk(), 1 << 20}
	s := lonelyStore(t, d)
	if _, err := openStore(t.TempDir(), s); err != nil {
		t.Fatal(err)
	}
	if err := s.begin(nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.put(testRecord("aaaaaaaa", 5200)); err != nil {
		t.Fatal(err)
	}
	d.size = d.used() // somebody took the rest
	if err := s.put(testRecord("bbbbbbbb", 5201)); KindOf(err) != DiskFull {
		t.Fatalf("put = %v, want DiskFull: the reserve is not for that", err)
	}
	intent := testRecord("aaaaaaaa", 5200)
	intent.Status = Deleting
	if err := s.put(intent); err != nil {
		t.Errorf("the intent of a delete: %v", err)
	}
	if err := s.drop("aaaaaaaa"); err != nil {
		t.Errorf("the end of a delete: %v", err)
	}
	d.size = 1 << 20
	if err := errors.Join(s.refresh(), s.close()); err != nil { // close: the reserve is the writer's
		t.Fatal(err)
	}
	if s.reserve.held < minReserve {
		t.Errorf("with space again, the reserve holds %d bytes", s.reserve.held)
	}
}
