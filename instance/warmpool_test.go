package instance_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// newPool is a bench whose template has a pool of size spares, all ready.
func newPool(t *testing.T, ports, size int) *bench {
	t.Helper()
	b := newBench(t, ports)
	b.use(func(s *instance.Settings) { changeTemplate(s, "hello", func(t *instance.Template) { t.Pool = size }) })
	b.awaitSpares(size)
	return b
}

func changeTemplate(s *instance.Settings, name string, change func(*instance.Template)) {
	t := s.Templates[name]
	change(&t)
	s.Templates[name] = t
}

// use changes the settings from now on, as a reload does.
func (b *bench) use(change func(*instance.Settings)) {
	b.Helper()
	before := b.adapt
	b.adapt = func(s *instance.Settings) {
		if before != nil {
			before(s)
		}
		change(s)
	}
	b.manager.Use(b.settings())
}

// spares are the containers of the pools by their ids.
func (b *bench) spares() map[string]instance.Container {
	all := map[string]instance.Container{}
	for _, c := range b.engine.Containers() {
		if c.Spec.IsSpare() {
			all[c.ID] = c
		}
	}
	return all
}

// awaitSpares waits until that many are ready, and there are no others.
func (b *bench) awaitSpares(n int) map[string]instance.Container {
	b.Helper()
	var spares map[string]instance.Container
	b.eventually(fmt.Sprintf("%d spares are ready", n), func() bool {
		ready := 0
		for _, h := range b.manager.Pools() {
			ready += h.Ready
		}
		spares = b.spares()
		return ready == n && len(spares) == n
	})
	return spares
}

func (b *bench) take() instance.Instance {
	b.Helper()
	in, err := b.manager.Create(b.Context(), instance.CreateRequest{})
	if err != nil {
		b.Fatal(err)
	}
	return in
}

func (b *bench) container(id string) instance.Container {
	b.Helper()
	for _, c := range b.engine.Containers() {
		if c.ID == id {
			return c
		}
	}
	b.Fatalf("there is no container %s", id)
	return instance.Container{}
}

func TestACreateTakesASpareAndThePoolRefills(t *testing.T) {
	b := newPool(t, 10, 2)
	spares := b.spares()
	begun := time.Now()
	in := b.take()
	spare, wasSpare := spares[in.ContainerID]
	if !wasSpare || in.Status != instance.Running || !in.Ready || in.Port != spare.Spec.Port || in.Prefix != spare.Spec.Spare {
		t.Fatalf("created %+v of %v", in, spares)
	}
	if in.CreatedAt.Before(begun.Truncate(time.Millisecond)) || in.LastActiveAt == nil || in.LastActiveAt.Before(in.CreatedAt) {
		t.Errorf("it was created at %s and used at %v, after %s", in.CreatedAt, in.LastActiveAt, begun)
	}
	b.answers(in)
	c := b.container(in.ContainerID)
	if c.Spec.Prefix != in.Prefix || c.Spec.Env["SANDBOX_PREFIX"] != in.Prefix || c.Spec.Env["SANDBOX_URL"] != in.URL {
		t.Errorf("its container is that of %+v", c.Spec)
	}
	if routes := b.file("config/subdomain-proxy.json"); !strings.Contains(routes, in.Prefix) || strings.Contains(routes, "pool-") {
		t.Errorf("the routes are %s", routes)
	}
	b.awaitSpares(2)
	if _, err := b.manager.Delete(t.Context(), in.Prefix); err != nil {
		t.Fatal(err)
	}
	b.nothingLeft(in.Prefix)
}

