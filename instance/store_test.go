package instance

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// lonelyStore is a store without a Manager, on d; nil: the real disk.
func lonelyStore(t testing.TB, d disk) *store {
	return &store{
		disk: d,
		head: func() Head {
			return Head{Owner: "11111111-2222-3333-4444-555555555555", Domain: "sandbox.example.com", NextPort: 5180}
		},
		inFlight: func() int { return 0 },
		logError: func(msg string, err error) { t.Log(msg, err) },
		logEdit:  func(path, aside string) { t.Log("edited", path, aside) },
		changed:  func(string) {},
	}
}

// newStore opens a store in dir, with what the file there holds.
func newStore(t *testing.T, dir string) (*store, state) {
	t.Helper()
	s := lonelyStore(t, nil)
	loaded, err := openStore(dir, s)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.begin(loaded.Instances, []Projection{routesProjection}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		select {
		case <-s.done: // the test closed it
		default:
			s.close()
		}
	})
	return s, loaded
}

func testRecord(prefix string, port int) *Record {
	return &Record{
		Spec:   Spec{Prefix: prefix, Port: port, Image: "i", ContainerPort: 80, Env: map[string]string{"A": "$b\n\"ü"}},
		Status: Running, Ready: true, CreatedAt: now(),
	}
}

func readState(t *testing.T, dir string) state {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, stateFile))
	if err != nil {
		t.Fatal(err)
	}
	s, err := parseState(data)
	if err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	return s
}

func TestAPutIsOnDiskWhenItReturns(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	for _, prefix := range []string{"bbbbbbbb", "aaaaaaaa"} {
		if err := s.put(testRecord(prefix, 5000+int(prefix[0]))); err != nil {
			t.Fatal(err)
		}
	}
	got := readState(t, dir)
	if len(got.Instances) != 2 || got.NextPort != 5180 || got.Owner == "" {
		t.Fatalf("state file holds %+v", got)
	}
	if env := got.Instances["aaaaaaaa"].Env["A"]; env != "$b\n\"ü" {
		t.Errorf("env came back as %q", env)
	}
	routes, _ := os.ReadFile(filepath.Join(dir, routesProjection.Path))
	want := `{"domain":"sandbox.example.com","routes":{
"aaaaaaaa":{"target":"http://127.0.0.1:5097","status":"running"},
"bbbbbbbb":{"target":"http://127.0.0.1:5098","status":"running"}
}}
`
	if string(routes) != want {
		t.Errorf("routes are\n%s\nwant\n%s", routes, want)
	}
	if err := s.drop("aaaaaaaa"); err != nil {
		t.Fatal(err)
	}
	if got := readState(t, dir); len(got.Instances) != 1 {
		t.Errorf("after the drop the file holds %v", got.Instances)
	}
}

func TestFilesHaveTheirModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	newStore(t, dir)
	for path, want := range map[string]fs.FileMode{
		".": 0o711, stateFile: 0o600, lockFile: 0o600, "config": 0o755, routesProjection.Path: 0o644,
	} {
		info, err := os.Stat(filepath.Join(dir, path))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("%s has mode %v (%v), want %v", path, info.Mode().Perm(), err, want)
		}
	}
}

func TestConcurrentPutsShareWrites(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	const callers = 64
	var writes atomic.Int64
	join := s.files[0].Join
	s.files[0].Join = func(head Head, blocks [][]byte) []byte { writes.Add(1); return join(head, blocks) }
	s.inFlight = func() int { return callers }
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			if err := s.put(testRecord(fmt.Sprintf("prefix%02d", i), 5200+i)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := len(readState(t, dir).Instances); got != callers {
		t.Errorf("%d records on disk, want %d", got, callers)
	}
	if n := writes.Load(); n > 8 {
		t.Errorf("%d writes for %d callers, want at most 8", n, callers)
	}
}

func TestNothingIsWrittenWhenNothingChanged(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	r := testRecord("aaaaaaaa", 5200)
	if err := s.put(r); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(filepath.Join(dir, stateFile))
	if err := errors.Join(s.put(r), s.refresh()); err != nil {
		t.Fatal(err)
	}
	after, _ := os.Stat(filepath.Join(dir, stateFile))
	if !os.SameFile(before, after) {
		t.Error("the file was replaced")
	}
}

// A start that finds a file right, and so does not write it, guards it as well.
func TestAnEditAfterAStartIsKeptAsideToo(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	if err := errors.Join(s.put(testRecord("abcdefgh", 5200)), s.close()); err != nil {
		t.Fatal(err)
	}
	s, _ = newStore(t, dir)
	path := filepath.Join(dir, routesProjection.Path)
	right, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(path, []byte("edited"), 0o600), s.refresh()); err != nil {
		t.Fatal(err)
	}
	kept, _ := filepath.Glob(path + ".edited-*")
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, right) || len(kept) != 1 {
		t.Errorf("it is %s (%v), and kept are %v", now, err, kept)
	}
	if err := errors.Join(os.Remove(path), s.refresh()); err != nil {
		t.Fatal(err)
	}
	if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, right) {
		t.Errorf("after it was removed it is %s (%v)", now, err)
	}
}

