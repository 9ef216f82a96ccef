package instance

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"
)

// ReasonImported is why an instance of the old system is stopped: none of its
// containers ran. Its next start makes one.
const ReasonImported = "imported"

// findOldState returns what the files of the Node system in dir hold. A prefix
// or port that two files claim is the state file's.
func findOldState(d disk, dir string) (old oldState, err error) {
	for _, name := range []string{stateFile, routesProjection.Path} {
		path := filepath.Join(dir, name)
		data, err := d.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return old, stateError(path, err)
		}
		more, err := parseOldState(data)
		if err != nil {
			return old, Errorf(StateFailed, "%s is in no form that can be imported (%w): "+
				"move it away, or start the program that wrote it", path, err)
		}
		old.sources = append(old.sources, path)
		old.merge(more)
	}
	return old, nil
}

// merge adds what other has and old has not.
func (old *oldState) merge(other oldState) {
	old.nextPort = max(old.nextPort, other.nextPort)
	old.rest = append(old.rest, other.rest...)
	for _, in := range other.instances {
		if !slices.Contains(old.instances, in) {
			old.add(in.prefix, fmt.Appendf(nil, "%d", in.port))
		}
	}
}

// keepStrangers keeps a copy of each file that a first start finds where ours
// will be: whoever made it, it was not us.
func (m *Manager) keepStrangers(projections []Projection) error {
	paths := []string{stateFile}
	for _, p := range projections {
		paths = append(paths, p.Path)
	}
	for _, name := range paths {
		path := filepath.Join(m.dir, name)
		if _, err := m.store.disk.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := keepCopy(m.store.disk, path, "imported"); err != nil {
			return err
		}
	}
	return nil
}

// keepCopy puts a copy of path beside it, with why and the time in its name.
func keepCopy(d disk, path, why string) error {
	data, err := d.ReadFile(path)
	if err == nil {
		err = writeFile(d, asideName(path, why), 0o600, data)
	}
	if err != nil {
		return stateError(path, err)
	}
	return nil
}

func asideName(path, why string) string {
	return path + "." + why + "-" + time.Now().UTC().Format("20060102T150405.000000000")
}

// importRecords makes records of the old instances, of the default template.
// Whether a container of one runs is for the first reconcile to see.
func (m *Manager) importRecords(loaded *state) error {
	if len(loaded.old.sources) == 0 {
		return nil
	}
	for _, n := range loaded.old.rest {
		m.log().Error("not imported; the copy of the old file still has it",
			zap.String("entry", n.entry), zap.String("reason", n.reason))
	}
	s := m.settings.Load()
	name, template, err := s.template(nil)
	if err != nil && len(loaded.old.instances) > 0 {
		return Errorf(StateFailed, "importing the instances in %s: %w: set default_template", m.dir, err)
	}
	loaded.Instances = map[string]*Record{}
	for _, in := range loaded.old.instances {
		spec := template.spec(in.prefix, name, CreateRequest{}, s)
		spec.Port, spec.Generation = in.port, 0
		loaded.Instances[in.prefix] = &Record{Spec: spec, Status: Stopped, Reason: ReasonImported, CreatedAt: now()}
		m.log().Info("imported", zap.String("prefix", in.prefix), zap.Int("port", in.port))
	}
	return nil
}

// Candidate is a running container of whomever, as an import sees it.
type Candidate struct {
	ID      string
	Name    string
	Service string // of Compose; empty: none
	Ports   []int  // the host ports that it publishes
}

// Adopting is a Runtime that can take over containers which others made. They
// have no labels of ours, so their ids in the records prove whose they are.
type Adopting interface {
	// Candidates lists the running containers of everybody.
	Candidates(ctx context.Context) ([]Candidate, error)
	// Adopt has container id answer to ContainerName(prefix), as if this
	// manager had made it, until it is removed. It does no I/O.
	Adopt(prefix, id string)
}

// rememberAdopted tells the runtime which containers were adopted before.
func (m *Manager) rememberAdopted() {
	runtime, ok := m.runtime.(Adopting)
	if !ok {
		return
	}
	for prefix, e := range m.entries() {
		if rec := e.record(); rec.Adopted {
			runtime.Adopt(prefix, rec.ContainerID)
		}
	}
}

// adoptImported looks once, as soon as the engine answers, for the running
// containers of imported instances. Those without one say why from then on.
func (m *Manager) adoptImported(ctx context.Context) error {
	runtime, ok := m.runtime.(Adopting)
	if !ok || m.sync.adopted {
		return nil
	}
	pending := map[string]*Record{}
	for prefix, e := range m.entries() {
		if rec := e.record(); rec.Status == Stopped && rec.Reason == ReasonImported {
			pending[prefix] = rec
		}
	}
	var candidates []Candidate
	if len(pending) > 0 {
		var err error
		if candidates, err = runtime.Candidates(ctx); err != nil {
			return err
		}
	}
	m.sync.adopted = true
	for _, prefix := range slices.Sorted(maps.Keys(pending)) {
		next := *pending[prefix]
		c, reason := match(oldInstance{prefix, next.Port}, candidates)
		if reason == "" {
			runtime.Adopt(prefix, c.ID)
			next.ContainerID, next.Adopted = c.ID, true
		}
		next.Reason = ReasonImported + ": " + cmp.Or(reason, "container "+c.Name+" adopted")
		m.execute(ctx, []action{{verb: correct, prefix: prefix, was: pending[prefix], next: &next, cause: next.Reason}})
	}
	return nil
}

// match finds the candidate that is an old instance's container: it publishes
// the port, and its name or Compose service carries the prefix.
func match(in oldInstance, candidates []Candidate) (found Candidate, reason string) {
	reason = fmt.Sprintf("no running container publishes port %d", in.port)
	for _, c := range candidates {
		if !slices.Contains(c.Ports, in.port) {
			continue
		}
		if strings.Contains(c.Name, in.prefix) || strings.Contains(c.Service, in.prefix) {
			return c, ""
		}
		reason = fmt.Sprintf("port %d is that of container %s, whose name does not carry the prefix", in.port, c.Name)
	}
	return Candidate{}, reason
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// ImportPlan says what the first start in dir would take over from the old
// system, a line each, and changes nothing. candidates are the engine's
// running containers; nil where it did not answer. There is nothing to import
// where a state of this system's own exists: then the text says so.
func ImportPlan(dir string, candidates []Candidate) ([]string, error) {
	if data, err := os.ReadFile(filepath.Join(dir, stateFile)); err == nil {
		if s, err := parseState(data); err == nil {
			return []string{fmt.Sprintf("nothing: %s has %d instances of this system's own", dir, len(s.Instances))}, nil
		}
	}
	old, err := findOldState(osDisk{}, dir)
	if err != nil {
		return nil, err
	}
	if len(old.sources) == 0 {
		return []string{"nothing: there are no files of the old system in " + dir}, nil
	}
	var lines []string
	for _, source := range old.sources {
		lines = append(lines, "read "+source+" (a copy is kept beside it)")
	}
	if path := filepath.Join(dir, "docker-compose.yml"); exists(path) {
		lines = append(lines, "replace "+path+" (a copy is kept beside it)")
	}
	for _, in := range old.instances {
		fate := "stopped"
		if c, reason := match(in, candidates); reason == "" {
			fate = "running, adopting container " + c.Name
		} else if candidates != nil {
			fate += ": " + reason
		}
		lines = append(lines, fmt.Sprintf("import %s on port %d, %s", in.prefix, in.port, fate))
	}
	for _, n := range old.rest {
		lines = append(lines, "cannot import "+n.String())
	}
	return lines, nil
}
