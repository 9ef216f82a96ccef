package caddymodule

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// inOwnNetwork runs the calling test once more, in a process whose network is
// its own; there it reports true. What a test does to the kernel's settings
// then concerns nobody else.
func inOwnNetwork(t *testing.T) bool {
	t.Helper()
	const mark = "SANDBOX_TEST_NETWORK"
	if os.Getenv(mark) == t.Name() {
		return true
	}
	ip, err := exec.LookPath("ip")
	if err != nil || os.Geteuid() != 0 {
		t.Skip("needs root and the command ip, to make a network of its own")
	}
	const script = `"$1" link set lo up && exec "$2" -test.run "^$3\$" -test.v -test.timeout 2m`
	again := exec.CommandContext(t.Context(), "/bin/sh", "-ec", script, "sh", ip, os.Args[0], t.Name())
	again.Env = append(os.Environ(), mark+"="+t.Name())
	again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := again.CombinedOutput()
	t.Logf("in a network of its own:\n%s", out)
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()) {
		t.Errorf("it failed there: %v", err)
	}
	return false
}

// setEphemeral changes the kernel's range of ephemeral ports, of this process's
// network.
func setEphemeral(t *testing.T, first, last int) {
	t.Helper()
	if err := os.WriteFile(ephemeralPath, fmt.Appendf(nil, "%d %d", first, last), 0); err != nil {
		t.Fatal(err)
	}
}

func TestPortsOfTheKernelAreWarnedOf(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	const advice = "are also the kernel's"
	setEphemeral(t, 40000, 50000)
	s := startServer(t, config{})
	a := s.call(t, http.MethodGet, "/api/health", "").expect(t, http.StatusOK, 0)
	if log := s.log(t); strings.Contains(log, advice) || strings.Contains(a.raw, advice) {
		t.Errorf("apart, and yet: %s\n%s", a.raw, log)
	}

	setEphemeral(t, s.ports.Last, 50000)
	want := fmt.Sprintf("ports %d to %d", s.ports.Last, s.ports.Last)
	for _, ask := range []func(*testing.T, string, string, string) answer{s.call, s.callSite} {
		a := ask(t, http.MethodGet, "/api/health", "").expect(t, http.StatusOK, 0)
		if list := a.detail("advice"); !strings.Contains(list, want) || !strings.Contains(list, advice) {
			t.Errorf("health is %s, want advice on %s", a.raw, want)
		}
		if a.text("status") != "ok" {
			t.Errorf("the status is %s: instances work all the same", a.text("status"))
		}
	}
	// `caddy validate` warns, too.
	adapted, err := adapt(s.caddyfile(config{}))
	if err != nil {
		t.Fatal(err)
	}
	var parsed caddy.Config
	if err := caddy.StrictUnmarshalJSON(adapted, &parsed); err != nil {
		t.Fatal(err)
	}
	if err := caddy.Validate(&parsed); err != nil {
		t.Fatal(err)
	}
	if log := s.log(t); !strings.Contains(log, want) || !strings.Contains(log, `"warn"`) {
		t.Errorf("the log lacks %q:\n%s", want, log)
	}
}

// Connections take a port each at our end. With all of them taken, those that
// there are go on, and one more is refused at once, not tried again and again.
func TestAServerOutOfPortsSaysSo(t *testing.T) {
	if !inOwnNetwork(t) {
		return
	}
	const ephemeral = 100
	setEphemeral(t, 40000, 40000+ephemeral-1)
	s := startServer(t, config{})
	s.create(t, "crowded1")
	s.create(t, "lonely01")
	// Clients choose their ports themselves, for the kernel has none for them
	// either.
	from := 10000
	open := func() (conn net.Conn, res *http.Response) {
		t.Helper()
		from++
		dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: from}}
		conn, err := dialer.DialContext(t.Context(), "tcp4", s.site())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		_, _ = fmt.Fprintf(conn, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: http://%s\r\n\r\n", hostOf("crowded1"), hostOf("crowded1"))
		if res, err = http.ReadResponse(bufio.NewReader(conn), nil); err != nil {
			t.Fatal(err)
		}
		return conn, res
	}

	var sockets []net.Conn
	quickest := time.Hour
	refused := 0
	for refused < 5 {
		begun := time.Now()
		conn, res := open()
		if res.StatusCode == http.StatusSwitchingProtocols {
			if sockets = append(sockets, conn); len(sockets) > ephemeral {
				t.Fatalf("%d connections at %d ports", len(sockets), ephemeral)
			}
			continue
		}
		refused++
		quickest = min(quickest, time.Since(begun))
		a := readAnswer(t, res).expect(t, http.StatusServiceUnavailable, 1106)
		if a.Header.Get("Retry-After") == "" || !strings.Contains(a.Message, "no port left") {
			t.Errorf("Retry-After %q, %s", a.Header.Get("Retry-After"), a.raw)
		}
	}
	if quickest >= proxyTryInterval {
		t.Errorf("it takes %s to be refused: it was tried again", quickest)
	}
	if len(sockets) < ephemeral*8/10 {
		t.Errorf("only %d connections at %d ports", len(sockets), ephemeral)
	}
	if n := strings.Count(s.log(t), "connecting to an instance: this server has no port left"); n != 1 {
		t.Errorf("the log says so %d times, want once", n)
	}
	// Other instances have ports of their own, and what is open goes on.
	if res := s.get(t, hostOf("lonely01"), "/", nil); res.StatusCode != http.StatusOK {
		t.Errorf("the other instance answers %d", res.StatusCode)
	}
	echoRaw(t, sockets[0])

	for _, conn := range sockets[len(sockets)/2:] {
		conn.Close()
	}
	eventually(t, func() error {
		if _, res := open(); res.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("still %d after clients left", res.StatusCode)
		}
		return nil
	})
}

// echoRaw sends a frame over a WebSocket and waits for it to come back.
func echoRaw(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, err := conn.Write([]byte{0x81, 0x82, 0, 0, 0, 0, 'h', 'i'}) // text, masked with zeros
	got := make([]byte, 4)
	if _, readErr := io.ReadFull(conn, got); errors.Join(err, readErr) != nil || string(got) != "\x81\x02hi" {
		t.Errorf("got %q (%v, %v)", got, err, readErr)
	}
}
