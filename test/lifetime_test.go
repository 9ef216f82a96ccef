package test

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// overdueBy is how late an end may come that nobody asked for, on a machine
// that does other things besides.
const overdueBy = 20 * time.Second

// awaitGone waits until there is neither the instance nor its container.
func (c *caddyServer) awaitGone(t testing.TB, prefix string) {
	t.Helper()
	eventually(t, overdueBy, func() error {
		if a := c.api.call(t, http.MethodGet, "/api/instances/"+prefix, nil); a.Code != 1004 {
			return fmt.Errorf("the instance is still there: %s", a.raw)
		}
		if _, err := engine.ContainerInspect(t.Context(), containerName(prefix)); err == nil {
			return stopPolling{fmt.Errorf("the instance is gone, and container %s is not", containerName(prefix))}
		}
		return nil
	})
}

func (c apiClient) patch(t testing.TB, prefix string, body any) instanceView {
	t.Helper()
	return c.call(t, http.MethodPatch, "/api/instances/"+prefix, body).expect(t, http.StatusOK, 0).instance(t)
}

func TestAnIdleInstanceIsStopped(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "idlestop", IdleTimeout: "2s"})
	if made.IdleTimeout != "2s" || made.OnIdle != "stop" || made.TTL != "never" || made.IdleAt == nil || made.ExpiresAt != nil {
		t.Errorf("made %+v", made)
	}
	stopped := c.api.awaitStatus(t, overdueBy, "idlestop", "stopped", "idle")
	if idle := stopped.StoppedAt.Sub(*made.StartedAt); idle < 2*time.Second {
		t.Errorf("it was stopped %s after its start", idle)
	}
	if inspect(t, made.ContainerID).State.Running {
		t.Error("its container runs")
	}
	c.idleAfter(t, "idlestop", time.Hour)
	made.IdleTimeout = "1h0m0s"
	sameInstance(t, c.api.act(t, "idlestop", "start"), made)
	c.visitor.mustGet(t, made.URL)
}

// A frozen container is back with all that it had in memory, in a moment.
func TestAnIdleInstanceIsPausedAndResumed(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "idlepause", IdleTimeout: "2s", OnIdle: "pause"})
	pid := inspect(t, made.ContainerID).State.Pid
	c.api.awaitStatus(t, overdueBy, "idlepause", "paused", "idle")
	eventually(t, overdueBy, func() error { // the intent is told before
		if state := inspect(t, made.ContainerID).State; !state.Paused || state.Pid != pid {
			return fmt.Errorf("the container's state is %+v, its process was %d", state, pid)
		}
		return nil
	})
	c.idleAfter(t, "idlepause", time.Hour)
	begun := time.Now()
	resumed := c.api.act(t, "idlepause", "resume")
	took := time.Since(begun)
	if resumed.Status != "running" || !resumed.Ready || !resumed.StartedAt.Equal(*made.StartedAt) {
		t.Errorf("resumed %+v", resumed)
	}
	c.visitor.mustGet(t, made.URL)
	if now := inspect(t, made.ContainerID).State; now.Pid != pid || now.Paused {
		t.Errorf("the container's state is %+v, its process was %d", now, pid)
	}
	t.Logf("resumed within %s", took.Round(time.Millisecond))
}

func TestAnIdleInstanceIsDeleted(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.create(t, createRequest{Prefix: "idledelete", IdleTimeout: "2s", OnIdle: "delete"})
	c.awaitGone(t, "idledelete")
}

func TestALifetimeEndsThoughTheInstanceIsUsed(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "mortal00", IdleTimeout: "1h"})
	var end time.Time
	eventually(t, overdueBy, func() error { // a machine may stand still until it is over
		ttl := time.Since(made.CreatedAt).Truncate(time.Second) + 3*time.Second
		end = made.CreatedAt.Add(ttl)
		a := c.api.call(t, http.MethodPatch, "/api/instances/mortal00", map[string]string{"ttl": ttl.String()})
		if a.Code == 1006 {
			return errors.New(a.Message)
		}
		if seen := a.expect(t, http.StatusOK, 0).instance(t); !seen.ExpiresAt.Equal(end) {
			t.Errorf("expires at %v, want %v", seen.ExpiresAt, end)
		}
		return nil
	})
	eventually(t, overdueBy, func() error {
		if _, err := c.visitor.answers200(made.URL); err == nil {
			return fmt.Errorf("it is still served")
		}
		return nil
	})
	if early := time.Until(end); early > 0 {
		t.Errorf("it ended %s too early", early)
	}
	c.awaitGone(t, "mortal00")
}

