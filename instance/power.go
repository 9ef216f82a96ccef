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
	e := m.lookup(prefix)
	if e == nil {
		return Instance{}, notFound(prefix)
	}
	if err := m.sync.await(ctx); err != nil {
		return Instance{}, err
	}
	op := newOperation(ctx, name, wait)
	holder, err := e.claim(op)
	if err != nil {
		return Instance{}, err
	}
	if holder == op {
		if op.quit, err = m.gate.join(); err != nil {
			m.free(e)
			return Instance{}, err
		}
		m.run(e, op, func(ctx context.Context) error { return do(ctx, e, op) })
	}
	return m.await(ctx, e, holder, wait)
}

func (m *Manager) start(ctx context.Context, e *entry, op *operation) error {
	rec := *e.record()
	if rec.Status == Running && rec.Ready {
		return nil
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
	if err != nil && ctx.Err() == nil {
		m.restore(e, before)
		return err
	}
	if err == nil {
		err = m.recordStart(ctx, e, op, &rec)
	}
	if err == nil {
		err = m.awaitReady(ctx, &rec)
	}
	if err == nil {
		rec.Status, rec.Ready = Running, true
		err := m.save(e, &rec)
		op.passed("recorded")
		return err
	}
	if ctx.Err() == nil {
		m.markFailed(ctx, e, rec, err)
	}
	return err
}

// startAgain starts the container of rec, or a new one where it was removed.
// It goes by the name: Compose may have made another one since.
func (m *Manager) startAgain(ctx context.Context, rec *Record, stopFirst bool) (err error) {
	name := ContainerName(rec.Prefix)
	if stopFirst {
		err = m.runtime.Stop(ctx, name)
	}
	if err == nil {
		err = m.runtime.Start(ctx, name)
	}
	if KindOf(err) != NotFound {
		return err
	}
	rec.Generation++
	return m.startNew(ctx, rec)
}

// restore puts e back to what it was before a start that did not begin.
func (m *Manager) restore(e *entry, before Record) {
	if before.Status == Running || before.Status == Starting {
		// It is no longer so; reconcile looks what is.
		before.Status, before.Ready = Stopped, false
	}
	if err := m.save(e, &before); err != nil {
		m.log().Error("writing that a start did not begin", zap.String("prefix", before.Prefix), zap.Error(err))
	}
	m.notify(Event{Prefix: before.Prefix})
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
	if err := m.save(e, &rec); err != nil {
		m.log().Error("writing a failed start", zap.String("prefix", rec.Prefix), zap.Error(err))
	}
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
	rec := *e.record()
	if rec.Status == Stopped && rec.Reason == ReasonUser {
		return nil
	}
	rec.Status, rec.Ready, rec.Reason = Stopping, false, ReasonUser
	intent := rec
	if err := m.save(e, &intent); err != nil {
		return err
	}
	op.passed("intent")
	close(op.intent)
	err := m.gate.do(ctx, func() error { return m.runtime.Stop(ctx, ContainerName(rec.Prefix)) })
	switch {
	case KindOf(err) == NotFound:
		rec.ContainerID = ""
	case err != nil:
		return err // still stopping: reconcile finishes it
	}
	op.passed("stopped")
	stopped := now()
	rec.Status, rec.StoppedAt, rec.Address = Stopped, &stopped, ""
	err = m.save(e, &rec)
	op.passed("recorded")
	return err
}

func (m *Manager) delete(ctx context.Context, e *entry, op *operation) error {
	rec := *e.record()
	rec.Status, rec.Ready, rec.Reason = Deleting, false, ""
	intent := rec
	if err := m.save(e, &intent); err != nil {
		return err
	}
	op.passed("intent")
	close(op.intent)
	err := m.gate.do(ctx, func() error { return m.removeContainer(ctx, ContainerName(rec.Prefix)) })
	if err != nil {
		return err // still deleting: reconcile finishes it
	}
	op.passed("removed")
	m.forget(rec)
	op.passed("tombstone")
	m.ports.rest(rec.Port)
	return nil
}

// removeContainer lets the dev server end, then removes its container.
func (m *Manager) removeContainer(ctx context.Context, name string) error {
	if err := m.runtime.Stop(ctx, name); err != nil {
		if KindOf(err) == NotFound {
			return nil
		}
		return err
	}
	failpoint("delete.stopped")
	return m.runtime.Remove(ctx, name)
}
