package dockerops

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// pingPause is the time between two pings of an engine that is down: the
// longest that calls go on failing after it has recovered.
const pingPause = time.Second

// health remembers an engine that takes connections and does not answer. One
// that is not there at all refuses them at once and needs no memory.
type health struct{ down atomic.Bool }

// check is EngineDown while the engine counts as down, so that callers need
// not each wait for a deadline of their own to learn it.
func (h *health) check(host string) error {
	if !h.down.Load() {
		return nil
	}
	return engineDown(nil, "Docker at %s does not answer: calls go on when it does", host)
}

// suspect counts the engine as down and pings it in the background until it
// answers or the client is closed.
func (c *Client) suspect() {
	if !c.health.down.CompareAndSwap(false, true) {
		return // somebody pings already
	}
	leave, ok := c.life.enter()
	if !ok { // closed: nobody would take it back
		c.health.down.Store(false)
		return
	}
	go func() {
		defer leave()
		c.awaitEngine(c.life.ctx)
		c.health.down.Store(false)
	}()
}

// awaitEngine returns when the engine has answered a ping, or ctx has ended.
func (c *Client) awaitEngine(ctx context.Context) {
	for ctx.Err() == nil {
		if c.ping(ctx) == nil {
			return
		}
		pause(ctx, pingPause)
	}
}

func (c *Client) ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, c.Deadlines.Ping)
	defer cancel()
	_, err := c.negotiate(ctx)
	return err
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

func engineDown(cause error, format string, args ...any) *instance.Error {
	err := instance.Errorf(instance.EngineDown, format, args...)
	err.Err = cause
	err.RetryAfter = 2 * pingPause
	return err
}
