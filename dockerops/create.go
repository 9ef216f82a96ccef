package dockerops

import (
	"context"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Create implements instance.Runtime.
func (c *Client) Create(ctx context.Context, spec instance.Spec) (id string, err error) {
	img, err := c.readyImage(ctx, spec.Image, spec.Pull)
	if err != nil {
		return "", err
	}
	hash, err := c.serviceHash(ctx, spec)
	if err != nil {
		return "", instance.Errorf(instance.Internal, "preparing container %s: %w", instance.ContainerName(spec.Prefix), err)
	}
	if _, err := c.readyNetwork(ctx); err != nil {
		return "", err
	}
	plan := c.blueprint(spec, img, hash)
	name := instance.ContainerName(spec.Prefix)
	id, err = c.create(ctx, name, plan)
	if !errdefs.IsConflict(err) {
		return id, err
	}
	if err := c.removeLeftover(ctx, name); err != nil {
		return "", err
	}
	return c.create(ctx, name, plan)
}

func (c *Client) create(ctx context.Context, name string, plan blueprint) (id string, err error) {
	doing := "creating container " + name
	err = c.call(ctx, doing, c.Deadlines.Change, func(ctx context.Context, engine *client.Client) error {
		made, err := engine.ContainerCreate(ctx, plan.Config, plan.HostConfig, plan.Networking, nil, name)
		id = made.ID
		if errdefs.IsNotFound(err) && strings.Contains(err.Error(), "No such image") {
			return imageMissing(plan.Config.Image, err) // removed since we looked
		}
		return err
	})
	return id, err
}

// removeLeftover makes room for a container of that name, if the one that has
// it is ours.
func (c *Client) removeLeftover(ctx context.Context, name string) error {
	found, err := c.lookUp(ctx, name)
	if errdefs.IsNotFound(err) {
		return nil // it has gone by itself
	}
	if err != nil {
		return err
	}
	if !c.owns(found) {
		message := fmt.Sprintf("container %s exists and belongs to somebody else: remove or rename it by hand", name)
		return instance.Errorf(instance.EngineFailed, "%s", message).With("container", name).With("engine", message)
	}
	return c.Remove(ctx, found.ID)
}
