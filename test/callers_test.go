package test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// The tests of this file are not parallel: they take all of the machine, and
// what they try is what a thousand callers do to others.

const thousand = 1000

// tally counts answers by status and code.
func tally(t testing.TB, answers []told) map[string]int {
	t.Helper()
	outcomes := map[string]int{}
	for _, a := range answers {
		if a.err != nil {
			t.Errorf("%s %s: %v", a.method, a.path, a.err)
			continue
		}
		outcomes[fmt.Sprintf("%d, code %d", a.Status, a.Code)]++
	}
	return outcomes
}

func TestAThousandCreatesOfOnePrefixGiveOneInstance(t *testing.T) {
	c := startCaddy(t, options{})
	callers := make([]ask, thousand)
	for n := range callers {
		callers[n] = creating("onlyonce")
	}
	begun := time.Now()
	outcomes := tally(t, askAtOnce(c.admin, callers))
	t.Logf("%d creates of one prefix: %v in %s", thousand, outcomes, time.Since(begun).Round(time.Millisecond))
	if outcomes["201, code 0"] != 1 || outcomes["400, code 1002"] != thousand-1 {
		t.Errorf("answers: %v, want one 201 and the rest 400 with code 1002", outcomes)
	}
	c.agreesWithDocker(t, 10*time.Second)
	c.visitor.mustGet(t, c.urlOf("onlyonce"))
}

func TestAThousandCreatesOnTwentyPorts(t *testing.T) {
	c := startCaddy(t, options{Ports: freeRange(20)})
	callers := make([]ask, thousand)
	for n := range callers {
		callers[n] = creating(fmt.Sprintf("caller%04d", n))
	}
	begun := time.Now()
	answers := askAtOnce(c.admin, callers)
	outcomes := tally(t, answers)
	t.Logf("%d creates on 20 ports: %v in %s", thousand, outcomes, time.Since(begun).Round(time.Millisecond))
	for _, a := range answers {
		switch {
		case a.err != nil:
		case a.Status == http.StatusCreated:
		case a.Status == http.StatusServiceUnavailable && (a.Code == 1008 || a.Code == 1106):
			if a.Header.Get("Retry-After") == "" {
				t.Errorf("no Retry-After: %s", a.raw)
			}
		default:
			t.Errorf("%s: %d %s", a.path, a.Status, a.raw)
		}
	}
	created := outcomes["201, code 0"]
	if created == 0 || created > 20 {
		t.Errorf("%d were created on 20 ports", created)
	}
	c.agreesWithDocker(t, 10*time.Second)
	if n := len(c.containers(t)); n != created {
		t.Errorf("%d containers after %d answers of 201", n, created)
	}
	// What was turned away can come back as long as there is a port.
	for ; created < 20; created++ {
		c.api.create(t, createRequest{})
	}
	c.api.call(t, http.MethodPost, "/api/instances", nil).expect(t, http.StatusServiceUnavailable, 1008)
}

// What callers send is not kept: neither of those that are served, nor of those
// that are turned away.
func TestAThousandLargeBodiesLeaveNothing(t *testing.T) {
	c := startCaddy(t, options{Ports: freeRange(5)})
	large := func(prefix, template string) ask {
		env := map[string]string{"BALLAST": strings.Repeat("x", 10<<10)}
		return ask{http.MethodPost, "/api/instances", createRequest{Prefix: prefix, Template: template, Env: env}}
	}
	c.admin.call(t, http.MethodPost, "/api/instances", large("largebody", "").body).expect(t, http.StatusCreated, 0)
	before := c.heap(t)
	const atOnce = 50
	for range thousand / atOnce {
		callers := make([]ask, atOnce)
		for n := range callers {
			callers[n] = large("largebody", "") // it exists
			if n%2 == 0 {
				callers[n] = large(fmt.Sprintf("caller%04d", n), "none")
			}
		}
		if outcomes := tally(t, askAtOnce(c.admin, callers)); outcomes["400, code 1002"] != atOnce/2 || outcomes["400, code 1007"] != atOnce/2 {
			t.Fatalf("answers: %v", outcomes)
		}
	}
	c.admin.http.CloseIdleConnections()
	eventually(t, 20*time.Second, func() error {
		if after := c.heap(t); after > before+5<<20 { // all bodies are 10 MiB
			return fmt.Errorf("%d KiB are in use, %d before", after>>10, before>>10)
		}
		return nil
	})
}

// heap is how many bytes Caddy has in use after a collection.
func (c *caddyServer) heap(t testing.TB) (inUse int) {
	t.Helper()
	res, err := http.Get("http://" + c.adminAddr + "/debug/pprof/heap?gc=1&debug=1")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	_, stats, _ := strings.Cut(string(text), "# HeapAlloc = ")
	if _, err := fmt.Sscan(stats, &inUse); err != nil {
		t.Fatalf("no figure of the heap in %s: %v", text, err)
	}
	return inUse
}

