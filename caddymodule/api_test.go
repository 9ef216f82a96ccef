package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

func TestLifeOfAnInstance(t *testing.T) {
	s := startServer(t, config{})
	made := s.call(t, http.MethodPost, "/api/instances", `{"prefix":"lifelong","labels":{"team":"blue"},"env":{"SECRET":"hush"}}`).
		expect(t, http.StatusCreated, 0)
	if got := made.Header.Get("Location"); got != "/api/instances/lifelong" {
		t.Errorf("Location %q", got)
	}
	if made.text("prefix") != "lifelong" || made.text("status") != "running" || made.detail("ready") != "true" ||
		made.detail("labels") != `{"team":"blue"}` || made.detail("stopped_at") != "null" ||
		made.text("url") != fmt.Sprintf("http://lifelong.%s:%d", testDomain, s.sitePort) {
		t.Errorf("the answer is %s", made.raw)
	}
	if strings.Contains(made.raw, "hush") {
		t.Errorf("the answer has the environment: %s", made.raw)
	}
	if cache := made.Header.Get("Cache-Control"); cache != "no-store" {
		t.Errorf("Cache-Control %q", cache)
	}

	for _, step := range []struct{ method, tail, status string }{
		{http.MethodGet, "", "running"},
		{http.MethodPost, "/start", "running"}, // no error
		{http.MethodPost, "/stop", "stopped"},
		{http.MethodPost, "/stop", "stopped"}, // no error
		{http.MethodGet, "", "stopped"},
		{http.MethodPost, "/start", "running"},
		{http.MethodPost, "/restart", "running"},
		{http.MethodDelete, "", "deleting"},
	} {
		a := s.callSite(t, step.method, "/api/instances/lifelong"+step.tail, "{}").expect(t, http.StatusOK, 0)
		if a.Message != "ok" || a.text("status") != step.status {
			t.Errorf("%s %s gave %s", step.method, step.tail, a.raw)
		}
	}
	s.call(t, http.MethodGet, "/api/instances/lifelong", "").expect(t, http.StatusNotFound, 1004)
	s.call(t, http.MethodDelete, "/api/instances/lifelong", "").expect(t, http.StatusNotFound, 1004)
}

func TestWaits(t *testing.T) {
	s := startServer(t, config{})
	none := s.call(t, http.MethodPost, "/api/instances?wait=none", `{"prefix":"waitnone"}`).expect(t, http.StatusAccepted, 0)
	if none.Header.Get("Location") != "/api/instances/waitnone" {
		t.Errorf("Location %q", none.Header.Get("Location"))
	}
	slow := `{"prefix":"waitsome","env":{"TEST_MODE":"slow","TEST_DELAY":"1h"}}`
	if a := s.call(t, http.MethodPost, "/api/instances?wait=started", slow).expect(t, http.StatusCreated, 0); a.detail("ready") != "false" {
		t.Errorf("wait=started waited for more: %s", a.raw)
	}
	eventually(t, func() error {
		if a := s.call(t, http.MethodGet, "/api/instances/waitnone", ""); a.detail("ready") != "true" {
			return fmt.Errorf("not ready: %s", a.raw)
		}
		return nil
	})
	s.call(t, http.MethodPost, "/api/instances/waitsome/stop", "").expect(t, http.StatusOK, 0)
	if a := s.call(t, http.MethodPost, "/api/instances/waitsome/start?wait=none", "").expect(t, http.StatusOK, 0); a.detail("ready") != "false" {
		t.Errorf("wait=none waited: %s", a.raw)
	}
	for _, path := range []string{"/api/instances?wait=", "/api/instances?wait=later", "/api/instances/waitnone/start?wait=READY", "/api/instances/waitnone/restart?wait=x"} {
		a := s.call(t, http.MethodPost, path, "").expect(t, http.StatusBadRequest, 1006)
		if a.text("field") != "wait" || a.detail("allowed") != `["ready","started","none"]` {
			t.Errorf("%s: details of %s", path, a.raw)
		}
	}
}

