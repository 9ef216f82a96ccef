package test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestStrangersCauseNoOrders makes handshakes for names that nobody has, and
// looks at the authority's books and at Caddy's storage.
func TestStrangersCauseNoOrders(t *testing.T) {
	t.Parallel()
	const strangers = 100_000
	c, a := withAuthority(t, options{
		Sandbox: "tls_budget 5/week\ntls_ahead on",
		Binary:  plainCaddy(t), // the race detector would take minutes
	})
	c.awaitCleanStorage(t)
	before := c.storage(t)

	begun := time.Now()
	refused := c.refusedHandshakes(t, strangers, func(i int) string { return fmt.Sprintf("stranger%06d.%s", i, domain) })
	t.Logf("%d handshakes refused in %s", refused, time.Since(begun).Round(time.Millisecond))
	if refused != strangers {
		t.Errorf("%d of %d handshakes were refused", refused, strangers)
	}
	a.expectOrders(t, 0)
	c.expectStorage(t, before)
	if issued := c.issued(t); len(issued) != 0 {
		t.Errorf("the budget has %v", issued)
	}

	// It works for those that somebody has.
	made := c.admin.create(t, createRequest{Prefix: "somebody"})
	c.visitor.mustGet(t, made.URL)
	c.visitor.forgetConnections()
	c.visitor.mustGet(t, made.URL)
	a.expectOrders(t, 1)
}

func TestTheBudgetOfCertificates(t *testing.T) {
	t.Parallel()
	c, a := withAuthority(t, options{Sandbox: "tls_budget 2/week"})
	for _, prefix := range []string{"firstone", "secondone", "thirdone"} {
		c.admin.create(t, createRequest{Prefix: prefix})
	}
	issued := []string{"firstone", "secondone"}
	check := func(when string) {
		t.Helper()
		for _, prefix := range issued {
			c.visitor.forgetConnections()
			c.visitor.mustGet(t, c.urlOf(prefix))
		}
		c.expectNoCertificate(t, when, "thirdone")
		a.expectOrders(t, len(issued))
		if got := c.issued(t); !slices.Equal(got, []string{"firstone." + domain, "secondone." + domain}) {
			t.Errorf("%s: the budget has %v", when, got)
		}
	}
	check("the first time")

	// Trying again and again costs nothing.
	before := c.storage(t)
	from := c.logSize()
	if n := c.refusedHandshakes(t, 500, func(int) string { return "thirdone." + domain }); n != 500 {
		t.Errorf("%d of 500 handshakes were refused", n)
	}
	c.expectStorage(t, before)
	if said := c.logTail(from); strings.Contains(said, "thirdone") {
		t.Errorf("the log tells of 500 more handshakes:\n%s", said)
	}
	if n := strings.Count(c.logTail(0), "tls_budget is spent: "); n != 1 {
		t.Errorf("the log says %d times that the budget is spent, want once", n)
	}

	c.reload(t, strings.Replace(a.customerCaddyfile(), "tls_budget", "prefix_length 20\ntls_budget", 1))
	check("after a reload")
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	check("after a restart")
	c.kill(t)
	c.mustStart(t)
	check("after a crash")

	c.admin.delete(t, "firstone")
	c.expectNoCertificateAfterRestart(t, "firstone")

	c.reload(t, strings.Replace(a.customerCaddyfile(), "tls_budget 2/week", "tls_budget 3/week", 1))
	c.visitor.mustGet(t, c.urlOf("thirdone"))
	a.expectOrders(t, 3)
}

// TestACrashInTheMiddleOfAnOrderIsPaidFor kills Caddy while the authority
// validates.
func TestACrashInTheMiddleOfAnOrderIsPaidFor(t *testing.T) {
	t.Parallel()
	c, a := withAuthority(t, options{Sandbox: "tls_budget 1/week"})
	c.admin.create(t, createRequest{Prefix: "unlucky1"})
	c.admin.create(t, createRequest{Prefix: "nextone1"})
	release := a.hold()
	defer release()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		conn, err := c.visitor.handshake(context.Background(), "unlucky1."+domain)
		if err == nil {
			conn.Close()
		}
	}()
	eventually(t, 30*time.Second, func() error {
		if n := a.orders(t); n != 1 {
			return fmt.Errorf("%d orders", n)
		}
		return nil
	})
	c.kill(t)
	<-gone
	release()
	c.mustStart(t)
	c.expectNoCertificate(t, "after the crash", "nextone1")
	a.expectOrders(t, 1)
}

