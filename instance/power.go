package instance

import (
	"context"
	"errors"

	"go.uber.org/zap"
)

// Start starts the instance and returns once it has come as far as wait says;
// one that runs is left as it is. Concurrent calls share one start.
func (m *Manager) Start(ctx context.Context, prefix string, wait Wait) (Instance, error) {
	return m.power(ctx, prefix, "start", wait, m.start)
}

// Stop stops the instance; no request wakes it until somebody starts it. One
// that is stopped is left as it is.
func (m *Manager) Stop(ctx context.Context, prefix string) (Instance, error) {
	return m.power(ctx, prefix, "stop", WaitReady, m.stop)
}

// Restart stops the instance if it runs, starts it, and returns once it has
// come as far as wait says.
func (m *Manager) Restart(ctx context.Context, prefix string, wait Wait) (Instance, error) {
	return m.power(ctx, prefix, "restart", wait, m.restart)
}

// Delete removes the instance: container, volumes and record. It returns the
// instance as it last was. The port rests before somebody else gets it.
func (m *Manager) Delete(ctx context.Context, prefix string) (Instance, error) {
	return m.power(ctx, prefix, "delete", WaitReady, m.delete)
}

type work func(ctx context.Context, e *entry, op *operation) error

// power runs one operation on an existing instance, or joins the one of the
// same name that is in progress.
func (m *Manager) power(ctx context.Context, prefix, name string, wait Wait, do work) (Instance, error) {
	if err := checkWait(wait); err != nil {
		return Instance{}, err
	}
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	if err := m.sync.await(ctx); err != nil {
		return Instance{}, err
	}
	starts := name == "start" || name == "restart"
	if starts {
		if err := e.awaitTurn(ctx); err != nil {
			return Instance{}, err
		}
	}
	op := newOperation(ctx, name, wait)
	op.brief.Store(name == "update")
	holder, err := m.claim(ctx, e, op)
	if err != nil {
		return Instance{}, err
	}
	if holder == op {
		m.perform(e, op, starts, do)
	}
	return m.await(ctx, e, holder, wait)
}

// perform runs op, which has the slot of e. A start is refused where too many
// wait; ending never is: it is what helps.
func (m *Manager) perform(e *entry, op *operation, starts bool, do work) {
	if starts {
		var err error
		if op.quit, err = m.gate.join(); err != nil {
			op.giveBack()
			m.finish(e, op, err)
			return
		}
	}
	m.run(e, op, func(ctx context.Context) error { return do(ctx, e, op) })
}

func (m *Manager) start(ctx context.Context, e *entry, op *operation) error {
	rec := *e.record()
	switch {
	case rec.Status == Running && rec.Ready:
		e.touch() // who asks for it still needs it
		return nil
	case rec.Status == Paused:
		return m.thaw(ctx, e, op, rec)
	}
	return m.bringUp(ctx, e, op, rec, false)
}

func (m *Manager) restart(ctx context.Context, e *entry, op *operation) error {
	return m.bringUp(ctx, e, op, *e.record(), true)
}

// bringUp takes e from before to running. Where the engine refuses to begin,
// e stays as it was; where the container does not come up, e has failed.
func (m *Manager) bringUp(ctx context.Context, e *entry, op *operation, before Record, stopFirst bool) error {
	rec := before
	rec.Status, rec.Ready, rec.Reason, rec.StoppedAt = Starting, false, "", nil
	intent := rec
	if err := m.save(e, &intent); err != nil {
		return err
	}
	op.passed("intent")
	close(op.intent)
	err := m.gate.do(ctx, func() error { return m.startAgain(ctx, &rec, stopFirst) })
	op.quit()
	if err != nil {
		if ctx.Err() == nil {
			m.restore(e, before, err)
		}
		return err
	}
	err = m.complete(ctx, e, op, &rec)
	switch {
	case err == nil || ctx.Err() != nil:
	case op.wanted.Err() != nil:
		return m.makeWay(e, rec)
	default:
		m.markFailed(ctx, e, rec, err)
	}
	return err
}

// makeWay leaves e, which is starting, to whoever called that off. Should he have
// left, reconcile goes on with the start.
func (m *Manager) makeWay(e *entry, rec Record) error {
	m.note(e, &rec)
	e.mu.Lock()
	e.missed = true
	e.mu.Unlock()
	return Errorf(Busy, "the start was called off: the instance is being stopped or deleted").With("status", rec.Status)
}

// startAgain starts the container of rec, or a new one where it was removed.
// It goes by the name: Compose may have made another one since.
func (m *Manager) startAgain(ctx context.Context, rec *Record, stopFirst bool) (err error) {
	name := ContainerName(rec.Prefix)
	err = m.writeLate(rec)
	if err == nil && stopFirst {
		err = m.stopSurely(ctx, name)
	}
	if err == nil {
		err = m.startSurely(ctx, name)
	}
	switch KindOf(err) {
	case PortTaken:
		return Errorf(PortTaken, "port %d is taken by another process: end that, or delete this instance and create it anew", rec.Port)
	case NotFound:
	default:
		return err
	}
	rec.Generation++
	return m.startNew(ctx, rec, false)
}

