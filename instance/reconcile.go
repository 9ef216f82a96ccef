package instance

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// relistPause bounds how long a change stays unseen when its event got lost,
	// but others came; and how long edits of our files do.
	relistPause = 15 * time.Second
	// longestRelistPause bounds it where nothing happens and a list is dear.
	longestRelistPause = 5 * time.Minute
	// relistShare: of this many parts of the time, looking at everything takes
	// one, while nothing happens.
	relistShare = 1000
	// retryPause is for an engine that did not answer since Open.
	retryPause = time.Second
	// orphanGrace spares containers that a create in progress may just be
	// making: the records are looked at before the containers.
	orphanGrace = 5 * time.Second
	// farAhead is how far from now no container can have been made, unless the
	// clock was set back. To wait until it is that late again may take years.
	farAhead = time.Hour
)

// verb is what reconcile does about one instance.
type verb string

const (
	remove  verb = "remove"         // remove a container that no record knows
	undo    verb = "undo create of" // its caller never got an answer
	finish  verb = "finish delete of"
	halt    verb = "finish stop of"
	resume  verb = "start" // or wait for one that was started
	correct verb = "correct"
	discard verb = "remove spare"
	rename  verb = "rename container of"
)

// action is one thing to do, and why.
type action struct {
	verb   verb
	prefix string
	cause  string
	// was is the record that the decision is about; it is void once that changed.
	was *Record
	// next is what correct makes of it.
	next *Record
	// container is the id of what remove removes.
	container string
}

func (a action) String() string {
	text := fmt.Sprintf("%s %s", a.verb, a.prefix)
	if a.next != nil {
		text += fmt.Sprintf(" to %s", a.next.Status)
	}
	return text + ": " + a.cause
}

// snapshot is all that a decision rests on.
type snapshot struct {
	records    map[string]*Record // of instances that no operation holds
	held       map[string]bool    // prefixes that one does hold
	containers map[string]Container
	births     map[string]string // see Manager.births
	rebuild    bool              // records were lost: containers without one are not orphans
	down       outage            // the last one
	now        time.Time
}

// decide compares records and containers and returns what is to be done, in
// the order of the prefixes. It does nothing itself.
func decide(s snapshot) []action {
	var actions []action
	for _, prefix := range slices.Sorted(maps.Keys(s.records)) {
		var c *Container
		if found, ok := s.containers[prefix]; ok {
			c = &found
		}
		if c != nil && c.Undescribed {
			continue
		}
		if other := s.misnamed(prefix); c == nil && other != nil {
			actions = append(actions, action{
				verb: rename, prefix: prefix, was: s.records[prefix], container: other.ID,
				cause: "it was made anew from outside, for " + s.records[prefix].Spare,
			})
			continue
		}
		if s.rebuild && isSpare(prefix) {
			continue // nothing is removed until somebody has looked
		}
		if a := decideRecord(s.records[prefix], c, s.down); a != nil {
			a.prefix, a.was = prefix, s.records[prefix]
			actions = append(actions, *a)
		}
	}
	for _, prefix := range slices.Sorted(maps.Keys(s.containers)) {
		c := s.containers[prefix]
		switch {
		case s.records[prefix] != nil || s.held[prefix]:
		case s.misnames(prefix):
		case s.rebuild: // adopt has seen to it, or must not
		case c.Undescribed:
		case s.old(c):
			actions = append(actions, action{verb: remove, prefix: prefix, container: c.ID, cause: "no record knows its container"})
		}
	}
	return actions
}

// goingDown is how long an engine takes to end its containers, one after the
// other. It still tells of them, as if somebody had stopped them by hand.
const goingDown = 20 * time.Second

// outage is a time without the engine.
type outage struct {
	since time.Time // when it was known to be there, less goingDown
	until time.Time // when it was started again; zero: it never went down
}

// took reports whether c, which does not run, ended before the engine was back.
// It is asked about what ran before: nothing outlives an engine that goes down,
// and one that lets its containers run on (live-restore) does not say that it
// was started again.
func (o outage) took(c Container) bool {
	return !c.FinishedAt.IsZero() && c.FinishedAt.Before(o.until)
}

// ranOn reports whether what runs by a record has run all the while.
func (s snapshot) ranOn() bool {
	for prefix, r := range s.records {
		c, ok := s.containers[prefix]
		if ok && c.Running && r.isOf(c) && (r.Status == Running || r.Status == Paused) {
			return true
		}
	}
	return false
}

