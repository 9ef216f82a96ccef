package caddymodule

import (
	"errors"
	"net"
	"strconv"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestRouteTable(t *testing.T) {
	table, skipped, err := parseRoutes([]byte(`{"domain":"Sandbox.Example.com","later":1,"routes":{
		"running1":{"target":"http://127.0.0.1:5174","status":"running","domains":["app.example.org","two.example.org"]},
		"starting":{"target":"http://127.0.0.1:5175","status":"starting"},
		"nostatus":{"target":"http://[::1]:5176"},
		"byname01":{"target":"http://app_web-1.internal:80","status":"running","later":1},
		"stopped1":{"target":"http://127.0.0.1:5177","status":"stopped"},
		"frozen01":{"target":"http://127.0.0.1:5181","status":"paused"},
		"failed01":{"target":"http://127.0.0.1:5178","status":"failed"},
		"creating":{"target":"http://127.0.0.1:5179","status":"creating"},
		"deleting":{"target":"http://127.0.0.1:5180","status":"deleting"}}}`))
	if err != nil || len(skipped) > 0 {
		t.Fatalf("got %v, skipped %v", err, skipped)
	}
	for host, want := range map[string]string{ // an address, or a kind of error
		"running1.sandbox.example.com":      "127.0.0.1:5174",
		"RUNNING1.sandbox.example.com.:443": "127.0.0.1:5174",
		"starting.sandbox.example.com":      "127.0.0.1:5175",
		"app.example.org":                   "127.0.0.1:5174",
		"TWO.example.org.:443":              "127.0.0.1:5174",
		"three.example.org":                 "not found",
		"3000-running1.sandbox.example.com": "no such port",
		"3000-whoknows.sandbox.example.com": "not found",
		"nostatus.sandbox.example.com":      "[::1]:5176",
		"byname01.sandbox.example.com":      "app_web-1.internal:80",
		"stopped1.sandbox.example.com":      "stopped",
		"failed01.sandbox.example.com":      "failed",
		"frozen01.sandbox.example.com":      "paused",
		"creating.sandbox.example.com":      "creating",
		"deleting.sandbox.example.com":      "deleting",
		"whoknows.sandbox.example.com":      "not found",
		"a.running1.sandbox.example.com":    "not found",
		"running1.example.com":              "not found",
		"sandbox.example.com":               "not found",
		"":                                  "not found",
	} {
		dial, err := table.find(table.resolve(host))
		got := dial
		if e, ok := errors.AsType[*instance.Error](err); ok {
			got = string(e.Kind)
			if status, ok := e.Details["status"].(instance.Status); ok && e.Kind == instance.NotRunning {
				got = string(status)
			}
		}
		if got != want {
			t.Errorf("%q: got %q, want %q", host, got, want)
		}
	}
}

func TestRoutesThatCannotBeServedAreSkipped(t *testing.T) {
	for entry, want := range map[string]string{
		`"short":{"target":"http://127.0.0.1:1"}`:     "its prefix is not",
		`"UPPERCASE":{"target":"http://127.0.0.1:1"}`: "its prefix is not",
		`"a.b.c.d.e":{"target":"http://127.0.0.1:1"}`: "its prefix is not",
		`"oldstyle":5174`:                                             "no object",
		`"notarget":{"status":"running"}`:                             "not http://host:port",
		`"withtls1":{"target":"https://127.0.0.1:5174"}`:              "not http://host:port",
		`"noscheme":{"target":"127.0.0.1:5174"}`:                      "not http://host:port",
		`"noport01":{"target":"http://127.0.0.1"}`:                    "not http://host:port",
		`"withpath":{"target":"http://127.0.0.1:5174/x"}`:             "not http://host:port",
		`"withuser":{"target":"http://u:p@127.0.0.1:5174"}`:           "not http://host:port",
		`"withask1":{"target":"http://127.0.0.1:5174?a"}`:             "not http://host:port",
		`"withask2":{"target":"http://127.0.0.1:5174?"}`:              "not http://host:port",
		`"nohost01":{"target":"http://:5174"}`:                        "names no host",
		`"braces01":{"target":"http://{env.HOME}:5174"}`:              "not http://host:port",
		`"starred1":{"target":"http://a*b:5174"}`:                     "names no host",
		`"zoned001":{"target":"http://[fe80::1%25eth0]:5174"}`:        "names no host",
		`"zoned002":{"target":"http://[fe80::1%25%7Benv.X%7D]:5174"}`: "not http://host:port",
		`"portzero":{"target":"http://127.0.0.1:0"}`:                  "no valid port",
		`"bigport1":{"target":"http://127.0.0.1:65536"}`:              "no valid port",
		`"rangeof1":{"target":"http://127.0.0.1:80-90"}`:              "not http://host:port",
		`"unixsock":{"target":"unix//run/docker.sock"}`:               "not http://host:port",
	} {
		table, skipped, err := parseRoutes([]byte(`{"domain":"a.example","routes":{"keepsake":{"target":"http://127.0.0.1:1"},` + entry + `}}`))
		if err != nil {
			t.Errorf("%s: %v", entry, err)
			continue
		}
		if len(skipped) != 1 || !strings.Contains(skipped[0], want) || len(table.table) != 1 {
			t.Errorf("%s: skipped %q, want one that has %q; left %v", entry, skipped, want, table.table)
		}
	}
}

func TestHostsThatCannotBeServedAreSkipped(t *testing.T) {
	for domains, want := range map[string]string{
		`"*.example.org"`: "wildcard", `"10.0.0.1"`: "IP address", `"first.example.org"`: "also that of", `"with space.org"`: "malformed",
	} {
		table, skipped, err := parseRoutes([]byte(`{"domain":"a.example","routes":{
			"aaaaaaaa":{"target":"http://127.0.0.1:1","domains":["first.example.org"]},
			"bbbbbbbb":{"target":"http://127.0.0.1:2","domains":[` + domains + `,"good.example.org"]}}}`))
		if err != nil || len(skipped) != 1 || !strings.Contains(skipped[0], want) {
			t.Errorf("%s: skipped %q (%v), want one that has %q", domains, skipped, err, want)
			continue
		}
		for host, prefix := range map[string]string{"first.example.org": "aaaaaaaa", "good.example.org": "bbbbbbbb", "bbbbbbbb.a.example": "bbbbbbbb"} {
			if got := table.resolve(host); got.Prefix != prefix {
				t.Errorf("%s: %s leads to %q, want %q", domains, host, got.Prefix, prefix)
			}
		}
	}
}

// Files that are not whole must not count as files without routes.
func TestBrokenRoutes(t *testing.T) {
	whole := `{"domain":"a.example","routes":{"keepsake":{"target":"http://127.0.0.1:1"}}}`
	for n := range len(whole) {
		if _, _, err := parseRoutes([]byte(whole[:n])); err == nil {
			t.Errorf("taken as whole: %s", whole[:n])
		}
	}
	for _, broken := range []string{
		`{}`, `null`, `[]`, `{"domain":"a.example"}`, `{"domain":"a.example","routes":null}`, `{"domain":"a.example","routes":[]}`,
		`{"routes":{}}`, `{"domain":"","routes":{}}`, `{"domain":"*.a.example","routes":{}}`, `{"domain":7,"routes":{}}`,
		whole + whole, "\x00" + whole[1:],
	} {
		if _, _, err := parseRoutes([]byte(broken)); err == nil {
			t.Errorf("taken as whole: %s", broken)
		}
	}
}

func TestNoRoutesYet(t *testing.T) {
	var table *routeTable
	_, err := table.find(table.resolve("keepsake.a.example"))
	if e, ok := errors.AsType[*instance.Error](err); !ok || e.Kind != instance.NotOpen || e.RetryAfter == 0 {
		t.Errorf("got %v", err)
	}
}

func FuzzRoutes(f *testing.F) {
	f.Add([]byte(`{"domain":"a.example","routes":{"keepsake":{"target":"http://127.0.0.1:1","status":"running"}}}`))
	f.Add([]byte(`{"domain":"a.example","routes":{"keepsake":{"target":"http://[::1%25x]:1"},"x":5}}`))
	f.Add([]byte(`{"domain":"a.example","routes":{"keepsake":{"target":"http://127.0.0.1:1","domains":["B.example.","*.c"]}}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		table, _, err := parseRoutes(data)
		if err != nil {
			return
		}
		for prefix, r := range table.table {
			host, port, err := net.SplitHostPort(r.dial)
			if err != nil || host == "" || strings.ContainsAny(r.dial, "{}/ ") {
				t.Errorf("%q is dialled as %q (%v)", prefix, r.dial, err)
			}
			if n, err := strconv.Atoi(port); err != nil || n != r.port || n < 1 || n > 65535 {
				t.Errorf("%q has port %q and %d", prefix, port, r.port)
			}
			if got := table.resolve(prefix + "." + table.domain); got != (request.Target{Prefix: prefix}) {
				t.Errorf("%q is not found by its own host, but %v", prefix, got)
			}
		}
		for host, prefix := range table.hosts {
			if same, err := instance.ParseHost(host); err != nil || same != host || table.table[prefix].dial == "" {
				t.Errorf("the host %q leads to %q (%v)", host, prefix, err)
			}
		}
	})
}