func TestAnOrderThatFailsIsGivenBack(t *testing.T) {
	t.Parallel()
	c, a := withAuthority(t, options{Sandbox: "tls_budget 1/week"})
	c.admin.create(t, createRequest{Prefix: strings.TrimSuffix(deniedHost, "."+domain)})
	c.admin.create(t, createRequest{Prefix: "working1"})
	ctx, cancel := context.WithCancel(t.Context())
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		if conn, err := c.visitor.handshake(ctx, deniedHost); err == nil {
			conn.Close()
			t.Error("the denied host has a certificate")
		}
	}()
	eventually(t, 30*time.Second, func() error {
		if n := a.answered(t, http.StatusBadRequest); n == 0 || len(c.issued(t)) != 0 {
			return fmt.Errorf("%d orders denied, the budget has %v", n, c.issued(t))
		}
		return nil
	})
	cancel()
	<-gone
	c.visitor.mustGet(t, c.urlOf("working1"))
}

func TestCertificatesAreMadeAhead(t *testing.T) {
	t.Parallel()
	c, a := withAuthority(t, options{Sandbox: "tls_ahead on\ntls_budget 7/week"})
	made := c.admin.create(t, createRequest{Prefix: "early001"})
	c.awaitCertificate(t, "early001")
	c.visitor.mustGet(t, made.URL)
	a.expectOrders(t, 1)

	// More than are made at a time, and a reload before one of them is done. All at
	// once: an order that is held for long is given up, and made again.
	release := a.hold()
	defer release()
	prefixes := []string{"early002", "early003", "early004", "early005", "early006", "early007"}
	var creates []ask
	for _, prefix := range prefixes {
		creates = append(creates, creating(prefix))
	}
	for _, a := range askAtOnce(c.admin, creates) {
		if a.err != nil || a.Status != http.StatusCreated {
			t.Fatalf("create: %v %s", a.err, a.raw)
		}
	}
	eventually(t, 30*time.Second, func() error {
		if n := a.orders(t); n != 1+4 {
			return fmt.Errorf("%d orders, want 4 that are at work", n)
		}
		return nil
	})
	c.reload(t, strings.Replace(a.customerCaddyfile(), "tls_budget", "prefix_length 20\ntls_budget", 1))
	release()
	for _, prefix := range prefixes {
		c.awaitCertificate(t, prefix)
	}
	a.expectOrders(t, 7)
	if n := len(c.issued(t)); n != 7 {
		t.Errorf("the budget has %d, want 7", n)
	}

	// They are in the budget.
	c.admin.create(t, createRequest{Prefix: "early008"})
	eventually(t, 30*time.Second, func() error {
		if !strings.Contains(c.logTail(0), "tls_budget is spent: ") {
			return errors.New("the log does not say that the budget is spent")
		}
		return nil
	})
	a.expectOrders(t, 7)
}

func TestNothingIsMadeAheadBelowAWildcard(t *testing.T) {
	t.Parallel()
	c := prepareCaddy(t, options{Sandbox: "tls_ahead on"})
	wildcard := strings.Replace(c.caddyfile(), "tls internal {\n\t\ton_demand\n\t}", "tls internal", 1)
	if err := c.writeConfig(wildcard); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	c.admin.create(t, createRequest{Prefix: "covered1"})
	eventually(t, 30*time.Second, func() error {
		if !strings.Contains(c.logTail(0), "certificate is ready for the first visit") {
			return errors.New("the log does not say that the certificate is ready")
		}
		return nil
	})
	if files := c.certificateFiles(t, "covered1."+domain); len(files) != 0 {
		t.Errorf("there is a certificate for the host alone: %v", files)
	}
	conn, err := c.visitor.handshake(t.Context(), "covered1."+domain)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if names := conn.ConnectionState().PeerCertificates[0].DNSNames; !slices.Equal(names, []string{"*." + domain}) {
		t.Errorf("the certificate is for %v", names)
	}
}

// TestAWildcardByDNSIsOneOrderForAll has the authority validate by the records
// of a DNS provider, as docs/operations.md has it for many instances.
func TestAWildcardByDNSIsOneOrderForAll(t *testing.T) {
	t.Parallel()
	binary := filepath.Join(t.TempDir(), "caddy")
	build := exec.Command("go", "build", "-race", "-o", binary, "./dnscaddy")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building Caddy with a DNS provider: %v\n%s", err, out)
	}
	resolver := fmt.Sprintf("127.0.0.1:%d", freePort())
	a := startAuthority(t, "challenges dns-01\nresolvers udp/"+resolver+"\nallow_wildcard_names")
	c := prepareCaddy(t, options{Binary: binary, Sandbox: "tls_ahead on"})
	wildcard := fmt.Sprintf(`tls {
		dns own %s
		resolvers %s
		ca %s
		ca_root %s
	}`, resolver, resolver, a.directory(), a.rootCert())
	caddyfile := strings.Replace(c.caddyfile(), "tls internal {\n\t\ton_demand\n\t}", wildcard, 1)
	if err := c.writeConfig(caddyfile); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	c.visitor = newVisitor(c.httpsPort, a.rootCert())
	for _, prefix := range []string{"wildone1", "wildtwo2"} {
		made := c.admin.create(t, createRequest{Prefix: prefix})
		eventually(t, time.Minute, func() error {
			_, err := c.visitor.answers200(made.URL)
			return err
		})
	}
	a.expectOrders(t, 1)
}

