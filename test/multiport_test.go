package test

import (
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// portTemplates run testserver with further ports; TEST_PORTS says which it
// listens on.
const portTemplates = `
		default_template web
		template web {
			image {image}
			port 8080
			ports 3000
		}
		template open {
			image {image}
			port 8080
			ports any
		}
`

// portURL is the URL of a container port.
func (c *caddyServer) portURL(port int, prefix string) string {
	return c.urlOf(fmt.Sprintf("%d-%s", port, prefix))
}

// answersAt checks which port of a container answers at a URL.
func (v *visitor) answersAt(t testing.TB, url string, port int) {
	t.Helper()
	if page := v.mustGet(t, url+"/port"); page.body != fmt.Sprint(port) {
		t.Errorf("%s reaches port %s, want %d", url, page.body, port)
	}
}

func TestDeclaredPortsAreReachedOverTLS(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: portTemplates})
	made := c.api.create(t, createRequest{Prefix: "manyports", Ports: []int{4000, 8080}, Env: map[string]string{"TEST_PORTS": "3000,4000,5000"}})
	want := map[string]string{"3000": c.portURL(3000, "manyports"), "4000": c.portURL(4000, "manyports")}
	if !maps.Equal(made.URLs, want) {
		t.Errorf("urls %v, want %v", made.URLs, want)
	}
	reachesAll := func() {
		t.Helper()
		for range 3 { // in turns, over connections that are kept
			c.visitor.answersAt(t, made.URL, 8080)
			c.visitor.answersAt(t, c.portURL(8080, "manyports"), 8080)
			c.visitor.answersAt(t, made.URLs["3000"], 3000)
			c.visitor.answersAt(t, made.URLs["4000"], 4000)
		}
	}
	reachesAll()
	conn, err := c.visitor.handshake(t.Context(), hostOf(t, made.URLs["4000"]))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(names, []string{hostOf(t, made.URLs["4000"])}) {
		t.Errorf("the certificate is for %v", names)
	}

	socket := c.visitor.dialWebSocket(t, made.URLs["4000"]+"/ws")
	socket.echoes(t, "on a second port")
	for n := range 3 {
		c.Sandbox = fmt.Sprintf("prefix_length %d", 20+n)
		c.reload(t, c.caddyfile())
		socket.echoes(t, fmt.Sprintf("after reload %d", n))
	}
	reachesAll()

	// The next start of the container is another endpoint on every port.
	c.api.act(t, "manyports", "restart")
	socket.awaitClose(t, 10*time.Second)
	reachesAll()
	c.visitor.dialWebSocket(t, made.URLs["3000"]+"/ws").echoes(t, "after a restart of the container")

	c.kill(t)
	c.mustStart(t)
	reachesAll()
	c.api.act(t, "manyports", "stop")
	if page := c.visitor.get(t, made.URLs["3000"]+"/"); page.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a port of a stopped instance: %d %s", page.StatusCode, page.body)
	}
}

func TestAnyPortIsReachedWhereTheOperatorAllowsIt(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: portTemplates})
	c.api.create(t, createRequest{Prefix: "anyportis", Template: "open", Env: map[string]string{"TEST_PORTS": "1234,50000"}})
	c.visitor.answersAt(t, c.portURL(1234, "anyportis"), 1234)
	c.visitor.answersAt(t, c.portURL(50000, "anyportis"), 50000)
	if page := c.visitor.get(t, c.portURL(1235, "anyportis")+"/"); page.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("a closed port: %d %s", page.StatusCode, page.body)
	}
}

// openPort is a part of an error about a port.
type openPort struct {
	Port     int
	Loopback bool
	URL      string
}

// What listens is seen without the rights of root, and of the engine's own
// resolver in the container nothing is told.
func TestUndeclaredAndClosedPortsSayWhatListens(t *testing.T) {
	t.Parallel()
	needRoot(t)
	c := startCaddy(t, options{Templates: portTemplates, Nobody: true})
	made := c.api.create(t, createRequest{Prefix: "closedport", Ports: []int{4000}, Env: map[string]string{"TEST_PORTS": "5000,127.0.0.1:4000"}})
	want := []openPort{{4000, true, ""}, {5000, false, ""}, {8080, false, made.URL}}
	for port, row := range map[int]struct{ status, code int }{
		5000: {http.StatusNotFound, 1014},           // listens, undeclared
		5001: {http.StatusNotFound, 1014},           // neither
		3000: {http.StatusServiceUnavailable, 1110}, // declared, closed
		4000: {http.StatusServiceUnavailable, 1110}, // declared, for the container alone
	} {
		url := c.portURL(port, "closedport")
		a, err := apiClient{base: url, http: c.visitor.client}.try(http.MethodGet, "/", nil)
		if err != nil {
			t.Fatal(err)
		}
		var details struct {
			Port      int
			Complete  bool
			Listening []openPort
		}
		a.expect(t, row.status, row.code).says(t, "port")
		decodeDetails(t, a, &details)
		if details.Port != port || !details.Complete || !slices.Equal(details.Listening, want) {
			t.Errorf("port %d: details %+v, want %+v", port, details, want)
		}
		page := c.visitor.get(t, url, header{"Accept", "text/html"}, header{"Sec-Fetch-Mode", "navigate"})
		if page.StatusCode != row.status || !strings.Contains(page.body, `<a href="`+made.URL+`">port 8080</a>`) ||
			!strings.Contains(page.body, "port 4000, on the container’s own 127.0.0.1 only") {
			t.Errorf("port %d: the page is %d %s", port, page.StatusCode, page.body)
		}
	}
}

func TestUpstreamPublishedReachesTheDevServerAlone(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: portTemplates, Proxy: "upstream published"})
	made := c.api.create(t, createRequest{Prefix: "published", Env: map[string]string{"TEST_PORTS": "3000"}})
	c.visitor.answersAt(t, made.URL, 8080)
	c.visitor.answersAt(t, c.portURL(8080, "published"), 8080)
	a, err := apiClient{base: made.URLs["3000"], http: c.visitor.client}.try(http.MethodGet, "/", nil)
	if err != nil {
		t.Fatal(err)
	}
	a.expect(t, http.StatusNotFound, 1014).says(t, "published port", "upstream auto")
}

func TestDeclaredPortsSurviveALostStateFile(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Templates: portTemplates})
	made := c.api.create(t, createRequest{Prefix: "lostports", Ports: []int{4000}, Env: map[string]string{"TEST_PORTS": "3000,4000"}})
	c.kill(t)
	if err := os.Remove(filepath.Join(c.StateDir, ".instances.json")); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	eventually(t, 15*time.Second, func() error {
		_, err := c.visitor.answers200(made.URLs["4000"] + "/port")
		return err
	})
	if now := c.api.get(t, "lostports"); !maps.Equal(now.URLs, made.URLs) {
		t.Errorf("urls %v, were %v", now.URLs, made.URLs)
	}
}
