package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// pooled are the standard templates, with a pool of web.
func pooled(size int) string {
	return strings.Replace(standardTemplates, "port 8080", fmt.Sprintf("port 8080\n\t\t\tpool %d", size), 1)
}

// spares are the containers that no instance has taken, by their ids.
func (c *caddyServer) spares(t testing.TB) map[string]container.Summary {
	t.Helper()
	all := map[string]container.Summary{}
	for _, each := range c.containers(t) {
		if strings.HasPrefix(each.Names[0], "/sandbox-pool-") {
			all[each.ID] = each
		}
	}
	return all
}

// awaitPool waits until so many spares of web are ready and all else has come
// to rest: nothing is in Docker or on disk but these and the instances.
func (c *caddyServer) awaitPool(t testing.TB, size int) map[string]container.Summary {
	t.Helper()
	var spares map[string]container.Summary
	eventually(t, 60*time.Second, func() error {
		var health struct {
			Pools map[string]struct {
				Wanted, Ready int
				Error         string
			}
		}
		a := c.admin.call(t, http.MethodGet, "/api/health", nil).expect(t, http.StatusOK, 0)
		if err := json.Unmarshal(a.Data, &health); err != nil {
			return err
		}
		if pool := health.Pools["web"]; pool.Ready != size || pool.Wanted != size {
			return fmt.Errorf("the pool is %+v, want %d", pool, size)
		}
		var state struct{ Instances, Spares map[string]recordOnDisk }
		c.readJSON(t, stateFiles[0], &state)
		spares = c.spares(t)
		if all := len(c.containers(t)); len(spares) != size || all != size+len(state.Instances) || len(state.Spares) != size {
			return fmt.Errorf("%d containers, of which %d are spares; on disk %d instances and %d spares",
				all, len(spares), len(state.Instances), len(state.Spares))
		}
		return nil
	})
	return spares
}

func TestACreateFromThePoolIsLikeAnyOther(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: pooled(2)})
	spares := c.awaitPool(t, 2)
	for _, spare := range spares {
		born := spare.Labels["sandbox.prefix"]
		if c.shakesHands(t, born+"."+domain) {
			t.Errorf("the spare of %s has a certificate", born)
		}
		if routes := c.readFile(t, stateFiles[1]); strings.Contains(routes, born) {
			t.Errorf("the routes tell of it: %s", routes)
		}
	}
	if page := c.api.list(t, ""); page.Total != 0 {
		t.Errorf("listed %+v", page)
	}
	if out := strings.Fields(c.compose(t, "config", "--services")); len(out) != 0 {
		t.Errorf("Compose would run %q", out)
	}

	made := c.api.create(t, createRequest{})
	spare, taken := spares[made.ContainerID]
	if !taken || spare.Labels["sandbox.prefix"] != made.Prefix {
		t.Fatalf("created %+v from none of the spares", made)
	}
	c.visitor.mustGet(t, made.URL)
	found := inspect(t, made.ContainerID)
	if found.Name != "/"+containerName(made.Prefix) || found.RestartCount != 0 ||
		!slices.Contains(found.Config.Env, "SANDBOX_PREFIX="+made.Prefix) || !slices.Contains(found.Config.Env, "SANDBOX_URL="+made.URL) {
		t.Errorf("its container is %s with %q", found.Name, found.Config.Env)
	}
	other := c.api.create(t, createRequest{Prefix: "namedbyhand"})
	if _, taken := spares[other.ContainerID]; taken {
		t.Error("a spare cannot have another prefix than the one it was made for")
	}
	c.awaitPool(t, 2)

	// Compose finds what it would have made itself, and leaves spares alone.
	before := c.awaitPool(t, 2)
	c.compose(t, "up", "--detach")
	if now := c.api.get(t, made.Prefix); now.ContainerID != made.ContainerID || !now.StartedAt.Equal(*made.StartedAt) {
		t.Errorf("up made it anew: %+v", now)
	}
	c.compose(t, "stop", made.Prefix)
	c.api.awaitStatus(t, byHand, made.Prefix, "stopped", "stopped outside")
	c.compose(t, "start", made.Prefix)
	c.awaitServed(t, made.Prefix)
	c.api.delete(t, other.Prefix) // else its container is gone, too
	c.compose(t, "down")
	c.api.awaitStatus(t, byHand, made.Prefix, "stopped", "container removed")
	made = c.api.act(t, made.Prefix, "start")
	c.awaitServed(t, made.Prefix)
	if now := c.awaitPool(t, 2); !sameKeys(now, before) {
		t.Errorf("the spares were %v, and are %v", before, now)
	}

	// From nothing, and without Caddy.
	was := inspect(t, made.ContainerID)
	if err := errors.Join(c.stop(), removeAllOf(c.owner())); err != nil {
		t.Fatal(err)
	}
	c.compose(t, "up", "--detach")
	awaitPort(t, made.Port, made.Prefix)
	ofCompose := inspect(t, containerName(made.Prefix))
	sameContainer(t, was, ofCompose)
	c.mustStart(t)
	c.awaitServed(t, made.Prefix)
	if now := c.api.get(t, made.Prefix); now.ContainerID != ofCompose.ID {
		t.Errorf("Caddy made of Compose's container %s: %+v", ofCompose.ID, now)
	}
	c.awaitPool(t, 2)
}

