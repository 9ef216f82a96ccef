package dockerops

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// oneContainer has the engine tell of one container, in the state and with the
// status that are sent last.
func (f *fakeEngine) oneContainer(owner string) (is func(state, status string)) {
	var mu sync.Mutex
	var state, status string
	answer := func(pattern string, body func() string) {
		f.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			_, _ = io.WriteString(w, body())
		})
	}
	answer("GET /containers/json", func() string {
		return fmt.Sprintf(`[{"Id":"one","State":%q,"Status":%q,"Labels":{%q:"abcdefgh"}}]`, state, status, labelPrefix)
	})
	answer("GET /containers/one/json", func() string {
		return fmt.Sprintf(`{"Id":"one","Name":"/sandbox-abcdefgh","Image":"sha256:1",
			"Config":{"Labels":{%q:%q,%q:"abcdefgh"}},"HostConfig":{},"State":{"Running":%t,"Paused":%t},"NetworkSettings":{}}`,
			labelManager, owner, labelPrefix, state == "running" || state == "paused", state == "paused")
	})
	f.answer("GET /images/sha256:1/json", `{"Id":"sha256:1","Config":{}}`)
	return func(newState, newStatus string) {
		mu.Lock()
		defer mu.Unlock()
		state, status = newState, newStatus
	}
}

func TestWhatSleepsIsAskedAboutOnce(t *testing.T) {
	const inspect = "GET /containers/one/json"
	for _, row := range []struct {
		name  string
		steps [][2]string // state and status in the lists, one after the other
		asked int
		act   func(*Client) // before the last list
	}{
		{"exited long ago", [][2]string{{"exited", "Exited (143) 2 hours ago"}, {"exited", "Exited (143) 3 hours ago"}}, 1, nil},
		{"never started", [][2]string{{"created", "Created"}, {"created", "Created"}}, 1, nil},
		{"runs", [][2]string{{"running", "Up 1 second"}, {"running", "Up 2 seconds"}}, 2, nil},
		{"frozen", [][2]string{{"paused", "Up 1 second (Paused)"}, {"paused", "Up 2 seconds (Paused)"}}, 2, nil},
		{"started since", [][2]string{{"exited", "Exited (0) 1 second ago"}, {"running", "Up 1 second"}}, 2, nil},
		{"ended in another way since", [][2]string{{"exited", "Exited (0) 1 hour ago"}, {"exited", "Exited (1) 1 second ago"}}, 2, nil},
		{"something happened to it", [][2]string{{"exited", "Exited (0) 1 hour ago"}, {"exited", "Exited (0) 1 hour ago"}}, 2,
			func(c *Client) { c.asleep.forget("one") }},
		{"nobody watched", [][2]string{{"exited", "Exited (0) 1 hour ago"}, {"exited", "Exited (0) 1 hour ago"}}, 2,
			func(c *Client) { c.asleep.forgetAll() }},
	} {
		t.Run(row.name, func(t *testing.T) {
			engine := newFakeEngine(t)
			c := clientOn(t, engine.host())
			is := engine.oneContainer(c.owner)
			for i, step := range row.steps {
				is(step[0], step[1])
				if i == len(row.steps)-1 && row.act != nil {
					row.act(c)
				}
				found, err := c.List(t.Context())
				must(t, err)
				if len(found) != 1 || found[0].Spec.Prefix != "abcdefgh" || found[0].Running != (step[0] == "running" || step[0] == "paused") {
					t.Errorf("the list says %+v of what %s", found, step[0])
				}
			}
			if n := engine.requests(inspect); n != row.asked {
				t.Errorf("the engine was asked %d times, want %d", n, row.asked)
			}
		})
	}
}

// What was asked before a start, and answered after it, is of another time.
func TestWhatIsStartedWhileItIsAskedAboutIsNotRemembered(t *testing.T) {
	var a asleep
	line := container.Summary{ID: "one", State: "exited", Status: "Exited (0) 1 hour ago"}
	era := a.now()
	a.forget("one") // it starts
	a.remember(era, line, instance.Container{ID: "one"})
	if _, ok := a.recall(line); ok {
		t.Error("it is remembered as it was before its start")
	}
	a.remember(a.now(), line, instance.Container{ID: "one"})
	if _, ok := a.recall(line); !ok {
		t.Error("it is not remembered")
	}
	a.keepOnly(nil)
	if _, ok := a.recall(line); ok || len(a.seen) != 0 {
		t.Error("it is remembered after it is gone")
	}
}

// BenchmarkListOfSleepers is what looking at 10 000 containers costs that do
// not run, beside asking about each of them:
//
//	x-list  of the time of the list alone that each is asked about
func BenchmarkListOfSleepers(b *testing.B) {
	const sleepers = 10_000
	engine := newFakeEngine(b)
	c := clientOn(b, engine.host())
	var lines strings.Builder
	for i := range sleepers {
		id := fmt.Sprintf("%064d", i)
		fmt.Fprintf(&lines, `,{"Id":%q,"Image":"caddy-sandbox/vite-demo","State":"exited","Status":"Exited (143) 2 hours ago","Names":["/sandbox-prefix%05d"],"Labels":{%q:%q,%q:"prefix%05d"}}`,
			id, i, labelManager, c.owner, labelPrefix, i)
	}
	engine.answer("GET /containers/json", "["+lines.String()[1:]+"]")
	engine.answer("GET /images/sha256:1/json", `{"Id":"sha256:1","Config":{}}`)
	engine.HandleFunc("GET /containers/{id}/json", func(w http.ResponseWriter, r *http.Request) {
		id := r.PathValue("id")
		prefix := "prefix" + id[len(id)-5:]
		_, _ = fmt.Fprintf(w, `{"Id":%q,"Name":"/sandbox-%s","Image":"sha256:1","Config":{"Labels":{%q:%q,%q:%q}},"HostConfig":{},"State":{},"NetworkSettings":{}}`,
			id, prefix, labelManager, c.owner, labelPrefix, prefix)
	})
	list := func() time.Duration {
		begun := time.Now()
		found, err := c.List(b.Context())
		if err != nil || len(found) != sleepers {
			b.Fatalf("%d found: %v", len(found), err)
		}
		return time.Since(begun)
	}
	first := list()
	var again time.Duration
	for b.Loop() {
		again += list()
	}
	b.ReportMetric(first.Seconds()*1e3, "first-ms")
	b.ReportMetric(float64(first)/(float64(again)/float64(b.N)), "x-list")
}
