package dockerops

import (
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// `docker compose run` makes containers with the labels of a service and a
// name of its own. One of these once took the place of the instance's.
func TestAContainerWithOurLabelsAndAnotherNameIsNotOurs(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	spec := testSpec(t)
	id, err := c.Create(t.Context(), spec)
	must(t, err)
	config := h.inspect(t, id).Config
	other, err := h.ContainerCreate(t.Context(), config, nil, nil, nil, instance.ContainerName(spec.Prefix)+"-run-1")
	must(t, err)
	t.Cleanup(func() { h.remove(t, other.ID) })

	found, err := c.List(t.Context())
	must(t, err)
	if len(found) != 1 || found[0].ID != id {
		t.Errorf("the list has %d containers, want the instance's alone", len(found))
	}
	wantKind(t, c.Remove(t.Context(), other.ID), instance.NotFound)
	h.inspect(t, other.ID) // it is still there
}
