package test

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// storm is what reloads came to.
type storm struct {
	good, bad int
	last      int // the number of the last configuration that took effect
}

// reloadFor loads another configuration every 100 ms, or as fast as Caddy
// takes them. Each tenth cannot work; inForce then checks that the one before
// still holds.
func (c *caddyServer) reloadFor(t testing.TB, lasting time.Duration, inForce func(last int)) (s storm) {
	t.Helper()
	taken := listenOn(t, freePort())
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(lasting); time.Now().Before(end); <-tick.C {
		n := s.good + s.bad
		next := *c
		next.Sandbox = fmt.Sprintf("prefix_length %d", 10+n%40)
		next.Proxy = fmt.Sprintf("header_up X-Config %d", n)
		if n%10 == 9 {
			next.Sites = fmt.Sprintf("https://other.localhost:%d {\n\tbind 127.0.0.1\n\ttls internal\n}\n", taken)
		}
		status, err := c.load(next.caddyfile())
		switch {
		case err != nil:
			t.Fatalf("load %d: %v", n, err)
		case n%10 == 9:
			s.bad++
			if status == http.StatusOK {
				t.Errorf("load %d was to fail", n)
			}
			inForce(s.last)
		default:
			s.good++
			s.last = n
			if status != http.StatusOK {
				t.Errorf("load %d: %d", n, status)
			}
		}
	}
	return s
}

// load puts a configuration in force through the admin endpoint. That one is
// replaced, too: a connection that it drops unread is no answer, and configurations
// may be loaded twice.
func (c *caddyServer) load(caddyfile string) (status int, err error) {
	client := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range 10 {
		var res *http.Response
		res, err = client.Post("http://"+c.adminAddr+"/load", "text/caddyfile", strings.NewReader(caddyfile))
		if status, err = statusOf(res, err); err == nil {
			return status, c.onlyOneListens()
		}
	}
	return 0, err
}

// worker creates instances and deletes every second one, as callers do who
// repeat what was not answered.
type worker struct {
	api    apiClient
	name   string
	asked  int      // how many creates
	kept   []string // prefixes that were answered, and not deleted
	gone   []string // the deleted
	failed []error
	lost   int // requests whose connection was dropped, and which were repeated
}

func (w *worker) work(quit <-chan struct{}) {
	for w.asked = 0; ; {
		select {
		case <-quit:
			return
		default:
		}
		key := header{"Idempotency-Key", fmt.Sprintf("%s-%d", w.name, w.asked)}
		w.asked++
		a, err := w.insist(http.MethodPost, "/api/instances?wait=started", createRequest{Labels: map[string]string{"key": key.value}}, key)
		switch {
		case err != nil:
			w.failed = append(w.failed, err)
			continue
		case a.Status != http.StatusCreated:
			w.failed = append(w.failed, fmt.Errorf("create: %d %s", a.Status, a.raw))
			continue
		}
		prefix := prefixIn(a)
		if w.asked%2 == 1 {
			w.kept = append(w.kept, prefix)
			continue
		}
		a, err = w.insist(http.MethodDelete, "/api/instances/"+prefix, nil)
		if err == nil && a.Status != http.StatusOK && a.Code != 1004 { // 1004: the first answer got lost
			err = fmt.Errorf("delete: %d %s", a.Status, a.raw)
		}
		if err != nil {
			w.failed = append(w.failed, err)
			continue
		}
		w.gone = append(w.gone, prefix)
	}
}

// insist repeats what was not answered, and what was answered with "later".
func (w *worker) insist(method, path string, body any, headers ...header) (a answer, err error) {
	for end := time.Now().Add(60 * time.Second); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		a, err = w.api.try(method, path, body, headers...)
		if err != nil {
			w.lost++
			continue
		}
		switch a.Code {
		case 1005, 1106, 1108, 1102, 1103: // the latter two: Docker is slow in such a storm
		default:
			return a, nil
		}
	}
	return a, errors.Join(err, fmt.Errorf("%s %s: no answer within a minute, last %d %s", method, path, a.Status, a.raw))
}

// prefixIn is that of the instance in an answer.
func prefixIn(a answer) string {
	_, rest, _ := strings.Cut(string(a.Data), `"prefix":"`)
	prefix, _, _ := strings.Cut(rest, `"`)
	return prefix
}

