package test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestMalformedAndReservedPrefixesAreRefused(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	const malformed, reserved = "malformed", "reserved"
	for prefix, word := range map[string]string{
		"": malformed, "seven77": malformed, strings.Repeat("a", 58): malformed,
		"UPPERCASE": malformed, "with-hyphen": malformed, "under_score": malformed, "two.labels": malformed,
		"with space": malformed, "ümlauteä": malformed, "../../etc": malformed, "new\nline": malformed,
		"localhost": reserved, "dashboard": reserved, "wildcard": reserved, "webmaster": reserved,
		"postmaster": reserved, "hostmaster": reserved, "administrator": reserved,
		"autodiscover": reserved, "autoconfig": reserved,
		"ours1234": reserved, "theirs56": reserved, // in the Caddyfile
	} {
		t.Run(fmt.Sprintf("%.20q", prefix), func(t *testing.T) {
			a := c.api.call(t, http.MethodPost, "/api/instances", map[string]any{"prefix": prefix}).
				expect(t, http.StatusBadRequest, 1001).says(t, word)
			if rule, _ := a.details(t)["rule"].(string); rule == "" {
				t.Errorf("the details lack the rule: %s", a.raw)
			}
		})
	}
	for _, prefix := range []string{"eightchr", strings.Repeat("z", 57), "01234567"} {
		c.api.create(t, createRequest{Prefix: prefix})
	}
}

func TestATakenPrefixIsRefused(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "takenone"})
	c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "takenone"}).
		expect(t, http.StatusBadRequest, 1002).says(t, "prefix already exists")
	sameInstance(t, c.api.get(t, "takenone"), made)
}

func TestPortsOutsideTheRangeAreRefused(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, port := range []int{-1, 0, 80, c.Ports.first - 1, c.Ports.last + 1, 65536, 1 << 40} {
		a := c.api.call(t, http.MethodPost, "/api/instances", map[string]int{"port": port}).expect(t, http.StatusBadRequest, 1003)
		suggested, _ := a.details(t)["suggested_port"].(float64)
		if suggested < float64(c.Ports.first) || suggested > float64(c.Ports.last) {
			t.Errorf("port %d: suggested_port %v is outside %s", port, suggested, c.Ports)
		}
	}
}

func TestMalformedRequestsAreRefused(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	many := func(n int, entry string) string {
		entries := make([]string, n)
		for i := range entries {
			entries[i] = fmt.Sprintf(entry, i)
		}
		return strings.Join(entries, ",")
	}
	for name, row := range map[string]struct{ query, body, field string }{
		"not JSON":                  {"", `prefix=abc`, "body"},
		"half an object":            {"", `{"prefix":`, "body"},
		"an array":                  {"", `[]`, "body"},
		"null":                      {"", `null`, "body"},
		"trailing data":             {"", `{} {}`, "body"},
		"trailing bracket":          {"", `{}}`, "body"},
		"unknown field":             {"", `{"prefx":"abcdefgh"}`, "prefx"},
		"field in another case":     {"", `{"Prefix":"abcdefgh"}`, "Prefix"},
		"duplicate field":           {"", `{"prefix":"abcdefgh","prefix":"abcdefgi"}`, "prefix"},
		"duplicate key deep inside": {"", `{"env":{"A":"1","A":"2"}}`, "env.A"},
		"escaped duplicate":         {"", `{"env":{"A":"1","\u0041":"2"}}`, "env.A"},
		"prefix a number":           {"", `{"prefix":12345678}`, "prefix"},
		"port a string":             {"", `{"port":"5174"}`, "port"},
		"port a fraction":           {"", `{"port":5174.5}`, "port"},
		"env a list":                {"", `{"env":["A=1"]}`, "env"},
		"env value a number":        {"", `{"env":{"A":1}}`, "env.A"},
		"env value null":            {"", `{"env":{"A":null}}`, "env.A"},
		"env name":                  {"", `{"env":{"1A":"x"}}`, "env"},
		"env name empty":            {"", `{"env":{"":"x"}}`, "env"},
		"env name with equals sign": {"", `{"env":{"A=B":"x"}}`, "env"},
		"env value with NUL":        {"", `{"env":{"A":"x\u0000y"}}`, "env"},
		"129 env entries":           {"", `{"env":{` + many(129, `"A%d":"x"`) + `}}`, "env"},
		"env over 32 KiB":           {"", `{"env":{"A":"` + strings.Repeat("x", 33<<10) + `"}}`, "env"},
		"label key":                 {"", `{"labels":{"UPPER":"x"}}`, "labels"},
		"label key too long":        {"", `{"labels":{"` + strings.Repeat("k", 64) + `":"x"}}`, "labels"},
		"33 labels":                 {"", `{"labels":{` + many(33, `"k%d":"x"`) + `}}`, "labels"},
		"label value of 257 bytes":  {"", `{"labels":{"k":"` + strings.Repeat("v", 257) + `"}}`, "labels"},
		"wait":                      {"?wait=later", `{}`, "wait"},
		"unknown parameter":         {"?wat=ready", `{}`, "wat"},
	} {
		t.Run(name, func(t *testing.T) {
			a := c.api.call(t, http.MethodPost, "/api/instances"+row.query, row.body).expect(t, http.StatusBadRequest, 1006)
			if field, _ := a.details(t)["field"].(string); !strings.HasPrefix(field, row.field) {
				t.Errorf("field %q, want %q: %s", field, row.field, a.raw)
			}
			if a.RequestID == "" {
				t.Errorf("no request_id: %s", a.raw)
			}
		})
	}
	for _, query := range []string{"limit=0", "limit=1001", "limit=ten", "status=sleeping", "label=k", "cursor=UPPER", "cursor=", "colour=red", "limit=1&limit=2"} {
		a := c.api.call(t, http.MethodGet, "/api/instances?"+query, nil).expect(t, http.StatusBadRequest, 1006)
		want, _, _ := strings.Cut(query, "=")
		if field := a.details(t)["field"]; field != want {
			t.Errorf("%s: field %v, want %s", query, field, want)
		}
	}
	if allowed := c.api.call(t, http.MethodPost, "/api/instances", `{"x":1}`).details(t)["allowed"]; !strings.Contains(fmt.Sprint(allowed), "prefix") {
		t.Errorf("an unknown field is answered without the known ones: %v", allowed)
	}
}

