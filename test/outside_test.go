package test

import (
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// What is done to containers by hand must show within seconds.
const byHand = 5 * time.Second

func TestAContainerRemovedByHandComesBackWithAStart(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "removedbyhand"})
	if err := engine.ContainerRemove(t.Context(), made.ContainerID, container.RemoveOptions{Force: true}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, byHand, "removedbyhand", "stopped", "container removed")

	back := c.api.act(t, "removedbyhand", "start")
	if back.ContainerID == made.ContainerID {
		t.Error("the answer shows the removed container")
	}
	made.ContainerID, made.Generation = back.ContainerID, 2
	sameInstance(t, back, made)
	c.visitor.mustGet(t, made.URL)
}

func TestAContainerStoppedByHandComesBackWithAStart(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "stoppedbyhand"})
	if err := engine.ContainerStop(t.Context(), made.ContainerID, container.StopOptions{}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, byHand, "stoppedbyhand", "stopped", "stopped outside")
	sameInstance(t, c.api.act(t, "stoppedbyhand", "start"), made)
	c.visitor.mustGet(t, made.URL)
}

func TestAContainerStartedByHandIsServed(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "startedbyhand"})
	c.api.act(t, "startedbyhand", "stop")
	if err := engine.ContainerStart(t.Context(), made.ContainerID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	c.api.awaitStatus(t, byHand, "startedbyhand", "running", "")
	eventually(t, byHand, func() error {
		_, err := c.visitor.answers200(made.URL)
		return err
	})
}

func TestAServerThatEndsByItselfHasFailed(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "endsbyitself"})
	c.visitor.mustGet(t, made.URL+"/exit?code=7")
	ended := c.api.awaitStatus(t, byHand, "endsbyitself", "failed", "")
	if !strings.Contains(ended.Reason, "exited 7") {
		t.Errorf("reason %q, want it to say exited 7", ended.Reason)
	}
	sameInstance(t, c.api.act(t, "endsbyitself", "start"), made)
	c.visitor.mustGet(t, made.URL)
}
