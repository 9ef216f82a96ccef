package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddytls"
)

func TestLifeOfACustomHost(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	s.create(t, "neighbor")
	permission := &TLSPermission{app: inForce.top()}
	leadsTo := func(prefix string) {
		t.Helper()
		for _, host := range []string{"app.example.org", "APP.Example.ORG.", fmt.Sprintf("app.example.org:%d", s.sitePort)} {
			res := s.get(t, host, "/", asCurl)
			body := read(t, res)
			if prefix == "" && res.StatusCode != http.StatusNotFound || prefix != "" && !strings.Contains(body, prefix) {
				t.Errorf("%s: %d %s, want %q", host, res.StatusCode, body, prefix)
			}
		}
		for _, name := range []string{"app.example.org", "App.Example.org"} {
			if err := permission.CertificateAllowed(t.Context(), name); (err == nil) != (prefix != "") {
				t.Errorf("a certificate for %s: %v", name, err)
			}
		}
	}
	leadsTo("")
	a := s.call(t, http.MethodPut, "/api/instances/keepsake/domains/App.Example.org.", "").expect(t, http.StatusOK, 0)
	if a.detail("domains") != `["app.example.org"]` || a.text("prefix") != "keepsake" {
		t.Errorf("the answer is %s", a.raw)
	}
	leadsTo("keepsake")
	s.callSite(t, http.MethodPut, "/api/instances/keepsake/domains/app%2Eexample.org", "{}").expect(t, http.StatusOK, 0) // again: no error
	if a := s.call(t, http.MethodGet, "/api/instances/keepsake", ""); a.detail("domains") != `["app.example.org"]` {
		t.Errorf("the instance is %s", a.raw)
	}
	if a := s.call(t, http.MethodGet, "/api/instances/neighbor", ""); a.detail("domains") != `[]` || a.detail("urls") != `{}` {
		t.Errorf("without any: %s", a.raw)
	}
	taken := s.call(t, http.MethodPut, "/api/instances/neighbor/domains/app.example.org", "").expect(t, http.StatusConflict, 1013)
	if taken.text("host") != "app.example.org" || strings.Contains(taken.raw, "keepsake") {
		t.Errorf("the answer is %s", taken.raw)
	}

	if err := s.load(t, config{sandbox: "prefix_length 20"}); err != nil {
		t.Fatal(err)
	}
	permission = &TLSPermission{app: inForce.top()}
	leadsTo("keepsake")

	s.call(t, http.MethodPost, "/api/instances/keepsake/stop", "").expect(t, http.StatusOK, 0)
	s.callURL(t, "app.example.org", "/").expect(t, http.StatusServiceUnavailable, 1105)
	s.call(t, http.MethodDelete, "/api/instances/keepsake/domains/APP.example.org", "").expect(t, http.StatusOK, 0)
	leadsTo("")
	s.call(t, http.MethodDelete, "/api/instances/keepsake/domains/app.example.org", "").expect(t, http.StatusNotFound, 1004)
	s.call(t, http.MethodPut, "/api/instances/neighbor/domains/app.example.org", "").expect(t, http.StatusOK, 0)
	leadsTo("neighbor")
	s.call(t, http.MethodDelete, "/api/instances/neighbor", "").expect(t, http.StatusOK, 0)
	leadsTo("")
}