// isOf reports whether r is about this start of c.
func (r *Record) isOf(c Container) bool {
	return c.ID == r.ContainerID && startTime(r).Equal(startOf(c))
}

// misnamed is the container of prefix, under the name of what it was born for:
// Compose, which knows of no renaming, makes it so from nothing. Nil: there is
// none.
func (s snapshot) misnamed(prefix string) *Container {
	born := s.records[prefix].Spare
	if c, ok := s.containers[born]; ok && s.births[born] == prefix {
		return &c
	}
	return nil
}

// misnames reports whether the container of that name is another's, if only it
// had its own.
func (s snapshot) misnames(born string) bool {
	prefix := s.births[born]
	_, has := s.containers[prefix]
	return prefix != "" && !has
}

// old reports whether c has had its grace.
func (s snapshot) old(c Container) bool {
	age := s.now.Sub(c.CreatedAt)
	return age >= orphanGrace || age <= -farAhead
}

// young returns how long it takes until the next container that no record
// knows loses its grace; zero: there is none.
func (s snapshot) young() time.Duration {
	var wait time.Duration
	for prefix, c := range s.containers {
		left := orphanGrace - s.now.Sub(c.CreatedAt)
		if s.records[prefix] == nil && !s.held[prefix] && !s.misnames(prefix) && !s.rebuild && !s.old(c) && (wait == 0 || left < wait) {
			wait = left
		}
	}
	return wait
}

// decideRecord says what is to be done about r whose container is c; nil if
// there is none. down is when the engine was.
func decideRecord(r *Record, c *Container, down outage) *action {
	if isSpare(r.Prefix) {
		return decideSpare(r, c)
	}
	switch r.Status {
	case Creating:
		return &action{verb: undo, cause: "it was interrupted before its answer"}
	case Deleting:
		return &action{verb: finish, cause: "it was interrupted"}
	case Stopping:
		return &action{verb: halt, cause: "it was interrupted"}
	case Starting:
		return &action{verb: resume, cause: "its start was interrupted"}
	case Running:
		return decideRunning(r, c, down)
	case Paused:
		return decidePaused(r, c, down)
	}
	return decideStopped(r, c, down)
}

func decideRunning(r *Record, c *Container, down outage) *action {
	switch {
	case c == nil:
		return r.ended(Stopped, ReasonRemoved, nil)
	case !c.Running:
		status, reason := howEnded(*c, down.took(*c))
		return r.ended(status, reason, c)
	case c.ID != r.ContainerID:
		return &action{verb: resume, cause: "its container was replaced from outside"}
	case !startTime(r).Equal(startOf(*c)):
		return &action{verb: resume, cause: "its container was restarted from outside"}
	case c.Paused:
		return r.ended(Paused, ReasonPaused, c)
	case !r.Ready:
		return &action{verb: resume, cause: "it has not become ready yet"}
	}
	next := *r
	if next.follow(*c); next.Address != r.Address {
		return &action{verb: correct, next: &next, cause: "its address is " + c.Address.String()}
	}
	return nil
}

// decidePaused keeps the reason of ours of a container that ended while it was
// frozen, and since when it sleeps: what a user paused no visitor may start.
func decidePaused(r *Record, c *Container, down outage) *action {
	switch {
	case c == nil || !c.Running:
		reason := ReasonRemoved
		if c != nil {
			_, reason = howEnded(*c, down.took(*c))
		}
		if r.Reason == ReasonUser || r.Reason == ReasonIdle && c != nil {
			reason = r.Reason
		}
		a := r.ended(Stopped, reason, c)
		a.next.StoppedAt = r.StoppedAt
		return a
	case !c.Paused:
		return &action{verb: resume, cause: "it was resumed from outside, or its pause was interrupted"}
	}
	return nil
}

func decideStopped(r *Record, c *Container, down outage) *action {
	switch {
	case c != nil && !c.Running && down.took(*c) && r.mayHaveEndedWithEngine() && r.StoppedAt.After(down.since):
		return r.ended(Stopped, ReasonEngine, c)
	case c == nil && r.ContainerID != "":
		reason := ReasonRemoved
		if r.Reason == ReasonUser || r.Status == Failed {
			reason = r.Reason // it says more
		}
		a := r.ended(r.Status, reason, nil)
		a.next.StoppedAt = r.StoppedAt
		a.cause = ReasonRemoved
		return a
	case c != nil && c.Running:
		return &action{verb: resume, cause: "it was started from outside"}
	}
	return nil
}

