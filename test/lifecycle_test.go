package test

import (
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestCreateGivesALiveServerOverTLS(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	before := time.Now().Truncate(time.Millisecond)
	a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{
		Prefix: "firstlife", Labels: map[string]string{"team": "blue"},
	}).expect(t, http.StatusCreated, 0)
	c.api.removeAfter(t, "firstlife")
	made := a.instance(t)

	if got, want := a.Header.Get("Location"), "/api/instances/firstlife"; got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
	info := inspect(t, containerName("firstlife"))
	want := instanceView{
		Prefix: "firstlife", Port: made.Port, Status: "running", Ready: true,
		URL: c.urlOf("firstlife"), Template: "web", Image: serverImage,
		ContainerID: info.ID, ContainerPort: 8080,
		Labels: map[string]string{"team": "blue"}, Reason: "", Generation: 1,
		Dev: "auto", HostHeader: "preserve",
		IdleTimeout: "never", OnIdle: "stop", TTL: "never", DeleteAfterStopped: "never",
	}
	sameInstance(t, made, want)
	if made.Port < c.Ports.first || made.Port > c.Ports.last {
		t.Errorf("port %d is outside the range %s", made.Port, c.Ports)
	}
	for name, at := range map[string]*time.Time{"created_at": &made.CreatedAt, "started_at": made.StartedAt} {
		if at == nil || at.Before(before) || at.After(time.Now()) {
			t.Errorf("%s is %v, want a time since %v", name, at, before)
		}
	}
	if made.StoppedAt != nil {
		t.Errorf("stopped_at is %v, want null", made.StoppedAt)
	}
	if page := c.visitor.mustGet(t, made.URL); page.body != "hello from firstlife\n" {
		t.Errorf("the instance's page says %q", page.body)
	}
}

// sameInstance compares all but the times.
func sameInstance(t testing.TB, got, want instanceView) {
	t.Helper()
	timeless := func(i instanceView) string {
		i.CreatedAt, i.StartedAt, i.StoppedAt, i.LastActiveAt = time.Time{}, nil, nil, nil
		i.IdleAt, i.ExpiresAt, i.DeleteAt = nil, nil, nil
		return fmt.Sprintf("%+v", i)
	}
	if timeless(got) != timeless(want) {
		t.Errorf("got\n%s\nwant\n%s", timeless(got), timeless(want))
	}
}

func TestCreateWithoutABodyTakesAllDefaults(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for _, body := range []any{nil, "", "{}", `{"prefix":null,"template":null,"port":null,"env":null,"labels":null}`} {
		made := c.api.call(t, http.MethodPost, "/api/instances", body).expect(t, http.StatusCreated, 0).instance(t)
		c.api.removeAfter(t, made.Prefix)
		if !regexp.MustCompile(`^[a-z0-9]{16}$`).MatchString(made.Prefix) {
			t.Errorf("body %v: generated prefix %q, want 16 characters of a-z and 0-9", body, made.Prefix)
		}
		if made.Template != "web" || made.Labels == nil || len(made.Labels) != 0 {
			t.Errorf("body %v: template %q, labels %v", body, made.Template, made.Labels)
		}
		c.visitor.mustGet(t, made.URL)
	}
}

func TestTheAdminEndpointHasTheSameAPI(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.admin.create(t, createRequest{Prefix: "viaadmin"})
	sameInstance(t, c.api.get(t, "viaadmin"), made)
	sameInstance(t, c.admin.act(t, "viaadmin", "stop"), c.api.get(t, "viaadmin"))
	if gone := c.admin.delete(t, "viaadmin"); gone.Status != "deleting" {
		t.Errorf("status %q in the answer to a delete, want deleting", gone.Status)
	}
	c.api.call(t, http.MethodGet, "/api/instances/viaadmin", nil).expect(t, http.StatusNotFound, 1004)
}

