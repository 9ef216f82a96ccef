package instance

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/time/rate"
)

// wakesPerMinute is how often visitors can have one instance started: nobody
// needs more, and a stranger is not to make it flap. One that is paused is not
// counted, since it is back in milliseconds.
const wakesPerMinute = 10

// Wakes reports whether a visitor may have the instance of in started: it
// sleeps, and nobody wanted it to. One that has failed is not: it would only
// fail again, for whoever comes; somebody has to want it to be tried.
func (in Instance) Wakes() bool { return wakes(in.Status, in.Reason) }

func wakes(status Status, reason string) bool {
	switch status {
	case Stopped, Paused:
		return reason != ReasonUser
	case Creating, Starting, Stopping:
		return reason != ReasonUser // it is on its way, or will be
	}
	return false
}

// Permit takes one start out of a visitor's budget, or says why he has none; its
// error is returned by what asked for it. giveBack is called for a start that was
// refused before it began. Both must be quick and not call the Manager, which
// holds a lock meanwhile. A nil Permit permits.
type Permit func() (giveBack func(), err error)

// Wake starts an instance that sleeps, because somebody visits it, and returns
// once it is ready; all who come meanwhile wait for the same start, which goes
// on without them. One that is being stopped for idleness is started after that.
//
// permit is asked by whoever would begin a start, not by those who join one. How
// many wait is the caller's business: with a ctx that has ended, Wake begins the
// start and returns at once.
//
// Errors, besides those of the start: NotRunning for one that a user stopped
// or that has failed; Overloaded where a start has failed just now; RateLimited
// where visitors had it started too often.
func (m *Manager) Wake(ctx context.Context, prefix string, permit Permit) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	op, err := m.beginWake(e, newOperation(ctx, "start", WaitReady), permit)
	return m.awaitStart(ctx, e, op, err)
}

// Retry is Wake for a visitor who asked for the start: it may be that of an
// instance that has failed, too, and is not waited for.
func (m *Manager) Retry(ctx context.Context, prefix string, permit Permit) error {
	e, err := m.find(prefix)
	if err != nil {
		return err
	}
	mine := newOperation(ctx, "start", WaitReady)
	mine.retries = true
	_, err = m.beginWake(e, mine, permit)
	return err
}

// beginWake returns the start that is under way, else mine, which has begun.
func (m *Manager) beginWake(e *entry, mine *operation, permit Permit) (*operation, error) {
	op, err := e.joinOrBegin(mine, permit)
	if KindOf(err) == RateLimited {
		m.wakes.refused.Add(1)
	}
	if op == mine && !m.spawn(func() { m.wakeUp(e, op) }) {
		m.giveUp(e, op, errClosing())
	}
	return op, err
}

// AwaitStart is Wake for a visitor who may not have the instance started: it
// waits for a start that is under way. NotRunning where there is none.
func (m *Manager) AwaitStart(ctx context.Context, prefix string) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	op, err := e.join()
	return m.awaitStart(ctx, e, op, err)
}

// awaitStart waits for the end of op; with none, e runs, unless there is err.
func (m *Manager) awaitStart(ctx context.Context, e *entry, op *operation, err error) (Instance, error) {
	switch {
	case err != nil:
		return Instance{}, err
	case op == nil:
		return m.view(e), nil
	}
	return m.await(ctx, e, op, waitServed)
}

// join returns the start that is under way; nil if e runs.
func (e *entry) join() (*operation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch op := e.comingUpLocked(); {
	case e.endpoint != nil:
		return nil, nil
	case op != nil:
		return op, nil
	}
	return nil, e.notRunningLocked()
}

// joinOrBegin is join, but where no start is under way it makes mine one that
// waits for its turn, if that is permitted.
func (e *entry) joinOrBegin(mine *operation, permit Permit) (*operation, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch op := e.comingUpLocked(); {
	case e.endpoint != nil:
		return nil, nil
	case op != nil:
		return op, nil
	case e.gone || !e.startableLocked(mine):
		return nil, e.notRunningLocked()
	}
	if err := e.spendWakeLocked(time.Now(), mine, permit); err != nil {
		return nil, err
	}
	e.waking = mine
	e.steps.tell()
	return mine, nil
}

// comingUpLocked is the operation that makes e run; nil if there is none.
func (e *entry) comingUpLocked() *operation {
	switch {
	case e.waking != nil:
		return e.waking
	case e.op == nil:
		return nil
	}
	switch e.op.name {
	case "create", "start", "restart":
		return e.op
	}
	return nil
}

// startableLocked reports whether op, a start for visitors, may start e as it
// is now.
func (e *entry) startableLocked(op *operation) bool {
	return e.sleepsLocked() || op.retries && e.rec.Status == Failed
}