func TestAPoolSurvivesAKillAndALostState(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: pooled(2)})
	c.awaitPool(t, 2)
	made := c.api.create(t, createRequest{})
	spares := c.awaitPool(t, 2)
	state := c.stateOf(t, made.Prefix)

	c.kill(t)
	c.mustStart(t)
	if now := c.awaitPool(t, 2); !sameKeys(now, spares) {
		t.Errorf("the spares were %v, and are %v", spares, now)
	}
	c.undisturbed(t, made.Prefix, state)
	c.visitor.mustGet(t, made.URL)

	c.kill(t)
	if err := os.Remove(filepath.Join(c.StateDir, stateFiles[0])); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	back := c.awaitBack(t, made.Prefix)
	if back.ContainerID != made.ContainerID || back.Port != made.Port || back.Template != made.Template {
		t.Errorf("it came back as %+v, was %+v", back, made)
	}
	if page := c.api.list(t, ""); page.Total != 1 {
		t.Errorf("listed %+v", page)
	}
	if now := c.spares(t); !sameKeys(now, spares) {
		t.Errorf("nobody has confirmed anything, and the spares are %v, were %v", now, spares)
	}
	c.undisturbed(t, made.Prefix, state)
	c.visitor.mustGet(t, made.URL)
	c.admin.call(t, http.MethodPost, "/api/health/confirm", nil).expect(t, http.StatusOK, 0)
	eventually(t, 30*time.Second, func() error {
		for id := range c.spares(t) {
			if _, old := spares[id]; old {
				return errors.New("spares whose record was lost are still there")
			}
		}
		return nil
	})
	c.awaitPool(t, 2)
	c.api.delete(t, made.Prefix)
	c.awaitPool(t, 2)
}

func TestKillsWhileAPoolRefills(t *testing.T) {
	t.Parallel()
	rounds := 8
	if soaking() {
		rounds = 100
	}
	c := startCaddy(t, options{Templates: pooled(3), Ports: freeRange(60)})
	random := rand.New(rand.NewPCG(1, 2))
	kept := map[string]string{} // container ids of what was acknowledged, by prefix
	took := 0
	for range rounds {
		c.awaitPool(t, 3)
		killed := time.After(time.Duration(random.Int64N(int64(1500 * time.Millisecond))))
		answers := make(chan answer)
		go func() {
			defer close(answers)
			for {
				a, err := c.admin.try(http.MethodPost, "/api/instances", nil)
				if err != nil || a.Status != http.StatusCreated {
					return
				}
				answers <- a
			}
		}()
		for alive := true; alive; {
			select {
			case a, more := <-answers:
				if !more {
					t.Fatal("a create failed although nobody had killed Caddy")
				}
				made := a.instance(t)
				kept[made.Prefix] = made.ContainerID
			case <-killed:
				c.kill(t)
				alive = false
			}
		}
		for a := range answers { // came just before
			made := a.instance(t)
			kept[made.Prefix] = made.ContainerID
		}
		c.mustStart(t)
		eventually(t, 20*time.Second, func() error { return c.agree(t, kept, &took) })
	}
	t.Logf("%d kills, %d creates acknowledged", rounds, took)
}

// agree checks that all that was acknowledged is there as it was, and deletes
// it again.
func (c *caddyServer) agree(t *testing.T, kept map[string]string, took *int) error {
	t.Helper()
	for prefix, id := range kept {
		a := c.api.call(t, http.MethodGet, "/api/instances/"+prefix, nil)
		if a.Status != http.StatusOK {
			return fmt.Errorf("%s was acknowledged: %s", prefix, a.raw)
		}
		if now := a.instance(t); now.ContainerID != id || now.Status != "running" {
			return fmt.Errorf("%s was acknowledged with container %s, and is %+v", prefix, id, now)
		}
	}
	for prefix := range kept {
		c.api.delete(t, prefix)
		delete(kept, prefix)
		*took++
	}
	return nil
}

