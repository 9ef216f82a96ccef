package dockerops

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestTheEngineIsDescribed(t *testing.T) {
	const limits = `"MemoryLimit":true,"PidsLimit":true,`
	for name, test := range map[string]struct {
		info   string
		advice []string // a part of each
	}{
		"all is well":         {limits + `"LiveRestoreEnabled":true`, nil},
		"no live-restore":     {limits + `"LiveRestoreEnabled":false`, []string{`"live-restore": true`}},
		"a swarm cannot have": {limits + `"LiveRestoreEnabled":false,"Swarm":{"LocalNodeState":"active"}`, nil},
		"no limit of memory":  {`"PidsLimit":true,"LiveRestoreEnabled":true`, []string{"cgroups"}},
		"nothing at all":      {`"LiveRestoreEnabled":false`, []string{`"live-restore": true`, "cgroups"}},
	} {
		t.Run(name, func(t *testing.T) {
			engine := newFakeEngine(t)
			engine.version.Store("1.44")
			engine.answer("GET /info", `{"ServerVersion":"25.0.3",`+test.info+`}`)
			got, err := clientOn(t, engine.host()).Describe(t.Context())
			must(t, err)
			if got.Version != "25.0.3" || got.API != "1.44" {
				t.Errorf("version %q, API %q", got.Version, got.API)
			}
			if !slices.EqualFunc(got.Advice, test.advice, strings.Contains) {
				t.Errorf("advice %q, want %q", got.Advice, test.advice)
			}
		})
	}
}

func TestTheRealEngineIsDescribed(t *testing.T) {
	h := needDocker(t)
	got, err := newClient(t, h).Describe(t.Context())
	must(t, err)
	if want, err := h.ServerVersion(t.Context()); err != nil || got.Version != want.Version || got.API == "" {
		t.Errorf("got %+v, want version %s (%v)", got, want.Version, err)
	}
}

// Counting all it has may take an engine longer than a list of ours: no sign
// that it is down.
func TestAnEngineSlowToDescribeIsNotDown(t *testing.T) {
	noGoroutineLeft(t)
	engine := newFakeEngine(t)
	engine.HandleFunc("GET /info", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	engine.answer("GET /containers/json", `[]`)
	c := clientOn(t, engine.host())
	c.Deadlines.List = soon
	inTime(t, func() {
		_, err := c.Describe(context.Background())
		wantKind(t, err, instance.Timeout)
	})
	c.Deadlines.List = time.Minute
	_, err := c.List(t.Context())
	must(t, err)
}
