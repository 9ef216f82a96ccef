package dockerops

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

type namedCall struct {
	name string
	do   func(context.Context, *Client) error
}

var allCalls = []namedCall{
	{"Create", func(ctx context.Context, c *Client) error {
		_, err := c.Create(ctx, instance.Spec{Prefix: "abcdefgh", Image: "vite", ContainerPort: 5174, Port: 5200})
		return err
	}},
	{"Start", func(ctx context.Context, c *Client) error { return c.Start(ctx, someName) }},
	{"Stop", func(ctx context.Context, c *Client) error { return c.Stop(ctx, someName) }},
	{"Remove", func(ctx context.Context, c *Client) error { return c.Remove(ctx, someName) }},
	{"Inspect", func(ctx context.Context, c *Client) error { _, err := c.Inspect(ctx, someName); return err }},
	{"List", func(ctx context.Context, c *Client) error { _, err := c.List(ctx); return err }},
	{"Logs", func(ctx context.Context, c *Client) error { _, err := c.Logs(ctx, someName, 1); return err }},
}

func TestNoCallHangsOnAnEngineThatNeverAnswers(t *testing.T) {
	for _, call := range allCalls {
		t.Run(call.name, func(t *testing.T) {
			noGoroutineLeft(t)
			c := hastyOn(t, newSilentEngine(t))
			inTime(t, func() { wantKind(t, call.do(context.Background(), c), instance.Timeout) })
			for _, next := range allCalls { // the first told all others: none waits for a deadline
				wantKind(t, next.do(context.Background(), c), instance.EngineDown)
			}
		})
	}
}

// 1000 callers at once must not wait for each other, nor each for a deadline.
func TestManyCallsAtOnceShareOneDeadline(t *testing.T) {
	noGoroutineLeft(t)
	c := hastyOn(t, newSilentEngine(t))
	const callers = 1000
	errs := make(chan error, callers)
	inTime(t, func() {
		for i := range callers {
			call := allCalls[i%len(allCalls)]
			go func() { errs <- call.do(context.Background(), c) }()
		}
		for range callers {
			if kind := instance.KindOf(<-errs); kind != instance.Timeout && kind != instance.EngineDown {
				t.Errorf("kind %q", kind)
			}
		}
	})
}

// The header came, the rest never does.
func TestNoCallHangsOnAnAnswerThatStops(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	stall := func(first string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			_, _ = w.Write([]byte(first))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	}
	engine.HandleFunc("GET /containers/json", stall(`[{"Id":`))
	engine.HandleFunc("GET /containers/{ref}/json", stall(`{"Id":`))
	for _, call := range allCalls {
		if call.name == "Create" {
			continue // asks for an image first: below
		}
		inTime(t, func() {
			wantKind(t, call.do(context.Background(), hastyOn(t, engine.host())), instance.Timeout)
		})
	}
	engine.HandleFunc("GET /images/{name}/json", stall(`{"Id":`))
	inTime(t, func() {
		wantKind(t, allCalls[0].do(context.Background(), hastyOn(t, engine.host())), instance.Timeout)
	})
}

func TestEveryStepHasADeadline(t *testing.T) {
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, test := range []struct {
		call  namedCall
		hangs string
	}{
		{allCalls[0], "POST /containers/create"},
		{allCalls[1], "POST /containers/c1/start"},
		{allCalls[3], "DELETE /containers/c1"},
		{allCalls[6], "GET /containers/c1/logs"},
	} {
		t.Run(test.hangs, func(t *testing.T) {
			noGoroutineLeft(t)
			engine := newFakeEngine(t)
			engine.HandleFunc(test.hangs, hang)
			engine.answer("GET /containers/{ref}/json", ownContainer)
			engine.answer("GET /networks/{name}", ownNetwork)
			engine.answer("GET /images/{name}/json", `{"Id":"sha256:1"}`)
			c := clientOn(t, engine.host())
			c.Deadlines.Change, c.Deadlines.Logs = soon, soon
			inTime(t, func() { wantKind(t, test.call.do(context.Background(), c), instance.Timeout) })
			if c.health.down.Load() {
				t.Error("a change that takes long made the engine count as down")
			}
		})
	}
}

func TestAnEngineThatAnswersAgainIsUsedAgain(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	var hangs atomic.Bool
	hangs.Store(true)
	engine.HandleFunc("GET /containers/json", func(w http.ResponseWriter, r *http.Request) {
		if hangs.Load() {
			<-r.Context().Done()
			return
		}
		_, _ = fmt.Fprint(w, `[]`)
	})
	c := clientOn(t, engine.host())
	c.Deadlines.List = soon
	_, err := c.List(t.Context())
	wantKind(t, err, instance.Timeout)
	hangs.Store(false)
	eventually(t, "the engine is used again", func() bool {
		_, err := c.List(t.Context())
		return err == nil
	})
}

func TestWhileTheEngineIsDownOnlyPingsReachIt(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	var frozen atomic.Bool
	frozen.Store(true)
	thaw := make(chan struct{})
	inner := engine.server.Config.Handler
	engine.server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		inner.ServeHTTP(w, r)
		if frozen.Load() { // it took the request, and keeps the answer
			select {
			case <-thaw:
			case <-r.Context().Done():
			}
		}
	})
	engine.answer("GET /containers/json", `[]`)
	c := clientOn(t, engine.host())
	frozen.Store(false)
	if _, err := c.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	frozen.Store(true)
	c.Deadlines.List, c.Deadlines.Ping = soon, soon
	_, err := c.List(t.Context())
	wantKind(t, err, instance.Timeout)
	before := engine.requests("GET /containers/json")
	for range 100 {
		_, err := c.List(t.Context())
		wantKind(t, err, instance.EngineDown)
	}
	if now := engine.requests("GET /containers/json"); now != before {
		t.Errorf("%d lists reached an engine that is down", now-before)
	}
	frozen.Store(false)
	close(thaw)
	eventually(t, "the engine is used again", func() bool {
		_, err := c.List(t.Context())
		return err == nil
	})
}

func TestCloseEndsThePings(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	asked := make(chan struct{}, 100)
	engine.server.Config.Handler = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked <- struct{}{}
		<-r.Context().Done()
	})
	c := hastyOn(t, engine.host())
	c.Deadlines.Ping = time.Hour
	_, err := c.List(t.Context())
	wantKind(t, err, instance.Timeout)
	<-asked // by the list
	<-asked // by the ping, which goes on
	inTime(t, func() { must(t, c.Close()) })
}

// patience is longer than a machine in use keeps anybody waiting, and shorter
// than what hangs.
const patience = 30 * time.Second

// inTime fails the test if do takes longer than patience.
func inTime(t *testing.T, do func()) {
	t.Helper()
	began := time.Now()
	do()
	if took := time.Since(began); took > patience {
		t.Errorf("took %v, want at most %v", took, patience)
	}
}
