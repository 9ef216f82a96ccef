package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"
	"github.com/docker/docker/client"
)

// ownEngine is a Docker Engine that may be restarted and killed: the test's
// own, with all its files in a folder of its own.
//
// It leaves the firewall alone, which belongs to the machine's engine. Published
// ports then are docker-proxy's, and containers cannot reach the world; this
// machine reaches them, and no test needs more.
type ownEngine struct {
	*client.Client
	dir    string
	bridge string // in the place of docker0
	cmd    *exec.Cmd
	done   chan struct{} // closed when cmd has ended
}

// bridges counts those of this process.
var bridges atomic.Int32

// foreignBridge makes a bridge with the machine's engine, for another one to
// use. An engine without any, by --bridge none, would remove docker0, which
// is the machine's; and so would one with --default-address-pool, when it
// starts again.
func foreignBridge(t testing.TB) (name string) {
	t.Helper()
	name = fmt.Sprintf("sbt%d%c", os.Getpid(), 'a'+bridges.Add(1)%26) // an interface's name is short
	made, err := engine.NetworkCreate(t.Context(), "caddy-sandbox-"+name, network.CreateOptions{
		Driver:  "bridge",
		Options: map[string]string{"com.docker.network.bridge.name": name},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.NetworkRemove(context.Background(), made.ID); err != nil {
			t.Error(err)
		}
	})
	return name
}

// startOwnEngine starts one that has the image of the tests.
func startOwnEngine(t testing.TB) *ownEngine {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("dockerd"); err != nil {
		t.Skip("needs dockerd, to run an engine that may be restarted")
	}
	if _, err := net.InterfaceByName("docker0"); err == nil {
		t.Cleanup(func() {
			if _, err := net.InterfaceByName("docker0"); err != nil {
				t.Errorf("the bridge of the machine's engine was removed: %v", err)
			}
		})
	}
	e := &ownEngine{dir: filepath.Dir(socketPath(t)), bridge: foreignBridge(t)}
	var err error
	if e.Client, err = client.NewClientWithOpts(client.WithHost(e.endpoint()), client.WithAPIVersionNegotiation()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.close(t) })
	e.start(t)
	e.load(t, serverImage)
	return e
}

func (e *ownEngine) endpoint() string { return "unix://" + filepath.Join(e.dir, "docker.sock") }