func TestStopAndStartKeepWhatTheInstanceIs(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "stopstart", Labels: map[string]string{"k": "v"}})

	stopped := c.api.act(t, "stopstart", "stop")
	if stopped.Status != "stopped" || stopped.Ready || stopped.Reason != "user" || stopped.StoppedAt == nil {
		t.Errorf("after a stop: %+v", stopped)
	}
	if info := inspect(t, made.ContainerID); info.State.Running {
		t.Error("the container still runs after a stop")
	}
	if again := c.api.act(t, "stopstart", "stop"); again.Status != "stopped" {
		t.Errorf("stopping a stopped instance: %+v", again)
	}

	started := c.api.act(t, "stopstart", "start")
	sameInstance(t, started, made)
	if !started.StartedAt.After(*made.StartedAt) {
		t.Errorf("started_at %v after the second start, first was %v", started.StartedAt, made.StartedAt)
	}
	c.visitor.mustGet(t, made.URL)
	sameInstance(t, c.api.act(t, "stopstart", "start"), made)
}

func TestRestartGivesANewProcessInTheSameContainer(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "restarts"})
	before := inspect(t, made.ContainerID).State.Pid
	sameInstance(t, c.api.act(t, "restarts", "restart"), made)
	if after := inspect(t, made.ContainerID).State.Pid; after == before {
		t.Errorf("process %d runs on after a restart", after)
	}
	c.visitor.mustGet(t, made.URL)
}

func TestDeleteLeavesNothing(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "deleteme"})
	c.visitor.mustGet(t, made.URL)
	made.Status = "deleting"
	gone := c.api.delete(t, "deleteme")
	gone.Ready = made.Ready // as it last was, or as it now is: both are true
	sameInstance(t, gone, made)

	if _, err := engine.ContainerInspect(t.Context(), made.ContainerID); err == nil {
		t.Error("the container is still there")
	}
	for _, call := range []struct{ method, path string }{
		{http.MethodGet, ""}, {http.MethodDelete, ""}, {http.MethodPost, "/start"}, {http.MethodPost, "/stop"}, {http.MethodPost, "/restart"},
	} {
		c.api.call(t, call.method, "/api/instances/deleteme"+call.path, nil).expect(t, http.StatusNotFound, 1004)
	}
	// The certificate is still in Caddy's memory, so the handshake goes on working.
	if page := c.visitor.get(t, made.URL); page.StatusCode != http.StatusNotFound {
		t.Errorf("%d from the host of a deleted instance, want 404: %s", page.StatusCode, page.body)
	}
	c.api.create(t, createRequest{Prefix: "deleteme"})
	c.visitor.mustGet(t, made.URL)
}

func TestListIsOrderedAndFiltered(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	if empty := c.api.list(t, ""); empty.Total != 0 || empty.Instances == nil {
		t.Errorf("an empty list is %+v, want total 0 and [] for instances", empty)
	}
	for _, prefix := range []string{"listcccc", "listaaaa", "listbbbb"} {
		c.api.create(t, createRequest{
			Prefix: prefix, Template: map[bool]string{true: "quick", false: "web"}[prefix == "listcccc"],
			Labels: map[string]string{"name": prefix, "kind": "list"},
		})
	}
	c.api.act(t, "listbbbb", "stop")

	for _, row := range []struct{ query, want string }{
		{"", "listaaaa listbbbb listcccc of 3"},
		{"?limit=2", "listaaaa listbbbb of 3 next"},
		{"?status=running", "listaaaa listcccc of 2"},
		{"?status=stopped", "listbbbb of 1"},
		{"?template=quick", "listcccc of 1"},
		{"?label=kind=list&label=name=listbbbb", "listbbbb of 1"},
		{"?label=kind=other", "of 0"},
		{"?status=running&template=web", "listaaaa of 1"},
	} {
		if got := describePage(c.api.list(t, row.query)); got != row.want {
			t.Errorf("list%s: %s, want %s", row.query, got, row.want)
		}
	}

	var walked []string
	for query := "?limit=1"; ; {
		p := c.api.list(t, query)
		for _, i := range p.Instances {
			walked = append(walked, i.Prefix)
		}
		if p.Next == "" {
			break
		}
		query = "?limit=1&cursor=" + p.Next
	}
	if want := []string{"listaaaa", "listbbbb", "listcccc"}; !slices.Equal(walked, want) {
		t.Errorf("walking through the pages gave %v, want %v", walked, want)
	}
}

