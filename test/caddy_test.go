package test

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	domain   = "sandbox.localhost"
	apiToken = "end-to-end-token"
)

// options are what a test wants of its Caddy; the zero value is right for most.
type options struct {
	StateDir  string    // default: a new one below the server's own folder
	Domain    string    // of the instances; default: domain
	Docker    string    // endpoint; default: Caddy finds the engine by itself
	Ports     portRange // of instances; default: 40 that were free
	Sandbox   string    // more lines in the global sandbox block
	Templates string    // template blocks; default: standardTemplates
	Proxy     string    // lines in the sandbox_proxy block
	Site      string    // more lines in its site
	Global    string    // more global options
	Grace     string    // grace_period; default: 2s
	Sites     string    // more sites
	Binary    string    // default: caddyBinary
	Wrap      []string  // command that runs Caddy, strace say
	Nobody    bool      // run as the user nobody, for whom permissions hold
}

// caddyServer is one Caddy process (after a restart: the next one) with its
// own folder, ports and state directory.
type caddyServer struct {
	options
	dir       string // its own folder: Caddyfile, log, data
	adminAddr string
	httpPort  int
	httpsPort int
	cmd       *exec.Cmd
	exited    chan struct{} // closed when cmd has ended
	exitErr   error         // how; set before exited is closed

	// admin is the API on Caddy's admin endpoint, api the same on a site, with
	// a token.
	admin, api apiClient
	visitor    *visitor
}

// startCaddy starts a Caddy for this test alone and waits until it serves.
// At the end of the test it is stopped and its containers are removed.
func startCaddy(t testing.TB, o options) *caddyServer {
	t.Helper()
	c := prepareCaddy(t, o)
	c.mustStart(t)
	return c
}

// prepareCaddy is startCaddy without the start.
func prepareCaddy(t testing.TB, o options) *caddyServer {
	t.Helper()
	c, err := newCaddy(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.close(); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("log of Caddy:\n%s", c.logTail(0))
		}
	})
	return c
}

var shared struct {
	sync.Mutex
	caddy *caddyServer
	err   error
}

// sharedCaddy returns the Caddy that tests share when none of them breaks it.
func sharedCaddy(t testing.TB) *caddyServer {
	t.Helper()
	shared.Lock()
	defer shared.Unlock()
	if shared.caddy == nil && shared.err == nil {
		shared.caddy, shared.err = newCaddy(options{Ports: freeRange(400), Sandbox: "reserved ours1234 theirs56"})
		if shared.err == nil {
			shared.err = shared.caddy.start()
		}
	}
	if shared.err != nil {
		t.Fatal(shared.err)
	}
	c := shared.caddy
	from := c.logSize()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("log of the shared Caddy during this test:\n%s", c.logTail(from))
		}
	})
	return c
}

func stopSharedCaddy() {
	if shared.caddy == nil {
		return
	}
	if err := shared.caddy.close(); err != nil {
		// A benchmark or test can no longer fail; a race must not go unseen.
		fmt.Fprintf(os.Stderr, "shared Caddy: %v\n%s", err, shared.caddy.logTail(0))
		os.Exit(1)
	}
}

func newCaddy(o options) (*caddyServer, error) {
	dir, err := os.MkdirTemp(runDir, "caddy-")
	if err != nil {
		return nil, err
	}
	c := &caddyServer{options: o, dir: dir}
	c.Binary = cmp.Or(c.Binary, caddyBinary)
	c.StateDir = cmp.Or(c.StateDir, filepath.Join(dir, "state"))
	c.Domain = cmp.Or(c.Domain, domain)
	c.Templates = cmp.Or(c.Templates, standardTemplates)
	if c.Ports == (portRange{}) {
		c.Ports = freeRange(40)
	}
	c.httpPort, c.httpsPort = freePort(), freePort()
	c.adminAddr = fmt.Sprintf("127.0.0.1:%d", freePort())
	c.visitor = newVisitor(c.httpsPort, c.rootCert())
	// Of its own, so that connections can be forgotten; and they are before Caddy,
	// which keeps them for a minute, closes them: a POST over such a one fails.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.IdleConnTimeout = 30 * time.Second
	c.admin = apiClient{base: "http://" + c.adminAddr, http: &http.Client{Transport: transport}}
	c.api = apiClient{base: c.siteURL("api.localhost"), token: apiToken, http: c.visitor.client}
	if c.Nobody {
		// Below dir all is made by Caddy itself, which then is nobody.
		if err := os.Chown(dir, nobody, nobody); err != nil {
			return nil, err
		}
	}
	return c, c.writeConfig(c.caddyfile())
}

