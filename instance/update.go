package instance

import (
	"context"
	"fmt"
	"time"
)

// Update has change set what ends the instance without a call; what it leaves
// nil is the template's. Who does that still needs the instance: see Touch. A
// lifetime that is over already is BadRequest.
func (m *Manager) Update(ctx context.Context, prefix string, change func(*Lifetime)) (Instance, error) {
	return m.power(ctx, prefix, "update", WaitReady, func(_ context.Context, e *entry, _ *operation) error {
		before := e.record()
		rec := *before
		change(&rec.Lifetime)
		if err := rec.Lifetime.Check(); err != nil {
			return err
		}
		if err := m.checkTTL(before, &rec); err != nil {
			return err
		}
		e.touch()
		return m.save(e, &rec)
	})
}

// checkTTL refuses to shorten a lifetime to one that is over: it counts from
// the creation, and whoever thinks that it counts from now would lose all.
func (m *Manager) checkTTL(before, after *Record) error {
	was, ttl := m.lifetime(before).TTL.orNever(), m.lifetime(after).TTL.orNever()
	age := time.Since(before.CreatedAt)
	if ttl == was || ttl == 0 || time.Duration(ttl) > age {
		return nil
	}
	return badField("ttl", fmt.Sprintf("ttl counts from the creation, which was %s ago: with %s (null: its template's) the instance would be deleted now; "+
		"send a longer one, or delete it", age.Round(time.Second), time.Duration(ttl)),
		never, "longer than "+age.Round(time.Second).String())
}

// Touch tells that somebody still needs the instance: as after a visit, its
// idle_timeout begins anew, and so does its delete_after_stopped. It starts
// nothing, and leaves its ttl alone. What it tells is durable once it returns,
// but where an operation is at work, whose writes tell it. Busy while it is
// being deleted.
func (m *Manager) Touch(prefix string) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	if rec := e.record(); rec.Status == Deleting {
		return Instance{}, busy(rec)
	}
	e.touch()
	err = m.keepAll(map[string]*entry{prefix: e}, 0)
	return m.view(e), err
}
