package instancetest

import (
	"context"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var _ instance.Describing = (*Memory)(nil)

// Describe implements instance.Describing.
func (m *Memory) Describe(ctx context.Context) (described instance.Engine, err error) {
	err = m.call(ctx, "Describe", "", func(context.Context) error {
		described = instance.Engine{Version: "in memory", API: "1.0"}
		return nil
	})
	return described, err
}
