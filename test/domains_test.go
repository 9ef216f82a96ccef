package test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// catchAll is the site of custom hosts, as Caddyfile.example has it.
const catchAll = `
https:// {
	tls internal {
		on_demand
	}
	sandbox_proxy
}
`

func decodeDetails(t testing.TB, a answer, into any) {
	t.Helper()
	if err := json.Unmarshal(a.Data, into); err != nil {
		t.Fatalf("decoding the details of %s: %v", a.raw, err)
	}
}

func domainPath(prefix, host string) string { return "/api/instances/" + prefix + "/domains/" + host }

func (c apiClient) addDomain(t testing.TB, prefix, host string) instanceView {
	t.Helper()
	return c.call(t, http.MethodPut, domainPath(prefix, host), nil).expect(t, http.StatusOK, 0).instance(t)
}

func TestAnAppIsReachedAtItsCustomHost(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Sites: catchAll})
	made := c.api.create(t, createRequest{Prefix: "ownedhost"})
	const host = "shop.customer.test"
	url := c.siteURL(host)
	if _, err := c.visitor.handshake(t.Context(), host); err == nil {
		t.Error("there is a certificate before the host is anybody's")
	}
	if now := c.api.addDomain(t, "ownedhost", "Shop.Customer.TEST."); !slices.Equal(now.Domains, []string{host}) {
		t.Errorf("domains %v", now.Domains)
	}
	reached := func() {
		t.Helper()
		if page := c.visitor.mustGet(t, url); page.body != "hello from ownedhost\n" {
			t.Errorf("%s serves %q", url, page.body)
		}
	}
	reached()
	var seen requestSeen
	c.visitor.getJSON(t, url+"/headers", &seen)
	if want := fmt.Sprintf("%s:%d", host, c.httpsPort); seen.Host != want || seen.Headers.Get("X-Forwarded-Host") != want {
		t.Errorf("the server sees host %q and %v, want %s", seen.Host, seen.Headers, want)
	}
	conn, err := c.visitor.handshake(t.Context(), host)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(names, []string{host}) {
		t.Errorf("the certificate is for %v", names)
	}

	socket := c.visitor.dialWebSocket(t, url+"/ws")
	c.Sandbox = "prefix_length 20"
	c.reload(t, c.caddyfile())
	socket.echoes(t, "after a reload")
	reached()
	c.kill(t)
	c.mustStart(t)
	reached()
	c.api.act(t, "ownedhost", "restart")
	reached()

	// The other sites are what they were.
	c.visitor.mustGet(t, made.URL)
	c.api.get(t, "ownedhost")

	// Custom hosts are no part of what Compose makes containers of.
	c.compose(t, "up", "--detach")
	if now := c.api.get(t, "ownedhost"); now.ContainerID != made.ContainerID {
		t.Errorf("compose up made container %s of %s", now.ContainerID, made.ContainerID)
	}
	if file := c.readFile(t, "docker-compose.yml"); !strings.Contains(file, "x-sandbox-domains:") {
		t.Errorf("the Compose file does not tell the host:\n%s", file)
	}

	c.api.call(t, http.MethodDelete, domainPath("ownedhost", host), nil).expect(t, http.StatusOK, 0)
	c.api.call(t, http.MethodDelete, domainPath("ownedhost", host), nil).expect(t, http.StatusNotFound, 1004)
	if page := c.visitor.get(t, url); page.StatusCode != http.StatusNotFound {
		t.Errorf("after its removal: %d %s", page.StatusCode, page.body)
	}
}

func TestUnknownHostsAtTheCatchAllGetNoCertificate(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Sites: catchAll})
	c.api.create(t, createRequest{Prefix: "catchall"})
	c.api.addDomain(t, "catchall", "known.customer.test")
	c.visitor.mustGet(t, c.siteURL("known.customer.test"))
	for _, host := range []string{
		"unknown.customer.test", "customer.test", "deep.known.customer.test", "3000-known.customer.test", "3000.known.customer.test",
		"whoknows." + domain, "two.labels." + domain, domain, "elsewhere.localhost",
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		conn, err := c.visitor.handshake(ctx, host)
		cancel()
		if err == nil {
			t.Errorf("%s: the handshake succeeded", host)
			conn.Close()
		}
		if files := c.certificateFiles(t, host); len(files) != 0 {
			t.Errorf("%s: certificate files %v", host, files)
		}
	}
	// A host of nobody's, over a connection that is somebody's.
	page := c.visitor.get(t, c.siteURL("known.customer.test"), header{"Host", "unknown.customer.test"})
	if page.StatusCode != http.StatusNotFound {
		t.Errorf("another Host than in the handshake: %d %s", page.StatusCode, page.body)
	}
}

