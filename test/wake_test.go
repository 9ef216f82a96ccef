package test

import (
	"fmt"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
	"time"
)

var (
	asPerson = header{"Sec-Fetch-Mode", "navigate"}
	wantHTML = header{"Accept", "text/html"}
)

func TestAnIdleViteSleepsUntilAPersonComes(t *testing.T) {
	if err := makeViteImage(); err != nil {
		t.Fatal(err)
	}
	c := startCaddy(t, options{Templates: strings.Replace(viteTemplate, "port 5174", "port 5174\n\t\t\tidle_timeout 2s", 1)})
	made := c.api.create(t, createRequest{})
	asleep := c.api.awaitStatus(t, 60*time.Second, made.Prefix, "stopped", "idle")

	if _, err := c.visitor.try(http.MethodGet, made.URL, "", header{"Accept", "text/x-vite-ping"}); err == nil {
		t.Error("the ping of a page of Vite's was answered")
	}
	if r, err := c.visitor.try(http.MethodHead, made.URL, "", wantHTML); err != nil || r.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("HEAD: %v %v", r.Response, err)
	}
	if state := inspect(t, made.ContainerID).State; state.Running {
		t.Errorf("the container runs: %+v", state)
	}
	if now := c.api.get(t, made.Prefix); now.Status != "stopped" || !now.StoppedAt.Equal(*asleep.StoppedAt) {
		t.Errorf("it was woken: %+v", now)
	}

	const path = "/some/page?with=a%20query"
	eventually(t, 60*time.Second, func() error {
		r, err := c.visitor.try(http.MethodGet, made.URL+path, "", asPerson, wantHTML)
		if err == nil && (r.StatusCode != http.StatusOK || !strings.Contains(r.body, "/src/main.jsx")) {
			err = fmt.Errorf("a navigation: %d %s", r.StatusCode, r.body)
		}
		return err
	})
	c.api.awaitStatus(t, 60*time.Second, made.Prefix, "stopped", "idle")

	c.api.call(t, http.MethodPatch, "/api/instances/"+made.Prefix, `{"idle_timeout":"10m"}`).expect(t, http.StatusOK, 0)
	b := openBrowser(t, c)
	b.open(t, made.URL+path, "html")
	b.landsAt(t, made.URL+path, `document.querySelector("#counter") !== null`) // the page goes to the app by itself
	b.countTo(t, 2)
	b.awaitText(t, 10*time.Second, "#instance", made.Prefix)
}

// Caddy waits for requests in progress when it ends: those that are held must
// not keep it.
func TestHeldCallsEndWithTheProcess(t *testing.T) {
	c := startCaddy(t, options{Grace: "4m", Templates: "template web {\n image {image}\n port 8080\n ready 4m\n hold 4m\n}"})
	c.api.call(t, http.MethodPost, "/api/instances?wait=started", createRequest{
		Prefix: "waitedfor", Env: map[string]string{"TEST_MODE": "slow", "TEST_DELAY": "4m"}}).expect(t, http.StatusCreated, 0)
	answers, written := make(chan *http.Response, 1), make(chan struct{})
	go func() {
		req, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
			WroteRequest: func(httptrace.WroteRequestInfo) { close(written) },
		}), http.MethodGet, c.urlOf("waitedfor"), http.NoBody)
		if err != nil {
			t.Error(err)
		}
		res, err := c.visitor.client.Do(req)
		if err != nil {
			t.Error(err)
		}
		answers <- res
	}()
	<-written
	// It has come where one has been answered that was sent after it, over the same
	// connection.
	if r := c.visitor.get(t, c.urlOf("waitedfor")+"/.well-known/sandbox/nothing"); r.StatusCode != http.StatusNotFound || r.ProtoMajor != 2 {
		t.Errorf("got %s %d", r.Proto, r.StatusCode)
	}
	select {
	case res := <-answers:
		t.Fatalf("the call was not held: %+v", res)
	default:
	}
	if err := c.stop(); err != nil { // which gives it half a minute
		t.Fatal(err)
	}
	res := <-answers
	if res == nil {
		t.FailNow()
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusServiceUnavailable || res.Header.Get("Retry-After") == "" {
		t.Errorf("the call was answered %+v", res)
	}
}