func TestSparesAreNobodys(t *testing.T) {
	b := newPool(t, 10, 3)
	page, err := b.manager.List(instance.Query{})
	if err != nil || page.Total != 0 {
		t.Errorf("listed %+v, %v", page, err)
	}
	health, err := b.manager.Health(t.Context())
	if err != nil || len(health.Instances) != 0 || len(health.Drift) != 0 || health.Pools["hello"] != (instance.PoolHealth{Wanted: 3, Ready: 3}) {
		t.Errorf("health is %+v, %v", health, err)
	}
	for _, c := range b.spares() {
		for _, prefix := range []string{c.Spec.Spare, c.Spec.Prefix} {
			for name, err := range map[string]error{
				"Get": second(b.manager.Get(prefix)), "Acquire": second(b.manager.Acquire(prefix, 0)),
				"Touch": second(b.manager.Touch(prefix)), "Wake": second(b.manager.Wake(t.Context(), prefix, nil)),
				"Start": second(b.manager.Start(t.Context(), prefix, "")), "Stop": second(b.manager.Stop(t.Context(), prefix)),
				"Delete":  second(b.manager.Delete(t.Context(), prefix)),
				"AddHost": second(b.manager.AddHost(t.Context(), prefix, "app.example.org")),
			} {
				if instance.KindOf(err) != instance.NotFound {
					t.Errorf("%s of the spare %s: %v", name, prefix, err)
				}
			}
			if b.manager.Known(prefix, 0) || b.manager.Certify(prefix, 0) {
				t.Errorf("%s gets a certificate", prefix)
			}
		}
		_, err := b.manager.Create(t.Context(), request(c.Spec.Prefix))
		b.fails(err, instance.BadPrefix)
		if routes := b.file("config/subdomain-proxy.json"); strings.Contains(routes, c.Spec.Spare) {
			t.Errorf("the routes are %s", routes)
		}
	}
}

func TestWhatDoesNotFitIsMadeAsEver(t *testing.T) {
	b := newPool(t, 10, 1)
	port := b.ports.Last
	for name, req := range map[string]instance.CreateRequest{
		"a prefix": request("abcdefgh"),
		"env":      request("", "GREETING", "hi"),
		"labels":   {Labels: map[string]string{"team": "red"}},
		"ports":    {Ports: []int{9229}},
		"a port":   {Port: &port},
	} {
		spares := b.spares()
		in, err := b.manager.Create(t.Context(), req)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if _, taken := spares[in.ContainerID]; taken {
			t.Errorf("%s: took a spare", name)
		}
	}
}

func TestALifetimeOfItsOwnFits(t *testing.T) {
	b := newPool(t, 3, 1)
	spares := b.spares()
	in, err := b.manager.Create(t.Context(), instance.CreateRequest{Lifetime: instance.Lifetime{TTL: new(instance.Duration(time.Hour))}})
	if _, taken := spares[in.ContainerID]; err != nil || !taken || in.TTL != instance.Duration(time.Hour) || in.ExpiresAt == nil {
		t.Errorf("created %+v, %v", in, err)
	}
}

// A spare is used from when it is taken, however long it has been waiting.
func TestSparesDoNotAgeAndTheirInstancesDo(t *testing.T) {
	b := newBench(t, 6)
	b.use(func(s *instance.Settings) {
		changeTemplate(s, "hello", func(t *instance.Template) {
			t.Pool = 1
			t.Lifetime = instance.Lifetime{IdleTimeout: new(short), TTL: new(2 * short)}
		})
	})
	spares := b.awaitSpares(1)
	never := time.After(2500 * time.Millisecond)
	for waiting := true; waiting; {
		select {
		case <-never: // the time that it must not end in
			waiting = false
		case <-time.After(50 * time.Millisecond):
			if now := b.spares(); !maps.EqualFunc(now, spares, func(a, b instance.Container) bool { return a.StartedAt.Equal(b.StartedAt) && a.Running }) {
				t.Fatalf("the spares were %v, and are %v", spares, now)
			}
		}
	}
	begun := time.Now().Truncate(time.Millisecond)
	in := b.take()
	if least := begun.Add(time.Duration(short)); in.IdleAt == nil || in.IdleAt.Before(least) {
		t.Errorf("it is idle at %v, want %s or later", in.IdleAt, least)
	}
	if least := begun.Add(2 * time.Duration(short)); in.ExpiresAt.Before(least) {
		t.Errorf("it expires at %s, want %s or later", in.ExpiresAt, least)
	}
	b.eventually("its lifetime ends", func() bool {
		_, err := b.manager.Get(in.Prefix)
		return instance.KindOf(err) == instance.NotFound
	})
}

