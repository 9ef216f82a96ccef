package instance

import (
	"context"
	"math"
	"time"

	"go.uber.org/zap"
)

const (
	// sweepPause bounds how late a deadline is seen that the clock jumped over:
	// a timer counts the seconds that pass, not those that the clock skips.
	sweepPause = time.Minute
	// settleIn is how long after our own start nobody counts as idle, unless
	// their own timeout is shorter: visitors could not reach them before.
	settleIn = time.Minute
	// suspicious is how late a deadline of the clock on the wall is doubted: the
	// clock may be what is wrong. It then has to be missed in two sweeps.
	suspicious = 24 * time.Hour
	// stampPause is how old the times of last use on disk may be.
	stampPause = time.Minute
)

// sweepLoop ends instances whose time is over. It sleeps until the first
// deadline; one that comes closer meanwhile wakes it.
func (m *Manager) sweepLoop() {
	if m.sync.await(m.ctx) != nil && m.ctx.Err() != nil {
		return
	}
	for {
		m.nextEnd.Store(math.MaxInt64) // what changes meanwhile is news
		pause := m.sweep(time.Now())
		m.nextEnd.Store(time.Now().Add(pause).UnixNano())
		select {
		case <-m.ctx.Done():
			return
		case <-m.sooner:
		case <-time.After(pause):
		}
	}
}

// sweep begins to end what is due, and returns how long the next one has time.
func (m *Manager) sweep(now time.Time) time.Duration {
	pause := sweepPause
	for _, e := range m.entries() {
		at := m.sweepOne(e, now)
		if !at.IsZero() {
			pause = min(pause, at.Sub(now))
		}
	}
	return max(pause, 0)
}

// sweepOne begins to end e if it is due, and returns its next deadline.
func (m *Manager) sweepOne(e *entry, now time.Time) time.Time {
	d := m.deadlines(e)
	due := func(at time.Time) bool { return !at.IsZero() && !at.After(now) }
	switch {
	case !due(d.first()):
		e.doubt(false)
		return d.first()
	case now.Sub(d.first()) > suspicious && e.doubt(true):
		return now.Add(sweepPause)
	case due(d.expires):
		m.end(e, "delete", "its lifetime is over", m.delete)
	case due(d.deleted):
		m.end(e, "delete", "it has been stopped for long", m.delete)
	default:
		m.endIdle(e)
	}
	return now.Add(sweepPause) // unless it changes: then it is looked at anew
}

// doubt notes whether a deadline seems to be long past, and reports whether
// that is news.
func (e *entry) doubt(past bool) (news bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	news = past && !e.doubted
	e.doubted = past
	return news
}

// deadlines are those of e as it is now.
func (m *Manager) deadlines(e *entry) deadlines {
	e.mu.Lock()
	defer e.mu.Unlock()
	return deadlinesOf(e.rec, m.lifetime(e.rec), m.lastUse(e))
}

// lifetime is what holds for r: its own, else its template's.
func (m *Manager) lifetime(r *Record) Lifetime {
	return r.Lifetime.or(m.settings.Load().Templates[r.Template].Lifetime)
}

// lastUse is when e counts as last used: now, while it serves a request,
// however long that takes. The caller holds e.mu.
func (m *Manager) lastUse(e *entry) time.Time {
	if e.leases > 0 {
		return time.Now()
	}
	last := e.lastActive
	for _, at := range []*time.Time{e.rec.LastActiveAt, e.rec.StartedAt} {
		if at != nil && at.After(last) {
			last = *at
		}
	}
	if idle := m.lifetime(e.rec).IdleTimeout; idle != nil {
		wait := time.Duration(*idle)
		if settled := m.openedAt.Add(min(settleIn, wait) - wait); settled.After(last) {
			last = settled
		}
	}
	return last
}

// mind has the sweep wake up for a deadline that is before the others.
func (m *Manager) mind(at time.Time) {
	if !at.IsZero() && at.UnixNano() < m.nextEnd.Load() {
		m.sweepSoon()
	}
}

func (m *Manager) sweepSoon() {
	select {
	case m.sooner <- struct{}{}:
	default:
	}
}

// end runs an operation that nobody asked for; where another one is at work,
// the next sweep tries again.
func (m *Manager) end(e *entry, name, why string, do work) {
	op := newOperation(m.ctx, name, WaitReady)
	if holder, err := e.tryClaim(op); err != nil || holder != op {
		return
	}
	m.log().Info("ending an instance", zap.String("prefix", e.record().Prefix), zap.String("op", name), zap.String("why", why))
	m.run(e, op, func(ctx context.Context) error { return do(ctx, e, op) })
}

// endIdle does with e what OnIdle says, if it is still idle: the check, the
// claim and the end of the route are one step, so no request is cut.
func (m *Manager) endIdle(e *entry) {
	how := m.lifetime(e.record()).onIdle()
	name, do := "idle", m.stopIdle
	switch how {
	case IdlePause:
		do = m.pauseIdle
	case IdleDelete:
		name, do = "delete", m.delete
	}
	op := newOperation(m.ctx, name, WaitReady)
	op.brief.Store(how != IdleDelete) // who comes meanwhile need not know
	route, claimed := m.claimIdle(e, op)
	if !claimed {
		return
	}
	if route != nil {
		route.end()
	}
	m.log().Info("ending an instance", zap.String("prefix", e.record().Prefix), zap.String("op", string(how)), zap.String("why", "nobody uses it"))
	m.run(e, op, func(ctx context.Context) error { return do(ctx, e, op) })
}

// claimIdle gives op the slot of e and takes its route away, unless somebody
// uses it after all.
func (m *Manager) claimIdle(e *entry, op *operation) (route *Endpoint, claimed bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	d := deadlinesOf(e.rec, m.lifetime(e.rec), m.lastUse(e))
	if e.gone || e.op != nil || d.idle.IsZero() || d.idle.After(time.Now()) {
		return nil, false
	}
	e.op = op
	route, e.endpoint = e.endpoint, nil
	return route, true
}

// stampAll writes the times of last use that have become old on disk, in one
// write. Calls that want one of these instances meanwhile wait.
func (m *Manager) stampAll(ctx context.Context) error {
	var records []*Record
	var held []func(err error)
	for _, e := range m.entries() {
		op := newOperation(ctx, "keep", WaitReady)
		op.brief.Store(true)
		rec, stale := e.staleStamp(op)
		if !stale {
			continue
		}
		records = append(records, rec)
		held = append(held, func(err error) {
			if err == nil {
				e.show(rec)
			}
			m.finish(e, op, err)
		})
	}
	if records == nil {
		return nil
	}
	err := m.store.putAll(records)
	for _, release := range held {
		release(err)
	}
	return err
}

// staleStamp gives op the slot of e, with the record to write, if the time of
// its last use on disk has become old.
func (e *entry) staleStamp(op *operation) (*Record, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rec := *e.rec
	was := rec.LastActiveAt
	if e.op != nil || e.gone || !e.stampLocked(&rec) || was != nil && rec.LastActiveAt.Sub(*was) < stampPause {
		return nil, false
	}
	e.op = op
	return &rec, true
}
