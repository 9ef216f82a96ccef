package instance

import (
	"errors"
	"math/rand/v2"
	"strings"
	"syscall"
	"testing"
)

// testSpare is the record of a spare that was born for born.
func testSpare(born string, port int) *Record {
	r := testRecord(spareKey(born), port)
	r.Spare, r.Recipe = born, "r"
	return r
}

// taken is the record of the instance that took spare.
func taken(spare *Record, prefix string) *Record {
	return spare.becomes(testRecord(prefix, 0))
}

func TestSparesAreAPartOfTheFileOfTheirOwn(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	for _, r := range []*Record{testRecord("aaaaaaaa", 5200), testSpare("bbbbbbbb", 5201), testRecord("zzzzzzzz", 5202)} {
		if err := s.put(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.replace("pool-bbbbbbbb", taken(testSpare("bbbbbbbb", 5201), "bbbbbbbb")); err != nil {
		t.Fatal(err)
	}
	if err := s.put(testSpare("cccccccc", 5203)); err != nil {
		t.Fatal(err)
	}
	s.close()
	loaded := readState(t, dir)
	if len(loaded.Instances) != 3 || len(loaded.Spares) != 1 || loaded.Instances["bbbbbbbb"].Port != 5201 || loaded.Spares["pool-cccccccc"].Port != 5203 {
		t.Errorf("instances %v, spares %v", loaded.Instances, loaded.Spares)
	}
	if loaded.Instances["bbbbbbbb"].Recipe != "" {
		t.Error("an instance remembers what its spare was made by")
	}
}

func TestSparesThatAreMalformedAreRefused(t *testing.T) {
	for name, change := range map[string]func(*Record){
		"a prefix for a key":     func(r *Record) { r.Prefix = "bbbbbbbb" },
		"born for nothing":       func(r *Record) { r.Spare = "" },
		"born for another":       func(r *Record) { r.Spare = "cccccccc" },
		"born for what is none":  func(r *Record) { r.Prefix, r.Spare = "pool-../../etc", "../../etc" },
		"an instance's port":     func(r *Record) { r.Port = 5200 },
		"an instance, born so":   func(r *Record) { r.Prefix, r.Spare = "bbbbbbbb", "../../etc" },
		"a port that cannot be":  func(r *Record) { r.Port = 0 },
		"a key that only begins": func(r *Record) { r.Prefix, r.Spare = "pool-", "" },
	} {
		t.Run(name, func(t *testing.T) {
			spare := testSpare("bbbbbbbb", 5201)
			change(spare)
			var blocks [][]byte
			for _, r := range []*Record{testRecord("aaaaaaaa", 5200), spare} {
				block, err := encodeRecord(*r)
				if err != nil {
					t.Fatal(err)
				}
				blocks = append(blocks, block)
			}
			file := string(joinState(Head{Owner: "11111111-2222-3333-4444-555555555555", NextPort: 5174}, blocks))
			if name == "a prefix for a key" { // what is no spare's key is an instance
				file = strings.Replace(file, `"spare":"bbbbbbbb"`, `"spare":"!"`, 1)
				file = file[:len(file)-sumLength] + sum([]byte(file[:len(file)-sumLength]))
			}
			if s, err := parseState([]byte(file)); err == nil {
				t.Errorf("read as %+v", s)
			}
		})
	}
}

// A claim is one change: a power cut, or a fault, at any operation of it leaves
// the spare or the instance, and never both or neither.
func TestATakenSpareIsTheOneOrTheOther(t *testing.T) {
	for name, fault := range map[string]error{"power cut": errPowerCut, "no space": syscall.ENOSPC, "I/O error": syscall.EIO} {
		t.Run(name, func(t *testing.T) {
			for at := 1; ; at++ {
				d, dir := newModelDisk(), t.TempDir()
				s, _, err := modelStore(t, d, dir)
				if err != nil {
					t.Fatal(err)
				}
				if err := s.put(testSpare("bbbbbbbb", 5201)); err != nil {
					t.Fatal(err)
				}
				d.faultAt, d.fault = d.ops+at, fault
				err = s.replace("pool-bbbbbbbb", taken(testSpare("bbbbbbbb", 5201), "bbbbbbbb"))
				reached := d.ops >= d.faultAt
				after := d
				if errors.Is(fault, errPowerCut) {
					after = d.cut(rand.New(rand.NewPCG(1, uint64(at))))
				} else {
					d.faultAt = 0
					if refreshErr := s.refresh(); refreshErr != nil { // what was refused is not made durable later
						t.Fatal(refreshErr)
					}
				}
				s.close()
				reopened, loaded, openErr := modelStore(t, after, dir)
				if openErr != nil {
					t.Fatal(openErr)
				}
				reopened.close()
				isSpare, isInstance := loaded.Spares["pool-bbbbbbbb"] != nil, loaded.Instances["bbbbbbbb"] != nil
				if isSpare == isInstance || err == nil && !isInstance || err != nil && isInstance && !errors.Is(fault, errPowerCut) {
					t.Errorf("fault at operation %d (%v): spare %v, instance %v", at, err, isSpare, isInstance)
				}
				if !reached {
					break
				}
			}
		})
	}
}
