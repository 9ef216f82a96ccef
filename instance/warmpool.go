package instance

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

const (
	// MaxPool bounds the spares of one template.
	MaxPool = 100
	// parallelFills is how many spares are made at once: so many of the
	// engine's slots, which are left to instances where those need them.
	parallelFills = 2
	// parallelDiscards is how many are removed at once.
	parallelDiscards = 2
	// poolPause bounds how late a pool notices what no event tells: that the
	// name of an image means another one, or that a port became free.
	poolPause = 15 * time.Second
	// yieldPause is how often a spare looks whether it may be made.
	yieldPause = 50 * time.Millisecond
)

// pool is what a Manager remembers of the spares of one template.
type pool struct {
	failures crashLoop
	err      error // of the last spare that could not be made; nil: it could
}

// pools keeps the spares of all templates as the settings want them.
type pools struct {
	wake     chan struct{} // has an element when there may be something to do
	discards chan struct{} // has an element for each spare that is being removed
	fills    atomic.Int64  // spares that are being made

	mu         sync.Mutex // guards the following
	byTemplate map[string]*pool
}

func newPools() *pools {
	return &pools{
		wake:       make(chan struct{}, 1),
		discards:   make(chan struct{}, parallelDiscards),
		byTemplate: map[string]*pool{},
	}
}

// PoolHealth is how the pool of one template is.
type PoolHealth struct {
	Wanted int `json:"wanted"`
	Ready  int `json:"ready"`
	// Error is why the last spare could not be made; empty: it could.
	Error string `json:"error"`
}

// Pools says how the pools are, by template: those that are wanted, and those
// that still have spares.
func (m *Manager) Pools() map[string]PoolHealth {
	all := map[string]PoolHealth{}
	for name, t := range m.settings.Load().Templates {
		if t.Pool > 0 {
			all[name] = PoolHealth{Wanted: t.Pool, Error: m.pools.lastError(name)}
		}
	}
	for _, e := range m.spareEntries() {
		rec := e.record()
		h := all[rec.Template]
		if rec.Status == Running {
			h.Ready++
		}
		all[rec.Template] = h
	}
	return all
}

// tendPools has the pools looked after soon. It never blocks.
func (m *Manager) tendPools() {
	select {
	case m.pools.wake <- struct{}{}:
	default:
	}
}

// poolLoop refills the pools, and removes what is no longer wanted in them.
func (m *Manager) poolLoop() {
	for {
		pause := poolPause
		if m.sync.await(m.ctx) == nil && m.degraded.Load() == nil {
			pause = min(pause, m.tend(m.settings.Load()))
		}
		select {
		case <-m.ctx.Done():
			return
		case <-m.pools.wake:
		case <-time.After(pause):
		}
	}
}

// tend brings the pools closer to what s wants, and returns how long the next
// look has time.
func (m *Manager) tend(s *Settings) time.Duration {
	kept := m.discardStale(s)
	pause := poolPause
	for _, name := range slices.Sorted(maps.Keys(s.Templates)) {
		t := s.Templates[name]
		wait := m.pools.hold(name)
		if kept[name] >= t.Pool {
			continue
		}
		if wait > 0 {
			pause = min(pause, wait)
			continue
		}
		for ; kept[name] < t.Pool && m.pools.fills.Load() < parallelFills; kept[name]++ {
			m.addSpare(name, t, s)
			if m.pools.lastError(name) != "" {
				break // one will tell
			}
		}
	}
	return pause
}

// discardStale begins to remove the spares that s does not want, and counts
// the others.
func (m *Manager) discardStale(s *Settings) (kept map[string]int) {
	kept = map[string]int{}
	images := map[string]string{} // why one is stale, by what its spares were made of
	spares := m.spareEntries()
	keys := slices.SortedFunc(maps.Keys(spares), func(a, b string) int {
		return cmp.Or(spares[a].readiness()-spares[b].readiness(), cmp.Compare(a, b))
	})
	for _, key := range keys {
		rec := spares[key].record()
		why := s.stale(rec)
		switch {
		case why == "" && kept[rec.Template] >= s.Templates[rec.Template].Pool:
			why = "the pool became smaller"
		case why == "" && rec.Status == Running:
			of := rec.Image + "@" + rec.ImageID
			if _, known := images[of]; !known {
				images[of] = m.staleImage(m.ctx, rec)
			}
			why = images[of]
		}
		if why != "" {
			m.discard(spares[key], why)
			continue
		}
		kept[rec.Template]++
	}
	return kept
}

// readiness orders spares: the ready ones are kept first.
func (e *entry) readiness() int {
	if e.record().Status == Running {
		return 0
	}
	return 1
}

// staleImage says so if the name of the spare's image means another one now.
// Where the engine does not tell, nothing is known against the spare.
func (m *Manager) staleImage(ctx context.Context, r *Record) string {
	runtime, ok := m.runtime.(Imaging)
	if !ok {
		return ""
	}
	id, err := runtime.ImageID(ctx, r.Image)
	switch {
	case KindOf(err) == ImageMissing:
		return "there is no image of that name any more"
	case err == nil && id != r.ImageID:
		return "the name of its image means another one now"
	}
	return ""
}