func TestEachSpareIsTakenOnce(t *testing.T) {
	const creates, size = 1000, 5
	b := newPool(t, 300, size)
	core, logs := observer.New(zap.InfoLevel)
	b.use(func(s *instance.Settings) { s.Log = zap.New(core) })
	spares := b.spares()
	var mu sync.Mutex
	var made []instance.Instance
	var all sync.WaitGroup
	for range creates {
		all.Go(func() {
			in, err := b.manager.Create(t.Context(), instance.CreateRequest{})
			switch {
			case err == nil:
				mu.Lock()
				made = append(made, in)
				mu.Unlock()
			case instance.KindOf(err) != instance.Overloaded:
				t.Error(err)
			}
		})
	}
	all.Wait()
	owners, prefixes, ports := map[string]string{}, map[string]bool{}, map[int]bool{}
	for _, in := range made {
		if other := owners[in.ContainerID]; other != "" || prefixes[in.Prefix] || ports[in.Port] {
			t.Errorf("%s has the container of %s, prefix twice %v, port twice %v", in.Prefix, other, prefixes[in.Prefix], ports[in.Port])
		}
		owners[in.ContainerID], prefixes[in.Prefix], ports[in.Port] = in.Prefix, true, true
	}
	tooSlow := map[any]bool{} // in a rush a spare may not answer in time
	for _, line := range logs.FilterMessage("removing a spare").All() {
		said := line.ContextMap()
		tooSlow[said["prefix"]] = strings.Contains(fmt.Sprint(said["why"]), "did not answer within")
	}
	for id, spare := range spares {
		if owners[id] == "" && !tooSlow[spare.Spec.Prefix] {
			t.Errorf("spare %s was not taken, by %d creates", spare.Spec.Prefix, len(made))
		}
	}
	b.awaitSpares(size)
	if n := len(b.engine.Containers()); n != size+len(made) {
		t.Errorf("%d containers for %d instances and %d spares", n, len(made), size)
	}
}

func TestAPoolFollowsItsTemplate(t *testing.T) {
	hello := func(change func(*instance.Template)) func(*instance.Settings) {
		return func(s *instance.Settings) { changeTemplate(s, "hello", change) }
	}
	for name, test := range map[string]struct {
		change func(*instance.Settings)
		kept   int
		size   int
	}{
		"smaller":        {hello(func(t *instance.Template) { t.Pool = 1 }), 1, 1},
		"larger":         {hello(func(t *instance.Template) { t.Pool = 4 }), 3, 4},
		"none":           {hello(func(t *instance.Template) { t.Pool = 0 }), 0, 0},
		"template gone":  {func(s *instance.Settings) { delete(s.Templates, "hello"); s.DefaultTemplate = "" }, 0, 0},
		"memory":         {hello(func(t *instance.Template) { t.Memory *= 2 }), 0, 3},
		"env":            {hello(func(t *instance.Template) { t.Env = map[string]string{"A": "b"} }), 0, 3},
		"command":        {hello(func(t *instance.Template) { t.Command = []string{"x"} }), 0, 3},
		"domain":         {func(s *instance.Settings) { s.Domain = "other.example.com" }, 0, 3},
		"prefix length":  {func(s *instance.Settings) { s.PrefixLength = 20 }, 0, 3},
		"ready":          {hello(func(t *instance.Template) { t.Ready *= 2 }), 3, 3},
		"idle timeout":   {hello(func(t *instance.Template) { t.IdleTimeout = new(short) }), 3, 3},
		"other template": {func(s *instance.Settings) { delete(s.Templates, "missing") }, 3, 3},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newPool(t, 10, 3)
			before := b.spares()
			b.use(test.change)
			after := map[string]instance.Container{}
			b.eventually("the pool is as it is wanted", func() bool {
				after = b.awaitSpares(test.size)
				kept := 0
				for id := range before {
					if _, still := after[id]; still {
						kept++
					}
				}
				return kept == test.kept
			})
		})
	}
}

