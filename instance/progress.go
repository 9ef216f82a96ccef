package instance

import "time"

// Phase is how far an instance has come that is on its way to being used.
type Phase string

// The phases, in their order; empty: it is not on its way.
const (
	// PhaseStarting: its container is made or started, and its dev server does
	// not listen yet.
	PhaseStarting Phase = "starting"
	// PhaseOpen: its dev server takes connections, and has answered none.
	PhaseOpen Phase = "open"
	// PhaseReady: its dev server has answered.
	PhaseReady Phase = "ready"
)

// Progress is what those who wait for an instance see of it. It is cheap: no
// I/O, and nothing is worked out that only the API tells.
type Progress struct {
	Status   Status
	Reason   string
	Phase    Phase
	Template string
	// Failures counts those in a row, and StartIn is how long they keep visitors
	// from starting it again: see [Manager.Retry]. Zero where it has not failed.
	Failures int
	StartIn  time.Duration
}

// Wakes is [Instance.Wakes] of the same instance.
func (p Progress) Wakes() bool { return Instance{Status: p.Status, Reason: p.Reason}.Wakes() }

// Progress returns how far the instance has come, and a channel that is closed
// when that changes. Errors: NotFound, NotOpen.
func (m *Manager) Progress(prefix string) (p Progress, changed <-chan struct{}, err error) {
	e, err := m.find(prefix)
	if err != nil {
		return Progress{}, nil, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return Progress{}, nil, notFound(prefix)
	}
	p = Progress{Status: e.rec.Status, Reason: e.rec.Reason, Phase: e.phaseLocked(), Template: e.rec.Template}
	if e.waking != nil { // for its visitors it starts, whatever has to end first
		p.Status, p.Reason, p.Phase = Starting, "", PhaseStarting
	}
	if p.Status == Failed {
		p.Failures = e.crashes.failures
		p.StartIn = max(0, time.Until(e.crashes.until)-patience)
	}
	return p, e.steps.await(), nil
}

// news is what others wait for. Its user guards it.
type news struct {
	came chan struct{} // closed with the next; nil: nobody waits
}

// await returns what is closed when there is news.
func (n *news) await() <-chan struct{} {
	if n.came == nil {
		n.came = make(chan struct{})
	}
	return n.came
}

func (n *news) tell() {
	if n.came != nil {
		close(n.came)
		n.came = nil
	}
}

// steps are those of the present run of an entry's container. The entry's mu
// guards it.
type steps struct {
	news
	runs    int  // starts of the container that this process has seen
	started bool // the container runs, on its way up
	open    bool // its dev server takes connections
}

func (e *entry) phaseLocked() Phase {
	switch e.rec.Status {
	case Creating, Starting:
	case Running:
		if e.rec.Ready {
			return PhaseReady
		}
	default:
		return ""
	}
	if e.steps.open {
		return PhaseOpen
	}
	return PhaseStarting
}

// shownLocked follows a record that everybody sees from now on.
func (e *entry) shownLocked(rec *Record) {
	if rec.Status != Creating && rec.Status != Running { // what ran has ended, or will
		e.steps.started, e.steps.open = false, false
	}
	e.steps.tell()
}

// ranUp notes that the container runs, from the start.
func (e *entry) ranUp() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.steps.runs++
	e.steps.started, e.steps.open = true, false
	e.steps.tell()
}

// opened notes that the dev server takes connections.
func (e *entry) opened() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.steps.open {
		e.steps.open = true
		e.steps.tell()
	}
}

// currentRun is the number of the run that goes on, on its way up; zero: none
// does. changed is closed when that may have changed; nil: it never will.
func (e *entry) currentRun() (run int, changed <-chan struct{}) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone {
		return 0, nil
	}
	if e.steps.started {
		run = e.steps.runs
	}
	return run, e.steps.await()
}