// Files are looked at every 15 seconds, and may be of thousands of records.
func TestFilesAreMadeOnceAsLongAsNothingChanges(t *testing.T) {
	domain, joined := "sandbox.example.com", 0
	s := lonelyStore(t, nil)
	s.head = func() Head { return Head{Owner: "11111111-2222-3333-4444-555555555555", Domain: domain} }
	if _, err := openStore(t.TempDir(), s); err != nil {
		t.Fatal(err)
	}
	counted := routesProjection
	counted.Join = func(head Head, blocks [][]byte) []byte {
		joined++
		return routesProjection.Join(head, blocks)
	}
	if err := s.begin(nil, []Projection{counted}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.close() })
	path := filepath.Join(s.dir, routesProjection.Path)
	for _, step := range []struct {
		name  string
		do    func() error
		joins int
	}{
		{"nothing", func() error { return nil }, 1},
		{"a record", func() error { return s.put(testRecord("abcdefgh", 5200)) }, 2},
		{"nothing again", func() error { return nil }, 2},
		{"an edit by hand", func() error { return os.WriteFile(path, nil, 0o600) }, 3},
		{"another domain", func() error { domain = "other.example.com"; return nil }, 4},
		{"no record", func() error { return s.drop("abcdefgh") }, 5},
	} {
		if err := errors.Join(step.do(), s.refresh(), s.refresh()); err != nil {
			t.Fatal(err)
		}
		if joined != step.joins {
			t.Errorf("after %s it was made %d times, want %d", step.name, joined, step.joins)
		}
		if data, err := os.ReadFile(path); err != nil || !strings.Contains(string(data), domain) || strings.Contains(string(data), "abcdefgh") != (step.joins > 1 && step.joins < 5) {
			t.Errorf("after %s it is %s (%v)", step.name, data, err)
		}
	}
}

func TestAnEditByHandIsKeptAsideAndUndone(t *testing.T) {
	for _, name := range []string{stateFile, routesProjection.Path} {
		for edit, do := range map[string]func(path string) error{
			"in place": func(path string) error { return os.WriteFile(path, []byte("edited"), 0o600) },
			"by rename": func(path string) error {
				return errors.Join(os.WriteFile(path+"~", []byte("edited"), 0o600), os.Rename(path+"~", path))
			},
		} {
			t.Run(name+" "+edit, func(t *testing.T) {
				dir := t.TempDir()
				s, _ := newStore(t, dir)
				if err := s.put(testRecord("aaaaaaaa", 5200)); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, name)
				before, _ := os.ReadFile(path)
				if err := do(path); err != nil {
					t.Fatal(err)
				}
				if err := s.refresh(); err != nil {
					t.Fatal(err)
				}
				if after, _ := os.ReadFile(path); string(after) != string(before) {
					t.Errorf("the file holds %q, want what it held before", after)
				}
				kept, _ := filepath.Glob(path + ".edited-*")
				if len(kept) != 1 {
					t.Fatalf("kept %v", kept)
				}
				if data, _ := os.ReadFile(kept[0]); string(data) != "edited" {
					t.Errorf("kept %q", data)
				}
			})
		}
	}
}

func TestADeletedFileIsWrittenAnew(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	path := filepath.Join(dir, stateFile)
	if err := errors.Join(os.Remove(path), s.refresh()); err != nil {
		t.Fatal(err)
	}
	if got := readState(t, dir); got.Version != stateVersion {
		t.Errorf("the file holds %+v", got)
	}
}

