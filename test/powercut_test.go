package test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAPowerCutKeepsWhatWasAnswered cuts the power of the disk under the state
// directory: that is an ext4 image on a loop device, which is copied the moment
// Caddy is killed. The copy has what the file system had written to its disk;
// what was only in the page cache is not in it. Without any sync, each cut finds
// losses. That of a folder alone is not missed: the next file's sync commits the
// rename, too (the tests of package instance forget what was not synced).
func TestAPowerCutKeepsWhatWasAnswered(t *testing.T) {
	t.Parallel()
	needRoot(t)
	needCommands(t, "mkfs.ext4", "e2fsck", "mount")
	cuts := 5
	if soaking() {
		cuts = 30
	}
	ports := freeRange(1000) // of one Caddy after the other
	puts, drops := 0, 0
	for cut := range cuts {
		image := filepath.Join(t.TempDir(), "disk")
		calls := untilPowerCut(t, image, ports, rand.N(time.Second))
		after := readCopy(t, image)
		for _, c := range calls {
			kept, isThere := after.Instances[c.prefix]
			switch {
			case c.put && !c.dropping && (!isThere || kept.Port != c.port):
				t.Errorf("cut %d: %s was acknowledged with port %d; after the cut there is %v, %+v", cut, c.prefix, c.port, isThere, kept)
			case c.dropped && isThere:
				t.Errorf("cut %d: %s was deleted, that was acknowledged; after the cut it is back: %+v", cut, c.prefix, kept)
			case c.dropped:
				drops++
			case c.put:
				puts++
			}
		}
	}
	t.Logf("%d power cuts: %d acknowledged creates and %d acknowledged deletes, 0 lost", cuts, puts, drops)
	if puts < cuts || drops < cuts {
		t.Error("too little was acknowledged for that to mean anything")
	}
}

func needCommands(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("needs %s: %v", name, err)
		}
	}
}

// noContainers is a template whose instances fail at once, for want of their
// image. Their records are as durable as any; a cut thus has hundreds of them.
const noContainers = `
		template none {
			image caddy-sandbox/never:made
			pull  never
			port  8080
		}
`

// aLife is what the caller of one instance was told.
type aLife struct {
	prefix            string
	port              int
	put               bool // the create was acknowledged
	dropping, dropped bool // the delete was sent, acknowledged
}

// untilPowerCut has Caddy create and delete for a while, with its state on
// image, and leaves image as a power cut would.
func untilPowerCut(t *testing.T, image string, ports portRange, after time.Duration) []*aLife {
	t.Helper()
	disk := mountImage(t, image)
	c := prepareCaddy(t, options{
		Binary: plainCaddy(t), StateDir: disk, Ports: ports, Templates: noContainers,
	})
	c.mustStart(t)
	var lives [8][]*aLife
	var calling sync.WaitGroup
	for i := range lives {
		calling.Go(func() {
			for n := 0; ; n++ {
				life := &aLife{prefix: fmt.Sprintf("powercut%dx%d", i, n)}
				lives[i] = append(lives[i], life)
				if !life.live(t, c.admin, n%2 == 0) {
					return
				}
			}
		})
	}
	<-time.After(200*time.Millisecond + after)
	c.kill(t)
	copyFile(t, image, image+".cut")
	calling.Wait()
	var all []*aLife
	for _, some := range lives {
		all = append(all, some...)
	}
	return all
}

// live makes an instance, deletes it if it is to be short, and reports whether
// Caddy still answers.
func (l *aLife) live(t *testing.T, api apiClient, short bool) bool {
	a, err := api.try(http.MethodPost, "/api/instances?wait=none", createRequest{Prefix: l.prefix})
	if err != nil {
		return false
	}
	var made instanceView
	if err := json.Unmarshal(a.Data, &made); err != nil || a.Status != http.StatusAccepted {
		t.Errorf("creating %s: %d %s", l.prefix, a.Status, a.raw)
		return false
	}
	l.put, l.port = true, made.Port
	for short {
		l.dropping = true
		a, err := api.try(http.MethodDelete, "/api/instances/"+l.prefix, nil)
		switch {
		case err != nil:
			return false
		case a.Code == 1005: // its create is still failing
			<-time.After(lookPause)
		case a.Status != http.StatusOK:
			t.Errorf("deleting %s: %d %s", l.prefix, a.Status, a.raw)
			return false
		default:
			l.dropped, short = true, false
		}
	}
	return true
}

// mountImage makes image an ext4 file system and mounts it until the end of the
// test. It writes nothing on its own in that time: a commit every few seconds
// would save what was never synced.
func mountImage(t *testing.T, image string) (dir string) {
	t.Helper()
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, 16<<20); err != nil {
		t.Fatal(err)
	}
	mustRun(t, "mkfs.ext4", "-q", "-F", image)
	return mount(t, image, "loop,commit=300")
}

// readCopy is the state on the copy of image, once the file system there is
// mended as after any power cut.
func readCopy(t *testing.T, image string) stateOnDisk {
	t.Helper()
	disk := image + ".cut"
	mustRun(t, "e2fsck", "-p", disk)
	dir := mount(t, disk, "loop,ro")
	content, err := os.ReadFile(filepath.Join(dir, ".instances.json"))
	if err != nil {
		t.Fatal(err)
	}
	var state stateOnDisk
	if err := json.Unmarshal(content, &state); err != nil {
		t.Fatalf("the state is torn: %v\n%s", err, content)
	}
	return state
}

func mount(t *testing.T, image, options string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	mustRun(t, "mount", "-o", options, image, dir)
	t.Cleanup(func() { mustRun(t, "umount", dir) })
	return dir
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	content, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, content, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func mustRun(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
