package dockerops

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Start implements instance.Runtime. A container that somebody paused goes on.
func (c *Client) Start(ctx context.Context, ref string) error {
	found, err := c.own(ctx, ref)
	switch {
	case err != nil:
		return err
	case found.State.Paused:
		return c.unpause(ctx, found)
	case found.State.Running:
		return nil
	}
	if c.adopted.prefixOf(found.ID) == "" { // else it has a network of its maker's
		if err := c.attach(ctx, found); err != nil {
			return err
		}
	}
	c.asleep.forget(found.ID)
	return c.call(ctx, "starting container "+nameOf(found), c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			return engine.ContainerStart(ctx, found.ID, container.StartOptions{})
		})
}

func (c *Client) unpause(ctx context.Context, found container.InspectResponse) error {
	return c.call(ctx, "unpausing container "+nameOf(found), c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			return engine.ContainerUnpause(ctx, found.ID)
		})
}

// Stop implements instance.Runtime.
func (c *Client) Stop(ctx context.Context, ref string) error {
	found, err := c.own(ctx, ref)
	if err != nil || !found.State.Running {
		return err
	}
	if found.State.Paused { // it could not hear that it is to end
		if err := c.unpause(ctx, found); err != nil {
			return err
		}
	}
	return c.call(ctx, "stopping container "+nameOf(found), c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			return engine.ContainerStop(ctx, found.ID, container.StopOptions{Timeout: new(stopGrace)})
		})
}

// Pause implements instance.Runtime.
func (c *Client) Pause(ctx context.Context, ref string) error {
	found, err := c.own(ctx, ref)
	if err != nil || found.State.Paused {
		return err
	}
	return c.call(ctx, "pausing container "+nameOf(found), c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			return engine.ContainerPause(ctx, found.ID)
		})
}

// Rename implements instance.Runtime. The engine does it at once, and whether
// the container runs or not.
func (c *Client) Rename(ctx context.Context, ref, prefix string) error {
	found, err := c.own(ctx, ref)
	name := instance.ContainerName(prefix)
	switch {
	case err != nil:
		return err
	case found.Config.Labels[labelPool] == "":
		return instance.Errorf(instance.NotFound, "container %s is that of an instance, and no spare", nameOf(found))
	case nameOf(found) == name:
		return nil
	}
	return c.call(ctx, "renaming container "+nameOf(found)+" to "+name, c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			return engine.ContainerRename(ctx, found.ID, name)
		})
}

// Remove implements instance.Runtime.
func (c *Client) Remove(ctx context.Context, ref string) error {
	found, err := c.own(ctx, ref)
	if err == nil {
		err = c.remove(ctx, found)
	}
	if err == nil {
		c.adopted.forget(found.ID)
	}
	if errdefs.IsNotFound(err) { // the engine says so; a foreign one is another NotFound
		return nil
	}
	return err
}

func (c *Client) remove(ctx context.Context, found container.InspectResponse) error {
	return c.call(ctx, "removing container "+nameOf(found), c.Deadlines.Change,
		func(ctx context.Context, engine *client.Client) error {
			err := engine.ContainerRemove(ctx, found.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
			if errdefs.IsConflict(err) { // somebody else removes it just now
				return awaitRemoval(ctx, engine, found.ID)
			}
			return err
		})
}

func awaitRemoval(ctx context.Context, engine *client.Client, id string) error {
	removed, failed := engine.ContainerWait(ctx, id, container.WaitConditionRemoved)
	select {
	case <-removed:
		return nil
	case err := <-failed:
		return err
	}
}
