package caddymodule

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

const portTemplates = `
	default_template wide
	template wide {
		image ` + instancetest.Image + `
		ready 1m
		ports 4000 9229
	}
	template open {
		image ` + instancetest.Image + `
		ready 1m
		ports any
	}
`

// createOn makes an instance whose container listens on ports, as TEST_PORTS
// of package devserver says, and which declares some.
func (s *server) createOn(t *testing.T, prefix, template, listens string, declares ...int) {
	t.Helper()
	body, err := json.Marshal(map[string]any{
		"prefix": prefix, "template": template, "ports": declares, "env": map[string]string{"TEST_PORTS": listens},
	})
	if err != nil {
		t.Fatal(err)
	}
	s.call(t, http.MethodPost, "/api/instances", string(body)).expect(t, http.StatusCreated, 0)
}

// answersAt checks which port of a container answers at a host.
func (s *server) answersAt(t *testing.T, host, port string) {
	t.Helper()
	res := s.get(t, host, "/port", asCurl)
	if body := read(t, res); res.StatusCode != http.StatusOK || body != port {
		t.Errorf("%s: %d %s, want port %s", host, res.StatusCode, body, port)
	}
}

func portHost(port int, prefix string) string { return hostOf(fmt.Sprintf("%d-%s", port, prefix)) }

func TestFurtherPortsReachTheirServers(t *testing.T) {
	s := newServer(t)
	s.engine.GiveAddresses()
	c := config{templates: portTemplates}
	if err := s.load(t, c); err != nil {
		t.Fatal(err)
	}
	s.createOn(t, "manyport", "wide", "4000,5000", 5000)
	s.createOn(t, "anything", "open", "1,65535")
	all := func() {
		t.Helper()
		for range 5 { // in turns: a connection of one port must never be used for another
			s.answersAt(t, hostOf("manyport"), "5174")
			s.answersAt(t, portHost(5174, "manyport"), "5174")
			s.answersAt(t, portHost(4000, "manyport"), "4000")
			s.answersAt(t, portHost(5000, "manyport"), "5000")
			s.answersAt(t, strings.ToUpper(portHost(5000, "manyport"))+".", "5000")
			s.answersAt(t, portHost(1, "anything"), "1")
			s.answersAt(t, portHost(65535, "anything"), "65535")
			s.answersAt(t, portHost(5174, "anything"), "5174")
		}
	}
	all()
	echo(t, s.dialWebSocket(t, "4000-manyport"), "hot")
	socket := s.dialWebSocket(t, "5000-manyport")
	c.sandbox = "prefix_length 20"
	if err := s.load(t, c); err != nil {
		t.Fatal(err)
	}
	echo(t, socket, "after a reload")
	all()
	s.call(t, http.MethodPost, "/api/instances/manyport/restart", "").expect(t, http.StatusOK, 0)
	if err := socket.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if n, err := socket.Read(make([]byte, 1)); err == nil {
		t.Errorf("the socket is still open, and sent %d bytes", n)
	}
	all()
}

// listening are the details of an error about a port.
func listening(t *testing.T, a answer) []instance.OpenPort {
	t.Helper()
	var open []instance.OpenPort
	if err := json.Unmarshal(a.Data["listening"], &open); err != nil {
		t.Fatalf("listening of %s: %v", a.raw, err)
	}
	return open
}