func TestCustomHostsThatAreRefused(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "keepsake")
	for host, part := range map[string]string{
		"*.example.org":                    "wildcard",
		"%2A.example.org":                  "wildcard",
		"10.1.2.3":                         "IP address",
		"[::1]":                            "IP address",
		"localhost":                        "single label",
		"app":                              "single label",
		testDomain:                         "domain of all instances",
		hostOf("keepsake"):                 "domain of all instances",
		"deep.below." + hostOf("whoknows"): "domain of all instances",
		"api.localhost":                    "this server's API",
		"API.localhost.":                   "this server's API",
		"b%C3%BCcher.example":              "xn--bcher-kva.example",
		"app.example.org:443":              "malformed",
		"app.example.org%2Fpath":           "malformed",
		"app.example.org%00":               "malformed",
		strings.Repeat("a.", 200) + "b":    "longer",
	} {
		a := s.call(t, http.MethodPut, "/api/instances/keepsake/domains/"+host, "").expect(t, http.StatusBadRequest, 1012)
		if !strings.Contains(a.Message, part) || a.text("rule") == "" {
			t.Errorf("%.40s: %s", host, a.raw)
		}
		s.call(t, http.MethodDelete, "/api/instances/keepsake/domains/"+host, "").expect(t, http.StatusNotFound, 1004)
	}
	for _, prefix := range []string{"whoknows", "No", "%00"} {
		for _, method := range []string{http.MethodPut, http.MethodDelete} {
			s.call(t, method, "/api/instances/"+prefix+"/domains/app.example.org", "").expect(t, http.StatusNotFound, 1004)
		}
	}
	s.call(t, http.MethodPut, "/api/instances/keepsake/domains/app.example.org", `{"host":"x"}`).expect(t, http.StatusBadRequest, 1006)
	s.call(t, http.MethodPut, "/api/instances/keepsake/domains/app.example.org?force=1", "").expect(t, http.StatusBadRequest, 1006)
	for n := range 16 {
		s.call(t, http.MethodPut, fmt.Sprintf("/api/instances/keepsake/domains/h%d.example.org", n), "").expect(t, http.StatusOK, 0)
	}
	s.call(t, http.MethodPut, "/api/instances/keepsake/domains/one.too.many", "").expect(t, http.StatusBadRequest, 1012)
}

// The API's host is found wherever its handler is in the site.
func TestHostsOfTheAPIAreFoundInNestedRoutes(t *testing.T) {
	const sites = `
		http://first.example.org:{site}, http://second.example.org:{site} {
			handle /inner/* {
				route {
					sandbox_api {
						token x
					}
				}
			}
		}
		http://other.example.org:{site} {
			respond "no API"
		}
		http://:{site} {
			sandbox_proxy
		}
	`
	s := startServer(t, config{sites: sites})
	s.create(t, "keepsake")
	for host, code := range map[string]int{"first.example.org": 1012, "second.example.org": 1012, "other.example.org": 0} {
		if a := s.call(t, http.MethodPut, "/api/instances/keepsake/domains/"+host, ""); a.Code != code {
			t.Errorf("%s: %s, want code %d", host, a.raw, code)
		}
	}
}

func TestPlaceholdersOfPortsAndCustomHosts(t *testing.T) {
	const sites = `
		http://:{site} {
			header >X-Sandbox "{http.sandbox.prefix} {http.sandbox.port} {http.sandbox.status} {http.sandbox.template}"
			sandbox_proxy
		}
	`
	s := startServer(t, config{sites: sites})
	made := s.create(t, "keepsake")
	s.call(t, http.MethodPut, "/api/instances/keepsake/domains/app.example.org", "").expect(t, http.StatusOK, 0)
	want := fmt.Sprintf("keepsake %d running web", made.Port)
	for _, host := range []string{"app.example.org", hostOf("5174-keepsake"), hostOf("9229-keepsake")} {
		if got := s.get(t, host, "/", nil).Header.Get("X-Sandbox"); got != want {
			t.Errorf("%s: got %q, want %q", host, got, want)
		}
	}
}

func TestCertificatesOfPorts(t *testing.T) {
	s := startServer(t, config{templates: portTemplates})
	s.createOn(t, "manyport", "wide", "", 3000)
	permission := &TLSPermission{app: inForce.top()}
	for name, allowed := range map[string]bool{
		"manyport": true, "5174-manyport": true, "4000-manyport": true, "9229-manyport": true, "3000-manyport": true,
		"8000-manyport": true, // so that there is a page which says what is wrong; of such there are few: see Manager.Known
		"0-manyport":    false, "04000-manyport": false, "65536-manyport": false, "4000-whoknows": false, "-manyport": false,
	} {
		err := permission.CertificateAllowed(t.Context(), hostOf(name))
		if allowed && err != nil || !allowed && !errors.Is(err, caddytls.ErrPermissionDenied) {
			t.Errorf("%s: %v, want %v", name, err, allowed)
		}
	}
	given := 0
	for port := 20000; port < 21000; port++ {
		if permission.CertificateAllowed(t.Context(), portHost(port, "manyport")) == nil {
			given++
		}
	}
	if given != 15 { // and the one above
		t.Errorf("%d of 1000 undeclared ports got a certificate, want 15", given)
	}
}