func TestWhatIsStoppedForLongIsDeleted(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, act := range []string{"stop", "pause"} {
		prefix := "longgone" + act
		c.api.create(t, createRequest{Prefix: prefix, DeleteAfterStopped: "2s"})
		ended := c.api.act(t, prefix, act)
		if want := ended.StoppedAt.Add(2 * time.Second); ended.DeleteAt == nil || !ended.DeleteAt.Equal(want) {
			t.Errorf("deleted at %v, want %v", ended.DeleteAt, want)
		}
		c.awaitGone(t, prefix)
	}
}

// A start in time takes the deadline back.
func TestWhatRunsAgainIsNotDeleted(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.create(t, createRequest{Prefix: "runsagain", DeleteAfterStopped: "20s"})
	ended := c.api.act(t, "runsagain", "stop")
	if again := c.api.act(t, "runsagain", "start"); again.DeleteAt != nil {
		t.Errorf("deleted at %v although it runs", again.DeleteAt)
	}
	eventually(t, time.Minute, func() error { // the time that must pass
		if late := time.Since(*ended.DeleteAt); late < time.Second {
			return fmt.Errorf("%s too early", -late)
		}
		return nil
	})
	if now := c.api.get(t, "runsagain"); now.Status != "running" {
		t.Errorf("it is %s", now.Status)
	}
}

func TestATouchKeepsAnInstanceAwake(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.create(t, createRequest{Prefix: "touched0"})
	retry(t, func() error {
		c.idleAfter(t, "touched0", time.Hour)
		c.api.act(t, "touched0", "start") // it may have slept in the try before
		c.idleAfter(t, "touched0", soon)
		var touches pulse
		for begun := time.Now(); time.Since(begun) < 3*soon; time.Sleep(300 * time.Millisecond) { // as an agent does that is at work
			touches.beat()
			if seen := c.api.act(t, "touched0", "touch"); seen.Status != "running" {
				return touches.blame(fmt.Errorf("touched all the time, it is %s (%s)", seen.Status, seen.Reason), soon)
			}
		}
		return nil
	})
	c.api.awaitStatus(t, overdueBy, "touched0", "stopped", "idle")
}

// awaitUse waits until a request is in progress: it moves the time of idleness on
// all the time, and not only as it comes and goes.
func (c *caddyServer) awaitUse(t testing.TB, prefix string) {
	t.Helper()
	c.idleAfter(t, prefix, time.Hour)
	for range 3 {
		before := c.api.get(t, prefix).IdleAt
		eventually(t, 10*time.Second, func() error {
			if !c.api.get(t, prefix).IdleAt.After(*before) {
				return fmt.Errorf("%s is idle at %s, whatever goes on", prefix, before)
			}
			return nil
		})
	}
}

func TestARequestInProgressIsNotCutByIdleness(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "longrequest"})
	begun := time.Now()
	answered := make(chan reply, 1)
	go func() {
		r, err := c.visitor.try(http.MethodGet, made.URL+"/slow?ms=6000", "")
		if err != nil {
			t.Error(err)
		}
		answered <- r
	}()
	c.awaitUse(t, "longrequest")
	c.idleAfter(t, "longrequest", time.Second)
	if slow := <-answered; slow.Response == nil || slow.StatusCode != http.StatusOK || slow.body == "" || time.Since(begun) < 6*time.Second {
		t.Fatalf("answered %q after %s", slow.body, time.Since(begun))
	}
	stopped := c.api.awaitStatus(t, overdueBy, "longrequest", "stopped", "idle")
	if lived := stopped.StoppedAt.Sub(begun); lived < 6900*time.Millisecond {
		t.Errorf("stopped %s after a request of 6 s had begun", lived)
	}
}

// The upload of a slow client is a request as well, and nothing of it is lost.
func TestASlowUploadIsNotCutByIdleness(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "slowupload"})
	body, drip := io.Pipe()
	go func() {
		defer drip.Close()
		c.awaitUse(t, "slowupload")
		c.idleAfter(t, "slowupload", time.Second)
		for range 5 {
			_, _ = io.WriteString(drip, "drop")
			time.Sleep(time.Second) // a client that is slow
		}
	}()
	res, err := c.visitor.client.Post(made.URL+"/count", "text/plain", body)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if got, err := io.ReadAll(res.Body); err != nil || string(got) != "20" {
		t.Errorf("%s bytes arrived (%v)", got, err)
	}
}

