package instance

import (
	"context"
)

// Update has change set what ends the instance without a call; what it leaves
// nil is the template's.
func (m *Manager) Update(ctx context.Context, prefix string, change func(*Lifetime)) (Instance, error) {
	return m.power(ctx, prefix, "update", WaitReady, func(_ context.Context, e *entry, _ *operation) error {
		rec := *e.record()
		change(&rec.Lifetime)
		if err := rec.Lifetime.Check(); err != nil {
			return err
		}
		return m.save(e, &rec)
	})
}

// Touch tells that somebody still needs the instance, as a visit does.
func (m *Manager) Touch(prefix string) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	e.touch()
	return m.view(e), nil
}
