package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const (
	// routesPoll is how often a file of routes is looked at. A look is one
	// stat by name, so it does not matter that each change is another inode,
	// nor that the folder was not there or is another one now. Notices from
	// the kernel would come sooner, but not from network file systems and the
	// folders that virtual machines share, nor after such a replacement.
	routesPoll = 200 * time.Millisecond

	// restless is how long a file may change without its time doing so: file
	// systems keep that in steps, and a new inode can have the old number.
	restless = time.Second
)

// routesFiles holds one routesFile for each path, for as long as any
// configuration refers to it: the last good routes outlive a reload.
var routesFiles = caddy.NewUsagePool()

// routesFile follows a file of routes, from its first use on.
type routesFile struct {
	path  string
	begin sync.Once
	table atomic.Pointer[routeTable] // nil: the file was never good
	stop  chan struct{}
	done  chan struct{} // closed when the file is no longer followed

	// The following belong to the goroutine that follows the file.
	seen    os.FileInfo // of the file as it was last read; nil: it could not be
	readAt  time.Time
	broken  bool   // and the log says so
	skipped string // the entries that the log has
}

// acquireRoutes returns what follows the file at path; release gives it back.
// It does no I/O. A relative path is taken from this process's working folder.
func acquireRoutes(path string) (*routesFile, error) {
	if path == "" {
		return nil, fmt.Errorf("the path of the file is missing, such as /var/lib/caddy-sandbox/%s", routesProjection)
	}
	path, err := filepath.Abs(path) // not its links: they may come to lead elsewhere
	if err != nil {
		return nil, err
	}
	f, _, err := routesFiles.LoadOrNew(path, func() (caddy.Destructor, error) {
		return &routesFile{path: path, stop: make(chan struct{}), done: make(chan struct{})}, nil
	})
	if err != nil {
		return nil, err
	}
	return f.(*routesFile), nil
}

func (f *routesFile) release() error {
	_, err := routesFiles.Delete(f.path)
	return err
}

// Destruct implements caddy.Destructor. Requests in progress may still ask for
// the routes as they last were.
func (f *routesFile) Destruct() error {
	f.begin.Do(func() { close(f.done) }) // never used
	close(f.stop)
	<-f.done
	return nil
}

// routes returns the routes of the last good file, nil if there was none. The
// first call reads the file; further ones only look in memory.
func (f *routesFile) routes() *routeTable {
	f.begin.Do(func() {
		f.refresh()
		go f.follow()
	})
	return f.table.Load()
}

// get looks up by the routes as they are now.
func (f *routesFile) get(prefix string) (instance.Instance, error) { return f.routes().get(prefix) }

func (f *routesFile) follow() {
	defer close(f.done)
	tick := time.NewTicker(routesPoll)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			f.refresh()
		case <-f.stop:
			return
		}
	}
}

// refresh takes a changed file over, or complains of it once.
func (f *routesFile) refresh() {
	data, changed, err := f.read()
	if !changed {
		return
	}
	var table *routeTable
	var skipped []string
	if err == nil {
		table, skipped, err = parseRoutes(data)
	}
	// The log is asked for anew: this outlives the configuration that it was
	// made under.
	log := caddy.Log().Named("sandbox_file").With(zap.String("path", f.path))
	if err != nil {
		if !f.broken {
			log.Error("the file of routes cannot be used; the last good routes stay", zap.Error(err))
		}
		f.broken = true
		return
	}
	if f.broken {
		log.Info("the file of routes is good again", zap.Int("routes", len(table.table)))
	}
	f.broken = false
	f.table.Store(table)
	f.tellSkipped(log, skipped)
}

// tellSkipped logs entries that were skipped, unless it just did.
func (f *routesFile) tellSkipped(log *zap.Logger, skipped []string) {
	all := strings.Join(skipped, "\n")
	if all != "" && all != f.skipped {
		const enough = 10
		log.Warn("entries of the file of routes cannot be served",
			zap.Int("entries", len(skipped)), zap.Strings("first", skipped[:min(enough, len(skipped))]))
	}
	f.skipped = all
}

// read returns the content of the file if that may have changed since the last
// call. What cannot be read counts as changed.
func (f *routesFile) read() (data []byte, changed bool, err error) {
	info, err := os.Stat(f.path)
	if err == nil && f.isAsSeen(info) {
		return nil, false, nil
	}
	f.seen = nil
	if err != nil {
		return nil, true, err
	}
	at := time.Now()
	if data, err = readFile(f.path); err != nil {
		return nil, true, err
	}
	f.seen, f.readAt = info, at // looked at before it was read, so nothing is missed
	return data, true, nil
}

func (f *routesFile) isAsSeen(info os.FileInfo) bool {
	return f.seen != nil && os.SameFile(info, f.seen) &&
		info.Size() == f.seen.Size() && info.ModTime().Equal(f.seen.ModTime()) &&
		f.readAt.Sub(info.ModTime()) > restless
}

// readFile is os.ReadFile for files alone: opening a named pipe would wait for
// whoever writes to it.
func readFile(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a file", path)
	}
	return os.ReadFile(path)
}