func TestAFailedPutLeavesTheOldRecord(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	if err := s.put(testRecord("aaaaaaaa", 5200)); err != nil {
		t.Fatal(err)
	}
	// A folder in the place of the temporary file stops every write, root's too.
	blocker := tempName(filepath.Join(dir, stateFile))
	if err := os.Mkdir(blocker, 0o700); err != nil {
		t.Fatal(err)
	}
	changed := testRecord("aaaaaaaa", 5201)
	for _, err := range []error{s.put(changed), s.put(testRecord("bbbbbbbb", 5202))} {
		var e *Error
		if !errors.As(err, &e) || e.Kind != StateFailed || e.Details["path"] == nil {
			t.Errorf("put = %v, want StateFailed with the path", err)
		}
	}
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	if err := s.put(testRecord("cccccccc", 5203)); err != nil {
		t.Fatal(err)
	}
	got := readState(t, dir).Instances
	if len(got) != 2 || got["aaaaaaaa"].Port != 5200 || got["cccccccc"] == nil {
		t.Errorf("on disk: %v", got)
	}
}

func TestTheDirectoryHasOneOwner(t *testing.T) {
	dir := t.TempDir()
	newStore(t, dir)
	_, err := openStore(dir, &store{})
	if KindOf(err) != StateFailed || !strings.Contains(err.Error(), fmt.Sprintf("in use by another process (pid %d)", os.Getpid())) {
		t.Errorf("a second opener got %v", err)
	}
}

func TestALostStateFileIsNoFirstStart(t *testing.T) {
	dir := t.TempDir()
	s, first := newStore(t, dir)
	if first.Degraded != "" || first.Owner == "" {
		t.Fatalf("first start: degraded %q, owner %q", first.Degraded, first.Owner)
	}
	s.close()
	if err := os.Remove(filepath.Join(dir, stateFile)); err != nil {
		t.Fatal(err)
	}
	s2 := &store{logError: s.logError}
	second, err := openStore(dir, s2)
	if err != nil {
		t.Fatal(err)
	}
	defer s2.lock.Close()
	const owner = "11111111-2222-3333-4444-555555555555" // newStore's
	if second.Degraded == "" || second.Owner != owner {
		t.Errorf("degraded %q, owner %q; want a reason and %q", second.Degraded, second.Owner, owner)
	}
}

// fileOf is a state file with records, and a right checksum.
func fileOf(t *testing.T, records string) string {
	t.Helper()
	return string(joinState(Head{Owner: "11111111-2222-3333-4444-555555555555", NextPort: 5174}, [][]byte{[]byte(records)}))
}

func recordJSON(t *testing.T) string {
	t.Helper()
	block, err := encodeRecord(*testRecord("aaaaaaaa", 5200))
	if err != nil {
		t.Fatal(err)
	}
	return string(block)
}

// withField is a state file of one record with one more field.
func withField(t *testing.T, field string) string {
	t.Helper()
	return fileOf(t, strings.Replace(recordJSON(t), `":{`, `":{`+field+",", 1))
}

func withDomain(t *testing.T, prefix string, port int) string {
	t.Helper()
	r := testRecord(prefix, port)
	r.Domains = []string{"a.example.org"}
	block, err := encodeRecord(*r)
	if err != nil {
		t.Fatal(err)
	}
	return string(block)
}

// The files of the next test are corrupt by what they say, not by their form.
func TestAStateFileWithHostsAndPortsIsGood(t *testing.T) {
	for _, field := range []string{`"domains":["a.example.org","b.example.org"]`, `"container_ports":[80,9229],"any_port":true`} {
		if s, err := parseState([]byte(withField(t, field))); err != nil || len(s.Instances) != 1 {
			t.Errorf("%s: %v", field, err)
		}
	}
}