// expectNoCertificate checks that prefix gets no certificate, for want of budget
// or of an instance, and without a long wait.
func (c *caddyServer) expectNoCertificate(t testing.TB, when, prefix string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, err := c.visitor.handshake(ctx, prefix+"."+domain)
	if err == nil {
		conn.Close()
		t.Errorf("%s: %s has a certificate", when, prefix)
	}
	if ctx.Err() != nil {
		t.Errorf("%s: the handshake for %s hangs: %v", when, prefix, err)
	}
}

// expectNoCertificateAfterRestart is for an instance that was deleted: a running
// Caddy still has its certificate in memory.
func (c *caddyServer) expectNoCertificateAfterRestart(t testing.TB, prefix string) {
	t.Helper()
	if err := c.stop(); err != nil {
		t.Fatal(err)
	}
	c.mustStart(t)
	c.expectNoCertificate(t, "after the delete", prefix)
}

func (c *caddyServer) awaitCertificate(t testing.TB, prefix string) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		if len(c.certificateFiles(t, prefix+"."+domain)) < 3 { // certificate, key, description
			return fmt.Errorf("%s has no certificate in storage", prefix)
		}
		return nil
	})
}

// issued are the hosts in the budget's file.
func (c *caddyServer) issued(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(c.StateDir, "tls-budget.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	var file struct {
		Certificates []struct{ Host string }
	}
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	var hosts []string
	for _, one := range file.Certificates {
		hosts = append(hosts, one.Host)
	}
	return hosts
}

// storage is what Caddy's storage holds, with what changes when a file there is
// written, made or removed, however briefly.
func (c *caddyServer) storage(t testing.TB) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir(c.dataDir(), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		found[path] = fmt.Sprintf("%d bytes, inode %d, %s", info.Size(), info.Sys().(*syscall.Stat_t).Ino, info.ModTime())
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func (c *caddyServer) expectStorage(t testing.TB, want map[string]string) {
	t.Helper()
	got := c.storage(t)
	if maps.Equal(got, want) {
		return
	}
	for path := range got {
		if got[path] != want[path] {
			t.Errorf("storage was written: %s is %q, was %q", path, got[path], want[path])
		}
	}
	for path := range want {
		if got[path] == "" {
			t.Errorf("storage was written: %s is gone", path)
		}
	}
}

// awaitCleanStorage waits for the end of the cleaning that each start of Caddy
// begins.
func (c *caddyServer) awaitCleanStorage(t testing.TB) {
	t.Helper()
	eventually(t, 30*time.Second, func() error {
		_, err := os.Stat(filepath.Join(c.dataDir(), "caddy", "last_clean.json"))
		return err
	})
	eventually(t, 30*time.Second, func() error {
		locks, _ := filepath.Glob(filepath.Join(c.dataDir(), "caddy", "locks", "*"))
		if len(locks) > 0 {
			return fmt.Errorf("storage is locked: %v", locks)
		}
		return nil
	})
}

// refusedHandshakes begins n handshakes, many at a time, and returns how many
// were refused by a TLS alert.
func (c *caddyServer) refusedHandshakes(t testing.TB, n int, host func(int) string) int {
	t.Helper()
	var next, refused atomic.Int64
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for i := next.Add(1); i <= int64(n); i = next.Add(1) {
				alert, ok := errors.AsType[*net.OpError](c.beginHandshake(host(int(i))))
				if ok && alert.Op == "remote error" && alert.Err.Error() == "tls: internal error" {
					refused.Add(1)
				}
			}
		})
	}
	callers.Wait()
	return int(refused.Load())
}

// beginHandshake is a handshake of a client that offers the cheapest key share,
// and leaves no port in TIME_WAIT: there are fewer ports than handshakes.
func (c *caddyServer) beginHandshake(host string) error {
	plain, err := net.Dial("tcp", c.visitor.addr)
	if err != nil {
		return err
	}
	defer plain.Close()
	_ = plain.(*net.TCPConn).SetLinger(0)
	return tls.Client(plain, &tls.Config{ServerName: host, CurvePreferences: []tls.CurveID{tls.X25519}}).Handshake()
}