func TestAPoolFollowsTheImage(t *testing.T) {
	b := newPool(t, 10, 2)
	before := b.spares()
	b.engine.Retag("caddy-sandbox/testserver")
	in := b.take() // nobody has told the pool yet
	if _, old := before[in.ContainerID]; old {
		t.Error("a create took a spare of the image before")
	}
	b.eventually("all spares are of the new image", func() bool {
		after := b.awaitSpares(2)
		for id := range after {
			if _, old := before[id]; old {
				return false
			}
		}
		return true
	})
}

func TestSparesSurviveARestart(t *testing.T) {
	b := newPool(t, 10, 3)
	before, creates := b.spares(), b.engine.Calls("Create")
	b.reopen()
	after := b.awaitSpares(3)
	if !slices.Equal(slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after))) || b.engine.Calls("Create") != creates {
		t.Errorf("the spares were %v, and are %v", before, after)
	}
	in := b.take()
	if _, was := before[in.ContainerID]; !was {
		t.Errorf("created %+v without a spare", in)
	}
	b.reopen()
	if got := b.awaitStatus(in.Prefix, instance.Running, ""); got.ContainerID != in.ContainerID {
		t.Errorf("it came back as %+v", got)
	}
}

// The name of a container says whose it is, where no record does.
func TestALostStateTellsInstancesFromSpares(t *testing.T) {
	b := newPool(t, 10, 2)
	in := b.take()
	spares := b.awaitSpares(2)
	b.loseState()
	b.open()
	got := b.awaitStatus(in.Prefix, instance.Running, "")
	if got.ContainerID != in.ContainerID || got.Port != in.Port || got.Template != "hello" {
		t.Errorf("it came back as %+v, was %+v", got, in)
	}
	b.answers(got)
	if page, err := b.manager.List(instance.Query{}); err != nil || page.Total != 1 {
		t.Errorf("listed %+v, %v", page, err)
	}
	if now := b.spares(); !maps.EqualFunc(now, spares, func(a, b instance.Container) bool { return a.ID == b.ID }) {
		t.Errorf("before anybody has looked, the spares are %v, were %v", now, spares)
	}
	if err := b.manager.Confirm(); err != nil {
		t.Fatal(err)
	}
	b.eventually("the spares are known ones", func() bool {
		for id := range b.awaitSpares(2) {
			if _, unknown := spares[id]; unknown {
				return false
			}
		}
		return true
	})
	if _, err := b.manager.Restart(t.Context(), in.Prefix, ""); err != nil {
		t.Error(err)
	}
}

func TestSparesGiveWayToInstances(t *testing.T) {
	t.Run("any port", func(t *testing.T) {
		b := newPool(t, 4, 4)
		for range 4 {
			if _, err := b.manager.Create(t.Context(), request("", "GREETING", "hi")); err != nil {
				t.Fatal(err)
			}
		}
		_, err := b.manager.Create(t.Context(), request("", "GREETING", "hi"))
		b.fails(err, instance.NoFreePort)
		b.awaitSpares(0)
	})
	t.Run("all at once", func(t *testing.T) {
		b := newPool(t, 20, 20)
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if _, err := b.manager.Create(t.Context(), request("", "GREETING", "hi")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	})
	t.Run("a certain port", func(t *testing.T) {
		b := newPool(t, 3, 3)
		for _, c := range b.spares() {
			in, err := b.manager.Create(t.Context(), instance.CreateRequest{Port: &c.Spec.Port})
			if err != nil || in.Port != c.Spec.Port {
				t.Errorf("port %d: %+v, %v", c.Spec.Port, in, err)
			}
		}
	})
	t.Run("one that is being made", func(t *testing.T) {
		b := newBench(t, 1)
		b.use(func(s *instance.Settings) {
			changeTemplate(s, "hello", func(t *instance.Template) {
				t.Pool, t.Ready, t.Env = 1, time.Minute, map[string]string{"TEST_MODE": "silent"}
			})
		})
		b.eventually("a spare is being made", func() bool { return b.engine.Calls("Start") == 1 })
		in, err := b.manager.Create(t.Context(), request("abcdefgh", "TEST_MODE", "hello"))
		if err != nil {
			t.Fatal(err)
		}
		b.answers(in)
	})
}

func TestASpareThatEndsIsReplaced(t *testing.T) {
	for name, act := range map[string]func(*bench, string){
		"stopped":   func(b *bench, id string) { b.engine.StopByHand(id) },
		"removed":   func(b *bench, id string) { b.engine.RemoveByHand(id) },
		"restarted": func(b *bench, id string) { b.engine.StopByHand(id); _ = b.engine.StartByHand(id) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newPool(t, 5, 1)
			for id := range b.spares() {
				act(b, id)
				b.eventually("another one is ready", func() bool {
					_, still := b.awaitSpares(1)[id]
					return !still
				})
			}
		})
	}
}