// mayHaveEndedWithEngine reports whether r ended as one does that the engine
// stops because it goes down.
func (r *Record) mayHaveEndedWithEngine() bool {
	exited := r.Status == Failed && strings.HasPrefix(r.Reason, "exited ") && !strings.Contains(r.Reason, "out of memory")
	return r.StoppedAt != nil && (exited || r.Status == Stopped && r.Reason == ReasonOutside)
}

// ended is the correction of r to an instance whose container ended; c is nil
// where it is gone. What ended with the engine ends as of now: while a machine is
// off nobody can visit, and no time of anybody's is over.
func (r *Record) ended(status Status, reason string, c *Container) *action {
	next := *r
	next.Status, next.Reason, next.Ready, next.Address = status, reason, false, ""
	stopped := now()
	if c == nil {
		next.ContainerID, next.Adopted = "", false
	} else if !c.FinishedAt.IsZero() && reason != ReasonEngine {
		stopped = c.FinishedAt.UTC().Truncate(time.Millisecond)
	}
	next.StoppedAt = &stopped
	return &action{verb: correct, next: &next, cause: reason}
}

// howEnded tells a container that was stopped from one that ended by itself.
// Signals end a process with 128 plus their number; a dev server that handles
// SIGTERM may as well end with 0, and npm with 1: what ended with the engine
// was stopped, whatever it said.
func howEnded(c Container, engineWent bool) (Status, string) {
	if !c.OOMKilled {
		if engineWent {
			return Stopped, ReasonEngine
		}
		switch c.ExitCode {
		case 0, 130, 137, 143, 255: // 255: the engine or the machine went down
			return Stopped, ReasonOutside
		}
	}
	return Failed, exitReason(c)
}

// startOf is when c was started, as records keep it.
func startOf(c Container) time.Time { return c.StartedAt.UTC().Truncate(time.Millisecond) }

// recordOf makes the record that c must have had.
func recordOf(c Container) *Record {
	r := &Record{Spec: c.Spec, CreatedAt: c.CreatedAt.UTC().Truncate(time.Millisecond)}
	r.follow(c)
	if c.Paused {
		return r.ended(Paused, ReasonPaused, &c).next
	}
	if c.Running {
		r.Status, r.Ready = Running, true
		return r
	}
	status, reason := howEnded(c, false)
	return r.ended(status, reason, &c).next
}

// syncState says whether records and containers were made to agree since Open.
// Until then no operation may begin: it could take what belongs to another.
type syncState struct {
	// The reconciler's alone:
	adopted bool      // the containers of imported instances were looked for
	away    bool      // nobody has watched the engine since the last look at everything
	up      time.Time // since when the engine is, by its own word; zero: it does not tell
	down    outage    // before that; or guessed
	looked  time.Time // when the engine was last there; at first, when the last process ended or wrote
	due     time.Time // when everything is looked at again

	mu      sync.Mutex // guards the following
	pending map[string]bool
	synced  bool
	err     error // of the last attempt, until one succeeds

	wake  chan struct{} // has an element when something is pending
	tried chan struct{} // closed after the first attempt
}

func newSyncState() *syncState {
	return &syncState{
		away:    true,
		pending: map[string]bool{},
		wake:    make(chan struct{}, 1),
		tried:   make(chan struct{}),
	}
}

