package instance

import (
	"context"
	"errors"
	"math"
	"slices"
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
	// sweepFloor is the least between two sweeps of their own accord: among many
	// instances there always is a next deadline, and a second does not matter.
	sweepFloor = time.Second
	// suspicious is how late a deadline of the clock on the wall is doubted: the
	// clock may be what is wrong. It then has to be that late for a minute.
	suspicious = 24 * time.Hour
	// stampPause is how old the times of last use on disk may be.
	stampPause = time.Minute
)

// reprieveFor is how long those go on that a new configuration would have deleted
// before: whoever wrote it may have thought of new instances only.
const reprieveFor = 10 * time.Minute

// parallelEnds bounds how many instances are ended at once: it leaves half of
// the engine to what people ask for, however many deadlines fall due together.
const parallelEnds = maxInFlight / 2

// sweepLoop ends instances whose time is over. It sleeps until the first
// deadline; one that comes closer meanwhile wakes it.
func (m *Manager) sweepLoop() {
	for m.ctx.Err() == nil {
		pause := retryPause
		m.nextEnd.Store(math.MaxInt64)  // what changes meanwhile is news
		if m.sync.await(m.ctx) == nil { // else the engine has not answered yet
			pause = m.sweep(time.Now())
		}
		m.nextEnd.Store(time.Now().Add(pause).UnixNano())
		select {
		case <-m.ctx.Done():
		case <-m.sooner:
		case <-time.After(pause):
		}
	}
}

// overdue is an instance whose time is over, and since when.
type overdue struct {
	entry *entry
	since time.Time
}

// sweep begins to end what is due, the longest overdue first, and returns how
// long the next one has time. It waits while as many are being ended as may be:
// the others run on meanwhile.
func (m *Manager) sweep(now time.Time) time.Duration {
	pause := sweepPause
	var due []overdue
	for _, e := range m.entries() {
		at, over := m.lookAt(e, now)
		switch {
		case over:
			due = append(due, overdue{e, at})
		case !at.IsZero():
			pause = min(pause, at.Sub(now))
		}
	}
	slices.SortFunc(due, func(a, b overdue) int { return a.since.Compare(b.since) })
	for _, each := range due {
		m.end(each.entry)
	}
	return max(pause, sweepFloor)
}

// lookAt returns the first deadline of e, and whether it is over and believed.
func (m *Manager) lookAt(e *entry, now time.Time) (at time.Time, over bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	at = m.endsLocked(e, m.lifetime(e.rec), now).first()
	if at.IsZero() || at.After(now) {
		e.doubted = time.Time{}
		return at, false
	}
	if e.doubtsLocked(now.Sub(at), now) {
		return now.Add(sweepPause), false
	}
	return at, true
}

// endsLocked are the deadlines that count. Where records were lost, nothing is
// deleted before somebody has looked: its own lifetime may be among what was.
func (m *Manager) endsLocked(e *entry, l Lifetime, now time.Time) deadlines {
	d := m.deadlinesLocked(e, l, now)
	if m.degraded.Load() == nil {
		return d
	}
	if l.onIdle() == IdleDelete {
		return deadlines{}
	}
	return deadlines{idle: d.idle}
}

// doubtsLocked reports whether a deadline that is so late is not believed yet:
// it has to have been late for a whole sweepPause.
func (e *entry) doubtsLocked(late time.Duration, now time.Time) bool {
	switch {
	case late <= suspicious:
		e.doubted = time.Time{}
		return false
	case e.doubted.IsZero():
		e.doubted = now
	}
	return now.Sub(e.doubted) < sweepPause
}

// deadlines are those of e as it is now.
func (m *Manager) deadlines(e *entry) deadlines {
	e.mu.Lock()
	defer e.mu.Unlock()
	return m.deadlinesLocked(e, m.lifetime(e.rec), time.Now())
}

func (m *Manager) deadlinesLocked(e *entry, l Lifetime, now time.Time) deadlines {
	c := clock{opened: m.openedAt, now: now}
	return deadlinesOf(e.rec, l, e.usageLocked(l, c), c).notBefore(e.reprieveLocked(now))
}

// reprieveLocked is before when nothing ends e; zero: no such time.
func (e *entry) reprieveLocked(now time.Time) time.Time {
	if at := e.rec.Reprieve; at != nil && at.Before(now.Add(reprieveFor+sweepPause)) { // else the clock was wrong
		return later(e.reprieve, *at)
	}
	return e.reprieve
}

// lifetime is what holds for r: its own, else its template's.
func (m *Manager) lifetime(r *Record) Lifetime {
	return r.Lifetime.or(m.settings.Load().Templates[r.Template].Lifetime)
}

// reprieve has nobody deleted at once because the lifetimes of templates change. It
// reports whether that spares anybody.
func (m *Manager) reprieve(before, after lifetimes) (spares bool) {
	for _, e := range m.entries() {
		spares = m.spare(e, e.record(), before, after) || spares
	}
	return spares
}

// spare gives e, which is to have rec, a reprieve if after would have it deleted
// within a minute and before would not, and reports whether.
func (m *Manager) spare(e *entry, rec *Record, before, after lifetimes) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	c := clock{opened: m.openedAt, now: now}
	due := func(l Lifetime) bool { // without the reprieve that it may have
		end := deadlinesOf(rec, l, e.usageLocked(l, c), c).end(l.onIdle())
		return !end.IsZero() && !end.After(now.Add(sweepPause))
	}
	if !due(after.of(rec)) || due(before.of(rec)) {
		return false
	}
	e.reprieve = now.Add(reprieveFor).UTC().Truncate(time.Millisecond)
	return true
}

