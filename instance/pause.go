package instance

import (
	"context"
	"time"

	"go.uber.org/zap"
)

// Pause freezes the instance: its memory stays, it uses no CPU, and a start has
// it back in milliseconds. No request wakes it.
func (m *Manager) Pause(ctx context.Context, prefix string) (Instance, error) {
	return m.power(ctx, prefix, "pause", WaitReady, func(ctx context.Context, e *entry, op *operation) error {
		return m.pause(ctx, e, op, ReasonUser)
	})
}

// pauseIdle pauses e because it is idle. Some engines can freeze nothing (a
// rootless one without delegated cgroups): next time it is stopped instead.
func (m *Manager) pauseIdle(ctx context.Context, e *entry, op *operation) error {
	err := m.pause(ctx, e, op, ReasonIdle)
	if KindOf(err) == EngineFailed {
		m.log().Warn("the engine could not pause an idle instance: it runs on, and is stopped when it is idle next",
			zap.String("prefix", e.record().Prefix), zap.Error(err))
		e.mu.Lock()
		e.unpausable = true
		e.mu.Unlock()
		return nil
	}
	return err
}

// pause takes e from running to paused. A crash in between leaves a container
// that runs under a paused record, and that is taken for resumed.
func (m *Manager) pause(ctx context.Context, e *entry, op *operation, reason string) error {
	before := *e.record()
	rec := before
	switch {
	case rec.Status == Paused && rec.Reason != ReasonUser:
		rec.Reason = reason
		return m.save(e, &rec)
	case rec.Status == Paused:
		return nil
	case rec.Status != Running:
		return Errorf(Busy, "only a running instance can be paused: this one is %s", rec.Status).With("status", rec.Status)
	case !rec.Ready:
		return Errorf(Busy, "%s: wait until it does, or stop it", NotAnswering).With("status", rec.Status)
	}
	stopped := now()
	rec.Status, rec.Ready, rec.Reason, rec.StoppedAt = Paused, false, reason, &stopped
	if err := m.save(e, &rec); err != nil {
		e.show(&before) // its route was taken away
		return err
	}
	op.passed("intent")
	close(op.intent)
	err := m.gate.do(ctx, func() error { return m.pauseSurely(ctx, ContainerName(rec.Prefix)) })
	op.passed("paused")
	if err != nil && ctx.Err() == nil {
		m.note(e, &before) // it runs on
	}
	return err
}

func (m *Manager) pauseSurely(ctx context.Context, name string) error {
	return m.surely(ctx, name, m.runtime.Pause, func(c Container) bool { return c.Paused })
}

// thaw takes e from paused to running. Its dev server was ready when it was
// frozen, so nobody waits for it; unless its container was started anew
// meanwhile.
func (m *Manager) thaw(ctx context.Context, e *entry, op *operation, rec Record) error {
	name := ContainerName(rec.Prefix)
	var c Container
	err := m.gate.do(ctx, func() error {
		if err := m.startSurely(ctx, name); err != nil {
			return err
		}
		var err error
		c, err = m.runtime.Inspect(ctx, name)
		return err
	})
	if err != nil || !rec.isOf(c) {
		return m.bringUp(ctx, e, op, rec, false)
	}
	op.quit()
	e.touch()
	rec.follow(c)
	rec.Status, rec.Ready, rec.Reason, rec.StoppedAt = Running, true, "", nil
	op.serve(e, rec)
	m.note(e, &rec)
	op.passed("recorded")
	return nil
}

// thawGrace is how long a container that somebody else resumed has to go on:
// to stop one that is frozen, an engine thaws it first.
const thawGrace = time.Second

// thawedOutside takes e from paused to running, which somebody else has done
// to its container. It starts nothing: what has ended after all stays so, and
// keeps the reason of its pause.
func (m *Manager) thawedOutside(ctx context.Context, e *entry, op *operation) error {
	op.brief.Store(true) // who comes meanwhile need not know
	select {
	case <-time.After(thawGrace):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	rec := *e.record()
	c, err := m.runtime.Inspect(ctx, ContainerName(rec.Prefix))
	gone := KindOf(err) == NotFound
	if err != nil && !gone {
		return err
	}
	switch {
	case gone || !c.Running || c.Paused:
		m.notify(Event{Prefix: rec.Prefix}) // it is something else by now
		return nil
	case !rec.isOf(c): // it was started anew
		e.becomes(op, "start")
		return m.bringUp(ctx, e, op, rec, false)
	}
	rec.follow(c)
	rec.Status, rec.Ready, rec.Reason, rec.StoppedAt = Running, true, "", nil
	m.note(e, &rec)
	return nil
}
