package dockerops

import (
	"fmt"
	"net/http"
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

func TestAContainerThatTheEngineCannotDescribeHidesNoOther(t *testing.T) {
	engine := newFakeEngine(t)
	c := clientOn(t, engine.host())
	engine.answer("GET /containers/json", fmt.Sprintf(`[{"Id":"whole0","Labels":{%q:"abcdefgh"}},{"Id":"broken","Labels":{%q:"brokenin"}},{"Id":"gone00"}]`,
		labelPrefix, labelPrefix))
	engine.answer("GET /containers/whole0/json", fmt.Sprintf(`{"Id":"whole0","Name":"/sandbox-abcdefgh","Image":"sha256:1",
		"Config":{"Labels":{%q:%q,%q:"abcdefgh"}},"HostConfig":{},"State":{"Running":true},"NetworkSettings":{}}`,
		labelManager, c.owner, labelPrefix))
	engine.answer("GET /images/sha256:1/json", `{"Id":"sha256:1","Config":{}}`)
	engine.fail("GET /containers/broken/json", http.StatusInternalServerError, "layer does not exist")
	engine.fail("GET /containers/gone00/json", http.StatusNotFound, "No such container: gone00")

	found, err := c.List(t.Context())
	must(t, err)
	if len(found) != 2 {
		t.Fatalf("the list has %+v, want the whole and the broken one", found)
	}
	for _, each := range found {
		if broken := each.ID == "broken"; each.Undescribed != broken || broken && each.Spec.Prefix != "brokenin" {
			t.Errorf("%s: undescribed %v, prefix %q", each.ID, each.Undescribed, each.Spec.Prefix)
		}
	}
}
