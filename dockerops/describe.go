package dockerops

import (
	"context"
	"time"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/api/types/swarm"
	"github.com/docker/docker/api/types/system"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

var _ instance.Describing = (*Client)(nil)

// Describe implements [instance.Describing].
func (c *Client) Describe(ctx context.Context) (instance.Engine, error) {
	var info system.Info
	var api string
	// No query: an engine with much to count may take its time for this.
	err := c.call(ctx, "asking Docker which version it is", c.Deadlines.List, func(ctx context.Context, engine *client.Client) error {
		var err error
		info, err = engine.Info(ctx)
		api = engine.ClientVersion()
		return err
	})
	if err != nil {
		return instance.Engine{}, err
	}
	return instance.Engine{Version: info.ServerVersion, API: api, Advice: adviceOn(info)}, nil
}

// adviceOn is what the engine's operator should change.
func adviceOn(info system.Info) []string {
	var advice []string
	// An engine in a swarm cannot have it.
	if !info.LiveRestoreEnabled && info.Swarm.LocalNodeState != swarm.LocalNodeStateActive {
		advice = append(advice, `set "live-restore": true in /etc/docker/daemon.json and reload Docker: `+
			"without it a restart or an upgrade of Docker stops all instances")
	}
	if !info.MemoryLimit || !info.PidsLimit {
		advice = append(advice, "let the kernel limit memory and processes (cgroups): Docker cannot, so one instance may take all of this machine")
	}
	return advice
}

// UpSince implements instance.Runtime. Docker does not say when it was started,
// but it makes its default bridge anew then: after it has seen to what the last
// one left running, and not where that runs on (live-restore). With --bridge none
// there is no such network.
func (c *Client) UpSince(ctx context.Context) (time.Time, error) {
	var builtin []network.Summary
	err := c.query(ctx, "listing Docker's own networks", c.Deadlines.Inspect,
		func(ctx context.Context, engine *client.Client) (err error) {
			builtin, err = engine.NetworkList(ctx, network.ListOptions{Filters: filters.NewArgs(filters.Arg("type", "builtin"))})
			return err
		})
	for _, each := range builtin {
		if each.Name == network.NetworkBridge {
			return each.Created, err
		}
	}
	return time.Time{}, err
}