// surely has the engine do call to the container of name. Where its answer is
// lost, the outcome is looked up: an engine finishes what it was asked for.
func (m *Manager) surely(ctx context.Context, name string, call func(context.Context, string) error, done func(Container) bool) error {
	err := call(ctx, name)
	if kind := KindOf(err); kind != Timeout && kind != EngineDown {
		return err
	}
	c, lookErr := m.runtime.Inspect(ctx, name)
	switch {
	case KindOf(lookErr) == NotFound:
		return lookErr
	case lookErr == nil && done(c):
		return nil
	}
	return err
}

func (m *Manager) startSurely(ctx context.Context, name string) error {
	return m.surely(ctx, name, m.runtime.Start, func(c Container) bool { return c.Running })
}

func (m *Manager) stopSurely(ctx context.Context, name string) error {
	return m.surely(ctx, name, m.runtime.Stop, func(c Container) bool { return !c.Running })
}

// restore puts e back to what it was before a start or restart that did not
// begin. What ran before and may no longer do so has failed, with the reason;
// only an engine that was never reached left everything as it was.
func (m *Manager) restore(e *entry, before Record, cause error) {
	ran := before.Status == Running || before.Status == Starting
	if ran && !(before.Status == Running && KindOf(cause) == EngineDown) {
		stopped := now()
		before.Status, before.Ready, before.Reason, before.StoppedAt = Failed, false, failReason(cause), &stopped
	}
	m.note(e, &before)
}

// markFailed records why an acknowledged instance did not come up, and stops
// what is left of it.
func (m *Manager) markFailed(ctx context.Context, e *entry, rec Record, cause error) {
	if rec.ContainerID != "" {
		err := m.gate.do(ctx, func() error { return m.runtime.Stop(ctx, rec.ContainerID) })
		if err != nil && KindOf(err) != NotFound {
			m.log().Warn("stopping a container that did not come up",
				zap.String("prefix", rec.Prefix), zap.Error(err))
		}
	}
	stopped := now()
	rec.Status, rec.Ready, rec.StoppedAt, rec.Reason = Failed, false, &stopped, failReason(cause)
	m.note(e, &rec)
}

// failReason is what status failed says of cause. Visitors see it, so the
// engine's own words are left to the log.
func failReason(cause error) string {
	if e, ok := errors.AsType[*Error](cause); ok {
		if reason, ok := e.Details["reason"].(string); ok {
			return reason
		}
	}
	return "did not start"
}

func (m *Manager) stop(ctx context.Context, e *entry, op *operation) error {
	return m.stopFor(ctx, e, op, ReasonUser)
}

func (m *Manager) stopIdle(ctx context.Context, e *entry, op *operation) error {
	return m.stopFor(ctx, e, op, ReasonIdle)
}

// stopFor takes e to stopped, for that reason.
func (m *Manager) stopFor(ctx context.Context, e *entry, op *operation, reason string) error {
	before := *e.record()
	rec := before
	if rec.Status == Stopped && rec.Reason == ReasonUser {
		return nil
	}
	rec.Status, rec.Ready, rec.Reason = Stopping, false, reason
	intent := rec
	if err := m.save(e, &intent); err != nil {
		e.show(e.record()) // its route may have been taken away
		return err
	}
	op.passed("intent")
	close(op.intent)
	err := m.gate.do(ctx, func() error { return m.stopSurely(ctx, ContainerName(rec.Prefix)) })
	switch {
	case KindOf(err) == NotFound:
		rec.ContainerID = ""
	case KindOf(err) == EngineDown && reason == ReasonIdle:
		m.note(e, &before) // nobody waits for it: it is served until the engine is back
		return err
	case err != nil:
		return err // still stopping: reconcile finishes it
	}
	op.passed("stopped")
	stopped := now()
	rec.Status, rec.StoppedAt, rec.Address = Stopped, &stopped, ""
	op.brief.Store(true) // who sees that it is stopped may start it
	err = m.save(e, &rec)
	op.passed("recorded")
	return err
}

func (m *Manager) delete(ctx context.Context, e *entry, op *operation) error {
	rec := *e.record()
	rec.Status, rec.Ready, rec.Reason = Deleting, false, ""
	intent := rec
	intentErr := m.save(e, &intent)
	switch {
	case KindOf(intentErr) == DiskFull:
		e.show(&intent) // go on: the container may be what fills the disk
	case intentErr != nil:
		e.show(e.record()) // its route may have been taken away
		return intentErr
	}
	op.passed("intent")
	close(op.intent)
	err := m.gate.do(ctx, func() error { return m.removeContainer(ctx, ContainerName(rec.Prefix)) })
	if err != nil {
		return err // still deleting: reconcile finishes it
	}
	op.passed("removed")
	m.ports.rest(rec.Port) // before the write, which keeps the quarantine too
	err = m.store.drop(rec.Prefix)
	if err != nil && intentErr != nil {
		m.ports.hold(rec.Port)
		return err // nothing of it is durable: reconcile tries again
	}
	m.forget(rec, err)
	op.passed("tombstone")
	return nil
}

// removeContainer lets the dev server end, then removes its container.
func (m *Manager) removeContainer(ctx context.Context, name string) error {
	err := m.stopSurely(ctx, name)
	if err == nil {
		failpoint("delete.stopped")
		err = m.surely(ctx, name, m.runtime.Remove, func(Container) bool { return false })
	}
	if KindOf(err) == NotFound {
		return nil
	}
	return err
}