func TestListing(t *testing.T) {
	s := startServer(t, config{})
	for _, body := range []string{
		`{"prefix":"listaaaa","labels":{"team":"blue","kind":"x"}}`,
		`{"prefix":"listbbbb","labels":{"team":"blue"}}`,
		`{"prefix":"listcccc","labels":{"team":"red"}}`,
	} {
		s.call(t, http.MethodPost, "/api/instances", body).expect(t, http.StatusCreated, 0)
	}
	s.call(t, http.MethodPost, "/api/instances/listbbbb/stop", "").expect(t, http.StatusOK, 0)
	for query, want := range map[string]string{
		"":                                  "listaaaa listbbbb listcccc of 3",
		"?status=stopped":                   "listbbbb of 1",
		"?status=failed":                    " of 0",
		"?template=web&status=running":      "listaaaa listcccc of 2",
		"?template=other":                   " of 0",
		"?label=team%3Dblue":                "listaaaa listbbbb of 2",
		"?label=team=blue&label=kind=x":     "listaaaa of 1",
		"?limit=2":                          "listaaaa listbbbb of 3, next listbbbb",
		"?limit=2&cursor=listbbbb":          "listcccc of 3",
		"?limit=1&label=team=blue&cursor=a": "",
	} {
		t.Run(query, func(t *testing.T) {
			a := s.callSite(t, http.MethodGet, "/api/instances"+query, "")
			if want == "" {
				a.expect(t, http.StatusBadRequest, 1006)
				return
			}
			if got := describePage(t, a.expect(t, http.StatusOK, 0)); got != want {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

// describePage names what is on a page of a list.
func describePage(t *testing.T, a answer) string {
	t.Helper()
	var page instance.Page
	unmarshal(t, a.detail("instances"), &page.Instances)
	var prefixes []string
	for _, i := range page.Instances {
		prefixes = append(prefixes, i.Prefix)
	}
	text := strings.Join(prefixes, " ") + " of " + a.detail("total")
	if next := a.text("next"); next != "" {
		text += ", next " + next
	}
	return text
}

func TestQueriesAreChecked(t *testing.T) {
	s := startServer(t, config{})
	for _, row := range []struct{ method, path, field string }{
		{http.MethodGet, "/api/instances?limit=0", "limit"},
		{http.MethodGet, "/api/instances?limit=1001", "limit"},
		{http.MethodGet, "/api/instances?limit=", "limit"},
		{http.MethodGet, "/api/instances?limit=1&limit=2", "limit"},
		{http.MethodGet, "/api/instances?status=sleeping", "status"},
		{http.MethodGet, "/api/instances?status=", "status"},
		{http.MethodGet, "/api/instances?label=team", "label"},
		{http.MethodGet, "/api/instances?label==x", "label"},
		{http.MethodGet, "/api/instances?cursor=..", "cursor"},
		{http.MethodGet, "/api/instances?colour=red", "colour"},
		{http.MethodGet, "/api/instances?wait=none", "wait"},
		{http.MethodGet, "/api/instances?a=%zz", "query"},
		{http.MethodGet, "/api/instances?a;b", "query"},
		{http.MethodPost, "/api/instances?status=running", "status"},
		{http.MethodGet, "/api/instances/abcdefgh?wait=none", "wait"},
		{http.MethodDelete, "/api/instances/abcdefgh?force", "force"},
		{http.MethodPost, "/api/instances/abcdefgh/stop?wait=none", "wait"},
	} {
		a := s.callSite(t, row.method, row.path, "").expect(t, http.StatusBadRequest, 1006)
		if a.text("field") != row.field {
			t.Errorf("%s %s: field %q, want %q", row.method, row.path, a.text("field"), row.field)
		}
		if row.field != "query" && a.detail("allowed") == "" {
			t.Errorf("%s %s does not say what is allowed: %s", row.method, row.path, a.raw)
		}
	}
}

func TestRoutesAndMethods(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "routable")
	for _, call := range []func(*testing.T, string, string, string) answer{s.call, s.callSite} {
		for path, methods := range map[string]string{
			"/api/instances":                                  "GET, POST, HEAD",
			"/api/instances/routable":                         "DELETE, GET, PATCH, HEAD",
			"/api/instances/routable/start":                   "POST",
			"/api/instances/routable/stop":                    "POST",
			"/api/instances/routable/restart":                 "POST",
			"/api/instances/routable/pause":                   "POST",
			"/api/instances/routable/resume":                  "POST",
			"/api/instances/routable/touch":                   "POST",
			"/api/instances/routable/domains/app.example.org": "DELETE, PUT",
		} {
			for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
				if slices.Contains(strings.Split(methods, ", "), method) {
					continue
				}
				a := call(t, method, path, "").expect(t, http.StatusMethodNotAllowed, 1009)
				if a.Header.Get("Allow") != methods {
					t.Errorf("%s %s: Allow %q, want %q", method, path, a.Header.Get("Allow"), methods)
				}
				if want := `["` + strings.ReplaceAll(methods, ", ", `","`) + `"]`; a.detail("allow") != want {
					t.Errorf("%s %s: allow %s, want %s", method, path, a.detail("allow"), want)
				}
			}
		}
		for _, path := range []string{
			"/api/instances/", "/api/instances/routable/", "/api/instances/routable/wake", "/api/instances/routable/start/now",
			"/api/instances/routable%2Fstart/start/x", "/api/instances/routable/domains", "/api/instances/routable/domains/",
			"/api/instances/routable/domains/app.example.org/", "/api/instances/routable/domains/a/b", "/api/instances/routable/domains/*/x",
			"/api/instances//domains/app.example.org", "/api/instances/domains/app.example.org",
		} {
			for _, method := range []string{http.MethodGet, http.MethodPut, http.MethodDelete} {
				call(t, method, path, "").expect(t, http.StatusNotFound, 1011)
			}
		}
		for _, prefix := range []string{"whoknows", "ROUTABLE", "short", "routable%2Fstart", "%00", "routable.", strings.Repeat("a", 1000)} {
			call(t, http.MethodGet, "/api/instances/"+prefix, "").expect(t, http.StatusNotFound, 1004)
			call(t, http.MethodDelete, "/api/instances/"+prefix, "").expect(t, http.StatusNotFound, 1004)
		}
		for _, path := range []string{"/api/instances", "/api/instances/routable", "/api/instances/%72outable"} {
			if a := call(t, http.MethodHead, path, ""); a.Status != http.StatusOK || a.raw != "" {
				t.Errorf("HEAD %s: %d %q", path, a.Status, a.raw)
			}
		}
	}
	for _, path := range []string{"/api/", "/api/nothing", "/api/instancesx"} {
		s.callSite(t, http.MethodGet, path, "").expect(t, http.StatusNotFound, 1011)
	}
}

func TestFailuresOfACreate(t *testing.T) {
	s := startServer(t, config{sandbox: "reserved mineonly Theirs12", templates: `
		default_template web
		template web {
			image ` + instancetest.Image + `
			ready 1m
		}
		template hasty {
			image ` + instancetest.Image + `
			ready 500ms
		}
		template missing {
			image no/such-image
		}
	`})
	taken := s.create(t, "takenone")
	for _, row := range []struct {
		name, body   string
		status, code int
		detail       string // a part of the data
	}{
		{"malformed prefix", `{"prefix":"No"}`, 400, 1001, `"rule":"8 to 57`},
		{"empty prefix", `{"prefix":""}`, 400, 1001, `"rule":`},
		{"built-in reserved prefix", `{"prefix":"localhost"}`, 400, 1001, `"rule":`},
		{"reserved prefix", `{"prefix":"mineonly"}`, 400, 1001, `"rule":`},
		{"prefix reserved in another case", `{"prefix":"theirs12"}`, 400, 1001, `"rule":`},
		{"taken prefix", `{"prefix":"takenone"}`, 400, 1002, ``},
		{"taken port", fmt.Sprintf(`{"port":%d}`, taken.Port), 400, 1003, `"suggested_port":`},
		{"port outside the range", `{"port":80}`, 400, 1003, `"suggested_port":`},
		{"unknown field", `{"prefx":"abcdefgh"}`, 400, 1006, `"field":"prefx"`},
		{"port zero", `{"ports":[0]}`, 400, 1006, `"field":"ports"`},
		{"a null port", `{"ports":[null]}`, 400, 1006, `"field":"ports"`},
		{"a port that is text", `{"ports":["3000"]}`, 400, 1006, `"field":"ports`},
		{"any, which is the operator's to say", `{"ports":"any"}`, 400, 1006, `"field":"ports"`},
		{"ports that are an object", `{"ports":{}}`, 400, 1006, `"field":"ports"`},
		{"null in env", `{"env":{"A":null}}`, 400, 1006, `"field":"env.A"`},
		{"null in labels", `{"labels":{"a":null}}`, 400, 1006, `"field":"labels.a"`},
		{"unknown template", `{"template":"nosuch"}`, 400, 1007, `"templates":["hasty","missing","web"]`},
		{"body too large", strings.Repeat(" ", maxBody+1), 413, 1010, `"limit":65536`},
		{"image missing", `{"template":"missing"}`, 422, 1104, ``},
		{"dev server that never answers", `{"template":"hasty","env":{"TEST_MODE":"silent"}}`, 504, 1103, ``},
		{"container that ends", `{"env":{"TEST_MODE":"exit"}}`, 502, 1107, ``},
	} {
		t.Run(row.name, func(t *testing.T) {
			a := s.call(t, http.MethodPost, "/api/instances", row.body).expect(t, row.status, row.code)
			if !strings.Contains(a.raw, row.detail) {
				t.Errorf("%s lacks %s", a.raw, row.detail)
			}
			if a.Message == "" || a.RequestID == "" || a.RequestID != a.Header.Get("X-Request-Id") {
				t.Errorf("message %q, request id %q, header %q", a.Message, a.RequestID, a.Header.Get("X-Request-Id"))
			}
		})
	}
	if got := describePage(t, s.call(t, http.MethodGet, "/api/instances", "")); got != "takenone of 1" {
		t.Errorf("the failed creates left %s", got)
	}
	for _, key := range []string{"", strings.Repeat("k", 256)} {
		a := s.callAt(t, s.admin()+"/api/instances", http.MethodPost, "", http.Header{"Idempotency-Key": {key}}).expect(t, http.StatusBadRequest, 1006)
		if a.text("field") != "Idempotency-Key" {
			t.Errorf("field %q", a.text("field"))
		}
	}
}

func TestAmongSeveralTemplatesOneMustBeNamed(t *testing.T) {
	s := startServer(t, config{templates: "template one {\n image a\n }\n template two {\n image b\n }"})
	a := s.call(t, http.MethodPost, "/api/instances", "").expect(t, http.StatusBadRequest, 1007)
	if a.detail("templates") != `["one","two"]` {
		t.Errorf("details of %s", a.raw)
	}
}

func TestIdempotencyKey(t *testing.T) {
	s := startServer(t, config{})
	create := func() answer {
		return s.callAt(t, s.admin()+"/api/instances", http.MethodPost, "", http.Header{"Idempotency-Key": {"once"}}).expect(t, http.StatusCreated, 0)
	}
	if first, again := create(), create(); first.text("prefix") != again.text("prefix") {
		t.Errorf("the retry made %s beside %s", again.text("prefix"), first.text("prefix"))
	}
}

func TestTroubleOfTheEngine(t *testing.T) {
	for _, row := range []struct {
		kind         instance.Kind
		status, code int
	}{
		{instance.EngineFailed, 502, 1101},
		{instance.EngineDown, 503, 1102},
		{instance.Timeout, 504, 1103},
	} {
		t.Run(string(row.kind), func(t *testing.T) {
			s := startServer(t, config{})
			s.engine.Fault(func(_ context.Context, call, _ string) error {
				if call == "Create" {
					return &instance.Error{Kind: row.kind, Message: "in trouble", RetryAfter: 3e9}
				}
				return nil
			})
			a := s.call(t, http.MethodPost, "/api/instances", "").expect(t, row.status, row.code)
			if a.Message != "in trouble" || a.Header.Get("Retry-After") != "3" {
				t.Errorf("message %q, Retry-After %q", a.Message, a.Header.Get("Retry-After"))
			}
		})
	}
}

func TestBusyInstance(t *testing.T) {
	s := startServer(t, config{})
	s.call(t, http.MethodPost, "/api/instances?wait=none", `{"prefix":"busybody","env":{"TEST_MODE":"slow","TEST_DELAY":"1h"}}`).
		expect(t, http.StatusAccepted, 0)
	a := s.call(t, http.MethodPost, "/api/instances/busybody/pause", "").expect(t, http.StatusConflict, 1005)
	if a.text("status") == "" || a.Header.Get("Retry-After") == "" {
		t.Errorf("got %s with Retry-After %q", a.raw, a.Header.Get("Retry-After"))
	}
}

func TestNoFreePort(t *testing.T) {
	s := newServer(t)
	s.ports.Last = s.ports.First
	if err := s.load(t, config{}); err != nil {
		t.Fatal(err)
	}
	s.create(t, "onlyone1")
	a := s.call(t, http.MethodPost, "/api/instances", "").expect(t, http.StatusServiceUnavailable, 1008)
	if want := s.ports.String(); !strings.Contains(a.raw, want) {
		t.Errorf("%s lacks the range %s", a.raw, want)
	}
}

func TestStateThatCannotBeWritten(t *testing.T) {
	s := startServer(t, config{})
	eventually(t, func() error { return os.RemoveAll(s.state()) }) // the first reconcile may write into it meanwhile
	a := s.call(t, http.MethodPost, "/api/instances", "").expect(t, http.StatusInternalServerError, 1201)
	if !strings.Contains(a.raw, s.state()) {
		t.Errorf("%s does not name the place", a.raw)
	}
}

func TestParallelCreatesOfOnePrefix(t *testing.T) {
	s := startServer(t, config{})
	const callers = 50
	codes := make(chan int, callers)
	var all sync.WaitGroup
	for range callers {
		all.Go(func() {
			codes <- s.call(t, http.MethodPost, "/api/instances", `{"prefix":"contested"}`).Code
		})
	}
	all.Wait()
	close(codes)
	count := map[int]int{}
	for code := range codes {
		count[code]++
	}
	if count[0] != 1 || count[1002] != callers-1 {
		t.Errorf("answers by code: %v", count)
	}
}

func TestOneLogLineForEachOperation(t *testing.T) {
	s := startServer(t, config{})
	made := s.call(t, http.MethodPost, "/api/instances", `{"prefix":"loggable"}`)
	for range 5 {
		read(t, s.get(t, hostOf("loggable"), "/", nil))
	}
	id := made.Header.Get("X-Request-Id")
	lines := 0
	for line := range strings.Lines(s.log(t)) {
		if strings.Contains(line, `"logger":"sandbox"`) {
			lines++
			if !strings.Contains(line, `"op":"create"`) || !strings.Contains(line, `"request_id":"`+id+`"`) {
				t.Errorf("unexpected line %s", line)
			}
		}
	}
	if lines != 1 {
		t.Errorf("%d lines of the sandbox logger for one create and five requests, want 1", lines)
	}
}