func TestTheLimitsOfEnvAndLabelsCanBeReached(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	env := map[string]string{}
	for n := range 128 {
		env[fmt.Sprintf("_A%d", n)] = strings.Repeat("x", 200)
	}
	labels := map[string]string{}
	for n := range 31 {
		labels[fmt.Sprintf("a.b-c_%d", n)] = strings.Repeat("v", 256)
	}
	labels[strings.Repeat("k", 63)] = ""
	made := c.api.create(t, createRequest{Env: env, Labels: labels})
	var seen map[string]string
	c.visitor.getJSON(t, made.URL+"/env", &seen)
	for name, value := range env {
		if seen[name] != value {
			t.Errorf("%s did not arrive", name)
		}
	}
	if len(made.Labels) != 32 {
		t.Errorf("%d labels, want 32", len(made.Labels))
	}
}

func TestABodyOver64KiBIsRefused(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, api := range []apiClient{c.api, c.admin} {
		a := api.call(t, http.MethodPost, "/api/instances", `{"prefix":"`+strings.Repeat("a", 64<<10)+`"}`).
			expect(t, http.StatusRequestEntityTooLarge, 1010)
		if got := a.details(t)["limit"]; got != float64(64<<10) {
			t.Errorf("limit %v, want 65536", got)
		}
		// Spaces count, too; 64 KiB in all are allowed.
		full := fmt.Sprintf("%-65536s", "{}")
		made := api.call(t, http.MethodPost, "/api/instances", full).expect(t, http.StatusCreated, 0).instance(t)
		api.removeAfter(t, made.Prefix)
	}
}

func TestAnUnknownTemplateIsAnsweredWithTheKnownOnes(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, template := range []string{"nosuch", "", "WEB"} {
		a := c.api.call(t, http.MethodPost, "/api/instances", map[string]any{"template": template}).expect(t, http.StatusBadRequest, 1007)
		if got := fmt.Sprint(a.details(t)["templates"]); got != "[quick web]" {
			t.Errorf("template %q: templates %s, want [quick web]", template, got)
		}
	}
}

func TestAmongSeveralTemplatesOneMustBeNamed(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: `
		template one {
			image {image}
			port 8080
		}
		template two {
			image {image}
			port 8080
		}
	`})
	a := c.api.call(t, http.MethodPost, "/api/instances", nil).expect(t, http.StatusBadRequest, 1007)
	if got := fmt.Sprint(a.details(t)["templates"]); got != "[one two]" {
		t.Errorf("templates %s, want [one two]", got)
	}
	c.api.create(t, createRequest{Template: "two"})
}