func TestPortsThatCannotBeServedSayWhatListens(t *testing.T) {
	s := newServer(t)
	s.engine.GiveAddresses()
	if err := s.load(t, config{templates: portTemplates}); err != nil {
		t.Fatal(err)
	}
	s.createOn(t, "manyport", "wide", "4000,7000,127.0.0.1:6000", 6000)
	url := func(label string) string { return fmt.Sprintf("http://%s:%d", hostOf(label), s.sitePort) }
	want := []instance.OpenPort{
		{Port: 4000, URL: url("4000-manyport")},
		{Port: 5174, URL: url("manyport")},
		{Port: 6000, Loopback: true},
		{Port: 7000},
	}
	for port, row := range map[int]struct{ status, code int }{
		7000: {404, 1014}, // listens, but was not declared
		8000: {404, 1014}, // neither
		9229: {503, 1110}, // was declared, and does not listen
		6000: {503, 1110}, // was declared, and listens where nobody comes
	} {
		a := s.callURL(t, portHost(port, "manyport"), "/").expect(t, row.status, row.code)
		if got := listening(t, a); !slices.Equal(got, want) || a.detail("port") != fmt.Sprint(port) || a.detail("complete") != "true" {
			t.Errorf("port %d: got %s, want %v", port, a.raw, want)
		}
		if wait := a.Header.Get("Retry-After"); (row.status == 503) != (wait == "1") {
			t.Errorf("port %d: Retry-After %q", port, wait)
		}

		res := s.get(t, portHost(port, "manyport"), "/<script>", asBrowser)
		page := read(t, res)
		if res.StatusCode != row.status || !strings.HasPrefix(res.Header.Get("Content-Type"), "text/html") {
			t.Errorf("port %d to a browser: %d %v", port, res.StatusCode, res.Header)
		}
		if strings.Contains(page, `http-equiv="refresh"`) != (row.status == 503) {
			t.Errorf("port %d: whether the page loads again is wrong: %s", port, page)
		}
		for _, part := range []string{
			fmt.Sprintf("<h1>Nothing at port %d</h1>", port),
			`<a href="` + url("4000-manyport") + `">port 4000</a>`, `<a href="` + url("manyport") + `">port 5174</a>`,
			"<li>port 6000, on the container’s own 127.0.0.1 only", "<li>port 7000, not for visitors",
		} {
			if !strings.Contains(page, part) {
				t.Errorf("port %d: the page lacks %s: %s", port, part, page)
			}
		}
		if strings.Contains(strings.Replace(page, "<script>"+pageScript, "", 1), "<script") || strings.Contains(page, "There may be more") {
			t.Errorf("port %d: the page is %s", port, page)
		}
	}

	s.call(t, http.MethodPost, "/api/instances/manyport/stop", "").expect(t, http.StatusOK, 0)
	s.callURL(t, portHost(4000, "manyport"), "/").expect(t, http.StatusServiceUnavailable, 1105)
	a := s.callURL(t, portHost(7000, "manyport"), "/").expect(t, http.StatusNotFound, 1014)
	if a.detail("listening") != "[]" || a.detail("complete") != "false" {
		t.Errorf("of a stopped one: %s", a.raw)
	}
	if page := read(t, s.get(t, portHost(7000, "manyport"), "/", asBrowser)); strings.Contains(page, "There may be more") {
		t.Errorf("there are no ports that there may be more than: %s", page)
	}
	for _, label := range []string{"4000-whoknows", "0-manyport", "04000-manyport", "65536-manyport", "4000--manyport", "-manyport", "x-manyport"} {
		s.callURL(t, hostOf(label), "/").expect(t, http.StatusNotFound, 1004)
	}
}

func TestStrangersDoNotHaveTheEngineAskedForPorts(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "manyport")
	began := time.Now()
	for port := 6000; port < 6200; port++ {
		s.callURL(t, portHost(port, "manyport"), "/").expect(t, http.StatusNotFound, 1014)
	}
	if n, most := s.engine.Calls("Listening"), 1+int(time.Since(began)/time.Second); n > most {
		t.Errorf("the engine was asked %d times in %v, want %d at most", n, time.Since(began), most)
	}
}

func TestPublishedPortsLeadToTheDevServerAlone(t *testing.T) {
	s := newServer(t)
	for _, row := range []struct {
		name, proxy string
		addresses   bool // from then on
	}{{"no address", "", false}, {"upstream published", "upstream published", true}} {
		if row.addresses {
			s.engine.GiveAddresses()
		}
		if err := s.load(t, config{templates: portTemplates, proxy: row.proxy}); err != nil {
			t.Fatal(err)
		}
		s.createOn(t, "manyport", "wide", "4000")
		s.answersAt(t, hostOf("manyport"), "5174")
		s.answersAt(t, portHost(5174, "manyport"), "5174")
		a := s.callURL(t, portHost(4000, "manyport"), "/").expect(t, http.StatusNotFound, 1014)
		if !strings.Contains(a.Message, "published port") || a.detail("listening") != "" {
			t.Errorf("%s: the answer is %s", row.name, a.raw)
		}
		res := s.get(t, portHost(4000, "manyport"), "/", asBrowser)
		if page := read(t, res); res.StatusCode != http.StatusNotFound || !strings.Contains(page, "published port") || strings.Contains(page, "<li>") {
			t.Errorf("%s: the page is %d %s", row.name, res.StatusCode, page)
		}
		s.call(t, http.MethodDelete, "/api/instances/manyport", "").expect(t, http.StatusOK, 0)
	}
}

func TestUpstreamsAloneReachPorts(t *testing.T) {
	const sites = `
		http://:{site} {
			reverse_proxy {
				dynamic sandbox
				transport sandbox
			}
		}
	`
	s := newServer(t)
	s.engine.GiveAddresses()
	if err := s.load(t, config{templates: portTemplates, sites: sites}); err != nil {
		t.Fatal(err)
	}
	s.createOn(t, "manyport", "wide", "4000,5000")
	s.answersAt(t, hostOf("manyport"), "5174")
	s.answersAt(t, portHost(4000, "manyport"), "4000")
	if res := s.get(t, portHost(5000, "manyport"), "/port", nil); res.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("an undeclared port: %d, want 503", res.StatusCode)
	}
}
