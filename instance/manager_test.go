package instance_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// bench is a Manager on the engine in memory.
type bench struct {
	*testing.T
	dir     string
	engine  *instancetest.Engine
	ports   instance.PortRange
	manager *instance.Manager
	adapt   func(*instance.Settings) // of what settings returns; nil: as they are
}

func newBench(t *testing.T, ports int) *bench {
	t.Helper()
	first := instancetest.FreePorts(t, ports)
	b := &bench{
		T: t, dir: t.TempDir(), engine: instancetest.NewEngine(t),
		ports: instance.PortRange{First: first, Last: first + ports - 1},
	}
	b.open()
	t.Cleanup(func() { b.manager.Close() })
	return b
}

func (b *bench) settings() *instance.Settings {
	template := instance.Template{
		Image: instancetest.Image, Port: 3000,
		Memory: 64 << 20, CPUs: 1, Pids: 64, Ready: time.Minute,
	}
	missing := template
	missing.Image = "no/such-image"
	s := &instance.Settings{
		Domain: "sandbox.example.com", URL: "https://{prefix}.{domain}", Ports: b.ports,
		PrefixLength: 16, Reserved: []string{"operators0wn"}, DefaultTemplate: "hello",
		Templates: map[string]instance.Template{"hello": template, "missing": missing},
		Log:       zaptest.NewLogger(b.T, zaptest.Level(zap.WarnLevel)),
	}
	if b.adapt != nil {
		b.adapt(s)
	}
	return s
}

// open starts a new Manager on the same directory and engine, as a new process
// would.
func (b *bench) open() {
	b.Helper()
	b.manager = instance.New(b.dir, func(owner string) (instance.Runtime, error) {
		return b.engine.Runtime(owner), nil
	})
	b.manager.Use(b.settings())
	if err := b.manager.Open(); err != nil {
		b.Fatal(err)
	}
}

func (b *bench) reopen() {
	b.Helper()
	if err := b.manager.Close(); err != nil {
		b.Fatal(err)
	}
	b.open()
}

func (b *bench) create(prefix string, env ...string) instance.Instance {
	b.Helper()
	in, err := b.manager.Create(b.Context(), request(prefix, env...))
	if err != nil {
		b.Fatal(err)
	}
	return in
}

func request(prefix string, env ...string) instance.CreateRequest {
	req := instance.CreateRequest{Env: map[string]string{}}
	if prefix != "" {
		req.Prefix = &prefix
	}
	for i := 0; i < len(env); i += 2 {
		req.Env[env[i]] = env[i+1]
	}
	return req
}

// fails checks err's kind.
func (b *bench) fails(err error, kind instance.Kind) {
	b.Helper()
	_ = b.failure(err, kind)
}

// failure checks err's kind and returns it for a look at its details.
func (b *bench) failure(err error, kind instance.Kind) *instance.Error {
	b.Helper()
	e, ok := errors.AsType[*instance.Error](err)
	if !ok || e.Kind != kind {
		b.Fatalf("got error %v, want kind %q", err, kind)
	}
	return e
}

