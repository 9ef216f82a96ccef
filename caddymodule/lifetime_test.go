package caddymodule

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// sleepy is a template with all words of a lifetime.
const sleepy = `template web {
	image ` + instancetest.Image + `
	ready 1m
	idle_timeout 30m
	on_idle pause
	ttl 7d
	delete_after_stopped never
}`

const oneInstance = "/api/instances/sleepy00"

func (s *server) patch(t *testing.T, body string) answer {
	t.Helper()
	return s.callSite(t, http.MethodPatch, oneInstance, body)
}

// lifetimeOf is what a describes of a lifetime, in a line.
func lifetimeOf(a answer) string {
	return strings.Join([]string{a.text("idle_timeout"), a.text("on_idle"), a.text("ttl"), a.text("delete_after_stopped")}, " ")
}

func TestALifetimeIsSetAndClearedByPatch(t *testing.T) {
	s := startServer(t, config{templates: sleepy})
	made := s.call(t, http.MethodPost, "/api/instances", `{"prefix":"sleepy00"}`).expect(t, http.StatusCreated, 0)
	const own, templates = "2h0m0s stop never 24h0m0s", "30m0s pause 168h0m0s never"
	if got := lifetimeOf(made); got != templates {
		t.Errorf("made with %q, want the template's %q", got, templates)
	}
	for _, step := range []struct{ body, want string }{
		{`{"idle_timeout":"2h","on_idle":"stop","ttl":"never","delete_after_stopped":"1d"}`, own},
		{``, own}, {`{}`, own},
		{`{"idle_timeout":"never"}`, "never stop never 24h0m0s"},
		{`{"idle_timeout":"90m"}`, "1h30m0s stop never 24h0m0s"},
		{`{"idle_timeout":null,"on_idle":null}`, "30m0s pause never 24h0m0s"},
		{`{"ttl":null,"delete_after_stopped":null}`, templates},
	} {
		if got := lifetimeOf(s.patch(t, step.body).expect(t, http.StatusOK, 0)); got != step.want {
			t.Errorf("%s: answered %q, want %q", step.body, got, step.want)
		}
		if got := lifetimeOf(s.call(t, http.MethodGet, oneInstance, "")); got != step.want {
			t.Errorf("%s: is %q, want %q", step.body, got, step.want)
		}
	}
	for field, want := range map[string]string{"idle_at": "", "expires_at": "", "delete_at": "null"} {
		got := s.call(t, http.MethodGet, oneInstance, "").detail(field)
		if want == "null" != (got == "null") {
			t.Errorf("%s is %s", field, got)
		}
	}
	s.call(t, http.MethodPatch, "/api/instances/whoknows", `{}`).expect(t, http.StatusNotFound, 1004)
}

func TestBadLifetimes(t *testing.T) {
	s := startServer(t, config{templates: sleepy})
	s.create(t, "sleepy00")
	type row struct{ body, field, says string }
	var rows []row
	for _, field := range []string{"idle_timeout", "ttl", "delete_after_stopped"} {
		for _, value := range []string{
			`"-5m"`, `"0"`, `"0s"`, `"1ms"`, `"999ms"`, `"3651d"`, // too short or long
			`"10000000h"`, `"1e999s"`, `"99999999999999999999h"`, `"NaNd"`, `"1e400d"`, `"999999999d"`, // no number, or none that fits
			`""`, `" "`, `"soon"`, `"5"`, `"5 minutes"`, `"Never"`, `"5m\u0000"`, `"` + strings.Repeat("1h", 2000) + `"`,
			`5`, `-1`, `1e999`, `true`, `{}`, `[]`, `["5m"]`, // no text
		} {
			rows = append(rows, row{fmt.Sprintf(`{%q:%s}`, field, value), field, field + ": must be a duration from 1s to 10 years, such as 15m; or never; or null for the template's"})
		}
	}
	for _, value := range []string{`"sleep"`, `""`, `"STOP"`, `1`, `["stop"]`, `"` + strings.Repeat("x", 1000) + `"`} {
		rows = append(rows, row{`{"on_idle":` + value + `}`, "on_idle", "stop, pause"})
	}
	rows = append(rows,
		row{`{"status":"paused"}`, "status", "idle_timeout"},
		row{`{"idle_timeout":"5m","port":80}`, "port", "delete_after_stopped"},
		row{`{"Idle_Timeout":"5m"}`, "Idle_Timeout", "idle_timeout"},
		row{`{"ttl":"5m","ttl":"6m"}`, "ttl", "twice"},
		row{`[]`, "body", "object"}, row{`null`, "body", "object"}, row{`"5m"`, "body", "object"}, row{`{} {}`, "body", "one JSON object"},
	)
	before := lifetimeOf(s.call(t, http.MethodGet, oneInstance, ""))
	for _, row := range rows {
		a := s.patch(t, row.body).expect(t, http.StatusBadRequest, 1006)
		if a.text("field") != row.field || !strings.Contains(a.Message, row.says) || a.detail("allowed") == "" || len(a.raw) > 1000 {
			t.Errorf("%.100s: field %q, message %q, allowed %s", row.body, a.text("field"), a.Message, a.detail("allowed"))
		}
		if strings.HasPrefix(row.field, "idle") && strings.HasPrefix(row.body, `{"idle_timeout":`) && !strings.Contains(row.body, "port") {
			s.call(t, http.MethodPost, "/api/instances", row.body).expect(t, http.StatusBadRequest, 1006)
		}
	}
	s.patch(t, strings.Repeat(" ", maxBody+1)).expect(t, http.StatusRequestEntityTooLarge, 1010)
	s.callSite(t, http.MethodPatch, oneInstance+"?wait=none", "{}").expect(t, http.StatusBadRequest, 1006)
	if after := lifetimeOf(s.call(t, http.MethodGet, oneInstance, "")); after != before {
		t.Errorf("a refused change made %q of %q", after, before)
	}
	if got := describePage(t, s.call(t, http.MethodGet, "/api/instances", "")); got != "sleepy00 of 1" {
		t.Errorf("the refused creates left %s", got)
	}
}