func TestUnknownInstancesAreNotFound(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, prefix := range []string{"notthere", "UPPER", "a", "..", "%2e%2e", "%00", "notthere%2Fstart", strings.Repeat("a", 5000)} {
		for _, call := range []struct{ method, tail string }{
			{http.MethodGet, ""}, {http.MethodDelete, ""},
			{http.MethodPost, "/start"}, {http.MethodPost, "/stop"}, {http.MethodPost, "/restart"},
		} {
			if prefix == ".." || prefix == "%2e%2e" {
				continue // paths that clients and servers clean before anybody sees them
			}
			c.api.call(t, call.method, "/api/instances/"+prefix+call.tail, nil).expect(t, http.StatusNotFound, 1004)
		}
	}
}

// A dev server that has not answered yet keeps nobody from stopping its instance,
// nor from deleting it.
func TestAStartThatTakesLongMakesWay(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{
		Prefix: "takeslong", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "1h"}}).expect(t, http.StatusCreated, 0)
	c.api.removeAfter(t, "takeslong")
	c.api.call(t, http.MethodPost, "/api/instances/takeslong/stop", nil).expect(t, http.StatusOK, 0)
	c.api.awaitStatus(t, 5*time.Second, "takeslong", "stopped", "user")
	c.api.call(t, http.MethodPost, "/api/instances/takeslong/start?wait=started", nil).expect(t, http.StatusOK, 0)
	c.api.call(t, http.MethodDelete, "/api/instances/takeslong", nil).expect(t, http.StatusOK, 0)
}

func TestABusyInstanceIsNotToBeDisturbed(t *testing.T) {
	t.Parallel()
	shim, endpoint := startFaultyEngine(t)
	c := startCaddy(t, options{Docker: endpoint})
	c.api.create(t, createRequest{Prefix: "busydelete"})
	release := make(chan struct{})
	shim.suffer(func(f *faultyEngine, w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/stop") {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
		f.forward.ServeHTTP(w, r)
	})
	stopped := make(chan answer, 1)
	go func() {
		a, _ := c.api.try(http.MethodPost, "/api/instances/busydelete/stop", nil)
		stopped <- a
	}()
	c.api.awaitStatus(t, 10*time.Second, "busydelete", "stopping", "")
	a := c.api.call(t, http.MethodPost, "/api/instances/busydelete/start", nil).expect(t, http.StatusConflict, 1005)
	if got := a.details(t)["status"]; got != "stopping" {
		t.Errorf("status %v in the details, want stopping", got)
	}
	close(release)
	if a := <-stopped; a.Status != http.StatusOK {
		t.Errorf("the stop itself: %s", a.raw)
	}
}

func TestWrongMethodsAndRoutesAreRefused(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, api := range []apiClient{c.api, c.admin} {
		for _, row := range []struct{ method, path, allow string }{
			{http.MethodPut, "/api/instances", "GET HEAD POST"},
			{http.MethodDelete, "/api/instances", "GET HEAD POST"},
			{http.MethodPut, "/api/instances/anything", "DELETE GET HEAD PATCH"},
			{http.MethodGet, "/api/instances/anything/start", "POST"},
			{http.MethodDelete, "/api/instances/anything/stop", "POST"},
		} {
			a := api.call(t, row.method, row.path, nil).expect(t, http.StatusMethodNotAllowed, 1009)
			allow := strings.FieldsFunc(a.Header.Get("Allow"), func(r rune) bool { return r == ',' || r == ' ' })
			slices.Sort(allow)
			if got := strings.Join(allow, " "); got != row.allow {
				t.Errorf("%s %s: Allow %q, want %q", row.method, row.path, got, row.allow)
			}
		}
		for _, path := range []string{"/api/instances/", "/api/instances/abcdefgh/", "/api/instances/abcdefgh/wake", "/api/instances/abcdefgh/start/now"} {
			api.call(t, http.MethodGet, path, nil).expect(t, http.StatusNotFound, 1011)
		}
	}
	c.api.call(t, http.MethodGet, "/api/instance", nil).expect(t, http.StatusNotFound, 1011)
	c.api.call(t, http.MethodGet, "/api/", nil).expect(t, http.StatusNotFound, 1011)
}