// eventually awaits check. Its patience is so many looks, not so much time: a
// machine that stands still has none. On one that does not they take 10 s, in which
// no relist makes up for an event that was missed.
func (b *bench) eventually(what string, check func() bool) {
	b.Helper()
	const looks = 2000
	for range looks {
		if check() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	b.Fatalf("not within %d looks: %s", looks, what)
}

func (b *bench) awaitStatus(prefix string, status instance.Status, reason string) instance.Instance {
	b.Helper()
	var in instance.Instance
	b.eventually(fmt.Sprintf("%s is %s (%s)", prefix, status, reason), func() bool {
		in, _ = b.manager.Get(prefix)
		return in.Status == status && in.Reason == reason && in.Ready == (status == instance.Running)
	})
	return in
}

// nothingLeft checks that a failed create left no container, port or record.
func (b *bench) nothingLeft(prefix string) {
	b.Helper()
	if _, err := b.manager.Get(prefix); instance.KindOf(err) != instance.NotFound {
		b.Errorf("%s is still in the table: %v", prefix, err)
	}
	for _, c := range b.engine.Containers() {
		if c.Spec.Prefix == prefix {
			b.Errorf("%s still has a container", prefix)
		}
	}
	if data, _ := os.ReadFile(filepath.Join(b.dir, ".instances.json")); strings.Contains(string(data), prefix) {
		b.Errorf("%s is still on disk: %s", prefix, data)
	}
}

func (b *bench) answers(in instance.Instance) {
	b.Helper()
	lease, err := b.manager.Acquire(in.Prefix, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer lease.Release()
	res, err := http.Get("http://" + lease.Endpoint().Published.String())
	if err != nil {
		b.Fatal(err)
	}
	res.Body.Close()
}

func TestCreateReturnsARunningInstanceThatIsOnDisk(t *testing.T) {
	b := newBench(t, 2)
	in := b.create("abcdefgh", "GREETING", "hi")
	if in.Status != instance.Running || !in.Ready || in.Port != b.ports.First ||
		in.URL != "https://abcdefgh.sandbox.example.com" || in.ContainerID == "" || in.StartedAt == nil {
		t.Errorf("created %+v", in)
	}
	b.answers(in)
	c := b.engine.Containers()[0]
	for name, want := range map[string]string{
		"GREETING": "hi", "PORT": "3000", "HOST": "0.0.0.0", "SANDBOX_PREFIX": "abcdefgh",
		"SANDBOX_URL":                            in.URL,
		"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": ".sandbox.example.com",
	} {
		if got := c.Spec.Env[name]; got != want {
			t.Errorf("the container's %s is %q, want %q", name, got, want)
		}
	}
	data, _ := os.ReadFile(filepath.Join(b.dir, ".instances.json"))
	if !strings.Contains(string(data), `"status":"running"`) {
		t.Errorf("the state file does not know it runs: %s", data)
	}
}

func TestAGeneratedPrefixHasTheConfiguredLength(t *testing.T) {
	b := newBench(t, 1)
	if in := b.create(""); len(in.Prefix) != 16 || !instance.ValidPrefix(in.Prefix) {
		t.Errorf("generated %q", in.Prefix)
	}
}

func TestCreateRefuses(t *testing.T) {
	b := newBench(t, 2)
	b.create("taken000")
	ptr := func(s string) *string { return &s }
	port := func(p int) *int { return &p }
	many := map[string]string{}
	for i := range 129 {
		many[fmt.Sprint("A", i)] = ""
	}
	for name, test := range map[string]struct {
		req    instance.CreateRequest
		kind   instance.Kind
		detail string
	}{
		"a short prefix":           {request("short"), instance.BadPrefix, "rule"},
		"an empty prefix":          {instance.CreateRequest{Prefix: ptr("")}, instance.BadPrefix, "rule"},
		"a reserved prefix":        {request("localhost"), instance.BadPrefix, "rule"},
		"the operator's own":       {request("operators0wn"), instance.BadPrefix, "rule"},
		"a taken prefix":           {request("taken000"), instance.PrefixTaken, ""},
		"an unknown template":      {instance.CreateRequest{Template: ptr("nope")}, instance.NoTemplate, "templates"},
		"an empty template":        {instance.CreateRequest{Template: ptr("")}, instance.NoTemplate, "templates"},
		"a taken port":             {instance.CreateRequest{Port: port(b.ports.First)}, instance.PortTaken, "suggested_port"},
		"a port outside the range": {instance.CreateRequest{Port: port(80)}, instance.PortTaken, "suggested_port"},
		"port 0":                   {instance.CreateRequest{Port: port(0)}, instance.PortTaken, "suggested_port"},
		"a malformed env name":     {request("abcdefgh", "A-B", ""), instance.BadRequest, "field"},
		"a reserved env name":      {request("abcdefgh", "SANDBOX_URL", ""), instance.BadRequest, "field"},
		"a NUL in env":             {request("abcdefgh", "A", "\x00"), instance.BadRequest, "field"},
		"too much env":             {request("abcdefgh", "A", strings.Repeat("x", 32<<10)), instance.BadRequest, "field"},
		"too many env entries":     {instance.CreateRequest{Env: many}, instance.BadRequest, "field"},
		"a malformed label":        {instance.CreateRequest{Labels: map[string]string{"A": ""}}, instance.BadRequest, "field"},
		"a long label":             {instance.CreateRequest{Labels: map[string]string{"a": strings.Repeat("x", 257)}}, instance.BadRequest, "field"},
		"an unknown wait":          {instance.CreateRequest{Wait: "forever"}, instance.BadRequest, "field"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.manager.Create(t.Context(), test.req)
			if e := b.failure(err, test.kind); test.detail != "" && e.Details[test.detail] == nil {
				t.Errorf("%v has no detail %q: %v", e, test.detail, e.Details)
			}
		})
	}
	if n := len(b.engine.Containers()); n != 1 {
		t.Errorf("%d containers, want only the first", n)
	}
}

func TestAFailedCreateLeavesNothing(t *testing.T) {
	missing := "missing"
	for name, test := range map[string]struct {
		req  instance.CreateRequest
		kind instance.Kind
		text string
	}{
		"image missing": {instance.CreateRequest{Template: &missing}, instance.ImageMissing, ""},
		"exits":         {request("", "TEST_MODE", "exit", "TEST_EXIT_CODE", "7"), instance.Exited, "exited 7"},
		"never answers": {request("", "TEST_MODE", "silent"), instance.Timeout, "did not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 1)
			if test.kind == instance.Timeout {
				b.use(func(s *instance.Settings) {
					changeTemplate(s, "hello", func(t *instance.Template) { t.Ready = time.Second })
				})
			}
			prefix := "abcdefgh"
			test.req.Prefix = &prefix
			_, err := b.manager.Create(t.Context(), test.req)
			e := b.failure(err, test.kind)
			if !strings.Contains(e.Message, test.text) {
				t.Errorf("message %q does not contain %q", e.Message, test.text)
			}
			if test.kind == instance.Exited && e.Details["exit_code"] != 7 {
				t.Errorf("details %v have no exit code", e.Details)
			}
			if log, _ := e.Details["log"].([]string); test.kind != instance.ImageMissing && len(log) == 0 {
				t.Errorf("details %v have no last log lines", e.Details)
			}
			b.nothingLeft(prefix)
			b.create("anotherone") // on the only port
		})
	}
}

