package dockerops

import (
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

func TestContractOnARealEngine(t *testing.T) {
	h := needDocker(t)
	instancetest.Contract(t, func(t *testing.T) instancetest.Fixture {
		c := newClient(t, h)
		return instancetest.Fixture{
			Runtime:      c,
			Other:        newClient(t, h),
			Reopen:       func(t *testing.T) instance.Runtime { return clientOf(t, c.owner) },
			Image:        testImage(t),
			StopByHand:   h.stop,
			RemoveByHand: h.remove,
		}
	})
}