// sleepsLocked reports whether e may be woken. One whose record says that it
// runs, but that has no endpoint, is about to end for idleness.
func (e *entry) sleepsLocked() bool {
	return wakes(e.rec.Status, e.rec.Reason) || e.rec.Status == Running && e.op != nil
}

// spendWakeLocked takes one start out of what visitors may have e started.
func (e *entry) spendWakeLocked(now time.Time, op *operation, permit Permit) error {
	left := e.crashes.until.Sub(now)
	if left > 0 && !(op.retries && left <= patience) {
		err := Errorf(Overloaded, "the instance could not be started: try again in %s", left.Round(time.Second/10))
		err.RetryAfter = left
		return err
	}
	if e.wakes == nil {
		e.wakes = rate.NewLimiter(rate.Every(time.Minute/wakesPerMinute), wakesPerMinute)
	}
	undo := func() {}
	if e.rec.Status != Paused {
		one := e.wakes.ReserveN(now, 1)
		undo = func() { one.CancelAt(now) }
		if wait := one.DelayFrom(now); wait > 0 {
			undo()
			return TooManyWakes("the instance was started for visitors", wakesPerMinute, wait)
		}
	}
	if permit == nil {
		return nil
	}
	giveBack, err := permit()
	if err != nil {
		undo()
		return err
	}
	op.giveBack = giveBack // e's own stays spent: it bounds how often that is tried in vain
	return nil
}

// TooManyWakes is the error for a visitor beyond a limit of starts a minute.
// what says whose starts are counted; the next one may come after wait.
func TooManyWakes(what string, limit int, wait time.Duration) error {
	err := Errorf(RateLimited, "%s too often: try again in %s", what, wait.Round(time.Second/10))
	err.RetryAfter = wait
	return err.With("limit", fmt.Sprintf("%d/minute", limit))
}

// wakeUp runs op, a start for visitors, once whatever is done to e has ended;
// unless e is not to be woken any more then.
func (m *Manager) wakeUp(e *entry, op *operation) {
	err := m.sync.await(m.ctx)
	if err == nil && op.retries {
		err = e.awaitTurn(m.ctx)
	}
	if err == nil {
		err = m.takeTurn(e, op)
	}
	if err != nil && m.ctx.Err() != nil {
		err = errClosing()
	}
	if err != nil {
		m.giveUp(e, op, err)
		return
	}
	m.perform(e, op, true, m.startForVisitors)
}

// takeTurn gives op the slot of e. Other than claim, it waits for all that
// holds it, and looks in the same step whether a user has stopped e meanwhile.
func (m *Manager) takeTurn(e *entry, op *operation) error {
	for {
		holder, err := e.tryTurn(op)
		if err != nil || holder == op {
			return err
		}
		select {
		case <-holder.done:
		case <-m.ctx.Done():
			return context.Cause(m.ctx)
		}
	}
}

func (e *entry) tryTurn(op *operation) (holder *operation, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.gone:
		return nil, notFound(e.rec.Prefix)
	case e.endpoint == nil && !e.startableLocked(op):
		return nil, notRunning(e.rec)
	case e.op == nil:
		e.op, e.waking = op, nil
		return op, nil
	}
	return e.op, nil
}

// giveUp ends op, a start that never had its turn.
func (m *Manager) giveUp(e *entry, op *operation, err error) {
	op.giveBack()
	e.mu.Lock()
	e.waking = nil
	e.steps.tell()
	e.mu.Unlock()
	op.result, op.err = m.view(e), err
	close(op.done)
}

// startForVisitors is start. What is ready counts as used, so that it does not
// fall asleep again before they are served. A start that did not begin, and left
// e asleep, would be tried again by the next visitor: it is held back as one
// that failed.
func (m *Manager) startForVisitors(ctx context.Context, e *entry, op *operation) error {
	err := m.start(ctx, e, op)
	if err == nil {
		m.wakes.started.Add(1)
		e.touch()
		return nil
	}
	if op.wanted.Err() != nil { // somebody else ended it
		return err
	}
	m.wakes.failed.Add(1)
	switch KindOf(err) {
	case EngineFailed, PortTaken, ImageMissing, Timeout, StateFailed, DiskFull:
	case EngineDown: // it says so at once
		op.giveBack()
		return err
	default:
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.rec.Status != Failed { // it counted itself
		e.crashes.failed(0)
	}
	return err
}

// WakeCounts are the starts for visitors, by how they went.
type WakeCounts struct{ Started, Failed, Refused uint64 }

// WakeCounts counts them since the Manager was made.
func (m *Manager) WakeCounts() WakeCounts {
	return WakeCounts{m.wakes.started.Load(), m.wakes.failed.Load(), m.wakes.refused.Load()}
}