func TestASlowServerIsWaitedFor(t *testing.T) {
	b := newBench(t, 1)
	begun := time.Now()
	in := b.create("abcdefgh", "TEST_MODE", "slow", "TEST_DELAY", "1s")
	if took := time.Since(begun); took < time.Second || !in.Ready {
		t.Errorf("answered after %s, ready %v", took, in.Ready)
	}
}

func TestWaitStartedAnswersBeforeTheServerDoes(t *testing.T) {
	b := newBench(t, 2)
	create := func(prefix, delay string) (instance.Instance, error) {
		req := request(prefix, "TEST_MODE", "slow", "TEST_DELAY", delay)
		req.Wait = instance.WaitStarted
		return b.manager.Create(t.Context(), req)
	}
	in, err := create("abcdefgh", "1h")
	if err != nil || in.Status != instance.Running || in.Ready {
		t.Fatalf("got %+v, %v; want running and not ready", in, err)
	}
	_, err = b.manager.Acquire("abcdefgh", 0)
	b.fails(err, instance.NotRunning)
	if _, err := create("ijklmnop", "500ms"); err != nil {
		t.Fatal(err)
	}
	b.answers(b.awaitStatus("ijklmnop", instance.Running, ""))
}

func TestAnAnsweredCreateThatFailsIsKeptWithItsReason(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh", "TEST_MODE", "exit")
	req.Wait = instance.WaitNone
	in, err := b.manager.Create(t.Context(), req)
	if err != nil || in.Status != instance.Creating {
		t.Fatalf("got %+v, %v; want creating", in, err)
	}
	b.awaitStatus("abcdefgh", instance.Failed, "exited 3")
}