// Not parallel: it takes all of the machine.
func TestAStormOfReloadsDisturbsNobody(t *testing.T) {
	const lasting, sockets = time.Minute, 200
	c := startCaddy(t, options{Ports: freeRange(900)})
	made := c.api.create(t, createRequest{Prefix: "inthestorm"})
	if _, err := c.load(c.caddyfile()); err != nil { // what the first reload costs for good is not counted
		t.Fatal(err)
	}
	c.visitor.mustGet(t, made.URL)
	goroutines, files := c.goroutines(t), c.openFiles(t)

	open := make([]webSocket, sockets)
	for n := range open {
		open[n] = c.visitor.dialWebSocket(t, made.URL+"/ws")
		open[n].echoes(t, fmt.Sprintf("hello %d", n))
	}
	stream, err := c.visitor.client.Get(made.URL + "/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	streamed := new(countingReader)
	go streamed.drain(stream)

	workers := []*worker{{api: c.api, name: "site-1"}, {api: c.api, name: "site-2"}, {api: c.admin, name: "admin-1"}, {api: c.admin, name: "admin-2"}}
	quit := make(chan struct{})
	var working sync.WaitGroup
	for _, w := range workers {
		working.Go(func() { w.work(quit) })
	}
	inForce := func(last int) {
		t.Helper()
		var headers struct{ Headers http.Header }
		c.visitor.getJSON(t, made.URL+"/headers", &headers)
		if got := headers.Headers.Get("X-Config"); got != fmt.Sprint(last) {
			t.Errorf("X-Config is %s, want that of the last good configuration, %d", got, last)
		}
	}
	storm := c.reloadFor(t, lasting, inForce)
	close(quit)
	working.Wait()
	if storm.good < int(lasting/time.Second) || storm.bad < storm.good/10 {
		t.Errorf("%d reloads and %d failing ones in %s: that is no storm", storm.good, storm.bad, lasting)
	}

	// No socket was closed, nor the stream.
	for n, socket := range open {
		socket.echoes(t, fmt.Sprintf("still %d", n))
	}
	seen := streamed.bytes.Load()
	eventually(t, 5*time.Second, func() error {
		if streamed.bytes.Load() == seen {
			return errors.New("the stream stands still")
		}
		return nil
	})
	inForce(storm.last)
	asked, lost := checkWorkers(t, c, workers)

	for _, socket := range open {
		socket.Close()
	}
	stream.Body.Close()
	c.visitor.forgetConnections()
	c.admin.http.CloseIdleConnections()
	var goroutinesLeft, filesLeft int
	// Half a minute: connections that idle towards the engine are closed then.
	eventually(t, 60*time.Second, func() error {
		goroutinesLeft, filesLeft = c.goroutines(t), c.openFiles(t)
		if goroutinesLeft > goroutines+30 || filesLeft > files+20 {
			return fmt.Errorf("%d goroutines and %d descriptors, %d and %d before the storm", goroutinesLeft, filesLeft, goroutines, files)
		}
		return nil
	})
	t.Logf("%d reloads and %d failing ones in %s, %d creates, %d requests dropped unread and repeated, %d sockets open all the time; "+
		"goroutines %d before and %d after, descriptors %d and %d",
		storm.good, storm.bad, lasting, asked, lost, sockets, goroutines, goroutinesLeft, files, filesLeft)
}

// countingReader counts what a stream brings.
type countingReader struct{ bytes atomic.Int64 }

func (r *countingReader) drain(res *http.Response) {
	buffer := make([]byte, 4096)
	for {
		n, err := res.Body.Read(buffer)
		r.bytes.Add(int64(n))
		if err != nil {
			return
		}
	}
}

// checkWorkers checks that what they were told is so, one instance per key.
func checkWorkers(t testing.TB, c *caddyServer, workers []*worker) (asked, lost int) {
	t.Helper()
	c.agreesWithDocker(t, 40*time.Second)
	perKey, present := map[string]int{}, map[string]bool{}
	for _, i := range c.api.list(t, "?limit=1000").Instances {
		present[i.Prefix] = true
		if key := i.Labels["key"]; key != "" {
			perKey[key]++
		}
	}
	kept := 0
	for _, w := range workers {
		asked, lost, kept = asked+w.asked, lost+w.lost, kept+len(w.kept)
		for _, err := range w.failed {
			t.Errorf("%s: %v", w.name, err)
		}
		for _, prefix := range w.kept {
			if !present[prefix] {
				t.Errorf("%s: %q was answered and is lost", w.name, prefix)
			}
		}
		for _, prefix := range w.gone {
			if present[prefix] {
				t.Errorf("%s: %q was deleted and is there", w.name, prefix)
			}
		}
	}
	for key, n := range perKey {
		if n != 1 {
			t.Errorf("%d instances of key %s", n, key)
		}
	}
	if len(perKey) != kept {
		t.Errorf("%d instances with a key, %d were answered and kept", len(perKey), kept)
	}
	if kept == 0 {
		t.Error("no instance was created during the storm")
	}
	return asked, lost
}
