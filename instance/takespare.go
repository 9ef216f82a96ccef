package instance

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// fits reports whether a spare of t can be what req asks for: a container that
// was made before has no port, label or further container port of the caller's
// choice, and a prefix and variables of the caller's only by a file.
func (t Template) fits(req CreateRequest) bool {
	if t.Pool == 0 || req.Port != nil || len(req.Labels) > 0 || len(req.Ports) > 0 {
		return false
	}
	return t.LateEnv != "" || req.Prefix == nil && len(req.Env) == 0
}

// seizeSpare finds a spare for req, which names template, and holds it until
// takeSpare or letGo; nil: there is none, or none that fits.
func (m *Manager) seizeSpare(req CreateRequest, template string) *entry {
	s := m.settings.Load()
	if !s.Templates[template].fits(req) {
		return nil
	}
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, spare := range m.spares {
		if spare.seize(template, s) {
			return spare
		}
	}
	return nil
}

// seize holds a spare if it is ready, and as its template wants it now.
func (e *entry) seize(template string, s *Settings) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.op != nil || e.gone || e.endpoint == nil || e.rec.Template != template || s.stale(e.rec) != "" {
		return false
	}
	e.op = newOperation(context.Background(), "take", WaitReady)
	return true
}

// letGo gives back a spare that was seized.
func (m *Manager) letGo(spare *entry) {
	if spare == nil {
		return
	}
	spare.mu.Lock()
	op := spare.op
	spare.mu.Unlock()
	m.free(spare)
	close(op.done)
}

// createFrom does the work of a create that seized a spare: it takes that or,
// where the spare turns out to be no good, makes a container as ever.
func (m *Manager) createFrom(ctx context.Context, spare, e *entry, op *operation) error {
	defer m.tendPools()
	err := m.takeSpare(ctx, spare, e, op)
	if err == nil {
		m.letGo(spare)
		return nil
	}
	spare.spoil()
	m.letGo(spare)
	m.discard(spare, "it could not be taken: "+err.Error())
	if kind := KindOf(err); kind != DiskFull && kind != StateFailed { // which would be no better
		if op.quit, err = m.gate.join(); err == nil {
			return m.create(ctx, e, op, nil)
		}
	}
	m.forget(*e.record(), nil)
	return err
}

// spoil keeps a spare that turned out to be no good from being seized again,
// though it may take until the next look at everything to be rid of it.
func (e *entry) spoil() {
	rec := *e.record()
	rec.Status, rec.Ready = Failed, false
	e.show(&rec)
}

// takeSpare makes the container of spare that of e. The name comes first, so
// that no container with a spare's name knows whose it is: a crash before the
// record leaves a spare whose container is gone and a container without a
// record, both of which reconcile removes. The record, which replaces the
// spare's in one write, is the acknowledgement.
func (m *Manager) takeSpare(ctx context.Context, spare, e *entry, op *operation) error {
	was := spare.record()
	next := was.becomes(e.record())
	if err := m.proveSpare(ctx, was); err != nil {
		return err
	}
	if err := m.rename(ctx, next); err != nil {
		return err
	}
	op.passed("renamed")
	if err := m.writeLate(next); err != nil {
		return err
	}
	if err := m.store.replace(was.Prefix, next); err != nil {
		return err
	}
	m.promote(spare, e, next)
	close(op.intent)
	op.markStarted()
	op.brief.Store(true)
	op.passed("recorded")
	if told := m.settings.Load().Created; told != nil {
		told(next.Prefix)
	}
	m.mind(m.deadlines(e).first())
	return nil
}

// becomes is the record of the instance planned, once it has taken the spare r.
func (r *Record) becomes(planned *Record) *Record {
	next := *planned
	next.Spec = r.Spec
	next.Prefix = planned.Prefix
	next.Status, next.Ready = Running, true
	next.ContainerID, next.Address, next.StartedAt = r.ContainerID, r.Address, r.StartedAt
	next.LastActiveAt = &next.CreatedAt // its container may be older than an idle timeout
	return &next
}

// proofLimit is how long the dev server of a spare, which has answered before,
// may take for an answer.
const proofLimit = 2 * time.Second

// proveSpare returns an error unless the spare is as its record says, is of the
// image that its name means now, and answers.
func (m *Manager) proveSpare(ctx context.Context, r *Record) error {
	c, err := m.runtime.Inspect(ctx, ContainerName(r.Prefix))
	if err != nil {
		return err
	}
	if a := decideSpare(r, &c); a != nil {
		return Errorf(EngineFailed, "%s", a.cause)
	}
	if why := m.staleImage(ctx, r); why != "" {
		return Errorf(EngineFailed, "%s", why)
	}
	ctx, cancel := context.WithTimeout(ctx, proofLimit)
	defer cancel()
	if !probe(ctx, r, func() {}) {
		return Errorf(Timeout, "its dev server did not answer within %s", proofLimit)
	}
	return nil
}

