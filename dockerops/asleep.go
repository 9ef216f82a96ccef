package dockerops

import (
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// asleep remembers what containers are that do not run. Nothing about one
// changes until it is started, so a List need not ask about each of them again:
// of ten thousand sleeping instances that would take seconds.
//
// It is only a memory of Inspects: what starts is forgotten, and so is all when
// the event stream was broken, for then a start may have gone unseen.
type asleep struct {
	mu   sync.Mutex
	seen map[string]sleeper // by container id
	// era counts the times that something was forgotten. What was asked before
	// and is answered after may be of another time.
	era int
}

type sleeper struct {
	container instance.Container
	state     string // as the engine's list has it: how it ended, but not when
}

// recall returns the container of a line of the engine's list, if that is still
// what it was.
func (a *asleep) recall(line container.Summary) (instance.Container, bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	known, ok := a.seen[line.ID]
	return known.container, ok && known.state == stateOf(line)
}

// now is the era to remember something for that is about to be asked.
func (a *asleep) now() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.era
}

// remember keeps found, which was asked for in era, for the next list.
func (a *asleep) remember(era int, line container.Summary, found instance.Container) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if era != a.era || found.Running || found.Undescribed || found.ID == "" || line.State == container.StateRunning {
		return
	}
	if a.seen == nil {
		a.seen = map[string]sleeper{}
	}
	a.seen[line.ID] = sleeper{found, stateOf(line)}
}

// keepOnly forgets those that are not in the list any more.
func (a *asleep) keepOnly(listed map[string]container.Summary) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for id := range a.seen {
		if _, ok := listed[id]; !ok {
			delete(a.seen, id)
		}
	}
}

// forget has the container looked at again: something happens to it.
func (a *asleep) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.era++
	delete(a.seen, id)
}

func (a *asleep) forgetAll() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.era++
	clear(a.seen)
}

// stateOf is what a line says of how a container is, and whose by its name:
// "exited Exited (143) /sandbox-…". The rest of its status is how long ago.
func stateOf(line container.Summary) string {
	status, _, _ := strings.Cut(line.Status, ")")
	if line.State != container.StateExited {
		status = ""
	}
	return line.State + " " + status + " " + strings.Join(line.Names, " ")
}