// With late_env, a create may say whose the spare is to be.
func TestASpareGetsAPrefixAndVariablesByAFile(t *testing.T) {
	t.Parallel()
	late := func(size int) string {
		return strings.Replace(pooled(size), "port 8080", "port 8080\n\t\t\tlate_env /run/sandbox/env", 1)
	}
	c := startCaddy(t, options{Templates: late(1)})
	spares := c.awaitPool(t, 1)
	made := c.api.create(t, createRequest{Prefix: "namedlate", Env: map[string]string{"GREETING": "it's \"me\""}})
	spare, taken := spares[made.ContainerID]
	if !taken {
		t.Fatalf("created %+v from none of the spares", made)
	}
	born := spare.Labels["sandbox.prefix"]
	file := func(ref string) string {
		found := inspect(t, ref)
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/run/sandbox/env", found.State.Pid))
		if err != nil {
			t.Fatal(err)
		}
		if found.Mounts[0].RW || len(found.Mounts) != 1 {
			t.Errorf("its mounts are %+v", found.Mounts)
		}
		return string(text)
	}
	text := file(containerName("namedlate"))
	if !strings.Contains(text, `GREETING='it'\''s "me"'`) || !strings.Contains(text, "SANDBOX_URL='"+made.URL+"'\n") {
		t.Errorf("it reads %s", text)
	}
	c.visitor.mustGet(t, made.URL)
	c.awaitPool(t, 1)

	// Compose knows it by what it was born as, and leaves it as it is.
	c.compose(t, "up", "--detach")
	if now := c.api.get(t, "namedlate"); now.ContainerID != made.ContainerID || !now.StartedAt.Equal(*made.StartedAt) {
		t.Errorf("up made it anew: %+v", now)
	}
	if got := strings.Fields(c.compose(t, "config", "--services")); !slices.Equal(got, []string{born}) {
		t.Errorf("Compose has the services %q, want %s", got, born)
	}
	c.kill(t)
	if err := os.Remove(filepath.Join(c.StateDir, stateFiles[0])); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	c.visitor.mustGet(t, c.awaitBack(t, "namedlate").URL)
	c.admin.call(t, http.MethodPost, "/api/health/confirm", nil).expect(t, http.StatusOK, 0)

	// From nothing, and without Caddy: Compose gives it the name it was born with.
	if err := errors.Join(c.stop(), removeAllOf(c.owner())); err != nil {
		t.Fatal(err)
	}
	c.compose(t, "up", "--detach")
	ofCompose := inspect(t, containerName(born))
	c.mustStart(t)
	eventually(t, 30*time.Second, func() error {
		now := c.api.get(t, "namedlate")
		if now.ContainerID != ofCompose.ID || !now.Ready {
			return fmt.Errorf("Caddy made of Compose's container %s: %+v", ofCompose.ID, now)
		}
		return nil
	})
	c.visitor.mustGet(t, made.URL)
	if now := file(containerName("namedlate")); now != text {
		t.Errorf("it reads\n%s\nread\n%s", now, text)
	}
	c.awaitPool(t, 1)
	c.api.delete(t, "namedlate")
	c.awaitPool(t, 1)
	if folders, err := os.ReadDir(filepath.Join(c.StateDir, "env")); err != nil || len(folders) != 1 {
		t.Errorf("the folders are %v, %v", folders, err)
	}
}

// awaitBack waits for an instance whose record was lost.
func (c *caddyServer) awaitBack(t testing.TB, prefix string) instanceView {
	t.Helper()
	eventually(t, 20*time.Second, func() error {
		if a := c.api.call(t, http.MethodGet, "/api/instances/"+prefix, nil); a.Status != http.StatusOK {
			return errors.New(a.raw)
		}
		return nil
	})
	return c.api.awaitStatus(t, 20*time.Second, prefix, "running", "")
}

func sameKeys[V any](a, b map[string]V) bool {
	for key := range a {
		if _, ok := b[key]; !ok {
			return false
		}
	}
	return len(a) == len(b)
}