// await returns nil once records and containers agreed, or why they could not.
func (s *syncState) await(ctx context.Context) error {
	select {
	case <-s.tried:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

func (s *syncState) attempted(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.synced, s.err = true, nil
	} else if !s.synced {
		s.err = err
	}
	select {
	case <-s.tried:
	default:
		close(s.tried)
	}
}

// take returns what is pending; all means everything.
func (s *syncState) take() (prefixes []string, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all = s.pending[""]
	prefixes = slices.Sorted(maps.Keys(s.pending))
	clear(s.pending)
	return prefixes, all
}

// dueIn has everything looked at again after wait, if not earlier.
func (s *syncState) dueIn(wait time.Duration) {
	if due := time.Now().Add(wait); due.Before(s.due) {
		s.due = due
	}
}

// notify has the reconciler look at what ev names. It never blocks.
func (m *Manager) notify(ev Event) {
	m.sync.mu.Lock()
	m.sync.pending[ev.Prefix] = true
	m.sync.mu.Unlock()
	select {
	case m.sync.wake <- struct{}{}:
	default:
	}
}

func (m *Manager) watch() { m.runtime.Watch(m.ctx, m.notify) }

// reconcileLoop looks at everything on open, after each reconnect to the
// engine and on a timer, and at single instances as events name them.
func (m *Manager) reconcileLoop() {
	lastErr := ""
	for m.ctx.Err() == nil {
		if err := m.writeSettings(); err != nil { // heals what was edited, or could not be written
			m.log().Error("writing the state", zap.Error(err))
		}
		if err := m.look(m.ctx); err != nil {
			if text := err.Error(); text != lastErr { // else it would be a line a second
				m.log().Warn("comparing records and containers; will try again", zap.Error(err))
				lastErr = text
			}
		} else {
			if lastErr != "" {
				m.pools.forgive()
			}
			lastErr = ""
		}
		if err := m.keepAll(m.entries(), stampPause); err != nil {
			m.log().Warn("writing when instances were last used; will try again", zap.Error(err))
		}
		m.followEvents(time.Now().Add(relistPause))
	}
}

// look looks at everything, if that is due; if not, whether the engine still is
// the one that it was.
func (m *Manager) look(ctx context.Context) error {
	begun := time.Now()
	if !m.sync.away && begun.Before(m.sync.due) {
		up, err := m.runtime.UpSince(ctx)
		if err == nil && up.Equal(m.sync.up) {
			m.sync.looked = begun
			return nil
		}
		m.sync.away = true
	}
	m.sync.due = begun.Add(longestRelistPause)
	err := m.reconcileAll(ctx)
	if err != nil {
		m.sync.due = time.Now().Add(retryPause)
		return err
	}
	m.sync.dueIn(pauseAfter(time.Since(begun)))
	return nil
}

// pauseAfter is the pause after a look at everything that took so long. Events
// tell of what changes meanwhile.
func pauseAfter(took time.Duration) time.Duration {
	return min(max(relistPause, relistShare*took), longestRelistPause)
}

// followEvents handles events of single instances until then, or until it is
// time to look at everything.
func (m *Manager) followEvents(until time.Time) {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-time.After(min(time.Until(until), time.Until(m.sync.due))):
			return
		case <-m.sync.wake:
			m.sync.dueIn(relistPause) // events get lost where there are many
			prefixes, all := m.sync.take()
			m.sync.away = m.sync.away || all // a connection is new
			if m.sync.away {
				return
			}
			for _, prefix := range prefixes {
				if err := m.reconcileOne(m.ctx, prefix); err != nil && m.ctx.Err() == nil {
					m.log().Warn("comparing a record and its container; the next relist does it",
						zap.String("prefix", prefix), zap.Error(err))
				}
			}
		}
	}
}

func (m *Manager) reconcileAll(ctx context.Context) error {
	err := m.adoptImported(ctx)
	var up time.Time
	if err == nil {
		up, err = m.runtime.UpSince(ctx)
	}
	var s snapshot
	if err == nil {
		s, err = m.observe(ctx)
	}
	if err == nil {
		err = m.adopt(s) // before anybody may take what belongs to a lost record
	}
	m.sync.attempted(err)
	if err != nil {
		m.sync.away = true
		return err
	}
	m.sync.noteEngine(up, &s)
	wasAway := m.sync.away // some may have waited for the engine
	m.sync.away, m.sync.looked = false, s.now
	if m.settle(ctx, s) || wasAway {
		m.bootSoon()
	}
	if m.before != nil {
		m.before = nil
		m.tellReprieved()
	}
	m.tendPools()
	return nil
}

// noteEngine takes down since when the engine is up, and tells s when it was
// not. Of one that does not tell, nobody knows whether it was restarted while
// we were away; but where one container has run on, it was not.
func (s *syncState) noteEngine(up time.Time, seen *snapshot) {
	back := up
	if up.IsZero() {
		if back = s.down.until; s.away && !seen.ranOn() {
			back = seen.now
		}
	}
	if !back.Equal(s.down.until) {
		s.down = outage{since: s.looked.Add(-goingDown), until: back}
	}
	s.up, seen.down = up, s.down
}