// addSpare begins to make one spare.
func (m *Manager) addSpare(name string, t Template, s *Settings) {
	ctx, abandon := context.WithCancel(m.ctx)
	op := newOperation(m.ctx, "fill", WaitReady)
	e := &entry{op: op, abandon: abandon}
	born := m.bear(e, func(born string) *Record {
		spec := t.spareSpec(born, name, s)
		if spec.LateEnv != "" {
			spec.LateDir = m.lateDir(born)
		}
		return &Record{Spec: spec, Recipe: spec.recipe(), Status: Creating, CreatedAt: now()}
	}, s.PrefixLength)
	m.pools.fills.Add(1)
	begun := time.Now()
	// No write waits for it to join: it takes seconds until it has one.
	if !m.spawn(func() {
		defer m.tendPools()
		defer m.pools.fills.Add(-1)
		defer abandon()
		err := m.makeSpare(ctx, e, op)
		m.pools.filled(name, err, ctx.Err() != nil)
		m.finish(e, op, err)
		m.logOperation(e, op, time.Since(begun))
	}) {
		abandon()
		m.pools.fills.Add(-1)
		m.remove(spareKey(born))
	}
}

// bear puts e among the spares, with the record that record makes of a prefix
// which nobody else has.
func (m *Manager) bear(e *entry, record func(born string) *Record, length int) (born string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for {
		born = generatePrefix(length)
		if !m.isBornLocked(born) {
			break
		}
	}
	e.rec = record(born)
	m.spares[e.rec.Prefix] = e
	return born
}

// makeSpare does the work; where it fails, nothing is left. An end of the
// Manager in the middle is seen to by the next Open.
func (m *Manager) makeSpare(ctx context.Context, e *entry, op *operation) error {
	rec := *e.record()
	if err := m.gate.yield(ctx); err != nil {
		m.remove(rec.Prefix)
		return err
	}
	if err := m.writeSpareIntent(e, &rec); err != nil {
		m.remove(rec.Prefix)
		return err
	}
	op.passed("intent")
	err := m.build(ctx, e, op, &rec, false)
	if err == nil || m.ctx.Err() != nil {
		return err
	}
	if undoErr := m.removeSpare(m.ctx, rec, op); undoErr != nil {
		m.log().Warn("removing a spare that could not be made; will try again", zap.String("prefix", rec.Prefix), zap.Error(undoErr))
	}
	return err
}

func (m *Manager) writeSpareIntent(e *entry, rec *Record) (err error) {
	if m.seekers.Load() > 0 {
		return Errorf(NoFreePort, "an instance needs the port")
	}
	if rec.Port, err = m.ports.take(nil, m.settings.Load().Ports); err != nil {
		return err
	}
	intent := *rec
	if err := m.save(e, &intent); err != nil {
		m.ports.free(rec.Port)
		return err
	}
	return nil
}

// yield returns when what users asked of the engine leaves room for a spare.
func (g *gate) yield(ctx context.Context) error {
	for g.queue.Load() > maxInFlight-parallelFills {
		select {
		case <-time.After(yieldPause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return ctx.Err()
}

// discard begins to remove a spare, unless an instance takes it.
func (m *Manager) discard(e *entry, why string) {
	op := newOperation(m.ctx, "discard", WaitReady)
	if holder, err := e.claimSpare(op); err != nil || holder != op {
		return
	}
	m.log().Info("removing a spare", zap.String("prefix", e.record().Prefix), zap.String("why", why))
	begun := time.Now()
	if !m.spawn(func() {
		err := m.discardInTurn(e, op)
		m.finish(e, op, err)
		if err == nil { // else the next look tries again
			m.tendPools()
		}
		m.logOperation(e, op, time.Since(begun))
	}) {
		m.finish(e, op, errClosing())
	}
}

func (m *Manager) discardInTurn(e *entry, op *operation) error {
	select {
	case m.pools.discards <- struct{}{}:
		defer func() { <-m.pools.discards }()
		return m.removeSpare(m.ctx, *e.record(), op)
	case <-m.ctx.Done():
		return context.Cause(m.ctx)
	}
}

// removeSpare removes the container of a spare, then its record. It takes no
// slot of the engine: whoever has one may wait for the port of this spare.
func (m *Manager) removeSpare(ctx context.Context, rec Record, op *operation) error {
	err := m.runtime.Remove(ctx, ContainerName(rec.Prefix))
	if err == nil && rec.ContainerID != "" { // it may have got another name
		err = m.runtime.Remove(ctx, rec.ContainerID)
	}
	if err != nil && KindOf(err) != NotFound {
		return err // it stays, and is tried again
	}
	op.passed("removed")
	m.forget(rec, m.store.drop(rec.Prefix))
	m.ports.free(rec.Port)
	op.passed("tombstone")
	return nil
}

// hold is how long no spare of the template is to be made, after failures.
func (p *pools) hold(name string) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byTemplate[name] == nil {
		return 0
	}
	return time.Until(p.byTemplate[name].failures.until)
}

// filled notes how the making of a spare ended. Failures are followed by
// longer and longer pauses, as those of instances are.
func (p *pools) filled(name string, err error, abandoned bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		delete(p.byTemplate, name)
	case abandoned:
	default:
		if p.byTemplate[name] == nil {
			p.byTemplate[name] = &pool{}
		}
		p.byTemplate[name].err = err
		p.byTemplate[name].failures.failed(0)
	}
}

// forgive forgets all failures: the templates have changed.
func (p *pools) forgive() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.byTemplate)
}

func (p *pools) lastError(name string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byTemplate[name] == nil {
		return ""
	}
	return p.byTemplate[name].err.Error()
}

// spareEntries returns a copy of the table of spares, by their keys.
func (m *Manager) spareEntries() map[string]*entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.spares)
}