// Whatever is wrong with a spare, its create is answered.
func TestACreateDoesNotDependOnItsSpare(t *testing.T) {
	lost := &instance.Error{Kind: instance.Timeout, Message: "no answer"}
	fails := func(call string, err error) func(*bench) {
		return func(b *bench) {
			var failed atomic.Bool
			b.engine.Fault(func(_ context.Context, made, _ string) error {
				if made == call && failed.CompareAndSwap(false, true) {
					return err
				}
				return nil
			})
		}
	}
	for name, spoil := range map[string]func(*bench){
		"it has ended unseen": func(b *bench) {
			b.engine.DropEvents(true)
			for id := range b.spares() {
				b.engine.StopByHand(id)
			}
		},
		"it was removed unseen": func(b *bench) {
			b.engine.DropEvents(true)
			for id := range b.spares() {
				b.engine.RemoveByHand(id)
			}
		},
		"it answers nothing": func(b *bench) {
			for id := range b.spares() {
				b.engine.HangByHand(id)
			}
		},
		"it cannot be renamed":     fails("Rename", &instance.Error{Kind: instance.EngineFailed, Message: "no"}),
		"it cannot be looked at":   fails("Inspect", lost),
		"the rename is unanswered": fails("Rename", lost),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newPool(t, 5, 1)
			spares := b.spares()
			spoil(b)
			in := b.take()
			if _, was := spares[in.ContainerID]; was {
				t.Error("it has the spare's container")
			}
			b.answers(in)
			b.engine.DropEvents(false)
			b.engine.Reconnect()
			b.eventually("nothing is left of the spare", func() bool {
				return len(b.awaitSpares(1)) == 1 && len(b.engine.Containers()) == 2
			})
			b.answers(in)
		})
	}
	t.Run("the answer to the rename is lost", func(t *testing.T) {
		b := newPool(t, 5, 1)
		spares := b.spares()
		b.engine.LoseAnswer(func(_ context.Context, made, _ string) error {
			if made == "Rename" {
				return lost
			}
			return nil
		})
		in := b.take()
		if _, was := spares[in.ContainerID]; !was {
			t.Error("it has another container, though the spare had its name")
		}
	})
}

func TestATakenSpareIsTheFirstAnswerOfItsKey(t *testing.T) {
	b := newPool(t, 10, 3)
	spares := b.spares()
	var mu sync.Mutex
	answers := map[string]bool{}
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			in, err := b.manager.Create(t.Context(), instance.CreateRequest{IdempotencyKey: "k"})
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			answers[in.ContainerID] = true
		})
	}
	all.Wait()
	b.reopen()
	in, err := b.manager.Create(t.Context(), instance.CreateRequest{IdempotencyKey: "k"})
	if _, was := spares[in.ContainerID]; err != nil || !was || len(answers) != 1 || !answers[in.ContainerID] {
		t.Errorf("%d answers %v, then %+v, %v", len(answers), answers, in, err)
	}
	if b.awaitSpares(3); len(b.engine.Containers()) != 4 {
		t.Errorf("%d containers", len(b.engine.Containers()))
	}
}