func TestTheSiteWantsItsToken(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for name, authorization := range map[string]string{
		"none": "", "wrong": "Bearer wrong", "empty": "Bearer ", "other scheme": "Basic " + apiToken,
		"a prefix of it": "Bearer " + apiToken[:5], "more than it": "Bearer " + apiToken + "x",
		"the placeholder": "Bearer {env.SANDBOX_TOKEN}",
	} {
		t.Run(name, func(t *testing.T) {
			var headers []header
			if authorization != "" {
				headers = append(headers, header{"Authorization", authorization})
			}
			stranger := apiClient{base: c.api.base, http: c.api.http}
			for _, path := range []string{"/api/instances", "/api/instances/notthere", "/api/nosuchroute"} {
				stranger.call(t, http.MethodGet, path, nil, headers...).expect(t, http.StatusUnauthorized, 1301)
			}
			stranger.call(t, http.MethodPost, "/api/instances", "{", headers...).expect(t, http.StatusUnauthorized, 1301)
		})
	}
	// The scheme's name may be written in any case.
	apiClient{base: c.api.base, http: c.api.http}.
		call(t, http.MethodGet, "/api/instances", nil, header{"Authorization", "bearer " + apiToken}).expect(t, http.StatusOK, 0)
}

func TestOtherPathsOfTheAPISiteAreNotOurs(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Sites: `
mixed.localhost {
	tls internal
	sandbox_api {
		token {env.SANDBOX_TOKEN}
	}
	respond "from the site"
}
`})
	for _, path := range []string{"/", "/apidocs", "/app/api/instances"} {
		if page := c.visitor.mustGet(t, c.siteURL("mixed.localhost")+path); page.body != "from the site" {
			t.Errorf("GET %s: %q", path, page.body)
		}
	}
	apiClient{base: c.siteURL("mixed.localhost"), http: c.visitor.client}.
		call(t, http.MethodGet, "/api/instances", nil).expect(t, http.StatusUnauthorized, 1301)
}

func TestAnEmptyTokenIsRefusedAtLoad(t *testing.T) {
	t.Parallel()
	c := prepareCaddy(t, options{Sites: "open.localhost {\n\ttls internal\n\tsandbox_api {\n\t\ttoken {env.NO_SUCH_VARIABLE}\n\t}\n}\n"})
	if err := c.start(); err == nil {
		t.Fatal("Caddy starts with an API that an empty token opens")
	} else if !strings.Contains(err.Error(), "token") || !strings.Contains(err.Error(), "empty") {
		t.Errorf("it does not say that the token is empty: %v", err)
	}
}

func TestAMissingImageIsNamed(t *testing.T) {
	t.Parallel()
	const missing = "caddy-sandbox/no-such-image:nowhere"
	c := startCaddy(t, options{Templates: `
		template never {
			image ` + missing + `
			pull never
		}
		template missing {
			image ` + missing + `
		}
	`})
	for _, template := range []string{"never", "missing"} {
		a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "missingimage", Template: template}).
			expect(t, http.StatusUnprocessableEntity, 1104).says(t, missing)
		if got := a.details(t)["image"]; got != missing {
			t.Errorf("template %s: image %v in the details of %s", template, got, a.raw)
		}
		c.api.call(t, http.MethodGet, "/api/instances/missingimage", nil).expect(t, http.StatusNotFound, 1004)
	}
	if left := c.containers(t); len(left) != 0 {
		t.Errorf("containers %v are left", left)
	}
}

func TestAForeignContainerOfOurNameIsNotTouched(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	id := foreignContainer(t, containerName("foreigner"))
	c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: "foreigner"}).
		expect(t, http.StatusBadGateway, 1101).says(t, containerName("foreigner"))
	c.api.call(t, http.MethodGet, "/api/instances/foreigner", nil).expect(t, http.StatusNotFound, 1004)
	c.api.call(t, http.MethodDelete, "/api/instances/foreigner", nil).expect(t, http.StatusNotFound, 1004)
	if now := inspect(t, containerName("foreigner")); now.ID != id {
		t.Errorf("the foreign container is %s now, was %s", now.ID, id)
	}
}

func TestWithoutTheAppTheAdminEndpointSaysSo(t *testing.T) {
	t.Parallel()
	c := prepareCaddy(t, options{})
	if err := c.writeConfig(fmt.Sprintf("{\n\tadmin %s\n}\n", c.adminAddr)); err != nil {
		t.Fatal(err)
	}
	if err := c.launch(); err != nil {
		t.Fatal(err)
	}
	var a answer
	eventually(t, 20*time.Second, func() (err error) {
		a, err = c.admin.try(http.MethodGet, "/api/instances", nil)
		return err
	})
	a.expect(t, http.StatusServiceUnavailable, 1108).says(t, "sandbox app")
	if a.Header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
}