func TestOneOfManyCreatesOfAPrefixWins(t *testing.T) {
	b := newBench(t, 60)
	var won, taken atomic.Int64
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := b.manager.Create(t.Context(), request("abcdefgh"))
			switch {
			case err == nil:
				won.Add(1)
			case instance.KindOf(err) == instance.PrefixTaken:
				taken.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 || taken.Load() != 49 {
		t.Errorf("%d won, %d were told that it is taken", won.Load(), taken.Load())
	}
	if n := len(b.engine.Containers()); n != 1 {
		t.Errorf("%d containers", n)
	}
}

func TestParallelCreatesShareWrites(t *testing.T) {
	b := newBench(t, 64)
	watch := countWrites(t, filepath.Join(b.dir, ".instances.json"))
	var wg sync.WaitGroup
	for i := range 64 {
		wg.Go(func() {
			if _, err := b.manager.Create(t.Context(), request(fmt.Sprintf("prefix%02d", i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	// Each makes two changes: 128 writes without sharing. How many it takes
	// depends on how long the creates are at it.
	if n := watch(); n > 64 || n < 2 {
		t.Errorf("%d writes for 64 creates, want at most 64", n)
	}
	page, _ := b.manager.List(instance.Query{})
	seen := map[int]bool{}
	for _, in := range page.Instances {
		if seen[in.Port] || in.Status != instance.Running {
			t.Errorf("%+v has another's port, or does not run", in)
		}
		seen[in.Port] = true
	}
	if page.Total != 64 {
		t.Errorf("%d instances", page.Total)
	}
}

func TestARivalOnThePortCostsNoCreate(t *testing.T) {
	b := newBench(t, 3)
	// The rival comes after our probe, and before the engine's bind.
	rivals := 0
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Start" && rivals < 2 {
			rivals++
			return &instance.Error{Kind: instance.PortTaken, Message: "port is already allocated"}
		}
		return nil
	})
	in := b.create("abcdefgh")
	if in.Port != b.ports.Last {
		t.Errorf("port %d, want %d", in.Port, b.ports.Last)
	}
	if n := len(b.engine.Containers()); n != 1 {
		t.Errorf("%d containers, want 1", n)
	}
	b.answers(in)
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Start" {
			return &instance.Error{Kind: instance.PortTaken, Message: "address already in use"}
		}
		return nil
	})
	_, err := b.manager.Create(t.Context(), request("ijklmnop"))
	b.fails(err, instance.NoFreePort)
	b.nothingLeft("ijklmnop")
}

func TestAnIdempotencyKeyGivesTheFirstAnswerAgain(t *testing.T) {
	b := newBench(t, 3)
	req := request("", "TEST_MODE", "slow", "TEST_DELAY", "200ms")
	req.IdempotencyKey = "k1"
	got := make([]instance.Instance, 5)
	var wg sync.WaitGroup
	for i := range got {
		wg.Go(func() {
			var err error
			if got[i], err = b.manager.Create(t.Context(), req); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, in := range got {
		if in.Prefix != got[0].Prefix || !in.Ready {
			t.Errorf("got %+v, want the instance %s", in, got[0].Prefix)
		}
	}
	b.reopen() // the key is in the state
	again, err := b.manager.Create(t.Context(), req)
	if err != nil || again.Prefix != got[0].Prefix {
		t.Errorf("after a restart: %+v, %v", again, err)
	}
	other := request("another0")
	other.IdempotencyKey = "k1"
	_, err = b.manager.Create(t.Context(), other)
	b.fails(err, instance.BadRequest)
}

func TestStopStartRestartDelete(t *testing.T) {
	b := newBench(t, 1)
	created := b.create("abcdefgh")
	ctx := t.Context()
	for range 2 { // the second time it is no error
		in, err := b.manager.Stop(ctx, "abcdefgh")
		if err != nil || in.Status != instance.Stopped || in.Reason != instance.ReasonUser || in.StoppedAt == nil {
			t.Fatalf("stopped: %+v, %v", in, err)
		}
	}
	_, err := b.manager.Acquire("abcdefgh", 0)
	if e := b.failure(err, instance.NotRunning); e.Details["reason"] != instance.ReasonUser || e.RetryAfter == 0 {
		t.Errorf("acquiring a stopped one: %v %v", e, e.Details)
	}
	for range 2 {
		in, err := b.manager.Start(ctx, "abcdefgh", "")
		if err != nil || in.Status != instance.Running || !in.Ready || in.ContainerID != created.ContainerID ||
			in.Port != created.Port || in.Reason != "" || in.StoppedAt != nil {
			t.Fatalf("started: %+v, %v", in, err)
		}
		b.answers(in)
	}
	before, _ := b.manager.Get("abcdefgh")
	in, err := b.manager.Restart(ctx, "abcdefgh", "")
	if err != nil || in.Status != instance.Running || !in.StartedAt.After(*before.StartedAt) {
		t.Fatalf("restarted: %+v, %v", in, err)
	}
	in, err = b.manager.Delete(ctx, "abcdefgh")
	if err != nil || in.Status != instance.Deleting || in.Port != created.Port {
		t.Fatalf("deleted: %+v, %v", in, err)
	}
	b.nothingLeft("abcdefgh")
	_, err = b.manager.Create(ctx, request("ijklmnop"))
	b.fails(err, instance.NoFreePort) // the port rests
	for _, op := range []func() (instance.Instance, error){
		func() (instance.Instance, error) { return b.manager.Delete(ctx, "abcdefgh") },
		func() (instance.Instance, error) { return b.manager.Stop(ctx, "abcdefgh") },
		func() (instance.Instance, error) { return b.manager.Start(ctx, "abcdefgh", "") },
	} {
		_, err := op()
		b.fails(err, instance.NotFound)
	}
}

func TestAnInstanceHasOneOperationAtATime(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	stopping, goOn := make(chan struct{}), make(chan struct{})
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Stop" {
			close(stopping)
			<-goOn
		}
		return nil
	})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
			t.Error(err)
		}
	})
	<-stopping
	wg.Go(func() { // joins the stop in progress
		if in, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil || in.Status != instance.Stopped {
			t.Error(in, err)
		}
	})
	_, err := b.manager.Delete(t.Context(), "abcdefgh")
	if e := b.failure(err, instance.Busy); e.Details["status"] != instance.Stopping {
		t.Errorf("details %v", e.Details)
	}
	close(goOn)
	wg.Wait()
}

