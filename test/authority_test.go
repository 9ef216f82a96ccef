package test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// authority is a certificate authority that speaks ACME: another Caddy. Where
// it validates a host (http-01, which is port 80 of that host), it goes through
// an HTTP proxy of ours, which takes it to the Caddy that wants the certificate.
type authority struct {
	*caddyServer
	customer *caddyServer
	policy   string // lines of the block acme_server

	mu   sync.Mutex
	held chan struct{} // validations wait until it is closed; nil: they do not
}

// deniedHost gets no certificate: its orders fail.
const deniedHost = "failing1." + domain

// startAuthority starts one whose acme_server block has the lines of policy.
func startAuthority(t *testing.T, policy string) *authority {
	t.Helper()
	a := &authority{policy: policy}
	proxy := httptest.NewServer(a)
	t.Cleanup(proxy.Close)
	var err error
	if a.caddyServer, err = newCaddy(options{Wrap: []string{"env", "HTTP_PROXY=" + proxy.URL}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := a.close(); err != nil {
			t.Errorf("the authority: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the authority:\n%s", a.logTail(0))
		}
	})
	if err := a.writeConfig(a.authorityCaddyfile()); err != nil {
		t.Fatal(err)
	}
	if err := a.launch(); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, func() error {
		_, err := a.visitor.answers200(a.directory())
		return err
	})
	return a
}

// withAuthority starts a Caddy whose instances get their certificates from an
// authority of its own, and that one.
func withAuthority(t *testing.T, o options) (*caddyServer, *authority) {
	t.Helper()
	a := startAuthority(t, fmt.Sprintf(`
		challenges http-01
		allow {
			domains *.%s
		}
		deny {
			domains %s
		}
`, domain, deniedHost))
	// With a handler of its events, Caddy has a data race where a certificate is
	// ordered while it starts, as that of the API's site is at the first start.
	sandbox := o.Sandbox
	o.Sandbox = ""
	c := startCaddy(t, o)
	c.Sandbox = sandbox
	a.customer = c
	c.reload(t, a.customerCaddyfile())
	c.visitor = newVisitor(c.httpsPort, a.rootCert())
	return c, a
}

func (a *authority) authorityCaddyfile() string {
	return fmt.Sprintf(`{
	admin off
	skip_install_trust
	https_port %d
	auto_https disable_redirects
}
localhost {
	tls internal
	log {
		output file %s
	}
	acme_server {
		%s
	}
}
`, a.httpsPort, a.accessLog(), a.policy)
}

// customerCaddyfile is the customer's own, but for who issues certificates.
func (a *authority) customerCaddyfile() string {
	return strings.Replace(a.customer.caddyfile(), "tls internal {\n", fmt.Sprintf(`tls {
		issuer acme {
			dir %s
			trusted_roots %s
			disable_tlsalpn_challenge
		}
`, a.directory(), a.rootCert()), 1)
}

func (a *authority) directory() string { return a.siteURL("localhost") + "/acme/local/directory" }
func (a *authority) accessLog() string { return filepath.Join(a.dir, "access.log") }

// orders is how many certificates were ordered so far.
func (a *authority) orders(t testing.TB) int { return a.answered(t, http.StatusCreated) }

// answered is how many orders were answered with status.
func (a *authority) answered(t testing.TB, status int) int {
	t.Helper()
	log, err := os.ReadFile(a.accessLog())
	if err != nil {
		t.Fatal(err)
	}
	orders := 0
	for line := range strings.Lines(string(log)) {
		if strings.Contains(line, `"uri":"/acme/local/new-order"`) && strings.Contains(line, fmt.Sprintf(`"status":%d`, status)) {
			orders++
		}
	}
	return orders
}

func (a *authority) expectOrders(t testing.TB, want int) {
	t.Helper()
	if got := a.orders(t); got != want {
		t.Errorf("%d certificates were ordered, want %d", got, want)
	}
}

// hold has validations wait until release is called.
func (a *authority) hold() (release func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	held := make(chan struct{})
	a.held = held
	return sync.OnceFunc(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		close(held)
		a.held = nil
	})
}

// ServeHTTP takes a validation to the customer.
func (a *authority) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	held := a.held
	a.mu.Unlock()
	if held != nil {
		<-held
	}
	to := &url.URL{Scheme: "http", Host: fmt.Sprintf("127.0.0.1:%d", a.customer.httpPort)}
	(&httputil.ReverseProxy{Rewrite: func(p *httputil.ProxyRequest) {
		p.SetURL(to)
		p.Out.Host = r.Host
	}}).ServeHTTP(w, r)
}