// standardTemplates all run testserver; it does what TEST_MODE says.
const standardTemplates = `
		default_template web
		template web {
			image {image}
			port 8080
		}
		template quick {
			image {image}
			port 8080
			ready 3s
		}
`

func (c *caddyServer) caddyfile() string {
	docker := ""
	if c.Docker != "" {
		docker = "docker " + c.Docker
	}
	return strings.NewReplacer(
		"{admin}", c.adminAddr,
		"{http}", fmt.Sprint(c.httpPort),
		"{https}", fmt.Sprint(c.httpsPort),
		"{domain}", c.Domain,
		"{state}", c.StateDir,
		"{ports}", c.Ports.String(),
		"{docker}", docker,
		"{sandbox}", c.Sandbox,
		"{templates}", strings.NewReplacer("{image}", serverImage, "{https}", fmt.Sprint(c.httpsPort)).Replace(c.Templates),
		"{proxy}", c.Proxy,
		"{site}", c.Site,
		"{global}", c.Global,
		"{grace}", cmp.Or(c.Grace, "2s"),
		"{sites}", c.Sites,
	).Replace(`{
	admin {admin}
	http_port {http}
	https_port {https}
	skip_install_trust
	grace_period {grace}
	{global}
	sandbox {
		domain {domain}
		state_dir {state}
		ports {ports}
		{docker}
		{sandbox}
		{templates}
	}
	on_demand_tls {
		permission sandbox
	}
}

*.{domain} {
	tls internal {
		on_demand
	}
	{site}
	sandbox_proxy {
		{proxy}
	}
}

api.localhost {
	tls internal
	sandbox_api {
		token {env.SANDBOX_TOKEN}
	}
}
{sites}
`)
}

func (c *caddyServer) configPath() string { return filepath.Join(c.dir, "Caddyfile") }
func (c *caddyServer) dataDir() string    { return filepath.Join(c.dir, "data") }
func (c *caddyServer) logPath() string    { return filepath.Join(c.dir, "caddy.log") }

// rootCert is the certificate of the authority that Caddy makes for itself.
func (c *caddyServer) rootCert() string {
	return filepath.Join(c.dataDir(), "caddy", "pki", "authorities", "local", "root.crt")
}

func (c *caddyServer) siteURL(host string) string {
	return fmt.Sprintf("https://%s:%d", host, c.httpsPort)
}

func (c *caddyServer) writeConfig(caddyfile string) error {
	return os.WriteFile(c.configPath(), []byte(caddyfile), 0o644)
}

// command is `caddy args…` in this server's surroundings.
func (c *caddyServer) command(args ...string) *exec.Cmd {
	argv := append(append([]string{}, c.Wrap...), c.Binary)
	argv = append(argv, args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = c.dir
	cmd.Env = append(os.Environ(),
		"XDG_DATA_HOME="+c.dataDir(),
		"XDG_CONFIG_HOME="+filepath.Join(c.dir, "config"),
		"HOME="+c.dir,
		"SANDBOX_TOKEN="+apiToken,
	)
	if c.Nobody {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: nobodyWithDocker()}
	}
	return cmd
}

func (c *caddyServer) mustStart(t testing.TB) {
	t.Helper()
	if err := c.start(); err != nil {
		t.Fatal(err)
	}
}

// start runs Caddy and returns when its API and its sites answer.
func (c *caddyServer) start() error {
	if err := c.launch(); err != nil {
		return err
	}
	return poll(60*time.Second, func() error {
		select {
		case <-c.exited:
			return stopPolling{fmt.Errorf("caddy ended during start: %w\n%s", c.exitErr, c.logTail(0))}
		default:
			return c.answers()
		}
	})
}