func TestHostsThatNoInstanceGets(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	c.api.create(t, createRequest{Prefix: "refusedhost"})
	for _, host := range []string{
		domain, "x." + domain, "refusedhost." + domain, "api.localhost", "localhost", "single", "*.customer.test", "10.0.0.1",
		"%5B::1%5D", "b%C3%BCcher.example", "customer.test:443", "-.customer.test", "a..test",
	} {
		c.api.call(t, http.MethodPut, domainPath("refusedhost", host), nil).expect(t, http.StatusBadRequest, 1012)
	}
	c.api.call(t, http.MethodPut, domainPath("nosuchone", "free.customer.test"), nil).expect(t, http.StatusNotFound, 1004)
	if now := c.api.get(t, "refusedhost"); len(now.Domains) != 0 {
		t.Errorf("domains %v", now.Domains)
	}
}

func TestOneOfManyInstancesGetsAHost(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	const instances, puts = 8, 1000
	for n := range instances {
		c.api.create(t, createRequest{Prefix: fmt.Sprintf("contender%d", n)})
	}
	var mu sync.Mutex
	winners, losers := map[string]bool{}, 0
	var asking sync.WaitGroup
	for n := range puts {
		asking.Go(func() {
			prefix := fmt.Sprintf("contender%d", n%instances)
			a, err := c.api.try(http.MethodPut, domainPath(prefix, "prize.customer.test"), nil)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil && a.Status == http.StatusOK:
				winners[prefix] = true
			case err == nil && a.Status == http.StatusConflict && a.Code == 1013:
				losers++
			default:
				t.Errorf("%s: %v %s", prefix, err, a.raw)
			}
		})
	}
	asking.Wait()
	if len(winners) != 1 || losers != puts-puts/instances {
		t.Errorf("winners %v, and %d were refused, want one winner and %d", winners, losers, puts-puts/instances)
	}
	for _, each := range c.api.list(t, "").Instances {
		if winners[each.Prefix] != slices.Contains(each.Domains, "prize.customer.test") {
			t.Errorf("%s has %v", each.Prefix, each.Domains)
		}
	}
}

// Whatever a PUT that meets a delete is told, afterwards the host is free.
func TestAHostGivenDuringADeleteIsFreeAfterwards(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	c.api.create(t, createRequest{Prefix: "inherits"})
	for n := range 5 {
		prefix, host := fmt.Sprintf("leavesnow%d", n), fmt.Sprintf("h%d.customer.test", n)
		c.api.create(t, createRequest{Prefix: prefix})
		var both sync.WaitGroup
		both.Go(func() {
			for !t.Failed() {
				a, err := c.api.try(http.MethodPut, domainPath(prefix, host), nil)
				switch {
				case err != nil:
					t.Error(err)
				case a.Code == 1004:
					return // it has gone
				case a.Code != 0 && a.Code != 1005:
					t.Errorf("PUT: %s", a.raw)
				}
			}
		})
		both.Go(func() {
			if a, err := c.admin.try(http.MethodDelete, "/api/instances/"+prefix, nil); err != nil || a.Status != http.StatusOK {
				t.Errorf("DELETE: %v %s", err, a.raw)
			}
		})
		both.Wait()
		c.api.addDomain(t, "inherits", host)
	}
}

func TestAStandbyServesCustomHosts(t *testing.T) {
	t.Parallel()
	first := startCaddy(t, options{})
	first.api.create(t, createRequest{Prefix: "standbyhost"})
	standby := startStandby(t, first)
	ask := func(status int) error {
		url := fmt.Sprintf("http://127.0.0.1:%d/", standby.httpPort)
		page, err := standby.visitor.try(http.MethodGet, url, "", header{"Host", "shop.customer.test"})
		if err == nil && page.StatusCode != status {
			err = fmt.Errorf("%d %s, want %d", page.StatusCode, page.body, status)
		}
		return err
	}
	eventually(t, 5*time.Second, func() error { return ask(http.StatusNotFound) })
	first.api.addDomain(t, "standbyhost", "shop.customer.test")
	eventually(t, 10*time.Second, func() error { return ask(http.StatusOK) })
	standby.answersFor(t, "3000-standbyhost", http.StatusNotFound, 1014)
	first.api.call(t, http.MethodDelete, domainPath("standbyhost", "shop.customer.test"), nil).expect(t, http.StatusOK, 0)
	eventually(t, 10*time.Second, func() error { return ask(http.StatusNotFound) })
}
