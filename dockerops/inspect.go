package dockerops

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"
	"unique"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/client"
	"golang.org/x/sync/errgroup"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Inspect implements instance.Runtime. It is one call to the engine.
func (c *Client) Inspect(ctx context.Context, ref string) (instance.Container, error) {
	found, err := c.own(ctx, ref)
	if err != nil {
		return instance.Container{}, err
	}
	return c.describe(ctx, found)
}

// parallelInspects bounds what a List asks at once: more does not make the
// engine faster, and other calls wait their turn.
const parallelInspects = 4

// List implements instance.Runtime. The engine's list lacks most of what a
// Container says, so each is inspected, but those that are [asleep] still; what
// is removed meanwhile is left out.
func (c *Client) List(ctx context.Context) ([]instance.Container, error) {
	var summaries []container.Summary
	era := c.asleep.now()
	err := c.query(ctx, "listing containers", c.Deadlines.List,
		func(ctx context.Context, engine *client.Client) (err error) {
			summaries, err = engine.ContainerList(ctx, container.ListOptions{All: true, Filters: c.ownContainers()})
			return err
		})
	if err != nil {
		return nil, err
	}
	listed := make(map[string]container.Summary, len(summaries))
	var known []instance.Container
	prefixes := map[string]string{} // by container id, of those that are asked about
	for _, id := range c.adopted.all() {
		prefixes[id] = c.adopted.prefixOf(id)
	}
	for _, line := range summaries {
		listed[line.ID] = line
		if sleeper, ok := c.asleep.recall(line); ok {
			known = append(known, sleeper)
		} else {
			prefixes[line.ID], _ = c.keyOf(line.Labels, ownName(line.Names))
		}
	}
	found, err := c.inspectAll(ctx, prefixes)
	if err != nil {
		return nil, err
	}
	c.asleep.keepOnly(listed)
	for _, each := range found {
		if line, ok := listed[each.ID]; ok {
			c.asleep.remember(era, line, each)
		}
	}
	return append(found, known...), nil
}

