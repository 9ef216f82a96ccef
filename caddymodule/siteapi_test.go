package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

func unmarshal(t *testing.T, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("decoding %s: %v", text, err)
	}
}

// withTokens is a site with the API for the tokens in lines.
func withTokens(lines string) string {
	return "http://api.localhost:{site} {\n sandbox_api {\n" + lines + "\n}\n respond \"from the site\"\n}\n"
}

func TestSiteWantsAToken(t *testing.T) {
	t.Setenv("SANDBOX_TEST_TOKEN", "from-the-environment")
	s := newServer(t)
	file := filepath.Join(s.dir, "token")
	if err := os.WriteFile(file, []byte("from-a-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.load(t, config{sites: withTokens("token plain\n token {env.SANDBOX_TEST_TOKEN}\n token {file." + file + "}")}); err != nil {
		t.Fatal(err)
	}
	url := fmt.Sprintf("http://api.localhost:%d/api/instances", s.sitePort)
	for header, ok := range map[string]bool{
		"Bearer plain": true, "bearer plain": true, "BEARER from-the-environment": true, "Bearer from-a-file": true,
		"": false, "plain": false, "Bearer": false, "Bearer ": false, "Bearer wrong": false, "Bearer plai": false,
		"Bearer plainer": false, "Bearer  plain": false, "Bearer PLAIN": false, "Basic plain": false, "Bearer plain from-a-file": false,
		"Bearer {env.SANDBOX_TEST_TOKEN}": false,
	} {
		a := s.callAt(t, url, http.MethodGet, "", http.Header{"Authorization": {header}})
		if ok {
			a.expect(t, http.StatusOK, 0)
			continue
		}
		a.expect(t, http.StatusUnauthorized, 1301)
		if a.Header.Get("WWW-Authenticate") == "" || a.RequestID == "" || a.RequestID != a.Header.Get("X-Request-Id") {
			t.Errorf("%q: headers %v, request id %q", header, a.Header, a.RequestID)
		}
	}
	// A stranger learns nothing about routes, methods or bodies.
	for _, path := range []string{"", "/", "/abcdefgh", "/abcdefgh/nothing", "?wait=x"} {
		s.callAt(t, url+path, http.MethodPut, "{", nil).expect(t, http.StatusUnauthorized, 1301)
	}
}

func TestSitePassesOtherPathsOn(t *testing.T) {
	s := startServer(t, config{})
	for _, path := range []string{"/", "/api", "/apis/instances", "/v1/api/instances"} {
		if body := read(t, s.get(t, "api.localhost", path, nil)); body != "from the site" {
			t.Errorf("%s gave %q", path, body)
		}
	}
}

func TestSiteUsesCaddysRequestID(t *testing.T) {
	s := startServer(t, config{sites: `
		http://api.localhost:{site} {
			header >X-From-Caddy {http.request.uuid}
			sandbox_api {
				token ` + testToken + `
			}
		}
	`})
	a := s.callSite(t, http.MethodGet, "/api/nothing", "").expect(t, http.StatusNotFound, 1011)
	if id := a.Header.Get("X-From-Caddy"); id == "" || a.RequestID != id || a.Header.Get("X-Request-Id") != id {
		t.Errorf("Caddy's id is %q, the answer's %q, its header %q", id, a.RequestID, a.Header.Get("X-Request-Id"))
	}
}

func TestTokensThatOpenTheAPIToAllAreRefused(t *testing.T) {
	t.Setenv("SANDBOX_TEST_EMPTY", "")
	s := newServer(t)
	for name, tokens := range map[string]string{
		"none":              "",
		"empty":             `token ""`,
		"blank":             `token "  "`,
		"empty variable":    "token good\n token {env.SANDBOX_TEST_EMPTY}",
		"unset variable":    "token {env.SANDBOX_TEST_UNSET}",
		"unknown something": "token {nothing.of.that.kind}",
	} {
		t.Run(name, func(t *testing.T) {
			err := s.load(t, config{sites: withTokens(tokens)})
			if err == nil || !strings.Contains(err.Error(), "sandbox_api") || !strings.Contains(err.Error(), "token") {
				t.Errorf("loading it gave %v", err)
			}
		})
	}
}

func TestTheTokenOfTheExampleReplacesNoOther(t *testing.T) {
	example, err := os.ReadFile("../Caddyfile.example")
	if err != nil || !strings.Contains(string(example), "token {$SANDBOX_TOKEN:"+exampleToken+"}") {
		t.Fatalf("the example has no token %s (%v)", exampleToken, err)
	}
	s := newServer(t)
	sites := config{sites: withTokens("token " + exampleToken)}
	t.Setenv("SANDBOX_TOKEN", "another")
	if err := s.load(t, sites); err == nil || !strings.Contains(err.Error(), "SANDBOX_TOKEN") {
		t.Errorf("beside another: got %v", err)
	}
	for _, own := range []string{"", exampleToken} {
		t.Setenv("SANDBOX_TOKEN", own)
		if err := s.load(t, sites); err != nil || !strings.Contains(s.log(t), "a token that everybody knows") {
			t.Errorf("with SANDBOX_TOKEN=%s: got %v, and the log is %s", own, err, s.log(t))
		}
	}
}

func TestTokensStayUnexpandedInTheConfiguration(t *testing.T) {
	t.Setenv("SANDBOX_TEST_TOKEN", "never-to-be-seen")
	s := startServer(t, config{sites: withTokens("token {env.SANDBOX_TEST_TOKEN}")})
	body := read(t, s.getAdmin(t, "/config/"))
	if strings.Contains(body, "never-to-be-seen") || !strings.Contains(body, "{env.SANDBOX_TEST_TOKEN}") {
		t.Errorf("the configuration is %s", body)
	}
	app, err := caddy.ActiveContext().AppIfConfigured("sandbox")
	if err != nil || app != inForce.top() {
		t.Errorf("the app in force is not Caddy's: %v", err)
	}
}