func TestNewInstancesAreToldOfAndSparesAreNot(t *testing.T) {
	b := newBench(t, 5)
	var mu sync.Mutex
	var told []string
	b.use(func(s *instance.Settings) {
		changeTemplate(s, "hello", func(t *instance.Template) { t.Pool = 2 })
		s.Created = func(prefix string) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, prefix)
		}
	})
	b.awaitSpares(2)
	in := b.take()
	b.awaitSpares(2)
	mu.Lock()
	defer mu.Unlock()
	if !slices.Equal(told, []string{in.Prefix}) {
		t.Errorf("told of %q, created was %s", told, in.Prefix)
	}
}

func TestAPoolThatCannotBeFilledBacksOff(t *testing.T) {
	b := newBench(t, 5)
	b.use(func(s *instance.Settings) {
		changeTemplate(s, "hello", func(t *instance.Template) { t.Pool, t.Env = 3, map[string]string{"TEST_MODE": "exit"} })
	})
	begun := time.Now()
	b.eventually("it has failed thrice", func() bool { return b.engine.Calls("Create") >= 4 })
	if took := time.Since(begun); took < 900*time.Millisecond {
		t.Errorf("the second try came after %s", took)
	}
	if h := b.manager.Pools()["hello"]; h.Wanted != 3 || h.Ready != 0 || !strings.Contains(h.Error, "exited") {
		t.Errorf("the pool is %+v", h)
	}
	b.eventually("nothing is left of it", func() bool { return len(b.engine.Containers()) == 0 })
	b.use(func(s *instance.Settings) { // mended, which is tried at once
		changeTemplate(s, "hello", func(t *instance.Template) { t.Env = nil })
	})
	b.awaitSpares(3)
	if h := b.manager.Pools()["hello"]; h.Error != "" {
		t.Errorf("the pool is %+v", h)
	}
}

// An end in the middle of a refill leaves nothing that the next start does not
// see to.
func TestARefillThatIsCutShortLeavesNothing(t *testing.T) {
	for _, call := range []string{"Create", "Start", "Inspect"} {
		t.Run(call, func(t *testing.T) {
			t.Parallel()
			b := newBench(t, 5)
			at := make(chan struct{}, 100)
			b.engine.Fault(func(ctx context.Context, made, name string) error {
				if made == call && strings.HasPrefix(name, "sandbox-pool-") {
					at <- struct{}{}
					<-ctx.Done()
					return ctx.Err()
				}
				return nil
			})
			b.use(func(s *instance.Settings) { changeTemplate(s, "hello", func(t *instance.Template) { t.Pool = 2 }) })
			<-at
			b.manager.Close()
			if state := b.file(".instances.json"); !strings.Contains(state, `"spares":{`) {
				t.Errorf("the state file is %s", state)
			}
			b.engine.Fault(nil)
			b.adapt = nil // no pool any more
			b.open()
			b.eventually("nothing is left", func() bool {
				return len(b.engine.Containers()) == 0 && !strings.Contains(b.file(".instances.json"), "pool-")
			})
			for range 5 { // its ports are free
				b.create("")
			}
		})
	}
}

func TestNoSpareIsMadeBeforeUsersAreServed(t *testing.T) {
	b := newBench(t, 200)
	goOn := make(chan struct{})
	var creates atomic.Int64
	b.engine.Fault(func(_ context.Context, call, name string) error {
		if call == "Create" {
			if strings.HasPrefix(name, "sandbox-pool-") {
				t.Error("a spare is made while users wait")
			}
			creates.Add(1)
			<-goOn
		}
		return nil
	})
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			if _, err := b.manager.Create(t.Context(), request("")); err != nil {
				t.Error(err)
			}
		})
	}
	b.eventually("the engine has its hands full", func() bool { return creates.Load() == 8 })
	b.use(func(s *instance.Settings) { changeTemplate(s, "hello", func(t *instance.Template) { t.Pool = 2 }) })
	if h := b.manager.Pools()["hello"]; h.Ready != 0 {
		t.Errorf("the pool is %+v", h)
	}
	b.engine.Fault(nil)
	close(goOn)
	all.Wait()
	b.awaitSpares(2)
}

