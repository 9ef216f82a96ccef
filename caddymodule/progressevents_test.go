package caddymodule

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// events is a stream of them.
type events struct {
	*bufio.Scanner
	res *http.Response
}

type event struct{ name, data string }

func (e event) status(t *testing.T) (p progress) {
	t.Helper()
	if e.name != "status" {
		t.Fatalf("%v is no status", e)
	}
	if err := json.Unmarshal([]byte(e.data), &p); err != nil {
		t.Fatalf("%v: %v", e, err)
	}
	return p
}

// follow opens the stream of a host.
func follow(t *testing.T, s *server, host string, header http.Header) events {
	t.Helper()
	return followWith(t.Context(), t, s, host, header)
}

func followWith(ctx context.Context, t *testing.T, s *server, host string, header http.Header) events {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+eventsPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	if header != nil {
		req.Header = header
	}
	res, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { res.Body.Close() })
	if kind := res.Header.Get("Content-Type"); res.StatusCode != http.StatusOK || kind != "text/event-stream" {
		t.Fatalf("%d %s", res.StatusCode, kind)
	}
	for name, want := range map[string]string{"Cache-Control": "no-store, no-transform", "X-Content-Type-Options": "nosniff"} {
		if got := res.Header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	return events{bufio.NewScanner(res.Body), res}
}

// next is the next event; ok is false at the end of the stream.
func (e events) next() (next event, ok bool) {
	for e.Scan() {
		switch line := e.Text(); {
		case line == "" && next.name != "":
			return next, true
		case strings.HasPrefix(line, "event: "):
			next.name = line[len("event: "):]
		case strings.HasPrefix(line, "data: "):
			next.data = line[len("data: "):]
		}
	}
	return event{}, false
}

// rest are all events up to the end of the stream, which has to be a proper one.
func (e events) rest(t *testing.T) (all []event) {
	t.Helper()
	for {
		next, ok := e.next()
		if !ok {
			if err := e.Err(); err != nil {
				t.Errorf("the stream broke off: %v", err)
			}
			return all
		}
		all = append(all, next)
	}
}

// begin creates an instance and does not wait for it.
func (s *server) begin(t *testing.T, prefix, env string) {
	t.Helper()
	s.call(t, http.MethodPost, "/api/instances?wait=none", fmt.Sprintf(`{"prefix":%q,"env":{%s}}`, prefix, env)).
		expect(t, http.StatusAccepted, 0)
}

func TestEventsTellHowAStartGoes(t *testing.T) {
	s := newServer(t)
	s.engine.GiveAddresses()
	if err := s.load(t, config{}); err != nil {
		t.Fatal(err)
	}
	_, goOn := s.blockEngine(t, "Start")
	s.begin(t, "slowpoke", `"TEST_MODE":"slow","TEST_DELAY":"500ms"`)
	stream := follow(t, s, hostOf("slowpoke"), nil)
	first, _ := stream.next()
	goOn()
	var phases []instance.Phase
	for _, e := range append([]event{first}, stream.rest(t)...) {
		phases = append(phases, e.status(t).Phase)
	}
	// Between the open port and the answer there may be no time to be told of it.
	if got := strings.ReplaceAll(fmt.Sprint(phases), " open", ""); !strings.HasSuffix(got, "starting ready]") {
		t.Errorf("the phases were %v", phases)
	}
	if all := follow(t, s, hostOf("slowpoke"), nil).rest(t); len(all) != 1 || all[0].status(t) != (progress{Status: instance.Running, Phase: instance.PhaseReady}) {
		t.Errorf("of one that is ready: %v", all)
	}
}

func TestEventsTellOfTheOpenPortAndOfTheFailure(t *testing.T) {
	for _, addresses := range []bool{true, false} { // else docker-proxy is in between
		t.Run(fmt.Sprintf("with addresses %v", addresses), func(t *testing.T) {
			s := newServer(t)
			if addresses {
				s.engine.GiveAddresses()
			}
			if err := s.load(t, config{templates: webTemplate("ready 2s")}); err != nil {
				t.Fatal(err)
			}
			_, goOn := s.blockEngine(t, "Start")
			s.begin(t, "speechless", `"TEST_MODE":"silent"`)
			stream := follow(t, s, hostOf("speechless"), nil)
			first, _ := stream.next()
			goOn()
			var told []string
			for _, e := range append([]event{first}, stream.rest(t)...) {
				p := e.status(t)
				told = append(told, strings.TrimSpace(fmt.Sprint(p.Phase, " ", p.Reason)))
			}
			if got := strings.Join(told, ", "); !strings.HasSuffix(got, "open, never became ready") {
				t.Errorf("told was %s", got)
			}
		})
	}
}

