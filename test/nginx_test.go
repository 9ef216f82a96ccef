package test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// exampleDomain is that of examples/nginx.
const exampleDomain = "sandbox.example.com"

func TestNginxInFrontOfCaddy(t *testing.T) {
	t.Parallel()
	n := prepareNginx(t)
	c := n.prepareCaddy(t, "tls-in-front")
	n.start(t, "tls-in-front")
	c.mustStart(t)

	made := c.api.create(t, createRequest{Prefix: "nginxtls"})
	if want := "https://nginxtls." + exampleDomain; made.URL != want {
		t.Errorf("url %q, want %q", made.URL, want)
	}

	seen := c.visitor.seenBehind(t, made.URL, header{"X-Forwarded-For", "192.0.2.66"}, header{"X-Forwarded-Proto", "gopher"})
	if seen.Host != "nginxtls."+exampleDomain || seen.Headers.Get("X-Forwarded-Host") != seen.Host {
		t.Errorf("the server sees host %q, forwarded for host %q", seen.Host, seen.Headers.Get("X-Forwarded-Host"))
	}
	if proto := seen.Headers.Get("X-Forwarded-Proto"); proto != "https" {
		t.Errorf("X-Forwarded-Proto %q, want https: Caddy must trust nginx", proto)
	}
	// The first is whom nginx saw, the second nginx itself.
	if whom := seen.Headers.Get("X-Forwarded-For"); whom != "127.0.0.1, 127.0.0.1" {
		t.Errorf("X-Forwarded-For %q, want the visitor and nginx alone", whom)
	}
	c.visitor.streamsPass(t, made.URL)
	c.visitor.answers(t, "nginxunknown", http.StatusNotFound, `"code":1004`)
	n.redirectsToHTTPS(t)

	c.api.act(t, "nginxtls", "stop")
	c.visitor.awaitAnswer(t, "nginxtls", http.StatusServiceUnavailable, `"code":1105`)
	c.api.act(t, "nginxtls", "start")
	c.visitor.awaitAnswer(t, "nginxtls", http.StatusOK, "hello from nginxtls")
}

func TestNginxRoutesByItself(t *testing.T) {
	t.Parallel()
	n := prepareNginx(t)
	c := n.prepareCaddy(t, "direct")
	n.start(t, "direct") // before there is a map
	c.visitor.answers(t, "nginxdirect", http.StatusNotFound, "no such instance")
	c.mustStart(t)

	made := c.api.create(t, createRequest{Prefix: "nginxdirect"})
	c.visitor.awaitAnswer(t, "nginxdirect", http.StatusOK, "hello from nginxdirect")
	seen := c.visitor.seenBehind(t, made.URL, header{"X-Forwarded-For", "192.0.2.66"})
	if seen.Host != "nginxdirect."+exampleDomain || seen.Headers.Get("X-Forwarded-For") != "127.0.0.1" ||
		seen.Headers.Get("X-Forwarded-Proto") != "https" {
		t.Errorf("the server sees %+v", seen)
	}
	c.visitor.streamsPass(t, made.URL)
	c.visitor.answers(t, "nginxunknown", http.StatusNotFound, "no such instance")
	n.redirectsToHTTPS(t)

	// Prefixes that mean something else in a map of nginx's, by themselves.
	socket := c.visitor.dialWebSocket(t, made.URL+"/ws")
	for _, prefix := range []string{"volatile", "hostnames"} {
		c.api.create(t, createRequest{Prefix: prefix})
		c.visitor.awaitAnswer(t, prefix, http.StatusOK, "hello from "+prefix)
	}
	socket.echoes(t, "open over two reloads of nginx")

	c.api.act(t, "nginxdirect", "stop")
	down := c.visitor.awaitAnswer(t, "nginxdirect", http.StatusServiceUnavailable, "does not run")
	if down.Header.Get("Retry-After") == "" {
		t.Error("503 without Retry-After")
	}
	c.api.act(t, "nginxdirect", "start")
	c.visitor.awaitAnswer(t, "nginxdirect", http.StatusOK, "hello from nginxdirect")
	for _, status := range []int{http.StatusNotFound, http.StatusServiceUnavailable} {
		page := c.visitor.get(t, fmt.Sprintf("%s/status/%d", made.URL, status))
		if page.StatusCode != status || page.body != "" {
			t.Errorf("the server's own %d became %d %q", status, page.StatusCode, page.body)
		}
	}
	c.api.delete(t, "nginxdirect")
	c.visitor.awaitAnswer(t, "nginxdirect", http.StatusNotFound, "no such instance")
}

