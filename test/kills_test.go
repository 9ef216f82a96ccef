package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

const (
	callers        = 8
	prefixesOfEach = 2 // one is worked on, the other left in peace
	killsPerGroup  = 50
	lookPause      = 20 * time.Millisecond // between looks at what others work on
)

// TestKillsAtRandomMoments has callers create, delete, start and stop while
// Caddy is killed again and again, also while it recovers. What was answered
// must hold, and what nobody touched must run on.
func TestKillsAtRandomMoments(t *testing.T) {
	t.Parallel()
	kills := 100
	if soaking() {
		kills = 1000
	}
	c := startCaddy(t, options{Binary: plainCaddy(t), Ports: freeRange(1000)})
	bystander := c.admin.create(t, createRequest{Prefix: "neverkilled"})
	before := c.stateOf(t, bystander.Prefix)
	var all []*caller
	for i := range callers {
		all = append(all, newCaller(c.admin, i))
	}

	var creating sync.WaitGroup
	for _, caller := range all {
		creating.Go(func() { caller.createAll(t) })
	}
	creating.Wait()
	begun := time.Now()
	looks := 0 // at running containers that nobody had touched
	var recovering, slowestOrphans time.Duration
	for kill := 1; kill <= kills; kill++ {
		c.killUnder(t, all, rand.IntN(callers/2), rand.N(200*time.Millisecond))
		c.readFiles(t)
		restarted := time.Now()
		c.mustStart(t)
		recovering += time.Since(restarted)
		c.undisturbed(t, bystander.Prefix, before)
		looks += 1 + c.checkKept(t, all)
		if kill%killsPerGroup == 0 || kill == kills {
			for _, caller := range all {
				caller.settle(t)
			}
			slowestOrphans = max(slowestOrphans, c.awaitNoOrphans(t))
			c.checkProjections(t)
		}
		if t.Failed() {
			t.Fatalf("after kill %d", kill)
		}
	}
	sum := killCounts{}
	for _, caller := range all {
		sum.add(caller.killCounts)
	}
	t.Logf("%d kills in %.0f s: %d operations acknowledged, %d cut short (%d of them had come true, %d not); "+
		"a restart took %.2f s; untouched containers looked at %d times: 0 restarted; orphans were gone within %.1f s",
		kills, time.Since(begun).Seconds(), sum.acked, sum.cut, sum.cutDone, sum.cutUndone,
		recovering.Seconds()/float64(kills), looks, slowestOrphans.Seconds())
	if sum.acked < kills/2 || sum.cut < kills {
		t.Error("too little happened for that to mean anything")
	}
}

// killUnder has all call until so many calls were acknowledged, but at most
// 1.5 s, and a moment longer; then it kills Caddy. By time alone, a slow engine
// would acknowledge nothing.
func (c *caddyServer) killUnder(t *testing.T, all []*caller, acks int, moment time.Duration) {
	t.Helper()
	var calling sync.WaitGroup
	var acked atomic.Int64
	for _, caller := range all {
		calling.Go(func() {
			for caller.step(t, &acked) {
			}
		})
	}
	_ = poll(1500*time.Millisecond, func() error {
		if n := acked.Load(); int(n) < acks {
			return fmt.Errorf("%d calls were acknowledged", n)
		}
		return nil
	})
	<-time.After(moment)
	c.kill(t)
	calling.Wait()
}

// killCounts is what happened.
type killCounts struct{ acked, cut, cutDone, cutUndone int }

func (s *killCounts) add(other killCounts) {
	s.acked += other.acked
	s.cut += other.cut
	s.cutDone += other.cutDone
	s.cutUndone += other.cutUndone
}

// caller works on prefixes of its own, one call after the other, and knows
// what was acknowledged of each. Only one goroutine uses it.
type caller struct {
	killCounts
	api   apiClient
	known []*known
}

// known is what a caller may rely on about one prefix.
type known struct {
	prefix string
	status string // running, stopped, or gone
	open   string // the call that a kill cut short: what is true now is not known
	view   instanceView
}

// outcomes are the states that a call leads to.
var outcomes = map[string]string{"create": "running", "start": "running", "stop": "stopped", "delete": "gone"}

// choices are the calls that change something.
var choices = map[string][]string{
	"gone":    {"create"},
	"running": {"stop", "stop", "stop", "delete"},
	"stopped": {"start", "start", "start", "delete"},
}

func newCaller(api apiClient, number int) *caller {
	// A client of its own: connections die with Caddy.
	api.http = &http.Client{Timeout: time.Minute, Transport: &http.Transport{}}
	c := &caller{api: api}
	for i := range prefixesOfEach {
		c.known = append(c.known, &known{prefix: fmt.Sprintf("killed%d%d", number, i), status: "gone"})
	}
	return c
}

// createAll is what the first kill finds.
func (c *caller) createAll(t *testing.T) {
	for _, k := range c.known {
		c.call(t, k, "create")
	}
}

// step makes one call on one prefix, or looks what became of one that was cut
// short. It counts what is acknowledged and reports whether Caddy still answers.
func (c *caller) step(t *testing.T, acked *atomic.Int64) bool {
	k := c.known[rand.IntN(len(c.known))]
	if k.open != "" {
		err := c.resolve(t, k)
		if errors.Is(err, errUnsettled) {
			<-time.After(lookPause)
		}
		return err == nil || errors.Is(err, errUnsettled)
	}
	before := c.acked
	answers := c.call(t, k, choices[k.status][rand.IntN(len(choices[k.status]))])
	acked.Add(int64(c.acked - before))
	return answers
}