func TestEventsTellOfTheEndOfAnInstance(t *testing.T) {
	s := startServer(t, config{})
	s.begin(t, "shortlived", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	stream := follow(t, s, hostOf("shortlived"), nil)
	if first, ok := stream.next(); !ok || first.status(t).Phase != instance.PhaseStarting {
		t.Fatalf("first came %v", first)
	}
	// Its create is cut off by its engine, and so taken back.
	s.engine.RemoveByHand(instance.ContainerName("shortlived"))
	all := stream.rest(t)
	if len(all) == 0 {
		t.Fatal("the stream ended without a word")
	}
	if last := all[len(all)-1].status(t); last.Status != instance.Failed && last.Status != "deleted" {
		t.Errorf("last came %v", last)
	}
}

func TestTheLogIsForThoseWhoMaySeeIt(t *testing.T) {
	for policy, sees := range map[string][2]bool{ // a stranger, ann
		"authenticated": {false, true}, "anyone": {true, true}, "nobody": {false, false},
	} {
		t.Run(policy, func(t *testing.T) {
			s := startServer(t, config{templates: webTemplate("ready 2s\n page_logs " + policy), sites: signInSites})
			_, goOn := s.blockEngine(t, "Start")
			s.begin(t, "talkative", `"TEST_MODE":"silent"`)
			streams := []events{follow(t, s, hostOf("talkative"), http.Header{}), follow(t, s, hostOf("talkative"), asAnn(http.Header{}))}
			goOn() // both are there
			for i, stream := range streams {
				lines := 0
				for _, e := range stream.rest(t) {
					var line string
					if e.name == "log" && json.Unmarshal([]byte(e.data), &line) == nil && strings.Contains(line, "listening on") {
						lines++
					}
				}
				if want := map[bool]int{true: 1}[sees[i]]; lines != want {
					t.Errorf("visitor %d was told %d lines, want %d", i, lines, want)
				}
			}
			if n := s.engine.Calls("Tail"); n > 1 {
				t.Errorf("the engine was asked for %d streams, want one for all", n)
			}
			for i, header := range []http.Header{asBrowser, asAnn(asBrowser)} {
				page := read(t, s.get(t, hostOf("talkative"), "/", header))
				if shown := strings.Contains(page, "listening on"); shown != sees[i] || !strings.Contains(page, "did not answer in time") {
					t.Errorf("visitor %d sees the log on the page of the failure: %v, want %v: %s", i, shown, sees[i], page)
				}
			}
		})
	}
}

func TestThePlacesOfThoseWhoFollowAreBounded(t *testing.T) {
	s := startServer(t, config{})
	s.begin(t, "crowdpuller", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	for n := range 100 {
		leave, ok := viewers.join("crowdpuller", at(fmt.Sprintf("192.0.2.%d", n)))
		if !ok {
			t.Fatal("the places are fewer than they should be")
		}
		t.Cleanup(leave)
	}
	res := s.get(t, hostOf("crowdpuller"), eventsPath, asFetch)
	if a := readAnswer(t, res); a.Status != http.StatusServiceUnavailable || a.Code != 1106 || a.Header.Get("Retry-After") == "" || !strings.Contains(a.Message, "follow the start of this instance") {
		t.Errorf("got %d %s", a.Status, a.raw)
	}
	s.begin(t, "otherone", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	if _, ok := follow(t, s, hostOf("otherone"), nil).next(); !ok {
		t.Error("another instance has no place either")
	}
}

func TestOneClientLeavesPlacesForOthersWhoFollow(t *testing.T) {
	s := startServer(t, config{options: "servers {\n trusted_proxies static 127.0.0.1/32\n }"})
	s.begin(t, "crowdpuller", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	from := func(address string) http.Header { return http.Header{"X-Forwarded-For": {address}} }
	for range 50 {
		if _, ok := follow(t, s, hostOf("crowdpuller"), from("192.0.2.1")).next(); !ok {
			t.Fatal("the stream ended")
		}
	}
	a := readAnswer(t, s.get(t, hostOf("crowdpuller"), eventsPath, from("192.0.2.1"))).expect(t, http.StatusServiceUnavailable, 1106)
	if !strings.Contains(a.Message, "from this address") {
		t.Errorf("it does not say whose limit it is: %s", a.Message)
	}
	if _, ok := follow(t, s, hostOf("crowdpuller"), from("192.0.2.2")).next(); !ok {
		t.Error("another client has no place either")
	}
}

// Over HTTP/2, a stream is part of a connection that is there already.
func TestAStreamTakesADescriptorWhereItHasAConnection(t *testing.T) {
	s := startServer(t, config{options: "servers {\n protocols h1 h2c\n }"})
	s.begin(t, "crowdpuller", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	limit, count := openFiles.limit, openFiles.count
	know := func(limit, count func() (int, bool)) {
		openFiles.mu.Lock()
		defer openFiles.mu.Unlock()
		openFiles.limit, openFiles.count, openFiles.counted = limit, count, time.Time{}
	}
	t.Cleanup(func() { know(limit, count) })
	all := func() (int, bool) { return 1000, true }
	know(all, all)
	res := s.get(t, hostOf("crowdpuller"), eventsPath, asFetch)
	if readAnswer(t, res).expect(t, http.StatusServiceUnavailable, 1106); !res.Close {
		t.Error("the connection stays, which is what there are too many of")
	}
	transport := &http.Transport{DialContext: s.client.Transport.(patient).RoundTripper.(*http.Transport).DialContext, Protocols: new(http.Protocols)}
	t.Cleanup(transport.CloseIdleConnections)
	transport.Protocols.SetUnencryptedHTTP2(true)
	s.client = &http.Client{Transport: transport}
	stream := follow(t, s, hostOf("crowdpuller"), nil)
	if _, ok := stream.next(); !ok || stream.res.ProtoMajor != 2 {
		t.Errorf("over %s there is no event", stream.res.Proto)
	}
}

func TestWhoLeavesTakesUpNothing(t *testing.T) {
	s := startServer(t, config{templates: webTemplate("ready 10m\n page_logs anyone")})
	s.begin(t, "leftalone", `"TEST_MODE":"silent"`)
	nobodyFollows := func(most int) func() error {
		return func() error {
			s.client.CloseIdleConnections()
			viewers.mu.Lock()
			defer viewers.mu.Unlock()
			if n := runtime.NumGoroutine(); viewers.taken != 0 || len(viewers.instances) != 0 || n > most {
				return fmt.Errorf("%d follow, and there are %d goroutines, want at most %d", viewers.taken, n, most)
			}
			return nil
		}
	}
	first, leaveFirst := context.WithCancel(t.Context())
	stream := followWith(first, t, s, hostOf("leftalone"), nil)
	for phase := instance.Phase(""); phase != instance.PhaseOpen; { // then no more begins by itself
		e, ok := stream.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		if e.name == "status" {
			phase = e.status(t).Phase
		}
	}
	leaveFirst()
	eventually(t, nobodyFollows(math.MaxInt))
	settled := runtime.NumGoroutine()
	ctx, leave := context.WithCancel(t.Context())
	for range 20 {
		if _, ok := followWith(ctx, t, s, hostOf("leftalone"), nil).next(); !ok {
			t.Fatal("the stream ended")
		}
	}
	viewers.mu.Lock()
	all := viewers.taken
	viewers.mu.Unlock()
	if all != 20 {
		t.Errorf("%d follow, want 20", all)
	}
	leave()
	eventually(t, nobodyFollows(settled+5)) // each of 20 had several
}

func TestAReloadEndsTheStreamsAndWaitsForNone(t *testing.T) {
	s := startServer(t, config{templates: webTemplate("ready 10m")})
	s.begin(t, "outlives", `"TEST_MODE":"silent"`)
	stream := follow(t, s, hostOf("outlives"), nil)
	if _, ok := stream.next(); !ok {
		t.Fatal("the stream ended")
	}
	s.reload(t, config{templates: webTemplate("ready 10m"), proxy: "header_up X-Reload 1"})
	stream.rest(t)
	if _, ok := follow(t, s, hostOf("outlives"), nil).next(); !ok {
		t.Error("nobody can follow after the reload")
	}
}

func TestPagesOfOtherSitesDoNotFollow(t *testing.T) {
	s := startServer(t, config{})
	s.begin(t, "ownaffair", `"TEST_MODE":"slow","TEST_DELAY":"1m"`)
	for _, site := range []string{"cross-site", "same-site"} {
		res := s.get(t, hostOf("ownaffair"), eventsPath, http.Header{"Sec-Fetch-Site": {site}, "Sec-Fetch-Mode": {"cors"}})
		readAnswer(t, res).expect(t, http.StatusForbidden, 1304)
	}
}

func TestSilenceIsBroken(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes as long as the silence, 15 s") // too long for -short
	}
	s := startServer(t, config{templates: webTemplate("ready 10m")})
	s.begin(t, "longsilent", `"TEST_MODE":"silent"`)
	stream := follow(t, s, hostOf("longsilent"), nil)
	ended := errors.New("the stream ended")
	done := make(chan error, 1)
	go func() {
		for stream.Scan() {
			if stream.Text() == ":" {
				done <- nil
				return
			}
		}
		done <- ended
	}()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(4 * heartbeat):
		t.Error("not a word came")
	}
}
