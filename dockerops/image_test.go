package dockerops

import (
	"context"
	"crypto/rand"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/filters"
	dockerimage "github.com/docker/docker/api/types/image"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// registrySpec is a container of r's image, which the engine does not have.
func registrySpec(t *testing.T, h hand, r *registry) instance.Spec {
	t.Helper()
	spec := testSpec(t)
	spec.Image, spec.Pull = r.image, instance.PullMissing
	t.Cleanup(func() { h.removePulled(t, r) })
	return spec
}

// removePulled removes what was pulled from r, those too that lost their tag
// to a newer one.
func (h hand) removePulled(t *testing.T, r *registry) {
	t.Helper()
	repository, _ := strings.CutSuffix(r.image, ":1")
	pulled, err := h.ImageList(context.Background(), dockerimage.ListOptions{
		Filters: filters.NewArgs(filters.Arg("reference", repository)),
	})
	if err != nil {
		t.Error(err)
	}
	for _, each := range pulled {
		h.removeImage(t, each.ID)
	}
}

func TestManyCreatesOfAMissingImagePullItOnce(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	r := newRegistry(t)
	open := r.shut(t)
	errs := make([]error, 20)
	var group sync.WaitGroup
	for i := range errs {
		spec := registrySpec(t, h, r)
		group.Go(func() { _, errs[i] = c.Create(t.Context(), spec) })
	}
	<-r.waiting
	open()
	group.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	if r.asked() != 1 {
		t.Errorf("pulled %d times", r.asked())
	}
}

func TestAPullOutlivesTheCallerThatBeganIt(t *testing.T) {
	noGoroutineLeft(t)
	h := needDocker(t)
	c := newClient(t, h)
	r := newRegistry(t)
	open := r.shut(t)
	spec := registrySpec(t, h, r)
	ctx, leave := context.WithCancel(t.Context())
	left := make(chan error)
	go func() { _, err := c.Create(ctx, spec); left <- err }()
	<-r.waiting
	leave()
	wantKind(t, <-left, instance.Timeout)
	open()
	eventually(t, "the image is there", func() bool {
		_, err := c.inspectImage(t.Context(), r.image)
		return err == nil
	})
	if r.asked() != 1 {
		t.Errorf("pulled %d times", r.asked())
	}
}

func TestPullPolicies(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	r := newRegistry(t)
	spec := registrySpec(t, h, r)
	create := func(policy instance.PullPolicy) (imageID string) {
		t.Helper()
		spec.Pull = policy
		id, err := c.Create(t.Context(), spec) // takes the place of the one before
		must(t, err)
		return h.inspect(t, id).Image
	}
	spec.Pull = instance.PullNever
	_, err := c.Create(t.Context(), spec)
	wantKind(t, err, instance.ImageMissing)
	if r.asked() != 0 {
		t.Error("policy never asked the registry")
	}
	first := create("") // missing
	r.push(t)
	if create(instance.PullMissing) != first || create(instance.PullNever) != first || r.asked() != 1 {
		t.Errorf("an image that is there was pulled: %d pulls", r.asked())
	}
	if create(instance.PullAlways) == first || r.asked() != 2 {
		t.Errorf("policy always did not get the new image: %d pulls", r.asked())
	}
}

func TestAFailedPullSaysWhichImageAndWhy(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	r := newRegistry(t)
	for name, image := range map[string]string{
		"no such tag":      r.image + "0",
		"no registry":      "127.0.0.1:1/team/app:1",
		"no name of image": "Not A Name",
	} {
		t.Run(name, func(t *testing.T) {
			spec := testSpec(t)
			spec.Image, spec.Pull = image, instance.PullAlways
			_, err := c.Create(t.Context(), spec)
			missing := wantError(t, err, instance.ImageMissing)
			if words, _ := missing.Details["engine"].(string); missing.Details["image"] != image || words == "" {
				t.Errorf("details %v", missing.Details)
			}
			wantText(t, missing.Message, image, "could not be pulled")
		})
	}
}

func TestAPullHasADeadlineAndThenTheNextOneTriesAgain(t *testing.T) {
	noGoroutineLeft(t)
	h := needDocker(t)
	c := newClient(t, h)
	c.Deadlines.Pull = 300 * time.Millisecond
	r := newRegistry(t)
	open := r.shut(t)
	spec := registrySpec(t, h, r)
	_, err := c.Create(t.Context(), spec)
	overdue := wantError(t, err, instance.Timeout)
	wantText(t, overdue.Message, "pulling image "+r.image, "300ms")
	open()
	c.Deadlines.Pull = time.Minute
	if _, err := c.Create(t.Context(), spec); err != nil {
		t.Error(err)
	}
}

func TestCloseEndsAPull(t *testing.T) {
	noGoroutineLeft(t)
	h := needDocker(t)
	c := newClient(t, h)
	r := newRegistry(t)
	r.shut(t)
	spec := registrySpec(t, h, r)
	failed := make(chan error)
	go func() { _, err := c.Create(t.Context(), spec); failed <- err }()
	<-r.waiting
	inTime(t, func() { must(t, c.Close()) })
	if kind := instance.KindOf(<-failed); kind != instance.Timeout {
		t.Errorf("kind %q", kind)
	}
}

func TestImageEnvIsWhatTheImageBrings(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	name := "caddy-sandbox/env-test:" + strings.ToLower(rand.Text()[:16])
	t.Cleanup(func() { h.removeImage(t, name) })
	must(t, buildImage(name, map[string][]byte{
		"Dockerfile": []byte("FROM scratch\nCOPY Dockerfile /\nENV NODE_OPTIONS=\"--a --b=1=2\" NODE_VERSION=18.17.1\n"),
	}))
	got, err := c.ImageEnv(t.Context(), name)
	must(t, err)
	if got["NODE_OPTIONS"] != "--a --b=1=2" || got["NODE_VERSION"] != "18.17.1" {
		t.Errorf("it brings %v", got)
	}
	_, err = c.ImageEnv(t.Context(), name+"-missing")
	wantKind(t, err, instance.ImageMissing)
}