// launch runs Caddy and does not wait for anything.
func (c *caddyServer) launch() error {
	log, err := os.OpenFile(c.logPath(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	cmd := c.command("run", "--config", c.configPath())
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting caddy: %w", err)
	}
	exited := make(chan struct{})
	c.cmd, c.exited = cmd, exited
	go func() {
		c.exitErr = cmd.Wait()
		close(exited)
	}()
	return nil
}

// answers asks the admin endpoint and the site: Caddy opens them one after the
// other, and only both together are "up".
func (c *caddyServer) answers() error {
	for _, api := range []apiClient{c.admin, c.api} {
		if a, err := api.try(http.MethodGet, "/api/instances", nil); err != nil {
			return err
		} else if a.Status != http.StatusOK {
			return fmt.Errorf("%s answers %d %s", api.base, a.Status, a.raw)
		}
	}
	return nil
}

// pid is the process id of the running Caddy.
func (c *caddyServer) pid() int { return c.cmd.Process.Pid }

// kill ends Caddy as a power cut would: it gets no chance to do anything.
func (c *caddyServer) kill(t testing.TB) {
	t.Helper()
	if err := c.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.exited
	c.visitor.forgetConnections()
}

// stop ends Caddy by SIGTERM. Its containers run on.
func (c *caddyServer) stop() error {
	if c.cmd == nil {
		return nil
	}
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-c.exited:
	case <-time.After(30 * time.Second):
		_ = c.cmd.Process.Kill()
		<-c.exited
		return errors.New("caddy did not end within 30 s of SIGTERM")
	}
	c.visitor.forgetConnections()
	return nil
}

// close stops Caddy, removes what it made in Docker, and reports data races.
func (c *caddyServer) close() error {
	err := c.stop()
	if owner := c.owner(); owner != "" {
		err = errors.Join(err, removeAllOf(owner))
	}
	if log := c.logTail(0); strings.Contains(log, "WARNING: DATA RACE") {
		err = errors.Join(err, errors.New("the race detector found a data race in Caddy"))
	}
	return err
}

// reload puts caddyfile in force with `caddy reload`.
func (c *caddyServer) reload(t testing.TB, caddyfile string) {
	t.Helper()
	if said, err := c.tryReload(t, caddyfile); err != nil {
		t.Fatalf("reloading: %v\n%s", err, said)
	}
}

// tryReload is reload where Caddy may refuse. Then, too, its listeners may have
// been replaced: it goes back to the configuration before.
func (c *caddyServer) tryReload(t testing.TB, caddyfile string) (said []byte, refused error) {
	t.Helper()
	if err := c.writeConfig(caddyfile); err != nil {
		t.Fatal(err)
	}
	reload := c.command("reload", "--config", c.configPath(), "--address", c.adminAddr)
	said, refused = reload.CombinedOutput()
	if err := c.onlyOneListens(); err != nil {
		t.Fatal(err)
	}
	return said, refused
}

// onlyOneListens waits until the listeners of the configuration before are
// closed. A reload is answered before that, and whoever connects in between may
// get into the queue of one that is closed unread: "connection reset by peer".
// Connections to the admin server before are given up, which it is about to close.
func (c *caddyServer) onlyOneListens() error {
	defer c.admin.http.CloseIdleConnections()
	return poll(30*time.Second, func() error {
		seen := map[string]bool{}
		for _, table := range []string{"tcp", "tcp6"} {
			sockets, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", c.pid(), table))
			if err != nil {
				return stopPolling{err}
			}
			for line := range strings.Lines(string(sockets)) {
				const local, state, listening = 1, 3, "0A"
				fields := strings.Fields(line)
				if fields[state] != listening || !c.isPort(fields[local]) {
					continue
				}
				if seen[fields[local]] {
					return fmt.Errorf("more than one socket listens on %s (hexadecimal)", fields[local])
				}
				seen[fields[local]] = true
			}
		}
		return nil
	})
}

// isPort tells whether an address as /proc/net/tcp has it is one of this server's.
func (c *caddyServer) isPort(address string) bool {
	_, hex, _ := strings.Cut(address, ":")
	port, err := strconv.ParseUint(hex, 16, 16)
	_, admin, _ := strings.Cut(c.adminAddr, ":")
	return err == nil && slices.Contains([]string{fmt.Sprint(c.httpPort), fmt.Sprint(c.httpsPort), admin}, fmt.Sprint(port))
}

func (c *caddyServer) logSize() int64 {
	info, err := os.Stat(c.logPath())
	if err != nil {
		return 0
	}
	return info.Size()
}

// logTail is the log from offset on, at most its last 100 KB.
func (c *caddyServer) logTail(offset int64) string {
	log, err := os.ReadFile(c.logPath())
	if err != nil {
		return err.Error()
	}
	const most = 100_000
	if tail := int64(len(log)) - most; offset < tail && !bytes.Contains(log, []byte("DATA RACE")) {
		offset = tail
	}
	return string(log[offset:])
}

// instance names a host of this server's domain.
func (c *caddyServer) urlOf(prefix string) string { return c.siteURL(prefix + "." + c.Domain) }
