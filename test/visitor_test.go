package test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// visitor is a client from outside: it finds all hosts at one Caddy, trusts
// that Caddy's own authority and nobody else, and sends the name of the host
// in the TLS handshake as a browser does.
type visitor struct {
	client    *http.Client
	addr      string
	rootCert  string // file; Caddy makes it at its first start
	transport *http.Transport
	roots     func() (*x509.CertPool, error)
}

func newVisitor(httpsPort int, rootCert string) *visitor {
	v := &visitor{addr: fmt.Sprintf("127.0.0.1:%d", httpsPort), rootCert: rootCert}
	v.roots = onceItWorks(v.readRoots)
	v.transport = &http.Transport{DialTLSContext: v.dialTLS, ForceAttemptHTTP2: true}
	v.client = &http.Client{
		Transport:     v.transport,
		Timeout:       2 * time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	return v
}

// onceItWorks remembers the first value that came without an error.
func onceItWorks[T any](f func() (T, error)) func() (T, error) {
	var mu sync.Mutex
	var value T
	var done bool
	return func() (T, error) {
		mu.Lock()
		defer mu.Unlock()
		if done {
			return value, nil
		}
		got, err := f()
		if err == nil {
			value, done = got, true
		}
		return got, err
	}
}

func (v *visitor) readRoots() (*x509.CertPool, error) {
	pem, err := os.ReadFile(v.rootCert)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("no certificate in %s", v.rootCert)
	}
	return pool, nil
}

func (v *visitor) dialTLS(ctx context.Context, _, hostPort string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	return v.handshake(ctx, host, "h2", "http/1.1")
}

// handshake connects and completes TLS for host. protocols are those that the
// client then speaks.
func (v *visitor) handshake(ctx context.Context, host string, protocols ...string) (*tls.Conn, error) {
	roots, err := v.roots()
	if err != nil {
		return nil, err
	}
	plain, err := new(net.Dialer).DialContext(ctx, "tcp", v.addr)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(plain, &tls.Config{RootCAs: roots, ServerName: host, NextProtos: protocols})
	if err := conn.HandshakeContext(ctx); err != nil {
		return nil, errors.Join(err, plain.Close())
	}
	return conn, nil
}

func (v *visitor) forgetConnections() { v.transport.CloseIdleConnections() }

// reply is an answer with its whole body.
type reply struct {
	*http.Response
	body string
}

func (v *visitor) try(method, url, body string, headers ...header) (reply, error) {
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for _, h := range headers {
		if h.name == "Host" {
			req.Host = h.value
			continue
		}
		req.Header.Set(h.name, h.value)
	}
	res, err := v.client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	content, err := io.ReadAll(res.Body)
	return reply{res, string(content)}, err
}

func (v *visitor) get(t testing.TB, url string, headers ...header) reply {
	t.Helper()
	r, err := v.try(http.MethodGet, url, "", headers...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// mustGet is get where 200 must come.
func (v *visitor) mustGet(t testing.TB, url string, headers ...header) reply {
	t.Helper()
	r := v.get(t, url, headers...)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("GET %s: %d %s", url, r.StatusCode, r.body)
	}
	return r
}

// getJSON decodes the answer.
func (v *visitor) getJSON(t testing.TB, url string, into any) {
	t.Helper()
	r := v.mustGet(t, url)
	if err := json.Unmarshal([]byte(r.body), into); err != nil {
		t.Fatalf("GET %s: %v: %s", url, err, r.body)
	}
}

// answers200 is for conditions that are awaited.
func (v *visitor) answers200(url string) (reply, error) {
	r, err := v.try(http.MethodGet, url, "")
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %d %s", url, r.StatusCode, r.body)
	}
	return r, err
}