// rename gives the container of rec its name.
func (m *Manager) rename(ctx context.Context, rec *Record) error {
	err := m.runtime.Rename(ctx, rec.ContainerID, rec.Prefix)
	if kind := KindOf(err); kind != Timeout && kind != EngineDown {
		return err
	}
	if c, lookErr := m.runtime.Inspect(ctx, ContainerName(rec.Prefix)); lookErr == nil && c.ID == rec.ContainerID {
		return nil // the answer was lost
	}
	return err
}

// promote moves what was a spare to the table, as e with the record next.
func (m *Manager) promote(spare, e *entry, next *Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.spares, spareKey(next.Spare))
	m.bornLocked(next)
	spare.mu.Lock()
	spare.gone = true
	spare.mu.Unlock()
	e.mu.Lock()
	e.reserved = false
	e.mu.Unlock()
	e.show(next)
}

// nextPort is the port that rec gets after the engine found its own taken.
func (m *Manager) nextPort(ctx context.Context, rec *Record) (int, error) {
	if isSpare(rec.Prefix) {
		return m.ports.take(nil, m.settings.Load().Ports)
	}
	return m.takePort(ctx, nil)
}

// bornLocked notes that rec's container was made for another prefix, which
// nobody may have meanwhile. The caller holds m.mu.
func (m *Manager) bornLocked(rec *Record) {
	if rec.Spare != "" && rec.Spare != rec.Prefix && !rec.IsSpare() {
		m.births[rec.Spare] = rec.Prefix
	}
}

// takePort allots a port to an instance: the one that is wanted, or any. What
// the pools hold is given up where no other is left.
func (m *Manager) takePort(ctx context.Context, wanted *int) (int, error) {
	r := m.settings.Load().Ports
	port, err := m.ports.take(wanted, r)
	if err == nil {
		return port, nil
	}
	m.seekers.Add(1) // no new spare may be faster
	defer m.seekers.Add(-1)
	for err != nil && m.giveUpSpare(ctx, wanted) {
		port, err = m.ports.take(wanted, r)
	}
	return port, err
}

// giveUpSpare frees a port that a pool holds, that one if it is wanted, and
// reports whether there was one to free.
func (m *Manager) giveUpSpare(ctx context.Context, wanted *int) bool {
	for _, spare := range m.spareEntries() {
		// One without a port may be about to get it.
		if port := spare.record().Port; wanted != nil && port != *wanted && port != 0 {
			continue
		}
		if err := m.endSpare(ctx, spare, "an instance needs its port"); KindOf(err) != NotFound {
			return err == nil
		}
	}
	return false
}

// freePrefix gives up the spare that was born for prefix, if there is one, since
// an instance is to have that.
func (m *Manager) freePrefix(ctx context.Context, prefix string) error {
	for {
		spare := m.row(spareKey(prefix))
		if spare == nil {
			return nil
		}
		err := m.endSpare(ctx, spare, "an instance gets its prefix")
		m.tendPools()
		switch {
		case KindOf(err) == NotFound: // an instance has it by now
			return nil
		case err != nil:
			return err
		}
	}
}

// endSpare removes a spare, for the reason why, or awaits that whoever is at it
// has. NotFound: it is gone, or an instance takes it.
func (m *Manager) endSpare(ctx context.Context, spare *entry, why string) error {
	op := newOperation(ctx, "discard", WaitReady)
	holder, err := spare.claimSpare(op)
	switch {
	case err != nil:
		return err
	case holder != op:
		select {
		case <-holder.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	rec := *spare.record()
	m.log().Info("giving up a spare", zap.String("prefix", rec.Prefix), zap.Int("port", rec.Port), zap.String("why", why))
	err = m.removeSpare(ctx, rec, op)
	m.finish(spare, op, err)
	return err
}

// claimSpare gives op the slot of a spare. One that is being made is abandoned;
// that operation, or another that ends the spare, is then returned.
func (e *entry) claimSpare(op *operation) (holder *operation, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.gone || e.op != nil && e.op.name == "take":
		return nil, notFound(e.rec.Prefix)
	case e.op == nil:
		e.op = op
		return op, nil
	case e.abandon != nil:
		e.abandon()
	}
	return e.op, nil
}
