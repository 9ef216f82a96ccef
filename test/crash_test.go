package test

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestInstancesOutliveAKilledCaddy(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	before := map[string]instanceView{}
	pids := map[string]int{}
	for n := range 5 {
		made := c.api.create(t, createRequest{Prefix: fmt.Sprintf("survivor%d", n)})
		before[made.Prefix] = made
		pids[made.Prefix] = inspect(t, made.ContainerID).State.Pid
	}
	c.api.create(t, createRequest{Prefix: "stoppedone"})
	before["stoppedone"] = c.api.act(t, "stoppedone", "stop")

	c.kill(t)
	c.mustStart(t)

	for prefix, old := range before {
		sameInstance(t, c.api.get(t, prefix), old)
	}
	for prefix, pid := range pids {
		c.visitor.mustGet(t, before[prefix].URL)
		if now := inspect(t, containerName(prefix)); now.State.Pid != pid || now.ID != before[prefix].ContainerID {
			t.Errorf("%s: container %s with process %d, was %s with %d",
				prefix, now.ID, now.State.Pid, before[prefix].ContainerID, pid)
		}
	}
	if total := c.api.list(t, "").Total; total != len(before) {
		t.Errorf("%d instances, want %d", total, len(before))
	}
}

func TestAStoppedCaddyLeavesItsContainersRunning(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "outlives"})
	pid := inspect(t, made.ContainerID).State.Pid
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	if now := inspect(t, made.ContainerID); !now.State.Running || now.State.Pid != pid {
		t.Errorf("the container's state is %+v", now.State)
	}
	c.mustStart(t)
	sameInstance(t, c.api.get(t, "outlives"), made)
	c.visitor.mustGet(t, made.URL)
}

func TestACreateCutByAKillLeavesNothing(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	// wait=none: the create goes on without its caller.
	half := c.api.call(t, http.MethodPost, "/api/instances?wait=none",
		createRequest{Prefix: "halfmade", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "30s"}}).
		expect(t, http.StatusAccepted, 0).instance(t)
	eventually(t, 20*time.Second, func() error {
		if list := c.containers(t); len(list) != 1 || list[0].State != "running" {
			return fmt.Errorf("containers: %+v", list)
		}
		return nil
	})
	c.kill(t)
	c.mustStart(t)
	eventually(t, 10*time.Second, func() error {
		if a := c.api.call(t, http.MethodGet, "/api/instances/halfmade", nil); a.Code != 1004 {
			return fmt.Errorf("its record is still there: %s", a.raw)
		}
		return nil
	})
	if left := c.containers(t); len(left) != 0 {
		t.Errorf("its container is still there: %+v", left)
	}
	c.api.create(t, createRequest{Prefix: "halfmade", Port: half.Port})
}

func TestALostStateFileIsRebuiltFromTheContainers(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(path string) error{
		"removed":   os.Remove,
		"truncated": func(path string) error { return os.Truncate(path, 50) },
		"garbled":   func(path string) error { return os.WriteFile(path, []byte("{\"version\":1,\x00"), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := startCaddy(t, options{})
			one := c.api.create(t, createRequest{Labels: map[string]string{"n": "1"}, Env: map[string]string{"GREETING": "kept"}})
			two := c.api.create(t, createRequest{Labels: map[string]string{"n": "2"}})
			c.api.act(t, two.Prefix, "stop")
			owner := c.owner()

			c.kill(t)
			if err := spoil(filepath.Join(c.StateDir, ".instances.json")); err != nil {
				t.Fatal(err)
			}
			c.mustStart(t)

			if now := c.owner(); now != owner {
				t.Errorf("the owner is %s, was %s", now, owner)
			}
			// Docker must be asked first, so this takes a moment.
			sameInstance(t, c.api.awaitPresent(t, one.Prefix), one)
			c.visitor.mustGet(t, one.URL)
			if back := c.api.awaitPresent(t, two.Prefix); back.Status != "stopped" || back.Port != two.Port {
				t.Errorf("the stopped instance came back as %+v", back)
			}
			sameInstance(t, c.api.act(t, two.Prefix, "start"), two)
			var env map[string]string
			c.visitor.getJSON(t, one.URL+"/env", &env)
			if env["GREETING"] != "kept" {
				t.Errorf("the environment is lost: %v", env)
			}
		})
	}
}

func (c apiClient) awaitPresent(t testing.TB, prefix string) instanceView {
	t.Helper()
	var i instanceView
	eventually(t, 15*time.Second, func() error {
		a := c.call(t, http.MethodGet, "/api/instances/"+prefix, nil)
		if a.Status != http.StatusOK {
			return fmt.Errorf("GET %s: %s", prefix, a.raw)
		}
		i = a.instance(t)
		return nil
	})
	return i
}