func TestADeletedPortIsNotGivenOutRightAfterARestart(t *testing.T) {
	b := newBench(t, 2)
	port := b.create("abcdefgh").Port
	if _, err := b.manager.Delete(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	b.reopen()
	req := request("anotherone")
	req.Port = &port
	_, err := b.manager.Create(t.Context(), req)
	b.fails(err, instance.PortTaken)
	if in := b.create("anotherone"); in.Port == port {
		t.Errorf("port %d was given out while a client of its last instance may still be connected", port)
	}
}

// Docker may finish a create that nobody waits for any more.
func TestAContainerThatComesLateIsRemovedSoon(t *testing.T) {
	b := newBench(t, 2)
	in := b.create("abcdefgh")
	spec := b.engine.Containers()[0].Spec
	spec.Prefix, spec.Port = "latecomer", in.Port+1
	data, err := os.ReadFile(filepath.Join(b.dir, ".instances.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Owner string }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	if _, err := b.engine.Runtime(file.Owner).Create(t.Context(), spec); err != nil {
		t.Fatal(err)
	}
	b.eventually("the late container is gone", func() bool { return len(b.engine.Containers()) == 1 })
	b.answers(in)
}

func TestTwoDeletesDoNotBringTheRecordBack(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			_, err := b.manager.Delete(t.Context(), "abcdefgh")
			if kind := instance.KindOf(err); err != nil && kind != instance.Busy && kind != instance.NotFound {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	b.nothingLeft("abcdefgh")
}

func TestListPagesAndFilters(t *testing.T) {
	b := newBench(t, 5)
	for _, prefix := range []string{"aaaaaaaa", "bbbbbbbb", "cccccccc"} {
		req := request(prefix)
		req.Labels = map[string]string{"team": prefix[:1]}
		if _, err := b.manager.Create(t.Context(), req); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := b.manager.Stop(t.Context(), "bbbbbbbb"); err != nil {
		t.Fatal(err)
	}
	prefixes := func(q instance.Query) string {
		page, err := b.manager.List(q)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{}
		for _, in := range page.Instances {
			names = append(names, in.Prefix[:1])
		}
		return fmt.Sprint(strings.Join(names, ""), page.Total, page.Next)
	}
	for q, want := range map[*instance.Query]string{
		{}:                                       "abc3",
		{Limit: 2}:                               "ab3bbbbbbbb",
		{Limit: 2, After: "bbbbbbbb"}:            "c3",
		{Limit: 3}:                               "abc3",
		{Status: instance.Stopped}:               "b1",
		{Template: "hello"}:                      "abc3",
		{Template: "other"}:                      "0",
		{Labels: map[string]string{"team": "c"}}: "c1",
	} {
		if got := prefixes(*q); got != want {
			t.Errorf("List(%+v) = %s, want %s", *q, got, want)
		}
	}
	for _, q := range []instance.Query{{Limit: 1001}, {Limit: -1}, {Status: "asleep"}} {
		_, err := b.manager.List(q)
		b.fails(err, instance.BadRequest)
	}
}

func TestARestartDisturbsNothing(t *testing.T) {
	b := newBench(t, 3)
	running, stopped := b.create("aaaaaaaa"), b.create("bbbbbbbb")
	if _, err := b.manager.Stop(t.Context(), "bbbbbbbb"); err != nil {
		t.Fatal(err)
	}
	b.answers(running)
	active, _ := b.manager.Get("aaaaaaaa")
	starts := b.engine.Calls("Start")
	b.reopen()
	got, _ := b.manager.Get("aaaaaaaa")
	if got.LastActiveAt == nil || !got.LastActiveAt.Equal(*active.LastActiveAt) {
		t.Errorf("last active at %v, was %v", got.LastActiveAt, active.LastActiveAt)
	}
	b.answers(running) // before the engine was asked anything, from the record alone
	if got.ContainerID != running.ContainerID || got.Port != running.Port || !got.StartedAt.Equal(*running.StartedAt) {
		t.Errorf("it is now %+v, was %+v", got, running)
	}
	third := b.create("cccccccc")
	if third.Port == running.Port || third.Port == stopped.Port {
		t.Errorf("port %d was given twice", third.Port)
	}
	if n := b.engine.Calls("Start"); n != starts+1 {
		t.Errorf("%d containers were started, want only the new one", n-starts)
	}
	b.awaitStatus("bbbbbbbb", instance.Stopped, instance.ReasonUser)
}

func TestWorkDoneByHandIsFollowed(t *testing.T) {
	b := newBench(t, 1)
	in := b.create("abcdefgh")
	b.engine.StopByHand(in.ContainerID)
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonOutside)
	if err := b.engine.StartByHand(in.ContainerID); err != nil {
		t.Fatal(err)
	}
	b.answers(b.awaitStatus("abcdefgh", instance.Running, ""))
	b.engine.RemoveByHand(in.ContainerID)
	b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonRemoved)
	again, err := b.manager.Start(t.Context(), "abcdefgh", "")
	if err != nil || again.Generation != 2 || again.ContainerID == in.ContainerID || again.Port != in.Port {
		t.Errorf("started anew: %+v, %v", again, err)
	}
	b.answers(again)
}

func TestALostStateComesBackFromTheContainers(t *testing.T) {
	b := newBench(t, 3)
	running := b.create("aaaaaaaa", "SECRET", "s3cret")
	b.create("bbbbbbbb")
	if _, err := b.manager.Stop(t.Context(), "bbbbbbbb"); err != nil {
		t.Fatal(err)
	}
	b.manager.Close()
	if err := os.Remove(filepath.Join(b.dir, ".instances.json")); err != nil {
		t.Fatal(err)
	}
	b.open()
	got := b.awaitStatus("aaaaaaaa", instance.Running, "")
	if got.ContainerID != running.ContainerID || got.Port != running.Port || got.Template != "hello" {
		t.Errorf("came back as %+v, was %+v", got, running)
	}
	b.answers(got)
	b.awaitStatus("bbbbbbbb", instance.Stopped, instance.ReasonOutside)

	// Nobody has looked at it yet, so nothing new may take a place in it.
	for range 2 { // not after a restart either
		_, err := b.manager.Create(t.Context(), request("cccccccc"))
		b.fails(err, instance.StateFailed)
		if h, _ := b.manager.Health(t.Context()); h.Status != "degraded" || h.State.Degraded == "" || len(h.Advice) != 1 || len(h.Drift) != 0 {
			t.Errorf("health is %+v", h)
		}
		b.reopen()
	}
	b.answers(got)
	if err := b.manager.Confirm(); err != nil {
		t.Fatal(err)
	}
	b.create("cccccccc")
	if h, _ := b.manager.Health(t.Context()); h.Status != "ok" || h.Instances[instance.Running] != 2 {
		t.Errorf("health is %+v", h)
	}
}

func TestHealthWithoutTheEngine(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.engine.Fault(func(context.Context, string, string) error {
		return &instance.Error{Kind: instance.EngineDown, Message: "no engine"}
	})
	h, _ := b.manager.Health(t.Context())
	if h.Status != "degraded" || h.Docker.Status != "down" || h.Docker.Error != "no engine" || len(h.Advice) != 1 {
		t.Errorf("health is %+v", h)
	}
}

func TestDriftTellsWhatReconcilingWouldDo(t *testing.T) {
	b := newBench(t, 1)
	in := b.create("abcdefgh")
	b.engine.DropEvents(true)
	b.engine.RemoveByHand(in.ContainerID)
	drift, err := b.manager.Drift(t.Context())
	if err != nil || len(drift) != 1 || drift[0] != "correct abcdefgh to stopped: container removed" {
		t.Errorf("drift is %q, %v", drift, err)
	}
	if got, _ := b.manager.Get("abcdefgh"); got.Status != instance.Running {
		t.Errorf("looking made it %s", got.Status)
	}
}

func TestAnInterruptedCreateIsUndoneAtTheNextOpen(t *testing.T) {
	b := newBench(t, 1)
	req := request("abcdefgh", "TEST_MODE", "silent")
	req.Wait = instance.WaitNone
	if _, err := b.manager.Create(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	b.eventually("the container runs", func() bool {
		all := b.engine.Containers()
		return len(all) == 1 && all[0].Running
	})
	b.reopen()
	b.eventually("it is undone", func() bool {
		_, err := b.manager.Get("abcdefgh")
		return err != nil
	})
	b.nothingLeft("abcdefgh")
}

func TestWithoutTheEngineReadsAndRoutesGoOn(t *testing.T) {
	b := newBench(t, 2)
	in := b.create("abcdefgh")
	b.manager.Close()
	down := &instance.Error{Kind: instance.EngineDown, Message: "no engine"}
	b.engine.Fault(func(context.Context, string, string) error { return down })
	b.open()
	b.answers(in)
	_, err := b.manager.Create(t.Context(), request("ijklmnop"))
	b.fails(err, instance.EngineDown)
	_, err = b.manager.Stop(t.Context(), "abcdefgh")
	b.fails(err, instance.EngineDown)
	if got, err := b.manager.Get("abcdefgh"); err != nil || got.Status != instance.Running {
		t.Errorf("Get = %+v, %v", got, err)
	}
	b.engine.Fault(nil)
	b.engine.Reconnect()
	b.eventually("creates work again", func() bool {
		_, err := b.manager.Create(t.Context(), request("ijklmnop"))
		return err == nil
	})
}

func TestATooLongQueueIsRefused(t *testing.T) {
	b := newBench(t, 100)
	goOn := make(chan struct{})
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Create" {
			<-goOn
		}
		return nil
	})
	var refused, created atomic.Int64
	var wg sync.WaitGroup
	for range 90 {
		wg.Go(func() {
			_, err := b.manager.Create(t.Context(), request(""))
			switch {
			case err == nil:
				created.Add(1)
			case instance.KindOf(err) == instance.Overloaded:
				refused.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	b.eventually("18 of 90 are refused", func() bool { return refused.Load() == 18 })
	page, _ := b.manager.List(instance.Query{Limit: 1})
	_, err := b.manager.Create(t.Context(), request(page.Instances[0].Prefix))
	b.fails(err, instance.PrefixTaken) // that is so, however long the queue
	close(goOn)
	wg.Wait()
	if created.Load() != 72 {
		t.Errorf("%d were created, want 8 at work and 64 waiting", created.Load())
	}
}

func TestConnectionsEndWithTheirContainer(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	lease, err := b.manager.Acquire("abcdefgh", 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lease.Release()
	endpoint := lease.Endpoint()
	conn := make(closer)
	endpoint.Track(conn)
	forgotten := make(closer)
	endpoint.Track(forgotten)()
	if _, err := b.manager.Restart(t.Context(), "abcdefgh", ""); err != nil {
		t.Fatal(err)
	}
	<-conn
	late := make(closer)
	endpoint.Track(late)
	<-late
	select {
	case <-forgotten:
		t.Error("a connection that was closed before was closed again")
	default:
	}
	if next := lease.Endpoint(); next == nil || next.Key() == endpoint.Key() {
		t.Errorf("the endpoint is still %v", next)
	}
}

type closer chan struct{}

func (c closer) Close() error { close(c); return nil }

func TestKnownIsWhatMayHaveACertificate(t *testing.T) {
	b := newBench(t, 1)
	if b.manager.Known("abcdefgh", 0) {
		t.Error("known before it was created")
	}
	b.create("abcdefgh")
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	if !b.manager.Known("abcdefgh", 0) {
		t.Error("unknown while stopped")
	}
	if _, err := b.manager.Delete(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	if b.manager.Known("abcdefgh", 0) {
		t.Error("known after its end")
	}
}

func TestCloseEndsWhatIsInProgress(t *testing.T) {
	b := newBench(t, 1)
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call == "Create" {
			<-ctx.Done()
			return ctx.Err()
		}
		return nil
	})
	failed := make(chan error)
	go func() {
		_, err := b.manager.Create(context.Background(), request("abcdefgh"))
		failed <- err
	}()
	b.eventually("the create is at work", func() bool { return b.engine.Calls("Create") == 1 })
	if err := b.manager.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-failed; err == nil {
		t.Error("the create cut short by Close was acknowledged")
	}
	_, err := b.manager.Create(t.Context(), request("ijklmnop"))
	if err == nil {
		t.Error("a create after Close was accepted")
	}
}

func TestOnlyNewBytesOfAProjectionAreTold(t *testing.T) {
	b := newBench(t, 2)
	told := make(chan string, 99)
	s := b.settings()
	s.Projected = func(path string) { told <- path }
	b.manager.Use(s)
	b.create("abcdefgh")
	if path := <-told; path != "config/subdomain-proxy.json" {
		t.Errorf("told of %s", path)
	}
	for len(told) > 0 {
		<-told
	}
	if _, err := b.manager.Start(t.Context(), "abcdefgh", ""); err != nil { // it runs: nothing changes
		t.Fatal(err)
	}
	if len(told) > 0 {
		t.Errorf("told of %s though nothing changed", <-told)
	}
}

func TestTheStateFileIsJSONThatOthersCanRead(t *testing.T) {
	b := newBench(t, 2)
	b.create("abcdefgh")
	data, err := os.ReadFile(filepath.Join(b.dir, ".instances.json"))
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Version   int
		Owner     string
		NextPort  int
		Instances map[string]map[string]any
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatalf("%v in %s", err, data)
	}
	if file.Version != 1 || len(file.Owner) != 36 || file.NextPort != b.ports.First+1 ||
		file.Instances["abcdefgh"]["port"] != float64(b.ports.First) {
		t.Errorf("the file holds %s", data)
	}
}
