package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAStateDirectoryThatCannotBeWrittenEndsTheStart(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := prepareCaddy(t, options{Nobody: true})
	if err := os.Mkdir(c.StateDir, 0o755); err != nil { // root's
		t.Fatal(err)
	}
	err := c.start()
	if err == nil {
		t.Fatal("Caddy starts although it cannot write its state")
	}
	for _, part := range []string{c.StateDir, "0711", fmt.Sprint(nobody)} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not name %s: %v", part, err)
		}
	}
	if left, err := os.ReadDir(c.StateDir); err != nil || len(left) != 0 {
		t.Errorf("it left %v there (%v)", left, err)
	}
}

func TestStateThatCanNoLongerBeWrittenIsReported(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := startCaddy(t, options{Nobody: true})
	made := c.api.create(t, createRequest{Prefix: "losesrights"})
	if err := os.Chown(c.StateDir, 0, 0); err != nil {
		t.Fatal(err)
	}
	a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "norights"}).
		expect(t, http.StatusInternalServerError, 1201).says(t, c.StateDir)
	details := a.details(t)
	if path, _ := details["path"].(string); !strings.HasPrefix(path, c.StateDir) {
		t.Errorf("path %v in the details of %s", details["path"], a.raw)
	}
	if details["owner"] == nil || details["mode"] == nil {
		t.Errorf("the details lack the owner or the mode that is needed: %s", a.raw)
	}
	c.visitor.mustGet(t, made.URL)
	if err := os.Chown(c.StateDir, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	c.api.create(t, createRequest{Prefix: "norights"})
}

func TestAFullDiskStopsNothingThatRuns(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := startCaddy(t, options{StateDir: tmpfs(t, "size=1m,mode=711")})
	made := c.api.create(t, createRequest{Prefix: "diskfull"})
	second := c.api.create(t, createRequest{Prefix: "diskfulltwo"})

	filler := filepath.Join(c.StateDir, "filler")
	fillDisk(t, filler)
	a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "nospace1"}).
		expect(t, http.StatusInsufficientStorage, 1201).says(t, "full")
	if path, _ := a.details(t)["path"].(string); !strings.HasPrefix(path, c.StateDir) {
		t.Errorf("the details do not name the path: %s", a.raw)
	}
	c.api.call(t, http.MethodGet, "/api/instances/nospace1", nil).expect(t, http.StatusNotFound, 1004)
	if n := len(c.containers(t)); n != 2 {
		t.Errorf("%d containers, want the 2 of before", n)
	}
	for _, i := range []instanceView{made, second} {
		c.visitor.mustGet(t, i.URL)
		sameInstance(t, c.api.get(t, i.Prefix), i)
	}
	c.api.delete(t, "diskfulltwo") // there is a reserve for that

	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	c.api.create(t, createRequest{Prefix: "nospace1"})
	c.kill(t)
	c.mustStart(t)
	if got := describePage(c.api.list(t, "")); got != "diskfull nospace1 of 2" {
		t.Errorf("after a restart: %s", got)
	}
}

// A limit of file sizes is as good as a full disk: what is there goes on.
func TestALimitOfFileSizesStopsNothingThatRuns(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("prlimit"); err != nil {
		t.Skip("needs prlimit, to bound the size of files")
	}
	c := startCaddy(t, options{Wrap: []string{"prlimit", "--fsize=65536:65536"}})
	env := map[string]string{"BALLAST": strings.Repeat("x", 25<<10)}
	first := c.api.create(t, createRequest{Prefix: "filesize1", Env: env})
	second := c.api.create(t, createRequest{Prefix: "filesize2", Env: env})
	a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "filesize3", Env: env}).
		expect(t, http.StatusInsufficientStorage, 1201).says(t, "ulimit -f")
	if path, _ := a.details(t)["path"].(string); !strings.HasPrefix(path, c.StateDir) {
		t.Errorf("the details do not name the path: %s", a.raw)
	}
	c.api.call(t, http.MethodGet, "/api/instances/filesize3", nil).expect(t, http.StatusNotFound, 1004)
	for _, i := range []instanceView{first, second} {
		c.visitor.mustGet(t, i.URL)
		sameInstance(t, c.api.get(t, i.Prefix), i)
	}
	c.api.delete(t, "filesize2")
	c.api.create(t, createRequest{Prefix: "filesize3", Env: env})
	c.kill(t)
	c.mustStart(t)
	if got := describePage(c.api.list(t, "")); got != "filesize1 filesize3 of 2" {
		t.Errorf("after a restart: %s", got)
	}
}

// tmpfs mounts a file system of its own until the end of the test.
func tmpfs(t testing.TB, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", options, "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mounting a tmpfs: %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// fillDisk writes to path until nothing more fits.
func fillDisk(t testing.TB, path string) {
	t.Helper()
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for block := make([]byte, 4096); ; {
		if _, err := file.Write(block); err != nil {
			return
		}
	}
}