func TestAPauseThroughTheAPI(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, row := range []struct {
		call, status, reason string
	}{
		{"start", "running", ""}, {"restart", "running", ""}, {"stop", "stopped", "user"},
	} {
		t.Run(row.call, func(t *testing.T) {
			t.Parallel()
			made := c.api.create(t, createRequest{Prefix: "paused" + row.call})
			paused := c.api.act(t, made.Prefix, "pause")
			if paused.Status != "paused" || paused.Reason != "user" || paused.Ready || !inspect(t, made.ContainerID).State.Paused {
				t.Errorf("paused %+v", paused)
			}
			if r := c.visitor.get(t, made.URL); r.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("a visitor gets %d", r.StatusCode)
			}
			then := c.api.act(t, made.Prefix, row.call)
			if then.Status != row.status || then.Reason != row.reason || then.ContainerID != made.ContainerID {
				t.Errorf("%s made of it %+v", row.call, then)
			}
			if row.status == "running" {
				c.visitor.mustGet(t, made.URL)
			}
		})
	}
	t.Run("delete", func(t *testing.T) {
		t.Parallel()
		c.api.create(t, createRequest{Prefix: "pauseddelete"})
		c.api.act(t, "pauseddelete", "pause")
		c.api.delete(t, "pauseddelete")
		c.awaitGone(t, "pauseddelete")
	})
	t.Run("by hand", func(t *testing.T) {
		t.Parallel()
		made := c.api.create(t, createRequest{Prefix: "pausedbyhand"})
		if err := engine.ContainerPause(t.Context(), made.ContainerID); err != nil {
			t.Fatal(err)
		}
		c.api.awaitStatus(t, byHand, "pausedbyhand", "paused", "paused outside")
		if err := engine.ContainerUnpause(t.Context(), made.ContainerID); err != nil {
			t.Fatal(err)
		}
		c.api.awaitStatus(t, byHand, "pausedbyhand", "running", "")
		c.visitor.mustGet(t, made.URL)
	})
	t.Run("and its container stopped by hand", func(t *testing.T) {
		t.Parallel()
		made := c.api.create(t, createRequest{Prefix: "pausedended"})
		c.api.act(t, "pausedended", "pause")
		if err := engine.ContainerStop(t.Context(), made.ContainerID, container.StopOptions{}); err != nil {
			t.Fatal(err)
		}
		c.api.awaitStatus(t, 15*time.Second, "pausedended", "stopped", "user") // no visitor may start it
	})
}

// A kill at any time neither loses a deadline nor doubles one, and what is known
// of the last use is at most a minute and a relist old.
func TestDeadlinesOutliveAKilledCaddy(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	expiring := c.api.create(t, createRequest{Prefix: "expiring", TTL: "30s"})
	touched := c.api.act(t, expiring.Prefix, "touch") // durable at once, and no use against a ttl
	idle := c.api.create(t, createRequest{Prefix: "idlesoon", IdleTimeout: "15s"})
	stopped := c.api.create(t, createRequest{Prefix: "stoppedsoon", DeleteAfterStopped: "20s"})
	stopped = c.api.act(t, stopped.Prefix, "stop")
	used := c.api.create(t, createRequest{Prefix: "lastused", IdleTimeout: "1h"})
	c.visitor.mustGet(t, used.URL)
	seen := c.api.get(t, used.Prefix)

	const bound = 75 * time.Second
	eventually(t, bound+overdueBy, func() error {
		state, err := os.ReadFile(filepath.Join(c.StateDir, ".instances.json"))
		if err != nil {
			return err
		}
		if at := seen.LastActiveAt.UTC().Format(time.RFC3339Nano); !strings.Contains(string(state), `"last_active_at":"`+at) {
			return fmt.Errorf("the file does not know that it was used at %s", at)
		}
		return nil
	})
	c.kill(t)
	c.mustStart(t)

	if now := c.api.get(t, used.Prefix); now.LastActiveAt == nil || now.LastActiveAt.Before(*seen.LastActiveAt) {
		t.Errorf("it was used at %v, and now at %v", seen.LastActiveAt, now.LastActiveAt)
	}
	if a := c.api.call(t, http.MethodGet, "/api/instances/expiring", nil); a.Status == http.StatusOK {
		now := a.instance(t)
		if !now.ExpiresAt.Equal(*expiring.ExpiresAt) || now.LastActiveAt == nil || now.LastActiveAt.Before(*touched.LastActiveAt) {
			t.Errorf("it expires at %v, was %v; used at %v, was %v", now.ExpiresAt, expiring.ExpiresAt, now.LastActiveAt, touched.LastActiveAt)
		}
	}
	c.awaitGone(t, expiring.Prefix)
	c.awaitGone(t, stopped.Prefix)
	c.api.awaitStatus(t, 15*time.Second+overdueBy, idle.Prefix, "stopped", "idle")
	if now := c.api.get(t, used.Prefix); now.Status != "running" {
		t.Errorf("the used one is %s (%s)", now.Status, now.Reason)
	}
}