func (m *Manager) reconcileOne(ctx context.Context, prefix string) error {
	s := snapshot{
		records:    map[string]*Record{},
		containers: map[string]Container{},
		rebuild:    m.degraded.Load() != nil,
		down:       m.sync.down,
		now:        time.Now(),
	}
	if m.bornElsewhere(prefix) { // the name is wrong: see misnamed
		m.notify(Event{})
		return nil
	}
	if e := m.row(prefix); e != nil {
		e.mu.Lock()
		held := e.op != nil
		e.missed = held
		s.records[prefix] = e.rec
		e.mu.Unlock()
		if held {
			return nil
		}
	}
	c, err := m.runtime.Inspect(ctx, ContainerName(prefix))
	switch {
	case err == nil:
		s.containers[prefix] = c
	case KindOf(err) != NotFound:
		return err
	}
	if m.settle(ctx, s) {
		m.bootSoon()
	}
	return nil
}

// observe is all that a decision rests on, as it is now.
func (m *Manager) observe(ctx context.Context) (snapshot, error) {
	s := m.snapshot() // before the list: what changes in between is left for next time
	containers, err := m.runtime.List(ctx)
	for _, c := range containers {
		s.containers[c.Spec.Prefix] = c
	}
	return s, err
}

// snapshot is the records' half of it.
func (m *Manager) snapshot() snapshot {
	s := snapshot{
		records: map[string]*Record{}, held: map[string]bool{},
		containers: map[string]Container{}, births: m.allBirths(), rebuild: m.degraded.Load() != nil, now: time.Now(),
	}
	for _, table := range []map[string]*entry{m.entries(), m.spareEntries()} {
		for prefix, e := range table {
			e.mu.Lock()
			if e.op == nil {
				s.records[prefix] = e.rec
			} else {
				s.held[prefix] = true
				e.missed = true // it is looked at then
			}
			e.mu.Unlock()
		}
	}
	return s
}

// settle does what is decided about s, and sees to what is left for later. It
// reports whether some turn out to have ended with the engine.
func (m *Manager) settle(ctx context.Context, s snapshot) bool {
	if wait := s.young(); wait > 0 {
		m.sync.dueIn(wait)
	}
	actions := decide(s)
	if len(actions) > 0 || s.hides() { // to see that it was done
		m.sync.dueIn(relistPause)
	}
	m.execute(ctx, actions)
	return slices.ContainsFunc(actions, action.endsWithEngine)
}

// hides reports whether the engine failed to describe a container.
func (s snapshot) hides() bool {
	for _, c := range s.containers {
		if c.Undescribed {
			return true
		}
	}
	return false
}

func (a action) endsWithEngine() bool { return a.next != nil && a.next.endedWithEngine() }

// execute does what was decided, unless the world has changed since.
func (m *Manager) execute(ctx context.Context, actions []action) {
	for _, a := range actions {
		log := m.log().With(zap.String("prefix", a.prefix), zap.String("action", a.String()))
		log.Info("reconciling")
		if err := m.do(ctx, a); err != nil {
			log.Warn("reconciling failed; the next relist tries again", zap.Error(err))
		}
	}
}

func (m *Manager) do(ctx context.Context, a action) error {
	e := m.row(a.prefix)
	switch {
	case a.verb == remove && e == nil:
		m.removeOrphan(a)
		return nil
	case a.verb == remove, e == nil: // a create has begun, whatever the clocks say; or all is done
		return nil
	}
	return m.doOn(ctx, e, a)
}

// removeOrphan removes a container by its id, for meanwhile one of the same
// name may be an instance's.
func (m *Manager) removeOrphan(a action) {
	m.begin(func() {
		err := m.gate.do(m.ctx, func() error { return m.runtime.Remove(m.ctx, a.container) })
		if err != nil && KindOf(err) != NotFound {
			m.log().Warn("removing a container that no record knows; the next relist tries again",
				zap.String("prefix", a.prefix), zap.String("container", a.container), zap.Error(err))
		}
	})
}

// doOn does what a says about e, or begins it where it takes long.
func (m *Manager) doOn(ctx context.Context, e *entry, a action) error {
	name, do := m.operationFor(a)
	op := newOperation(ctx, name, WaitReady)
	op.brief.Store(name == "idle")    // a user's stop means more, and waits for it
	if !e.claimUnchanged(op, a.was) { // somebody else is at it, and knows better
		m.lookAgain(e, a.prefix)
		return nil
	}
	if do == nil {
		m.note(e, m.learned(e, a))
		m.finish(e, op, nil)
		return nil
	}
	m.run(e, op, func(ctx context.Context) error { return do(ctx, e, op) })
	return nil
}