// inspectAll looks at containers, given the prefix of each id. Those that are
// gone meanwhile are left out.
func (c *Client) inspectAll(ctx context.Context, prefixes map[string]string) ([]instance.Container, error) {
	ids := slices.Sorted(maps.Keys(prefixes))
	containers := make([]instance.Container, len(ids))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallelInspects)
	for i, id := range ids {
		group.Go(func() (err error) {
			containers[i], err = c.Inspect(ctx, id)
			switch instance.KindOf(err) {
			case instance.NotFound:
				return nil
			case instance.EngineFailed: // of this one alone: the others are not to wait for it
				containers[i] = instance.Container{ID: id, Undescribed: true, Spec: instance.Spec{Prefix: prefixes[id]}}
				return nil
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(containers, func(each instance.Container) bool { return each.ID == "" }), nil
}

func (c *Client) ownContainers() filters.Args {
	return filters.NewArgs(filters.Arg("label", labelManager+"="+c.owner))
}

// own looks ref up and reports NotFound if it is not ours. What acts on a
// container goes on with the id that it returns, so that the one it acts on is
// the one it looked at.
func (c *Client) own(ctx context.Context, ref string) (container.InspectResponse, error) {
	found, err := c.lookUp(ctx, ref)
	if err == nil && !c.owns(found) {
		err = instance.Errorf(instance.NotFound, "container %s belongs to somebody else", ref)
	}
	return found, err
}

// lookUp finds a container, whoever made it. A name of ours that an adopted
// container answers to is that one's until it is gone.
func (c *Client) lookUp(ctx context.Context, ref string) (found container.InspectResponse, err error) {
	if id := c.adopted.named(ref); id != "" {
		found, err = c.ask(ctx, id)
		if !errdefs.IsNotFound(err) {
			return found, err
		}
		c.adopted.forget(id)
	}
	return c.ask(ctx, ref)
}

func (c *Client) ask(ctx context.Context, ref string) (found container.InspectResponse, err error) {
	err = c.query(ctx, "inspecting container "+ref, c.Deadlines.Inspect,
		func(ctx context.Context, engine *client.Client) (err error) {
			found, err = engine.ContainerInspect(ctx, ref)
			if errdefs.IsNotFound(err) {
				return failed(instance.NotFound, err, "there is no container %s", ref)
			}
			return err
		})
	return found, err
}

// owns reports whether found is an instance's container, or a spare's.
func (c *Client) owns(found container.InspectResponse) bool {
	_, ours := c.keyOf(found.Config.Labels, nameOf(found))
	return ours || c.adopted.prefixOf(found.ID) != ""
}

func nameOf(found container.InspectResponse) string { return strings.TrimPrefix(found.Name, "/") }

// describe is found in the words of package instance.
func (c *Client) describe(ctx context.Context, found container.InspectResponse) (instance.Container, error) {
	img, err := c.imageOf(ctx, found)
	if err != nil {
		return instance.Container{}, err
	}
	spec := specOf(found, img)
	if prefix := c.adopted.prefixOf(found.ID); prefix != "" {
		spec = adoptedSpec(spec, prefix, found.HostConfig)
	}
	state := found.State
	return instance.Container{
		ID:         found.ID,
		ImageID:    found.Image,
		Spec:       spec,
		Running:    state.Running, // paused ones too
		Paused:     state.Paused,
		ExitCode:   state.ExitCode,
		OOMKilled:  state.OOMKilled,
		CreatedAt:  instant(found.Created),
		StartedAt:  instant(state.StartedAt),
		FinishedAt: instant(state.FinishedAt),
		Address:    c.address(found, spec.ContainerPort),
	}, nil
}

// specOf reads back what blueprint made of a Spec. The engine mixes in what
// the image brought: of that, the command, folder and user are taken out again,
// so that a container made anew has those of its image then; the environment
// stays whole, and the pull policy is lost.
func specOf(found container.InspectResponse, img image) instance.Spec {
	labels := found.Config.Labels
	spec := instance.Spec{
		Prefix:        labels[labelPrefix],
		Port:          number(labels[labelPort]),
		Template:      labels[labelTemplate],
		Generation:    number(labels[labelGeneration]),
		Image:         found.Config.Image,
		ContainerPort: containerPort(found.HostConfig),
		Env:           variables(found.Config.Env),
		Memory:        found.HostConfig.Memory,
		CPUs:          cpusOf(found.HostConfig.NanoCPUs),
		Labels:        callerLabels(labels),
	}
	if labels[labelPool] != "" {
		spec.Spare = spec.Prefix
		spec.Prefix, _ = instance.KeyOf(nameOf(found))
	}
	if spec.LateEnv = labels[labelLateEnv]; spec.LateEnv != "" {
		for _, each := range found.HostConfig.Mounts {
			spec.LateDir = each.Source
		}
	}
	spec.ContainerPorts, spec.AnyPort = readPorts(labels[labelPorts])
	if pids := found.HostConfig.PidsLimit; pids != nil {
		spec.Pids = *pids
	}
	if !slices.Equal(found.Config.Cmd, img.command) {
		spec.Command = found.Config.Cmd
	}
	if found.Config.WorkingDir != img.workDir {
		spec.WorkDir = found.Config.WorkingDir
	}
	if found.Config.User != img.user {
		spec.User = found.Config.User
	}
	return spec
}

// containerPort is the one that is published; blueprint publishes no other.
func containerPort(host *container.HostConfig) int {
	for _, port := range slices.Sorted(maps.Keys(host.PortBindings)) {
		return port.Int()
	}
	return 0
}

// variables undoes environment. Where thousands of containers are adopted, most
// variables are the same, and share their memory.
func variables(list []string) map[string]string {
	env := make(map[string]string, len(list))
	for _, variable := range list {
		name, value, _ := strings.Cut(variable, "=")
		env[unique.Make(name).Value()] = unique.Make(value).Value()
	}
	return env
}

// instant reads a time of the engine, which writes the zero one for never.
func instant(text string) time.Time {
	t, _ := time.Parse(time.RFC3339Nano, text)
	return t
}