// tellReprieved tells the operator who is only there because of a reprieve.
func (m *Manager) tellReprieved() {
	prefixes, first := m.reprieved()
	if len(prefixes) == 0 {
		return
	}
	const named = 20
	m.log().Warn("instances will be deleted, as lifetimes of the new configuration say: to keep them, "+
		"change ttl, idle_timeout, on_idle or delete_after_stopped of their templates until then, or PATCH them",
		zap.Int("instances", len(prefixes)), zap.String("not_before", first.Format(time.RFC3339)),
		zap.Strings("prefixes", prefixes[:min(named, len(prefixes))]))
}

// reprieved are those who would be deleted by now but for their reprieve, and when
// the first one's ends.
func (m *Manager) reprieved() (prefixes []string, first time.Time) {
	now := time.Now()
	for prefix, e := range m.entries() {
		e.mu.Lock()
		until, l := e.reprieveLocked(now), m.lifetime(e.rec)
		if until.After(now) && m.deadlinesLocked(e, l, now).end(l.onIdle()).Equal(until) {
			prefixes = append(prefixes, prefix)
			if first.IsZero() || until.Before(first) {
				first = until
			}
		}
		e.mu.Unlock()
	}
	slices.Sort(prefixes)
	return prefixes, first
}

// writeSettings has the files say what the configuration says. Its lifetimes come
// once all reprieves are on disk: until then a restart gives them anew.
func (m *Manager) writeSettings() error {
	m.filing.Lock()
	defer m.filing.Unlock()
	s := m.settings.Load() // for whose lifetimes the reprieves are in the table already
	err := m.keepAll(m.unfiled(), 0)
	if err == nil && len(m.unfiled()) == 0 {
		m.filed.Store(new(s.lifetimes()))
	}
	return errors.Join(err, m.store.refresh())
}

// unfiled are the entries whose reprieve is not on disk, as where an operation
// holds one.
func (m *Manager) unfiled() map[string]*entry {
	unfiled := map[string]*entry{}
	for prefix, e := range m.entries() {
		e.mu.Lock()
		if !e.reprieve.IsZero() && (e.rec.Reprieve == nil || !e.rec.Reprieve.Equal(e.reprieve)) {
			unfiled[prefix] = e
		}
		e.mu.Unlock()
	}
	return unfiled
}

// usageLocked is when e was used; now, while it serves a request, however long
// that takes.
func (e *entry) usageLocked(l Lifetime, c clock) usage {
	if e.leases > 0 {
		return usage{last: c.now, since: c.now}
	}
	used := usage{last: e.lastActive}
	if at := e.rec.LastActiveAt; at != nil {
		used.last = later(used.last, c.believe(*at))
	}
	used.since = later(used.last, e.routedAt)
	if at := e.rec.StartedAt; at != nil {
		used.since = later(used.since, c.believe(*at))
	}
	if idle := l.IdleTimeout; idle != nil {
		timeout := time.Duration(*idle)
		used.since = later(used.since, c.opened.Add(min(settleIn, timeout)-timeout))
	}
	return used
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

// end begins to end e, once there is room for it, if its time still is over.
func (m *Manager) end(e *entry) {
	select {
	case m.ends <- struct{}{}:
	case <-m.ctx.Done():
		return
	}
	op, do, why := m.claimOverdue(e)
	if op == nil {
		<-m.ends
		return
	}
	m.log().Info("ending an instance", zap.String("prefix", e.record().Prefix), zap.String("op", op.name), zap.String("why", why))
	m.run(e, op, func(ctx context.Context) error {
		defer func() { <-m.ends }()
		return do(ctx, e, op)
	})
}

// claimOverdue gives an operation the slot of e, with what it has to do and
// why; nil if it is used after all, or another one is at work. Of an idle
// instance it takes the route in the same step, so that no request is cut.
func (m *Manager) claimOverdue(e *entry) (op *operation, do work, why string) {
	var route *Endpoint
	defer func() { // without the lock
		if route != nil {
			route.end()
		}
	}()
	e.mu.Lock()
	defer e.mu.Unlock()
	l, now := m.lifetime(e.rec), time.Now()
	how, why := m.endsLocked(e, l, now).due(now, l.onIdle())
	if e.gone || e.op != nil || how == "" {
		return nil, nil, ""
	}
	name := "idle"
	switch {
	case how == IdleDelete:
		name, do = "delete", m.delete
	case how == IdlePause && !e.unpausable:
		do = m.pauseIdle
	default:
		do = m.stopIdle
	}
	op = newOperation(m.ctx, name, WaitReady)
	op.brief.Store(how != IdleDelete) // who comes meanwhile need not know
	e.op = op
	if why == whyIdle {
		route, e.endpoint = e.endpoint, nil
	}
	return op, do, why
}

// keepAll writes when entries were last used, in one write, where the time on disk
// is older than that by more than stale. Calls that want one of these instances
// meanwhile wait.
func (m *Manager) keepAll(entries map[string]*entry, stale time.Duration) error {
	var records []*Record
	var held []func(err error)
	for _, e := range entries {
		op, rec := m.claimStale(e, stale)
		if op == nil {
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

// claimStale gives an operation the slot of e, with the record to write, if the
// time of its last use on disk is too old; else nil. Of thousands, few are.
func (m *Manager) claimStale(e *entry, stale time.Duration) (*operation, *Record) {
	e.mu.Lock()
	defer e.mu.Unlock()
	rec := *e.rec
	was := rec.LastActiveAt
	if e.op != nil || e.gone || !e.stampLocked(&rec) || was != nil && rec.LastActiveAt.Sub(*was) < stale {
		return nil, nil
	}
	e.op = newOperation(m.ctx, "keep", WaitReady)
	e.op.brief.Store(true)
	stamped := rec // rec stays on the stack
	return e.op, &stamped
}
