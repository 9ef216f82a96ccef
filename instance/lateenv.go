package instance

import (
	"bytes"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"go.uber.org/zap"
)

// The variables of a process are what they are when it starts, and a spare has
// started before anybody knows for whom. Late variables come in a file instead,
// in a folder of the container's own that is mounted into it read-only: the
// file appears when the instance has an owner, which for one that came from no
// pool is at its start. See Template.LateEnv.

// lateFolder holds a folder for each container that has late variables. Nobody
// else looks into it: the container sees its own folder alone.
const lateFolder = "env"

// lateDir is the folder of the container that was made for born.
func (m *Manager) lateDir(born string) string { return filepath.Join(m.dir, lateFolder, born) }

// late are the late variables of the instance that s describes, to the caller's
// env: these and who it is; nil: it has none.
func (t Template) late(prefix string, env map[string]string, s Spec, settings *Settings) map[string]string {
	if t.LateEnv == "" {
		return nil
	}
	all := map[string]string{}
	maps.Copy(all, env)
	maps.Copy(all, t.identity(prefix, settings, s.ContainerPorts))
	return all
}

// writeLate makes the folder for the late variables of rec's container, and the
// file in it once they are known. It is written whole, before anybody is told
// of the instance.
func (m *Manager) writeLate(rec *Record) error {
	if rec.LateEnv == "" {
		return nil
	}
	err := makeDir(filepath.Dir(rec.LateDir), 0o700)
	if err == nil {
		err = makeDir(rec.LateDir, 0o755)
	}
	if err != nil || rec.Late == nil {
		return err
	}
	file := filepath.Join(rec.LateDir, path.Base(rec.LateEnv))
	// For others to read: in the container, the user is anybody.
	if err := writeFile(m.store.disk, file, 0o644, lateFile(rec.Late)); err != nil {
		return stateError(file, err)
	}
	return nil
}

// lateFile is env as a shell reads it: a line NAME='value' each, in order. A
// quote in a value ends the quoted text, stands by itself behind a backslash,
// and begins it again; a value may have several lines.
func lateFile(env map[string]string) []byte {
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(env)) {
		fmt.Fprintf(&b, "%s='%s'\n", name, strings.ReplaceAll(env[name], "'", `'\''`))
	}
	return b.Bytes()
}

// removeLate removes the folder of a container that is gone, while its record
// still keeps everybody else from what it was made for. Where a spare could not
// be taken, the instance that was to have it may have been made for the same.
func (m *Manager) removeLate(rec Record) {
	if rec.LateEnv == "" || rec.IsSpare() && m.lookup(rec.Spare) != nil {
		return
	}
	if err := os.RemoveAll(m.lateDir(rec.BornFor())); err != nil {
		m.log().Warn("removing the late variables of an instance; the next start tries again",
			zap.String("prefix", rec.Prefix), zap.Error(err))
	}
}

// sweepLate removes the folders that a crash left behind. It is for Open, before
// anybody can make one.
func (m *Manager) sweepLate() {
	folders, _ := os.ReadDir(filepath.Join(m.dir, lateFolder)) // absent: there is nothing to remove
	for _, folder := range folders {
		if born := folder.Name(); ValidPrefix(born) && !m.isBorn(born) {
			_ = os.RemoveAll(m.lateDir(born)) // the next start tries again
		}
	}
}

// isBorn reports whether a container was, or will be, made for that prefix.
func (m *Manager) isBorn(prefix string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.isBornLocked(prefix)
}

func (m *Manager) isBornLocked(prefix string) bool {
	return m.table[prefix] != nil || m.spares[spareKey(prefix)] != nil || m.births[prefix] != ""
}
