package dockerops

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// networkName is that of the bridge that our containers sit on, so that they
// reach neither each other nor what is on Docker's default bridge.
func (c *Client) networkName() string { return c.project + "-0" }

// bridgeName is the host's interface of that network. Firewall rules know it
// by its first letters. Linux allows 15 characters.
func (c *Client) bridgeName() string { return "sbx" + c.owner[:8] + "-0" }

const (
	networkDriver = "bridge"
	optionICC     = "com.docker.network.bridge.enable_icc"
	optionBridge  = "com.docker.network.bridge.name"
)

func (c *Client) networkOptions() map[string]string {
	return map[string]string{
		optionICC: "false", // containers do not reach each other
		// A name of ours also keeps Docker from making a second network of the
		// same name, which it allows: no two can have one interface.
		optionBridge: c.bridgeName(),
	}
}

// readyNetwork returns the id of our network, made now if somebody removed it
// or this is the first container.
func (c *Client) readyNetwork(ctx context.Context) (id string, err error) {
	id, err = c.networks.do(ctx, c.life, c.networkName(), func(ctx context.Context) (string, error) {
		id, err := c.findNetwork(ctx)
		if !errdefs.IsNotFound(err) {
			return id, err
		}
		id, err = c.createNetwork(ctx)
		if errdefs.IsConflict(err) || errdefs.IsPermissionDenied(err) { // Compose was faster
			return c.findNetwork(ctx)
		}
		return id, err
	})
	if err != nil {
		return "", c.classify(ctx, "preparing network "+c.networkName(), err)
	}
	return id, nil
}

func (c *Client) findNetwork(ctx context.Context) (id string, err error) {
	name := c.networkName()
	var found network.Inspect
	err = c.query(ctx, "inspecting network "+name, c.Deadlines.Inspect,
		func(ctx context.Context, engine *client.Client) (err error) {
			found, err = engine.NetworkInspect(ctx, name, network.InspectOptions{})
			return err
		})
	if err == nil && found.Labels[labelManager] != c.owner {
		err = instance.Errorf(instance.EngineFailed,
			"network %s exists and belongs to somebody else: remove it by hand", name).With("network", name)
	}
	return found.ID, err
}

func (c *Client) createNetwork(ctx context.Context) (id string, err error) {
	hash, err := c.networkHash(ctx)
	if err != nil {
		return "", err
	}
	name := c.networkName()
	err = c.call(ctx, "creating network "+name, c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			made, err := engine.NetworkCreate(ctx, name, network.CreateOptions{
				Driver:  networkDriver,
				Options: c.networkOptions(),
				Labels: map[string]string{
					labelManager:      c.owner,
					composeProject:    c.project,
					composeNetwork:    networkKey,
					composeConfigHash: hash,
				},
			})
			id = made.ID
			return err
		})
	return id, err
}

// attach puts a container that does not run on our network as it is now. The
// engine remembers the network by id and would not start the container if
// somebody removed that and it was made again.
func (c *Client) attach(ctx context.Context, found container.InspectResponse) error {
	id, err := c.readyNetwork(ctx)
	if err != nil {
		return err
	}
	name := c.networkName()
	endpoint := found.NetworkSettings.Networks[name]
	if endpoint != nil && (endpoint.NetworkID == id || endpoint.NetworkID == "") { // "": it never ran
		return nil
	}
	return c.call(ctx, "attaching container "+nameOf(found)+" to network "+name, c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			if endpoint != nil {
				if err := engine.NetworkDisconnect(ctx, name, found.ID, true); err != nil {
					return err
				}
			}
			return engine.NetworkConnect(ctx, id, found.ID, nil)
		})
}

// bridgeCache remembers whether the bridge of a network is one of this host's.
type bridgeCache struct{ last atomic.Pointer[bridge] }

type bridge struct {
	networkID string
	local     bool
}

// address is where a running container listens, if this host reaches it: if
// the bridge that it sits on is one of this host's interfaces, and has the
// address that the engine calls the gateway. Else the engine is on another
// machine, in a virtual one, or in another network namespace.
func (c *Client) address(found container.InspectResponse, port int) netip.AddrPort {
	endpoint := found.NetworkSettings.Networks[c.networkName()]
	if endpoint == nil || !found.State.Running {
		return netip.AddrPort{}
	}
	ip, err := netip.ParseAddr(endpoint.IPAddress)
	if err != nil || port < 1 || port > 65535 || !c.reaches(endpoint) {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip, uint16(port))
}

func (c *Client) reaches(endpoint *network.EndpointSettings) bool {
	if last := c.bridge.last.Load(); last != nil && last.networkID == endpoint.NetworkID {
		return last.local
	}
	local := hasInterface(c.bridgeName(), endpoint.Gateway)
	c.bridge.last.Store(&bridge{endpoint.NetworkID, local})
	return local
}

// hasInterface reports whether this host has an interface of that name and
// address.
func hasInterface(name, address string) bool {
	wanted, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	found, err := net.InterfaceByName(name)
	if err != nil {
		return false
	}
	addresses, err := found.Addrs()
	if err != nil {
		return false
	}
	for _, each := range addresses {
		if prefix, err := netip.ParsePrefix(each.String()); err == nil && prefix.Addr() == wanted {
			return true
		}
	}
	return false
}