// poolCrashes has the failpoints that only pools pass, and those of a create
// that takes a spare: what is on disk then, and what Docker has under the name
// of an instance.
var poolCrashes = []crash{
	{"create.reserved", "take", "", ""},
	{"create.renamed", "take", "", "running"},
	{"tmp..instances.json", "take", "", "running"},
	{"renamed..instances.json", "take", "running", "running"},
	{"tmp.subdomain-proxy.json", "take", "running", "running"},
	{"create.recorded", "take", "running", "running"},
	{"create.acked", "take", "running", "running"},

	{"fill.intent", "fill", "", ""},
	{"create.created", "fill", "", ""},
	{"fill.started", "fill", "", ""},
	{"tmp..instances.json@2", "fill", "", ""},
	{"fill.recorded", "fill", "", ""},
	{"fill.acked", "fill", "", ""},

	{"discard.removed", "discard", "", ""},
	{"discard.tombstone", "discard", "", ""},
	{"discard.acked", "discard", "", ""},
}

func TestACrashAtAnyStepOfAPool(t *testing.T) {
	t.Parallel()
	for _, crash := range poolCrashes {
		t.Run(crash.op+"/"+crash.point, func(t *testing.T) {
			t.Parallel()
			before, after := 2, 2
			switch crash.op {
			case "fill":
				before = 0
			case "discard":
				after = 0
			}
			c := startCaddy(t, options{Binary: plainCaddy(t), Templates: pooled(before)})
			spares := c.awaitPool(t, before)
			c.kill(t)
			c.Templates = pooled(after)
			if err := c.writeConfig(c.caddyfile()); err != nil {
				t.Fatal(err)
			}
			r := crashRun{crash: crash, caddyServer: c}
			r.launchArmed(t)
			if crash.op == "take" {
				eventually(t, 20*time.Second, c.answers)
				r.takeSpare(t)
			}
			select {
			case <-c.exited:
			case <-time.After(2 * time.Minute):
				t.Fatalf("%s was never passed", crash.point)
			}
			c.visitor.forgetConnections()
			taken := r.checkTaken(t, spares)
			c.mustStart(t)
			c.awaitPool(t, after)
			if page := c.api.list(t, ""); page.Total != len(taken) {
				t.Errorf("listed %+v, want %v", page, taken)
			}
			for prefix, was := range taken {
				now := c.api.awaitStatus(t, 20*time.Second, prefix, "running", "")
				c.undisturbed(t, prefix, was)
				c.visitor.mustGet(t, now.URL)
			}
			if crash.op == "take" { // the same key, by a caller who got no answer
				again := c.api.call(t, http.MethodPost, "/api/instances", nil, crashKey).expect(t, http.StatusCreated, 0).instance(t)
				if _, same := taken[again.Prefix]; len(taken) > 0 && !same {
					t.Errorf("the retry was answered with %s, acknowledged was %v", again.Prefix, taken)
				}
				c.visitor.mustGet(t, again.URL)
			}
			c.awaitPool(t, after)
		})
	}
}

// takeSpare begins a create that fits the pool.
func (r crashRun) takeSpare(t *testing.T) {
	t.Helper()
	a, err := r.admin.try(http.MethodPost, "/api/instances", nil, crashKey)
	if acked := strings.HasSuffix(r.point, ".acked"); err == nil && (!acked || a.Status >= 300) {
		t.Errorf("Caddy was to die at %s, but answered %d %s", r.point, a.Status, a.raw)
	}
}

// checkTaken checks that the failpoint is where the table says, and returns how
// the containers are that were acknowledged, by their prefixes.
func (r crashRun) checkTaken(t *testing.T, spares map[string]container.Summary) map[string]container.State {
	t.Helper()
	taken := map[string]container.State{}
	var state stateOnDisk
	r.readJSON(t, stateFiles[0], &state)
	for prefix, record := range state.Instances {
		if record.Status != r.record {
			t.Errorf("at the crash the record of %s says %q, want %q", prefix, record.Status, r.record)
		}
		taken[prefix] = r.stateOf(t, prefix)
	}
	if (len(taken) == 1) != (r.record != "") {
		t.Errorf("at the crash there are the records of %v", taken)
	}
	renamed := ""
	for id, spare := range spares {
		found, err := engine.ContainerInspect(t.Context(), id)
		if err == nil && found.Name == "/"+containerName(spare.Labels["sandbox.prefix"]) {
			renamed = found.State.Status
		}
	}
	if renamed != r.container {
		t.Errorf("at the crash an instance's container is %q, want %q", renamed, r.container)
	}
	return taken
}
