package instancetest

import (
	"context"
	"errors"
	"maps"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Memory is the Runtime of one manager on an [Engine].
type Memory struct {
	engine *Engine
	owner  string
}

var (
	_ instance.Runtime   = (*Memory)(nil)
	_ instance.Imaging   = (*Memory)(nil)
	_ instance.Listening = (*Memory)(nil)
)

// errNoContainer stands for a missing container until call says which.
var errNoContainer = errors.New("no such container")

// Create implements instance.Runtime. The engine knows no registry: an image
// that it lacks is ImageMissing under every pull policy.
func (m *Memory) Create(ctx context.Context, spec instance.Spec) (id string, err error) {
	name := instance.ContainerName(spec.Prefix)
	err = m.call(ctx, "Create", name, func(ctx context.Context) (err error) {
		if !m.engine.hasImage(spec.Image) {
			return instance.Errorf(instance.ImageMissing, "image %s is not there", spec.Image)
		}
		if stale := m.engine.find(name); stale != nil {
			if stale.owner != m.owner {
				return instance.Errorf(instance.EngineFailed,
					"container %s belongs to another manager; remove or rename it", name)
			}
			if err := m.engine.remove(ctx, stale); err != nil {
				return err
			}
		}
		id, err = m.engine.create(m.owner, spec)
		return err
	})
	return id, err
}

// Start implements instance.Runtime.
func (m *Memory) Start(ctx context.Context, ref string) error {
	return m.call(ctx, "Start", ref, func(context.Context) error {
		return m.engine.start(m.own(ref))
	})
}

// Stop implements instance.Runtime.
func (m *Memory) Stop(ctx context.Context, ref string) error {
	return m.call(ctx, "Stop", ref, func(ctx context.Context) error {
		c := m.own(ref)
		if c == nil {
			return errNoContainer
		}
		return m.engine.stop(ctx, c)
	})
}

// Pause implements instance.Runtime.
func (m *Memory) Pause(ctx context.Context, ref string) error {
	return m.call(ctx, "Pause", ref, func(context.Context) error {
		return m.engine.pause(m.own(ref))
	})
}

// Remove implements instance.Runtime.
func (m *Memory) Remove(ctx context.Context, ref string) error {
	return m.call(ctx, "Remove", ref, func(ctx context.Context) error {
		c := m.engine.find(ref)
		if c != nil && c.owner != m.owner {
			return errNoContainer
		}
		return m.engine.remove(ctx, c)
	})
}

// Rename implements instance.Runtime.
func (m *Memory) Rename(ctx context.Context, ref, prefix string) error {
	return m.call(ctx, "Rename", ref, func(context.Context) error {
		return m.engine.rename(m.own(ref), instance.ContainerName(prefix))
	})
}

// Inspect implements instance.Runtime.
func (m *Memory) Inspect(ctx context.Context, ref string) (seen instance.Container, err error) {
	err = m.call(ctx, "Inspect", ref, func(context.Context) error {
		c := m.own(ref)
		if c == nil {
			return errNoContainer
		}
		m.engine.mu.Lock()
		defer m.engine.mu.Unlock()
		seen = c.inspect()
		return nil
	})
	return seen, err
}

// List implements instance.Runtime.
func (m *Memory) List(ctx context.Context) (own []instance.Container, err error) {
	err = m.call(ctx, "List", "", func(context.Context) error {
		m.engine.mu.Lock()
		defer m.engine.mu.Unlock()
		for _, c := range m.engine.containers {
			if c.owner == m.owner {
				own = append(own, c.inspect())
			}
		}
		return nil
	})
	return own, err
}

// UpSince implements instance.Runtime.
func (m *Memory) UpSince(ctx context.Context) (up time.Time, err error) {
	err = m.call(ctx, "UpSince", "", func(context.Context) error {
		m.engine.mu.Lock()
		defer m.engine.mu.Unlock()
		up = m.engine.up
		return nil
	})
	return up, err
}

// ImageEnv implements instance.Imaging. Hooks do not see it.
func (m *Memory) ImageEnv(context.Context, string) (map[string]string, error) {
	m.engine.mu.Lock()
	defer m.engine.mu.Unlock()
	return maps.Clone(m.engine.imageEnv), nil
}

// ImageID implements instance.Imaging. Hooks do not see it.
func (m *Memory) ImageID(_ context.Context, image string) (string, error) {
	if !m.engine.hasImage(image) {
		return "", instance.Errorf(instance.ImageMissing, "image %s is not there", image)
	}
	m.engine.mu.Lock()
	defer m.engine.mu.Unlock()
	return m.engine.imageIDLocked(image), nil
}

// Logs implements instance.Runtime.
func (m *Memory) Logs(ctx context.Context, ref string, lines int) (last []string, err error) {
	err = m.call(ctx, "Logs", ref, func(context.Context) error {
		c := m.own(ref)
		if c == nil {
			return errNoContainer
		}
		last = c.output.last(lines)
		return nil
	})
	return last, err
}

// Tail implements instance.Runtime.
func (m *Memory) Tail(ctx context.Context, ref string, lines int, tell func(string)) error {
	var c *container
	var r *run
	err := m.call(ctx, "Tail", ref, func(context.Context) error {
		if c = m.own(ref); c == nil {
			return errNoContainer
		}
		m.engine.mu.Lock()
		defer m.engine.mu.Unlock()
		r = c.run
		return nil
	})
	if err != nil || r == nil {
		return err
	}
	if err := c.output.tail(ctx, r.begun, lines, r.ended, tell); err != nil {
		return classify(ctx, err, "Tail", ref)
	}
	return nil
}

// Listening implements instance.Listening.
func (m *Memory) Listening(ctx context.Context, ref string) (listeners []instance.Listener, err error) {
	err = m.call(ctx, "Listening", ref, func(context.Context) error {
		c := m.own(ref)
		if c == nil {
			return errNoContainer
		}
		r := m.engine.runOf(c)
		if r == nil {
			return instance.Errorf(instance.EngineFailed, "container %s does not run", ref)
		}
		listeners = r.inside.listening()
		return nil
	})
	return listeners, err
}

// Watch implements instance.Runtime. Hooks do not see it; see DropEvents.
func (m *Memory) Watch(ctx context.Context, notify func(instance.Event)) {
	events := make(chan instance.Event, 1024)
	m.engine.mu.Lock()
	m.engine.calls["Watch"]++
	m.engine.watchers[events] = true
	m.engine.mu.Unlock()
	defer func() {
		m.engine.mu.Lock()
		delete(m.engine.watchers, events)
		m.engine.mu.Unlock()
	}()

	notify(instance.Event{})
	for {
		select {
		case event := <-events:
			notify(event)
		case <-ctx.Done():
			return
		}
	}
}

// Close implements instance.Runtime.
func (m *Memory) Close() error {
	m.engine.begin("Close")
	return nil
}

// own returns the container that ref means if it is this manager's, else nil.
func (m *Memory) own(ref string) *container {
	if c := m.engine.find(ref); c != nil && c.owner == m.owner {
		return c
	}
	return nil
}

// call does work as a call of method: counted, within its deadline, between
// the hooks, and with errors of package instance only.
func (m *Memory) call(ctx context.Context, method, ref string, work func(context.Context) error) error {
	deadline, fault, loss := m.engine.begin(method)
	name := m.engine.nameOf(ref) // before work: afterwards an id may mean nothing
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for _, step := range []func(context.Context) error{hooked(fault, method, name), work, hooked(loss, method, name)} {
		err := step(ctx)
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return classify(ctx, err, method, ref)
		}
	}
	return nil
}

func hooked(hook Hook, method, name string) func(context.Context) error {
	return func(ctx context.Context) error {
		if hook == nil {
			return nil
		}
		return hook(ctx, method, name)
	}
}

func classify(ctx context.Context, err error, method, ref string) error {
	if known, ok := errors.AsType[*instance.Error](err); ok {
		return known
	}
	if errors.Is(err, errNoContainer) {
		return instance.Errorf(instance.NotFound, "no such container: %s", ref)
	}
	if ctx.Err() != nil {
		return instance.Errorf(instance.Timeout, "waiting for the engine to %s %s: %w", method, ref, ctx.Err())
	}
	return instance.Errorf(instance.EngineFailed, "asking the engine to %s %s: %w", method, ref, err)
}