func TestACorruptStateFileIsSetAside(t *testing.T) {
	good := fileOf(t, recordJSON(t))
	for name, bad := range map[string]string{
		"cut":             good[:len(good)-9],
		"empty":           "",
		"edited":          strings.Replace(good, `"port":5200`, `"port":5201`, 1),
		"another prefix":  fileOf(t, strings.Replace(recordJSON(t), `"aaaaaaaa":{`, `"bbbbbbbb":{`, 1)),
		"bad prefix":      fileOf(t, strings.ReplaceAll(recordJSON(t), "aaaaaaaa", "../../etc")),
		"null record":     fileOf(t, `"aaaaaaaa":null`),
		"no port":         fileOf(t, strings.Replace(recordJSON(t), `"port":5200`, `"port":0`, 1)),
		"a wildcard":      withField(t, `"domains":["*.example.org"]`),
		"an address":      withField(t, `"domains":["10.0.0.1"]`),
		"upper case":      withField(t, `"domains":["App.example.org"]`),
		"letters":         withField(t, `"domains":["bücher.example"]`),
		"hosts unsorted":  withField(t, `"domains":["b.example.org","a.example.org"]`),
		"one host, twice": withField(t, `"domains":["a.example.org","a.example.org"]`),
		"one host of two": fileOf(t, withDomain(t, "aaaaaaaa", 5200)+","+withDomain(t, "bbbbbbbb", 5201)),
		"port zero":       withField(t, `"container_ports":[0]`),
		"a huge port":     withField(t, `"container_ports":[65536]`),
		"ports unsorted":  withField(t, `"container_ports":[9229,80]`),
		"no owner":        string(joinState(Head{NextPort: 5174}, nil)),
		"one port, twice": fileOf(t, recordJSON(t)+","+strings.ReplaceAll(recordJSON(t), "aaaaaaaa", "bbbbbbbb")),
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s, _ := newStore(t, dir)
			s.close()
			if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(bad), 0o600); err != nil {
				t.Fatal(err)
			}
			s2 := &store{logError: s.logError}
			loaded, err := openStore(dir, s2)
			if err != nil {
				t.Fatal(err)
			}
			defer s2.lock.Close()
			kept, _ := filepath.Glob(filepath.Join(dir, stateFile+".corrupt-*"))
			if loaded.Degraded == "" || len(kept) != 1 {
				t.Fatalf("degraded %q, kept %v", loaded.Degraded, kept)
			}
			if data, _ := os.ReadFile(kept[0]); string(data) != bad {
				t.Errorf("kept %q, want %q", data, bad)
			}
		})
	}
}

func TestNoByteOfTheStateFileCanChangeUnnoticed(t *testing.T) {
	good := []byte(fileOf(t, recordJSON(t)))
	want, err := parseState(good)
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, data []byte) {
		got, err := parseState(data)
		if err == nil && !reflect.DeepEqual(got, want) {
			t.Errorf("%s went unnoticed: %+v", what, got)
		}
	}
	for at := range good {
		check(fmt.Sprint("a cut at byte ", at), good[:at])
		for bit := range 8 {
			flipped := slices.Clone(good)
			flipped[at] ^= 1 << bit
			check(fmt.Sprint("a flip of bit ", bit, " of byte ", at), flipped)
		}
	}
	t.Logf("%d bytes cut and flipped, bit by bit", len(good))
}

func TestAFileOfANewerVersionIsNotTouched(t *testing.T) {
	dir := t.TempDir()
	s, _ := newStore(t, dir)
	s.close()
	newer := `{"version":999,"owner":"x","instances":[]}`
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte(newer), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := openStore(dir, &store{})
	if KindOf(err) != StateFailed || !strings.Contains(err.Error(), "newer version") {
		t.Errorf("openStore = %v, want StateFailed that names the newer version", err)
	}
	if data, _ := os.ReadFile(filepath.Join(dir, stateFile)); string(data) != newer {
		t.Errorf("the file is now %q", data)
	}
}

func FuzzParseState(f *testing.F) {
	f.Add([]byte(`{"version":1,"owner":"x","nextPort":1,"instances":{"aaaaaaaa":{"prefix":"aaaaaaaa","port":1}}`))
	f.Add([]byte(`{"version":1,"instances":{"aaaaaaaa":null}`))
	const owner = `{"version":1,"owner":"11111111-2222-3333-4444-555555555555","instances":{`
	f.Add([]byte(owner + `"aaaaaaaa":{"prefix":"aaaaaaaa","port":1,"domains":["a.example"],"container_ports":[80]},"bbbbbbbb":{"prefix":"bbbbbbbb","port":2,"domains":["a.example"]}}`))
	f.Add([]byte(owner + `"aaaaaaaa":{"prefix":"aaaaaaaa","port":1,"domains":["A.example","*.b.c"],"container_ports":[0,99999]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseState(append(data, sum(data)...)) // else the checksum would keep the fuzzer out
		if err != nil {
			return
		}
		owners := map[string]string{}
		for prefix, r := range s.Instances {
			for _, host := range r.Domains {
				if same, err := ParseHost(host); err != nil || same != host || owners[host] != "" {
					t.Errorf("accepted host %q of %q and %q", host, prefix, owners[host])
				}
				owners[host] = prefix
			}
			for _, port := range r.ContainerPorts {
				if !ValidPort(port) {
					t.Errorf("accepted container port %d of %q", port, prefix)
				}
			}
			if !ValidPrefix(prefix) || r.Prefix != prefix || r.Port < 1 || r.Port > 65535 {
				t.Errorf("accepted %q: %+v", prefix, r)
			}
		}
	})
}