func TestACreateBringsALifetime(t *testing.T) {
	s := startServer(t, config{templates: sleepy})
	create := func(key, body string) answer {
		return s.callAt(t, s.admin()+"/api/instances", http.MethodPost, body, http.Header{"Idempotency-Key": {key}})
	}
	body := `{"prefix":"sleepy00","idle_timeout":"never","ttl":"36h","on_idle":"delete","delete_after_stopped":null}`
	made := create("once", body).expect(t, http.StatusCreated, 0)
	if got, want := lifetimeOf(made), "never delete 36h0m0s never"; got != want {
		t.Errorf("made with %q, want %q", got, want)
	}
	if again := create("once", body).expect(t, http.StatusCreated, 0); again.text("prefix") != "sleepy00" {
		t.Errorf("the retry made %s", again.raw)
	}
	create("once", strings.Replace(body, "36h", "37h", 1)).expect(t, http.StatusBadRequest, 1006)
}

func TestTouchPauseAndResume(t *testing.T) {
	s := startServer(t, config{templates: sleepy})
	made := s.call(t, http.MethodPost, "/api/instances", `{"prefix":"sleepy00"}`).expect(t, http.StatusCreated, 0)
	touched := s.callSite(t, http.MethodPost, oneInstance+"/touch", "").expect(t, http.StatusOK, 0)
	var before, after time.Time
	unmarshal(t, made.detail("idle_at"), &before)
	unmarshal(t, touched.detail("idle_at"), &after)
	if !after.After(before) {
		t.Errorf("idle at %v, touched: at %v", before, after)
	}
	for _, step := range []struct {
		tail   string
		status int
		code   int
		want   string // status and reason
	}{
		{"/resume", 200, 0, "running "}, // no error
		{"/pause", 200, 0, "paused user"},
		{"/pause", 200, 0, "paused user"}, // no error
		{"/touch", 200, 0, "paused user"}, // starts nothing
		{"/resume?wait=started", 200, 0, "running "},
		{"/pause?wait=none", 400, 1006, ""},
		{"/pause", 200, 0, "paused user"},
		{"/start", 200, 0, "running "},
		{"/pause", 200, 0, "paused user"},
		{"/restart", 200, 0, "running "},
		{"/pause", 200, 0, "paused user"},
		{"/stop", 200, 0, "stopped user"},
		{"/pause", 409, 1005, "stopped"},
		{"/touch", 200, 0, "stopped user"},
		{"/resume", 200, 0, "running "}, // as a start does
		{"/pause", 200, 0, "paused user"},
	} {
		a := s.callSite(t, http.MethodPost, oneInstance+step.tail, "").expect(t, step.status, step.code)
		if got := strings.TrimSpace(a.text("status") + " " + a.text("reason")); step.code != 1006 && got != strings.TrimSpace(step.want) {
			t.Errorf("%s: %q, want %q", step.tail, got, step.want)
		}
	}
	if got := describePage(t, s.call(t, http.MethodGet, "/api/instances?status=paused", "")); got != "sleepy00 of 1" {
		t.Errorf("the paused ones are %s", got)
	}
	if got := s.call(t, http.MethodGet, "/api/health", ""); !strings.Contains(got.raw, `"paused":1`) {
		t.Errorf("health does not count it: %s", got.raw)
	}
	s.callSite(t, http.MethodDelete, oneInstance, "").expect(t, http.StatusOK, 0)
	for _, tail := range []string{"/touch", "/pause", "/resume"} {
		s.callSite(t, http.MethodPost, oneInstance+tail, "").expect(t, http.StatusNotFound, 1004)
		s.callSite(t, http.MethodPost, oneInstance+tail, `{"x":1}`).expect(t, http.StatusBadRequest, 1006)
	}
}

