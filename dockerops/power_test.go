package dockerops

import (
	"net/http"
	"testing"

	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/volume"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestAPausedContainerCountsAsRunningAndGoesOnWithStart(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	id, err := c.Create(t.Context(), testSpec(t))
	must(t, err)
	must(t, c.Start(t.Context(), id))
	must(t, h.ContainerPause(t.Context(), id))
	if got, err := c.Inspect(t.Context(), id); err != nil || !got.Running {
		t.Errorf("running %v, error %v", got.Running, err)
	}
	must(t, c.Start(t.Context(), id))
	if h.inspect(t, id).State.Paused {
		t.Error("it is still paused")
	}
}

func TestAPausedContainerCanBeStoppedAndRemoved(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	id, err := c.Create(t.Context(), testSpec(t))
	must(t, err)
	must(t, c.Start(t.Context(), id))
	must(t, h.ContainerPause(t.Context(), id))
	must(t, c.Stop(t.Context(), id))
	if h.inspect(t, id).State.Running {
		t.Error("it runs")
	}
	must(t, c.Start(t.Context(), id))
	must(t, h.ContainerPause(t.Context(), id))
	must(t, c.Remove(t.Context(), id))
	_, err = c.Inspect(t.Context(), id)
	wantKind(t, err, instance.NotFound)
}

func TestRemoveTakesAnonymousVolumesAlong(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	spec := testSpec(t)
	base := spec.Image
	spec.Image = base + "-volume"
	must(t, buildImage(spec.Image, map[string][]byte{"Dockerfile": []byte("FROM " + base + "\nVOLUME /data\n")}))
	t.Cleanup(func() { h.removeImage(t, spec.Image) })
	id, err := c.Create(t.Context(), spec)
	must(t, err)
	mounts := h.inspect(t, id).Mounts
	if len(mounts) != 1 {
		t.Fatalf("mounts %v, want the image's volume", mounts)
	}
	must(t, c.Remove(t.Context(), id))
	left, err := h.VolumeList(t.Context(), volume.ListOptions{Filters: filters.NewArgs(filters.Arg("name", mounts[0].Name))})
	must(t, err)
	if len(left.Volumes) != 0 {
		t.Errorf("volume %s is left", mounts[0].Name)
	}
}

// The container is looked up by name and acted on by id: one that took the
// name in between must not be touched.
func TestWhatIsActedOnIsWhatWasLookedAt(t *testing.T) {
	engine := newFakeEngine(t)
	engine.answer("GET /containers/{ref}/json", ownContainer)
	engine.HandleFunc("DELETE /containers/{ref}", func(_ http.ResponseWriter, r *http.Request) {
		if ref := r.PathValue("ref"); ref != "c1" {
			t.Errorf("removes %s, want the id c1", ref)
		}
	})
	must(t, clientOn(t, engine.host()).Remove(t.Context(), someName))
	if engine.requests("DELETE /containers/c1") != 1 {
		t.Error("nothing was removed")
	}
}