func TestWithoutAnEngineThePoolWaits(t *testing.T) {
	b := newPool(t, 5, 1)
	b.engine.Fault(func(context.Context, string, string) error { return errDown })
	_, err := b.manager.Create(t.Context(), instance.CreateRequest{})
	b.fails(err, instance.EngineDown)
	b.engine.Fault(nil)
	b.engine.Reconnect()
	b.awaitSpares(1)
	b.answers(b.take())
}

// No instance of that prefix is listed: whoever asks for it gets it.
func TestASpareGivesItsPrefixUp(t *testing.T) {
	t.Run("not to a create that is refused", func(t *testing.T) {
		t.Parallel()
		b := newPool(t, 4, 1)
		for id, c := range b.awaitSpares(1) {
			_, err := b.manager.Create(t.Context(), instance.CreateRequest{Prefix: &c.Spec.Spare, Template: new("nosuchtemplate")})
			b.fails(err, instance.NoTemplate)
			if _, ok := b.spares()[id]; !ok {
				t.Error("the spare is gone")
			}
		}
	})
	for name, newPool := range map[string]func(*testing.T, int, int) *bench{"plain": newPool, "late": newLatePool} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newPool(t, 10, 1)
			for range 2 {
				for id, c := range b.awaitSpares(1) {
					in := b.create(c.Spec.Spare)
					if in.Prefix != c.Spec.Spare || in.ContainerID == id {
						t.Errorf("created %+v", in)
					}
					b.answers(in)
				}
			}
			b.awaitSpares(1)
			if n := len(b.engine.Containers()); n != 3 {
				t.Errorf("%d containers", n)
			}
			b.reopen()
			if page, err := b.manager.List(instance.Query{}); err != nil || page.Total != 2 {
				t.Errorf("listed %+v, %v", page, err)
			}
		})
	}
	t.Run("while it is being made", func(t *testing.T) {
		t.Parallel()
		b := newBench(t, 5)
		at := make(chan string, 100)
		b.engine.Fault(func(ctx context.Context, call, name string) error {
			if call == "Create" && strings.HasPrefix(name, "sandbox-pool-") {
				at <- strings.TrimPrefix(name, "sandbox-pool-")
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		})
		b.use(func(s *instance.Settings) { changeTemplate(s, "hello", func(t *instance.Template) { t.Pool = 1 }) })
		b.answers(b.create(<-at))
	})
	t.Run("without an engine", func(t *testing.T) {
		t.Parallel()
		b := newPool(t, 5, 1)
		b.engine.Fault(func(context.Context, string, string) error { return errDown })
		for _, c := range b.spares() {
			_, err := b.manager.Create(t.Context(), request(c.Spec.Spare))
			b.fails(err, instance.EngineDown)
		}
	})
}

// A spare that could not be taken, and cannot be removed now, is not tried again.
func TestASpareThatIsNoGoodIsTriedOnce(t *testing.T) {
	b := newPool(t, 10, 1)
	bad := b.spares()
	var renames, removes atomic.Int64
	b.engine.Fault(func(_ context.Context, call, name string) error {
		if strings.HasPrefix(name, "sandbox-pool-") {
			switch call {
			case "Rename":
				renames.Add(1)
				return &instance.Error{Kind: instance.EngineFailed, Message: "no"}
			case "Remove":
				removes.Add(1)
				return &instance.Error{Kind: instance.EngineFailed, Message: "no"}
			}
		}
		return nil
	})
	for n := range int64(5) {
		b.answers(b.take())
		b.eventually("it was to be removed", func() bool { return removes.Load() > 0 })
		if renames.Load() != 1 {
			t.Fatalf("after %d creates it was tried %d times", n+1, renames.Load())
		}
	}
	if h := b.manager.Pools()["hello"]; h.Ready != 0 {
		t.Errorf("the pool is %+v", h)
	}
	b.engine.Fault(nil)
	b.engine.Reconnect()
	b.eventually("another one is ready", func() bool {
		for id := range b.awaitSpares(1) {
			if _, still := bad[id]; still {
				return false
			}
		}
		return true
	})
}