// call makes one call, notes what was answered, and reports whether Caddy still
// answers.
func (c *caller) call(t *testing.T, k *known, call string) bool {
	method, path, body := http.MethodPost, "/api/instances", any(nil)
	switch call {
	case "create":
		body = createRequest{Prefix: k.prefix}
	case "delete":
		method, path = http.MethodDelete, path+"/"+k.prefix
	default:
		path += "/" + k.prefix + "/" + call
	}
	if outcomes[call] == "running" && rand.IntN(3) == 0 {
		path += "?wait=started"
	}
	k.open = call
	a, err := c.api.try(method, path, body)
	switch {
	case err != nil:
		c.cut++
		return false
	case a.Code == 1005 && !k.view.Ready: // it was answered once started, and is not ready yet
		k.open = ""
		<-time.After(lookPause)
		return true
	case a.Status >= 300:
		t.Errorf("%s of %s, which is %s: %d %s", call, k.prefix, k.status, a.Status, a.raw)
		return false
	}
	c.acked++
	k.open, k.status = "", outcomes[call]
	if err := json.Unmarshal(a.Data, &k.view); err != nil {
		t.Error(err)
	}
	return true
}

var errUnsettled = errors.New("it is still being worked on")

// resolve asks what became of a call that was cut short: it has happened or
// not, and nothing else.
func (c *caller) resolve(t *testing.T, k *known) error {
	a, err := c.api.try(http.MethodGet, "/api/instances/"+k.prefix, nil)
	if err != nil {
		return err
	}
	var now instanceView
	if a.Status == http.StatusOK {
		err = json.Unmarshal(a.Data, &now)
	}
	if a.Code == 1004 {
		now.Status = "gone"
	}
	switch {
	case err != nil:
		return err
	case now.Status == outcomes[k.open] && (now.Status != "running" || now.Ready):
		c.cutDone++
	case now.Status == k.status:
		c.cutUndone++
	case slices.Contains([]string{"creating", "starting", "stopping", "deleting", "running"}, now.Status):
		return fmt.Errorf("%s (%s): %w", k.prefix, a.raw, errUnsettled)
	default:
		t.Errorf("%s was %s, its %s was cut short, now it is %s", k.prefix, k.status, k.open, a.raw)
	}
	k.open, k.status, k.view = "", now.Status, now
	return nil
}

// settle waits until all is known again.
func (c *caller) settle(t *testing.T) {
	t.Helper()
	for _, k := range c.known {
		if k.open == "" {
			continue
		}
		eventually(t, 30*time.Second, func() error { return c.resolve(t, k) })
	}
}

// checkKept checks, right after a restart, all that is known for sure, and
// that no port was given twice. It returns how many untouched containers run.
func (c *caddyServer) checkKept(t *testing.T, all []*caller) (untouched int) {
	t.Helper()
	now, ports := map[string]instanceView{}, map[int]string{}
	for _, i := range c.admin.list(t, "").Instances {
		now[i.Prefix] = i
		if other, taken := ports[i.Port]; taken {
			t.Errorf("port %d was given to %s and to %s", i.Port, other, i.Prefix)
		}
		ports[i.Port] = i.Prefix
	}
	for _, caller := range all {
		for _, k := range caller.known {
			if k.open == "" {
				c.checkKnown(t, k, now[k.prefix])
				if k.status == "running" {
					untouched++
				}
			}
		}
	}
	return untouched
}

func (c *caddyServer) checkKnown(t *testing.T, k *known, now instanceView) {
	t.Helper()
	if k.status == "gone" {
		if now.Prefix != "" {
			t.Errorf("%s was deleted, that was acknowledged, and it came back: %+v", k.prefix, now)
		}
		return
	}
	comingUp := now.Status == "starting" && k.status == "running" && !k.view.Ready // Caddy waits for it again
	if now.Status != k.status && !comingUp || now.Port != k.view.Port || now.ContainerID != k.view.ContainerID {
		t.Errorf("%s is %s, port %d, container %s; acknowledged were %s, %d, %s", k.prefix,
			now.Status, now.Port, now.ContainerID, k.status, k.view.Port, k.view.ContainerID)
	}
	if k.status != "running" {
		return
	}
	info := inspect(t, k.view.ContainerID)
	started, err := time.Parse(time.RFC3339Nano, info.State.StartedAt)
	if err != nil || !info.State.Running || !started.Truncate(time.Millisecond).Equal(*k.view.StartedAt) {
		t.Errorf("%s was not touched; its container runs since %s (%s, %v), did since %s", k.prefix,
			info.State.StartedAt, info.State.Status, err, k.view.StartedAt)
	}
}

// awaitNoOrphans waits until each container has an instance, and returns how
// long that took; 10 s at most are promised.
func (c *caddyServer) awaitNoOrphans(t *testing.T) time.Duration {
	t.Helper()
	begun := time.Now()
	eventually(t, 10*time.Second, func() error {
		instances := c.readFiles(t).Instances
		ports := map[string]string{}
		for _, found := range c.containers(t) {
			prefix, port := found.Labels["sandbox.prefix"], found.Labels["sandbox.port"]
			if record, known := instances[prefix]; !known {
				return fmt.Errorf("container %s of %s has no instance", found.ID, prefix)
			} else if fmt.Sprint(record.Port) != port || ports[port] != "" {
				return stopPolling{fmt.Errorf("port %s of %s: its record says %d, another container is %s's",
					port, prefix, record.Port, ports[port])}
			}
			ports[port] = prefix
		}
		return nil
	})
	return time.Since(begun)
}