func TestTheMapOfNginxIsNeverHalfRight(t *testing.T) {
	t.Parallel()
	state, dir := t.TempDir(), t.TempDir()
	path, calls := filepath.Join(dir, "routes.map"), filepath.Join(dir, "calls")
	if err := os.Mkdir(filepath.Join(state, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	good := `{"domain":"s.example.com","routes":{
"aaaaaaaa":{"target":"http://127.0.0.1:5174","status":"running"},
"bbbbbbbb":{"target":"http://127.0.0.1:5175","status":"stopped"}
}}
`
	goodMap := "aaaaaaaa.s.example.com 127.0.0.1:5174;\nbbbbbbbb.s.example.com down;\n"
	withHosts := strings.Replace(good, `"running"}`, `"running","domains":["app.example.org","xn--two-0ra.example"]}`, 1)
	hostsMap := strings.Replace(goodMap, ";\n", ";\napp.example.org 127.0.0.1:5174;\nxn--two-0ra.example 127.0.0.1:5174;\n", 1)
	accepts := []string{"sh", "-c", `echo "$@" >>` + calls, "nginx"}
	for _, step := range []struct {
		name, routes string
		nginx        []string
		fails        bool
		want         string
	}{
		{"the first routes", good, accepts, false, goodMap},
		{"a cut file", good[:len(good)-20], accepts, true, goodMap},
		{"an entry of another form", strings.Replace(good, `"status"`, `"state"`, 1), accepts, true, goodMap},
		{"another target", strings.Replace(good, "127.0.0.1:5174", "evil.example; return 200", 1), accepts, true, goodMap},
		{"no file of ours", "{}\n", accepts, true, goodMap},
		{"a map that nginx does not take", strings.Replace(good, "5174", "5176", 1), []string{"false"}, true, goodMap},
		{"the same routes again", good, []string{"false"}, false, goodMap}, // nobody is told
		{"custom hosts", withHosts, accepts, false, hostsMap},
		{"hosts of another form", strings.Replace(withHosts, "app.", "app;", 1), accepts, true, hostsMap},
		{"no routes", `{"domain":"s.example.com","routes":{}}` + "\n", accepts, false, ""},
	} {
		if err := os.WriteFile(filepath.Join(state, "config", "subdomain-proxy.json"), []byte(step.routes), 0o644); err != nil {
			t.Fatal(err)
		}
		update := exec.Command("../examples/nginx/direct/update-map.sh", append([]string{path}, step.nginx...)...)
		update.Env = append(os.Environ(), "SANDBOX_STATE_DIR="+state)
		out, err := update.CombinedOutput()
		if (err != nil) != step.fails {
			t.Errorf("%s: %v %s", step.name, err, out)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != step.want {
			t.Errorf("%s: the map is %q, want %q (%v)", step.name, got, step.want, err)
		}
	}
	if told, _ := os.ReadFile(calls); string(told) != strings.Repeat("-t -q\n-s reload\n", 3) {
		t.Errorf("nginx was called with %q", told)
	}
}

// nginx is a running nginx with one of the examples, and what visitors know of
// it.
type nginx struct {
	dir                 string
	httpPort, httpsPort int
	caddyPort, apiPort  int
}

func prepareNginx(t testing.TB) *nginx {
	t.Helper()
	dir, err := os.MkdirTemp(runDir, "nginx-") // its workers are another user
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	n := &nginx{dir: dir, httpPort: freePort(), httpsPort: freePort(), caddyPort: freePort(), apiPort: freePort()}
	n.writeCertificate(t)
	return n
}

func (n *nginx) path(name string) string { return filepath.Join(n.dir, name) }

// config is the one that includes the example, as Debian's includes conf.d.
func (n *nginx) config() string {
	return strings.ReplaceAll(`
daemon off;
worker_processes 1;
pid DIR/nginx.pid;
error_log DIR/error.log;
events {}
http {
	access_log off;
	client_body_temp_path DIR/body;
	proxy_temp_path DIR/proxy;
	fastcgi_temp_path DIR/fastcgi;
	uwsgi_temp_path DIR/uwsgi;
	scgi_temp_path DIR/scgi;

	# Far below nginx's own minute, for what the example does not set itself.
	proxy_read_timeout 1s;
	proxy_send_timeout 1s;
	send_timeout 1s;

	include DIR/sandbox.conf;
}
`, "DIR", n.dir)
}

// example reads a file of examples/nginx, with the test's ports and paths in
// the place of its own. more are further pairs of old and new.
func (n *nginx) example(t testing.TB, name string, more ...string) string {
	t.Helper()
	content, err := os.ReadFile("../examples/nginx/" + name)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer(append(more,
		"	listen [::]:443 ssl http2;\n", "", // not every machine has IPv6
		"	listen [::]:80;\n", "",
		"listen 443", fmt.Sprintf("listen 127.0.0.1:%d", n.httpsPort),
		"listen 80", fmt.Sprintf("listen 127.0.0.1:%d", n.httpPort),
		":8080", fmt.Sprintf(":%d", n.caddyPort),
		":8081", fmt.Sprintf(":%d", n.apiPort),
		"/etc/ssl/sandbox", n.dir,
		"/var/lib/sandbox-nginx", n.dir,
	)...).Replace(string(content))
	for _, own := range []string{"listen 443", "listen 80", ":2019", ":808", "/etc/ssl", "/etc/caddy", "/var/lib", "vite-demo"} {
		if strings.Contains(text, own) {
			t.Fatalf("%s still says %q, which is not this test's", name, own)
		}
	}
	return text
}

// start runs nginx until the end of the test.
func (n *nginx) start(t testing.TB, example string) {
	t.Helper()
	for name, content := range map[string]string{"sandbox.conf": n.example(t, example+"/sandbox.conf"), "nginx.conf": n.config()} {
		if err := os.WriteFile(n.path(name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	log, err := os.Create(n.path("nginx.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(n.command(t)[0], n.command(t)[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(exited)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-exited:
		case <-time.After(10 * time.Second):
			t.Error("nginx did not end within 10 s of SIGTERM")
			_ = cmd.Process.Kill()
		}
		if t.Failed() {
			t.Logf("nginx said:\n%s", n.logs())
		}
	})
	eventually(t, 10*time.Second, func() error {
		select {
		case <-exited:
			return stopPolling{fmt.Errorf("nginx ended during start:\n%s", n.logs())}
		default:
		}
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", n.httpsPort))
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// command is how to run this nginx, and to give it orders.
func (n *nginx) command(t testing.TB) []string {
	t.Helper()
	binary, err := exec.LookPath("nginx")
	if err != nil {
		binary = "/usr/sbin/nginx" // where only root's PATH leads
	}
	return []string{binary, "-p", n.dir, "-c", n.path("nginx.conf")}
}

func (n *nginx) logs() string {
	var all bytes.Buffer
	for _, name := range []string{"nginx.log", "error.log"} {
		content, _ := os.ReadFile(n.path(name))
		all.Write(content)
	}
	return all.String()
}

// prepareCaddy is a Caddy with the example's Caddyfile, which visitors reach
// past nginx alone.
func (n *nginx) prepareCaddy(t testing.TB, example string) *caddyServer {
	t.Helper()
	c := prepareCaddy(t, options{})
	script, err := filepath.Abs("../examples/nginx/direct/update-map.sh")
	if err != nil {
		t.Fatal(err)
	}
	caddyfile := n.example(t, example+"/Caddyfile",
		"localhost:2019", c.adminAddr,
		"/var/lib/caddy-sandbox", c.StateDir+"\n		ports "+c.Ports.String(),
		"caddy-sandbox/vite-demo", serverImage,
		"/etc/caddy/update-map.sh", script,
		"sudo -n /usr/sbin/nginx", strings.Join(n.command(t), " "))
	if err := c.writeConfig(caddyfile); err != nil {
		t.Fatal(err)
	}
	c.api = apiClient{base: fmt.Sprintf("http://127.0.0.1:%d", n.apiPort), token: apiToken, http: http.DefaultClient}
	c.visitor = newVisitor(n.httpsPort, n.path("fullchain.pem"))
	return c
}

// writeCertificate makes a certificate that is its own authority, for
// *.sandbox.example.com alone.
func (n *nginx) writeCertificate(t testing.TB) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: exampleDomain}, DNSNames: []string{"*." + exampleDomain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	err = errors.Join(
		os.WriteFile(n.path("fullchain.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), 0o644),
		os.WriteFile(n.path("privkey.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
	if err != nil {
		t.Fatal(err)
	}
}

func (n *nginx) redirectsToHTTPS(t testing.TB) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/a?b=c", n.httpPort), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Host = "anything." + exampleDomain
	res, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if to := res.Header.Get("Location"); res.StatusCode != http.StatusPermanentRedirect || to != "https://anything."+exampleDomain+"/a?b=c" {
		t.Errorf("plain HTTP: %d to %q", res.StatusCode, to)
	}
}

// requestSeen is a request as the server in the container saw it.
type requestSeen struct {
	Host    string
	Headers http.Header
}

func (v *visitor) seenBehind(t testing.TB, url string, headers ...header) (seen requestSeen) {
	t.Helper()
	page := v.mustGet(t, url+"/headers", headers...)
	if err := json.Unmarshal([]byte(page.body), &seen); err != nil {
		t.Fatalf("%v: %s", err, page.body)
	}
	return seen
}

// streamsPass checks that a WebSocket, events and a large body pass.
func (v *visitor) streamsPass(t testing.TB, url string) {
	t.Helper()
	socket := v.dialWebSocket(t, url+"/ws")
	socket.echoes(t, "small")
	socket.echoes(t, strings.Repeat("large ", 100_000))

	v.mustGet(t, url+"/slow?ms=2500") // silence is no end, for the socket neither
	socket.echoes(t, "after a silence")

	// Whoever buffers 4 KiB delivers the first of these events after 16 s.
	ctx, cancel := context.WithTimeout(t.Context(), 14*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := v.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	wantEvents(t, res.Body, 3)

	if page, err := v.try(http.MethodPost, url+"/echo", "a body"); err != nil || page.body != "a body" {
		t.Errorf("a body came back as %+v: %v", page, err)
	}
	v.acceptsLargeBodies(t, url)
}

// acceptsLargeBodies asks whether a body of 8 MiB may be sent. It is not sent,
// for the server would echo it while it comes, and nginx cannot do that.
func (v *visitor) acceptsLargeBodies(t testing.TB, url string) {
	t.Helper()
	host := hostOf(t, url)
	conn, err := v.handshake(t.Context(), host, "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /echo HTTP/1.1\r\nHost: %s\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n", host, 8<<20)
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || !strings.Contains(line, "100 Continue") {
		t.Errorf("a body of 8 MiB: %q %v", line, err)
	}
}

// answers checks what comes for a prefix of the example's domain.
func (v *visitor) answers(t testing.TB, prefix string, status int, part string) {
	t.Helper()
	if _, err := v.answer(prefix, status, part); err != nil {
		t.Error(err)
	}
}

func (v *visitor) awaitAnswer(t testing.TB, prefix string, status int, part string) (page reply) {
	t.Helper()
	eventually(t, 10*time.Second, func() (err error) {
		page, err = v.answer(prefix, status, part)
		return err
	})
	return page
}

func (v *visitor) answer(prefix string, status int, part string) (reply, error) {
	page, err := v.try(http.MethodGet, "https://"+prefix+"."+exampleDomain+"/", "")
	if err == nil && (page.StatusCode != status || !strings.Contains(page.body, part)) {
		err = fmt.Errorf("%s: %d %q, want %d %q", prefix, page.StatusCode, page.body, status, part)
	}
	return page, err
}