// connections opens n to an address. They are closed at the end of the test or
// by the returned function.
func connections(t testing.TB, address string, n int) (conns []net.Conn, closeAll func()) {
	t.Helper()
	closeAll = sync.OnceFunc(func() {
		for _, conn := range conns {
			conn.Close()
		}
	})
	t.Cleanup(func() { closeAll() })
	for range n {
		conn, err := net.DialTimeout("tcp", address, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	return conns, closeAll
}

func TestSlowAndIdleClientsHoldNobodyUp(t *testing.T) {
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "servedwell"})
	before := c.goroutines(t)

	const idleOnes = 5000
	_, hangUp := connections(t, c.visitor.addr, idleOnes)
	slow, giveUp := connections(t, fmt.Sprintf("127.0.0.1:%d", c.httpPort), 500)
	trickled := make(chan struct{})
	quit := make(chan struct{})
	go func() { // a byte a second each
		defer close(trickled)
		head := "GET / HTTP/1.1\r\nHost: servedwell." + domain + "\r\nX-Long: " + fmt.Sprintf("%01000d", 0)
		for n := range len(head) {
			for _, conn := range slow {
				_, _ = conn.Write([]byte{head[n]})
			}
			select {
			case <-quit:
				return
			case <-time.After(time.Second):
			}
		}
	}()

	visitors := c.visitor.keepVisiting(made.URL, 4)
	eventually(t, 60*time.Second, func() error { return visitors.served(1000) })
	other := c.api.create(t, createRequest{})
	c.visitor.mustGet(t, other.URL)
	busy := c.goroutines(t)
	served, p99 := visitors.stop(t)
	close(quit)
	<-trickled
	giveUp()
	hangUp()
	t.Logf("beside 500 slow and %d idle clients: %d requests served (p99 %s); %d goroutines before, %d then",
		idleOnes, served, p99, before, busy)
	eventually(t, 20*time.Second, func() error {
		if now := c.goroutines(t); now > before+40 {
			return fmt.Errorf("%d goroutines after the clients left, %d before they came", now, before)
		}
		return nil
	})
}

// 256 files are fewer than clients come: connections have to wait, those that
// there are go on, and nothing breaks.
func TestTooFewDescriptorsBreakNothing(t *testing.T) {
	const descriptors = 256
	c := startCaddy(t, options{Wrap: []string{"prlimit", fmt.Sprintf("--nofile=%d:%d", descriptors, descriptors)}})
	made := c.api.create(t, createRequest{Prefix: "fewfiles"})
	socket := c.visitor.dialWebSocket(t, made.URL+"/ws")
	c.visitor.mustGet(t, made.URL) // a connection that is there already

	_, hangUp := connections(t, fmt.Sprintf("127.0.0.1:%d", c.httpPort), 400)
	eventually(t, 20*time.Second, func() error {
		if open := c.openFiles(t); open < descriptors-8 {
			return fmt.Errorf("%d descriptors are open, want all %d", open, descriptors)
		}
		return nil
	})
	visitors := c.visitor.keepVisiting(made.URL, 1)
	eventually(t, 30*time.Second, func() error { return visitors.served(100) })
	served, p99 := visitors.stop(t)
	socket.echoes(t, "with no descriptor left")
	c.api.get(t, "fewfiles")
	refused := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "onemore1"})
	if refused.Status == http.StatusInternalServerError && refused.Code != 1201 {
		t.Errorf("a create without a descriptor: %d %s", refused.Status, refused.raw)
	}

	hangUp()
	begun := time.Now()
	if refused.Status != http.StatusCreated {
		c.api.eventuallyAnswers(t, 15*time.Second, http.StatusCreated, creating("onemore1"))
	}
	c.api.eventuallyAnswers(t, 15*time.Second, http.StatusCreated, creating("onemore2"))
	t.Logf("with all %d descriptors taken: %d requests served (p99 %s), a create answered %d (code %d); created %s after clients left",
		descriptors, served, p99, refused.Status, refused.Code, time.Since(begun).Round(time.Millisecond))
	socket.echoes(t, "with descriptors again")
	c.visitor.mustGet(t, c.urlOf("onemore1"))
	c.agreesWithDocker(t, 10*time.Second)

	// All that was answered is on disk.
	c.kill(t)
	c.mustStart(t)
	for _, prefix := range []string{"fewfiles", "onemore1", "onemore2"} {
		c.visitor.mustGet(t, c.urlOf(prefix))
	}
	c.agreesWithDocker(t, 20*time.Second)
}