// A reload with another idle_timeout holds for the instances that exist.
func TestAReloadChangesTheLifetimeOfWhatExists(t *testing.T) {
	s := startServer(t, config{templates: sleepy})
	s.create(t, "sleepy00")
	s.patch(t, `{"ttl":"1d"}`).expect(t, http.StatusOK, 0)
	shorter := strings.NewReplacer("idle_timeout 30m", "idle_timeout 1s", "on_idle pause", "on_idle stop", "ttl 7d", "ttl 9d").Replace(sleepy)
	if err := s.load(t, config{templates: shorter}); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		a := s.call(t, http.MethodGet, oneInstance, "")
		if a.text("status") != "stopped" || a.text("reason") != "idle" {
			return fmt.Errorf("it is %s (%s)", a.text("status"), a.text("reason"))
		}
		if got := a.text("ttl"); got != "24h0m0s" {
			t.Errorf("its own ttl became %s", got)
		}
		return nil
	})
}

func TestLifetimesOfTemplatesAreChecked(t *testing.T) {
	span := func(d time.Duration) *caddy.Duration { return new(caddy.Duration(d)) }
	for name, row := range map[string]struct {
		spoil func(*Template)
		want  string
	}{
		"negative":          {func(t *Template) { t.IdleTimeout = span(-time.Minute) }, "idle_timeout is -1m0s: it must be never, or from 1s to 10 years"},
		"too small":         {func(t *Template) { t.TTL = span(time.Millisecond) }, "ttl is 1ms"},
		"too long":          {func(t *Template) { t.DeleteAfterStopped = span(1 << 62) }, "delete_after_stopped is"},
		"no way to be idle": {func(t *Template) { t.OnIdle = "sleep" }, `on_idle is "sleep": it must be stop, pause or delete`},
	} {
		for _, where := range []string{"template", "defaults"} {
			app := minimal()
			if where == "defaults" {
				app.Defaults = new(Template)
				row.spoil(app.Defaults)
			} else {
				row.spoil(app.Templates["vite"])
			}
			_, err := app.makeSettings(newExpander())
			if err == nil || !strings.Contains(err.Error(), `template "vite": `+row.want) {
				t.Errorf("%s in %s: got %v, want %q", name, where, err, row.want)
			}
		}
	}
}

func TestATemplateSaysNeverWhereTheDefaultsDoNot(t *testing.T) {
	app := minimal()
	app.Defaults = &Template{IdleTimeout: new(caddy.Duration(time.Hour)), OnIdle: "pause"}
	app.Templates["vite"].IdleTimeout = new(caddy.Duration(0))
	app.Templates["other"] = &Template{Image: "demo", OnIdle: "delete"}
	s, err := app.makeSettings(newExpander())
	if err != nil {
		t.Fatal(err)
	}
	vite, other := s.Templates["vite"].Lifetime, s.Templates["other"].Lifetime
	if *vite.IdleTimeout != 0 || *vite.OnIdle != instance.IdlePause ||
		*other.IdleTimeout != instance.Duration(time.Hour) || *other.OnIdle != instance.IdleDelete {
		t.Errorf("got %+v and %+v", vite, other)
	}
}

func TestBadSpansInACaddyfile(t *testing.T) {
	for _, value := range []string{"soon", "10000000h", "1e999s", "5", `""`, "Never", "-3s", "1ms", "4000d"} {
		_, err := adapt("{\n sandbox {\n template web {\n idle_timeout " + value + "\n }\n }\n}")
		if err == nil || !strings.Contains(err.Error(), "idle_timeout: "+strconv.Quote(strings.Trim(value, `"`))) ||
			!strings.Contains(err.Error(), "never, at Caddyfile:4") {
			t.Errorf("%s: got %v", value, err)
		}
	}
}

func FuzzSpans(f *testing.F) {
	for _, text := range []string{"never", "15m", "-1d", "1.5d2h", "1e9d", "d", "NaNd", "+Infd", "0", "9223372036854775807ns"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := parseSpan(text)
		if err != nil {
			return
		}
		again, err := d.MarshalText()
		if err != nil {
			t.Fatal(err)
		}
		if back, err := parseSpan(string(again)); err != nil || back != d {
			t.Errorf("%q is %s, and that %d (%v), not %d", text, again, back, err, d)
		}
	})
}
