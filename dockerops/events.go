package dockerops

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/docker/docker/api/types/events"
	"github.com/docker/docker/api/types/filters"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Pauses between attempts to open the event stream. The longest is well below
// what a relist without events takes to notice a change.
const (
	firstReconnect = 250 * time.Millisecond
	lastReconnect  = 5 * time.Second
)

// watched are the events that change what Inspect says. Others, such as those
// of health checks and of exec, come in floods.
var watched = []events.Action{
	events.ActionCreate, events.ActionStart, events.ActionRestart, events.ActionStop, events.ActionKill,
	events.ActionDie, events.ActionOOM, events.ActionPause, events.ActionUnPause, events.ActionRename,
	events.ActionUpdate, events.ActionDestroy,
}

// Watch implements instance.Runtime.
func (c *Client) Watch(ctx context.Context, notify func(instance.Event)) {
	wait := firstReconnect
	for ctx.Err() == nil {
		if c.follow(ctx, notify) {
			wait = firstReconnect
		}
		// Half to one and a half of it: several processes shall not all come
		// back at once.
		pause(ctx, wait/2+rand.N(wait))
		wait = min(2*wait, lastReconnect)
	}
}

// follow notifies of the events of one stream and returns at its end, or when
// it could not be opened.
func (c *Client) follow(ctx context.Context, notify func(instance.Event)) (opened bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	overdue := time.AfterFunc(c.Deadlines.List, cancel)
	engine, err := c.negotiate(ctx) // anew each time: it may have been upgraded
	if err != nil {
		return false
	}
	filter, outgrown := c.watchedEvents()
	messages, failure := engine.Events(ctx, events.ListOptions{Filters: filter})
	defer func() { // see the library's goroutine end
		cancel()
		for range failure {
		}
	}()
	if !overdue.Stop() {
		return false
	}
	// Only now, when nothing more can be missed. The library does not say
	// whether the stream is open or failed at once; looking once too often
	// does no harm.
	c.asleep.forgetAll()
	defer c.asleep.forgetAll()
	notify(instance.Event{})
	for {
		select { // the library never closes messages
		case m := <-messages:
			if prefix := c.prefixOf(m.Actor); prefix != "" {
				c.asleep.forget(m.Actor.ID)
				notify(instance.Event{Prefix: prefix})
			}
		case <-outgrown:
			return true
		case <-failure: //nolint:errcheck // whatever ended the stream, it is opened again
			return true
		}
	}
}

// watchedEvents asks for our containers' events alone, until outgrown tells
// that it no longer finds them all: the engine cannot be asked for those with a
// label or an id, so where a container was adopted, it has to tell everybody's.
func (c *Client) watchedEvents() (filter filters.Args, outgrown <-chan struct{}) {
	filter = filters.NewArgs(filters.Arg("type", string(events.ContainerEventType)))
	for _, action := range watched {
		filter.Add("event", string(action))
	}
	select {
	case <-c.adopted.begun:
	default:
		outgrown = c.adopted.begun
		filter.Add("label", labelManager+"="+c.owner)
	}
	return filter, outgrown
}

// prefixOf is that of the container that an event is about, or a spare's key;
// empty if that is somebody else's.
func (c *Client) prefixOf(actor events.Actor) string {
	if labels := actor.Attributes; labels[labelManager] == c.owner {
		if labels[labelPool] == "" {
			return labels[labelPrefix]
		}
		key, _ := instance.KeyOf(labels["name"]) // as it is now
		return key
	}
	return c.adopted.prefixOf(actor.ID)
}
