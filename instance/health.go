package instance

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Health is how a Manager is, and what to do about it.
type Health struct {
	// Status is ok, or degraded: instances are served, but something needs an
	// operator.
	Status string `json:"status"`
	// Instances counts them by status.
	Instances map[Status]int `json:"instances"`
	// Pools says how those of the templates are.
	Pools  map[string]PoolHealth `json:"pools"`
	Docker EngineHealth          `json:"docker"`
	State  StateHealth           `json:"state"`
	// Drift is what the next comparison of records and containers will do, and
	// why; empty: they agree.
	Drift []string `json:"drift"`
	// Advice is what an operator should do. Where the status is ok, all works
	// without.
	Advice []string `json:"advice"`
}

// EngineHealth is how the engine answers.
type EngineHealth struct {
	Status string `json:"status"` // ok or down
	Error  string `json:"error"`
	// Version and API are what the engine says of itself; empty: it did not.
	Version string `json:"version"`
	API     string `json:"api"`
}

// StateHealth is how the state directory is.
type StateHealth struct {
	Dir   string `json:"dir"`
	Owner string `json:"owner"`
	// Degraded is why creates are refused until somebody confirmed that the
	// instances are right; empty: they are not refused.
	Degraded string `json:"degraded"`
	Error    string `json:"error"` // why the files cannot be written; empty: they can
}

// Health looks at everything: it lists the containers, and writes the files
// that would now differ. It takes a few seconds where the engine hangs.
func (m *Manager) Health(ctx context.Context) (Health, error) {
	if err := m.isOpen(); err != nil {
		return Health{}, err
	}
	h := Health{
		Status:    "ok",
		Instances: map[Status]int{},
		Pools:     m.Pools(),
		Docker:    EngineHealth{Status: "ok"},
		State:     StateHealth{Dir: m.dir, Owner: m.owner, Degraded: m.head().Degraded},
		Drift:     []string{},
		Advice:    []string{},
	}
	for _, e := range m.entries() {
		h.Instances[e.record().Status]++
	}
	drift, err := m.Drift(ctx)
	if err != nil {
		h.Docker = EngineHealth{Status: "down", Error: err.Error()}
		h.advise("see to the Docker Engine: until it answers nothing can be created, started or stopped; what runs is served")
	} else {
		h.Drift = drift
		m.describeEngine(ctx, &h)
	}
	if h.State.Degraded != "" {
		h.advise("compare the instances with what you expect, add their custom hosts and lifetimes of their own again, for those were lost, and confirm: " +
			"POST /api/health/confirm; until then no instance can be created")
	}
	if prefixes, from := m.reprieved(); len(prefixes) > 0 && h.State.Degraded == "" {
		h.Advice = append(h.Advice, fmt.Sprintf("instances that will be deleted from %[2]s on, as lifetimes of the new configuration say: %[1]d (the log names the first 20); "+
			"to keep them, change ttl, idle_timeout, on_idle or delete_after_stopped of their templates, or PATCH them", len(prefixes), from.Format(time.RFC3339)))
	}
	if err := m.refresh(); err != nil {
		h.State.Error = err.Error()
		h.advise("make the state directory writable, or free some space")
	}
	return h, nil
}

// describeEngine adds what an engine that answers says of itself.
func (m *Manager) describeEngine(ctx context.Context, h *Health) {
	runtime, ok := m.runtime.(Describing)
	if !ok {
		return
	}
	engine, err := runtime.Describe(ctx)
	if err != nil {
		h.Docker.Error = err.Error()
	}
	h.Docker.Version, h.Docker.API = engine.Version, engine.API
	h.Advice = append(h.Advice, engine.Advice...)
}

func (h *Health) advise(what string) {
	h.Status = "degraded"
	h.Advice = append(h.Advice, what)
}

// Drift compares records and containers and says what reconciling would do, a
// line each. It changes nothing.
func (m *Manager) Drift(ctx context.Context) ([]string, error) {
	if err := m.isOpen(); err != nil {
		return nil, err
	}
	s, err := m.observe(ctx)
	if err != nil {
		return nil, err
	}
	lines := []string{}
	for _, a := range decide(s) {
		lines = append(lines, a.String())
	}
	return lines, nil
}

// Confirm ends the degraded mode that follows a lost state file: somebody has
// looked at the instances, and they are right.
func (m *Manager) Confirm() error {
	why := m.degraded.Swap(nil)
	if why == nil {
		return nil
	}
	if err := m.refresh(); err != nil {
		m.degraded.Store(why)
		return err
	}
	m.tendPools()
	m.sweepSoon() // until now nothing was deleted
	return nil
}

// refresh writes the files that would now differ.
func (m *Manager) refresh() error {
	err := errClosing()
	done := make(chan error, 1)
	if m.begin(func() { done <- m.store.refresh() }) {
		return <-done
	}
	return err
}

// mayCreate refuses creates while nobody has confirmed a rebuilt state: the
// port or prefix may be that of an instance which did not come back.
func (m *Manager) mayCreate() error {
	why := m.degraded.Load()
	if why == nil {
		return nil
	}
	return &Error{
		Kind: StateFailed,
		Message: "no instance can be created: " + *why + ", and the instances were made anew from the containers, " +
			"without their custom hosts; an operator has to look at them and confirm (POST /api/health/confirm)",
		Details: map[string]any{"degraded": *why},
		Err:     errors.New(*why),
	}
}