// start returns when the engine answers.
func (e *ownEngine) start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(filepath.Join(e.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("dockerd", "--host", e.endpoint(), "--pidfile", filepath.Join(e.dir, "docker.pid"),
		"--exec-root", filepath.Join(e.dir, "run"), "--data-root", filepath.Join(e.dir, "data"),
		"--bridge", e.bridge, "--iptables=false", "--ip6tables=false")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	e.cmd, e.done = cmd, done
	go func() {
		_ = cmd.Wait()
		close(done)
	}()
	eventually(t, 60*time.Second, func() error {
		select {
		case <-done:
			return stopPolling{fmt.Errorf("dockerd ended:\n%s", e.log())}
		default:
		}
		_, err := e.Ping(context.Background())
		return err
	})
}

func (e *ownEngine) log() string {
	text, _ := os.ReadFile(filepath.Join(e.dir, "log"))
	return string(text[max(0, len(text)-5000):])
}

// end stops the engine, and with it all containers; or kills it, and they run on
// until the next one finds them.
func (e *ownEngine) end(t testing.TB, signal syscall.Signal) {
	t.Helper()
	_ = e.cmd.Process.Signal(signal)
	select {
	case <-e.done:
	case <-time.After(60 * time.Second):
		t.Fatalf("dockerd did not end within a minute of %s:\n%s", signal, e.log())
	}
	if signal == syscall.SIGKILL {
		e.endContainerd(t)
	}
}

// endContainerd ends the helper of a killed dockerd. The next one would believe
// its pid file, although the process has ended and nobody has asked how.
func (e *ownEngine) endContainerd(t testing.TB) {
	t.Helper()
	file := filepath.Join(e.dir, "run", "containerd", "containerd.pid")
	text, err := os.ReadFile(file)
	if err != nil {
		return
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	executable := fmt.Sprintf("/proc/%d/exe", pid)
	if is, _ := os.Readlink(executable); filepath.Base(is) == "containerd" {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	eventually(t, 10*time.Second, func() error {
		if is, err := os.Readlink(executable); err == nil && filepath.Base(is) == "containerd" {
			return fmt.Errorf("containerd %d still runs", pid)
		}
		return nil
	})
	os.Remove(file)
}

func (e *ownEngine) close(t testing.TB) {
	t.Helper()
	if e.cmd == nil {
		return
	}
	if _, err := e.Ping(context.Background()); err != nil { // a test failed while it was down
		e.start(t)
	}
	// Removed by the engine, a container leaves no process and no mount.
	list, _ := e.ContainerList(context.Background(), container.ListOptions{All: true})
	for _, each := range list {
		_ = e.ContainerRemove(context.Background(), each.ID, container.RemoveOptions{Force: true})
	}
	networks, _ := e.NetworkList(context.Background(), network.ListOptions{Filters: filters.NewArgs(filters.Arg("driver", "bridge"))})
	for _, each := range networks {
		_ = e.NetworkRemove(context.Background(), each.ID)
	}
	e.end(t, syscall.SIGTERM)
	// dockerd mounts its data folder on itself. One that was killed leaves that
	// behind, and the next one does it again.
	data := filepath.Join(e.dir, "data")
	for syscall.Unmount(data, syscall.MNT_DETACH) == nil {
		continue
	}
	if t.Failed() {
		t.Logf("log of the test's own dockerd:\n%s", e.log())
	}
}

// load copies an image from the machine's engine.
func (e *ownEngine) load(t testing.TB, tag string) {
	t.Helper()
	saved, err := engine.ImageSave(t.Context(), []string{tag})
	if err != nil {
		t.Fatal(err)
	}
	defer saved.Close()
	loaded, err := e.ImageLoad(t.Context(), saved)
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Body.Close()
	if _, err := io.Copy(io.Discard, loaded.Body); err != nil {
		t.Fatal(err)
	}
}

func TestRestartsOfDockerConverge(t *testing.T) {
	t.Parallel()
	const restarts, instances = 20, 20
	e := startOwnEngine(t)
	c := startCaddy(t, options{Docker: e.endpoint()})
	var all []instanceView
	for n := range instances {
		all = append(all, c.api.create(t, createRequest{Prefix: fmt.Sprintf("restarted%02d", n)}))
	}

	slowest := time.Duration(0)
	for n := range restarts {
		signal := syscall.SIGTERM
		if n%2 == 1 {
			signal = syscall.SIGKILL
		}
		e.end(t, signal)
		c.api.call(t, http.MethodPost, "/api/instances", nil).expect(t, http.StatusServiceUnavailable, 1102)
		c.api.get(t, all[0].Prefix)
		e.start(t)
		begun := time.Now()

		// An engine that comes back has ended all containers (without live-restore).
		for _, i := range all {
			seen := c.api.awaitStatus(t, 30*time.Second, i.Prefix, "stopped", "engine stopped")
			if seen.ContainerID != i.ContainerID || seen.Port != i.Port {
				t.Errorf("after %s: %s has container %s and port %d, had %s and %d",
					signal, i.Prefix, seen.ContainerID, seen.Port, i.ContainerID, i.Port)
			}
		}
		took := time.Since(begun)
		slowest = max(slowest, took)
		for _, answer := range askAtOnce(c.api, starting(all)) {
			if answer.err != nil || answer.Status != http.StatusOK {
				t.Fatalf("%s %s: %v %d %s", answer.method, answer.path, answer.err, answer.Status, answer.raw)
			}
		}
		for _, i := range all {
			c.visitor.mustGet(t, i.URL)
			awaitPort(t, i.Port, i.Prefix)
		}
		t.Logf("restart %d (%s): all %d known after %s", n+1, signal, instances, took.Round(time.Millisecond))
	}

	owned := filters.NewArgs(filters.Arg("label", "sandbox.manager="+c.owner()))
	networks, err := e.NetworkList(t.Context(), network.ListOptions{Filters: owned})
	if err != nil || len(networks) != 1 {
		t.Errorf("networks %+v (%v), want one", networks, err)
	}
	for _, i := range all {
		c.api.delete(t, i.Prefix)
	}
	containers, err := e.ContainerList(t.Context(), container.ListOptions{All: true})
	if err != nil || len(containers) != 0 {
		t.Errorf("containers %+v (%v) are left of no instance", containers, err)
	}
	for port := c.Ports.first; port <= c.Ports.last; port++ {
		if !bindable(port) {
			t.Errorf("port %d is still bound", port)
		}
	}
	t.Logf("%d restarts with %d instances: converged within %s each", restarts, instances, slowest.Round(time.Millisecond))
}

func starting(all []instanceView) (calls []ask) {
	for _, i := range all {
		calls = append(calls, ask{http.MethodPost, "/api/instances/" + i.Prefix + "/start", nil})
	}
	return calls
}

// What ran when the engine went down runs again, and nothing else does.
func TestStartOnBootBringsBackWhatRan(t *testing.T) {
	t.Parallel()
	const running = 8
	e := startOwnEngine(t)
	c := startCaddy(t, options{Docker: e.endpoint(), Sandbox: "start_on_boot on"})
	var ran []instanceView
	for n := range running {
		ran = append(ran, c.api.create(t, createRequest{Prefix: fmt.Sprintf("booted%02d", n)}))
	}
	c.api.create(t, createRequest{Prefix: "bootstopped"})
	c.api.act(t, "bootstopped", "stop")
	c.api.create(t, createRequest{Prefix: "bootpaused"})
	c.api.act(t, "bootpaused", "pause")
	c.api.create(t, createRequest{Prefix: "bootidle", IdleTimeout: "1s"})
	c.api.awaitStatus(t, overdueBy, "bootidle", "stopped", "idle")

	for name, restart := range map[string]func(){
		"the engine":  func() { e.end(t, syscall.SIGTERM); e.start(t) },
		"its crash":   func() { e.end(t, syscall.SIGKILL); e.start(t) },
		"the machine": func() { c.kill(t); e.end(t, syscall.SIGTERM); e.start(t); c.mustStart(t) },
	} {
		from := c.logSize()
		restart()
		for n, i := range ran {
			eventually(t, time.Minute, func() error {
				ran[n] = c.api.get(t, i.Prefix)
				if now := ran[n]; now.Status != "running" || !now.Ready || !now.StartedAt.After(*i.StartedAt) {
					return fmt.Errorf("after a restart of %s %s is %s (%s), started at %v", name, i.Prefix, now.Status, now.Reason, now.StartedAt)
				}
				return nil
			})
			sameInstance(t, ran[n], i)
		}
		eventually(t, time.Minute, func() error {
			for _, i := range ran {
				if _, err := c.visitor.answers200(i.URL); err != nil {
					return err
				}
			}
			return nil
		})
		c.api.awaitStatus(t, byHand, "bootstopped", "stopped", "user")
		c.api.awaitStatus(t, byHand, "bootpaused", "stopped", "user")
		c.api.awaitStatus(t, byHand, "bootidle", "stopped", "idle")
		eventually(t, byHand, func() error {
			if log := c.logTail(from); !strings.Contains(log, "started the instances that ended with the engine") {
				return fmt.Errorf("after a restart of %s the log does not say that all are back:\n%s", name, log)
			}
			return nil
		})
	}
}