func describePage(p listPage) string {
	var words []string
	for _, i := range p.Instances {
		words = append(words, i.Prefix)
	}
	words = append(words, "of", fmt.Sprint(p.Total))
	if p.Next != "" {
		words = append(words, "next")
	}
	return strings.Join(words, " ")
}

func TestWaitStartedAndWaitNoneAnswerEarlier(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	never := map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "1h"}

	started := c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{Prefix: "waitstarted", Env: never}).
		expect(t, http.StatusCreated, 0).instance(t)
	c.api.removeAfter(t, "waitstarted")
	if started.Status != "running" || started.Ready {
		t.Errorf("with wait=started: status %s, ready %t, want running and not ready", started.Status, started.Ready)
	}

	none := c.api.call(t, http.MethodPost, "/api/instances?wait=none", createRequest{Prefix: "waitnone", Env: never}).
		expect(t, http.StatusAccepted, 0).instance(t)
	c.api.removeAfter(t, "waitnone")
	if none.Status != "creating" || none.Ready {
		t.Errorf("with wait=none: status %s, ready %t, want creating and not ready", none.Status, none.Ready)
	}

	// Both get ready by themselves.
	for wait, status := range map[string]int{"started": http.StatusCreated, "none": http.StatusAccepted} {
		prefix := "getsready" + wait
		c.api.call(t, http.MethodPost, "/api/instances?wait="+wait, createRequest{
			Prefix: prefix, Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "1s"}}).expect(t, status, 0)
		c.api.removeAfter(t, prefix)
		eventually(t, 15*time.Second, func() error {
			if i := c.api.get(t, prefix); i.Status != "running" || !i.Ready {
				return fmt.Errorf("%s is %s, ready %t", prefix, i.Status, i.Ready)
			}
			return nil
		})
		c.visitor.mustGet(t, c.urlOf(prefix))
	}
}

func TestARetryWithTheSameIdempotencyKeyMakesNothingNew(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	key := header{"Idempotency-Key", "order-4711"}
	first := c.api.create(t, createRequest{Labels: map[string]string{"order": "4711"}}, key)
	again := c.api.create(t, createRequest{Labels: map[string]string{"order": "4711"}}, key)
	sameInstance(t, again, first)
	if got := c.api.list(t, "?label=order=4711").Total; got != 1 {
		t.Errorf("%d instances, want 1", got)
	}
	other := c.api.create(t, createRequest{Labels: map[string]string{"order": "4711"}}, header{"Idempotency-Key", "order-4712"})
	if other.Prefix == first.Prefix {
		t.Error("another key gave the same instance")
	}
}

func TestTheContainerGetsItsEnvironment(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	made := c.api.create(t, createRequest{Prefix: "environs", Env: map[string]string{
		"GREETING": "hello $HOME {env.SANDBOX_TOKEN} \"quoted\"\nsecond line",
	}})
	var env map[string]string
	c.visitor.getJSON(t, made.URL+"/env", &env)
	for name, want := range map[string]string{
		"PORT":                                   "8080",
		"HOST":                                   "0.0.0.0",
		"SANDBOX_PREFIX":                         "environs",
		"SANDBOX_URL":                            c.urlOf("environs"),
		"GREETING":                               "hello $HOME {env.SANDBOX_TOKEN} \"quoted\"\nsecond line",
		"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": "." + domain,
	} {
		if env[name] != want {
			t.Errorf("%s=%q, want %q", name, env[name], want)
		}
	}
	for _, call := range []string{"/api/instances/environs", "/api/instances"} {
		if a := c.api.call(t, http.MethodGet, call, nil); strings.Contains(a.raw, "GREETING") {
			t.Errorf("GET %s shows the environment: %s", call, a.raw)
		}
	}
}