// learned is what a makes of e's record. What ended while we were away ended when we
// came back: nobody could visit it before. Nor is anybody deleted as soon as we learn
// of his end because lifetimes were changed meanwhile.
func (m *Manager) learned(e *entry, a action) *Record {
	if at := a.next.StoppedAt; a.was.StoppedAt == nil && at != nil && at.Before(m.openedAt) {
		a.next.StoppedAt = instant(m.openedAt)
	}
	if m.before != nil && !isSpare(a.prefix) {
		m.spare(e, a.next, *m.before, m.settings.Load().lifetimes())
	}
	return a.next
}

// claimUnchanged gives op the slot of e, if nobody has it and the record is still
// was. It is one step: others join a start as soon as they see it.
func (e *entry) claimUnchanged(op *operation, was *Record) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gone || e.op != nil || e.rec != was {
		return false
	}
	e.op = op
	return true
}

// lookAgain has e looked at once nobody is at it: what was decided about it came
// to nothing, and there may be no other event.
func (m *Manager) lookAgain(e *entry, prefix string) {
	e.mu.Lock()
	held := e.op != nil
	e.missed = e.missed || held
	e.mu.Unlock()
	if !held {
		m.notify(Event{Prefix: prefix})
	}
}

// operationFor is the operation that a asks for, and the log's word for it. A
// mere correction of the record needs none.
func (m *Manager) operationFor(a action) (name string, do work) {
	switch a.verb {
	case undo:
		return "undo create", func(ctx context.Context, _ *entry, _ *operation) error {
			m.undoCreate(ctx, *a.was)
			return nil
		}
	case finish:
		return "delete", m.delete
	case halt: // as it was meant
		if a.was.Reason != ReasonUser {
			return "idle", m.stopIdle
		}
		return "stop", m.stop
	case discard:
		return "discard", func(ctx context.Context, _ *entry, op *operation) error {
			defer m.tendPools()
			return m.removeSpare(ctx, *a.was, op)
		}
	case rename:
		return "rename", func(ctx context.Context, _ *entry, _ *operation) error {
			defer m.notify(Event{Prefix: a.prefix})
			return m.runtime.Rename(ctx, a.container, a.prefix)
		}
	case resume:
		if a.was.Status == Paused {
			return "resume", m.thawedOutside
		}
		return "start", func(ctx context.Context, e *entry, op *operation) error {
			return m.bringUp(ctx, e, op, *a.was, false)
		}
	}
	return "correct", nil
}

// bornElsewhere reports whether the instance of another prefix has the container
// that was made for this one.
func (m *Manager) bornElsewhere(prefix string) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.births[prefix] != ""
}

func (m *Manager) allBirths() map[string]string {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.births)
}

// adopt makes the records of containers whose records were lost. One whose
// record cannot be made stays as it is: a degraded state removes nothing.
func (m *Manager) adopt(s snapshot) error {
	var lost []*Record
	for _, prefix := range slices.Sorted(maps.Keys(s.containers)) {
		if !s.rebuild || s.misnames(prefix) || s.records[prefix] != nil || s.held[prefix] || s.containers[prefix].Undescribed {
			continue
		}
		rec := recordOf(s.containers[prefix])
		if !validKey(prefix) || !m.ports.mark(rec.Port) {
			m.log().Error("a container is left alone: its prefix is malformed, or its port is another's",
				zap.String("prefix", prefix), zap.String("container", rec.ContainerID), zap.Int("port", rec.Port))
			continue
		}
		m.log().Info("adopting", zap.String("prefix", prefix), zap.String("container", rec.ContainerID),
			zap.String("status", string(rec.Status)))
		lost = append(lost, rec)
	}
	if err := m.store.putAll(lost); err != nil {
		for _, rec := range lost {
			m.ports.free(rec.Port)
		}
		return err
	}
	for _, rec := range lost {
		m.insert(rec.Prefix, &entry{rec: rec, endpoint: endpointOf(rec)})
		s.records[rec.Prefix] = rec
	}
	return nil
}
