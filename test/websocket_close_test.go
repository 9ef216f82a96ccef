package test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/docker/docker/api/types/network"
)

// What a client of a WebSocket has to see when the server goes away.
const goingAway = 1001

func TestStoppingClosesWebSocketsWith1001(t *testing.T) {
	t.Parallel()
	c := sharedCaddy(t)
	for action, call := range map[string]struct{ method, tail string }{
		"stop":    {http.MethodPost, "/stop"},
		"restart": {http.MethodPost, "/restart"},
		"delete":  {http.MethodDelete, ""},
	} {
		t.Run(action, func(t *testing.T) {
			t.Parallel()
			made := c.api.create(t, createRequest{})
			idle := c.visitor.dialWebSocket(t, made.URL+"/ws")
			idle.echoes(t, "before")
			// One that has much to say: the closing frame may find no place
			// between what it is still sent.
			busy := c.visitor.dialWebSocket(t, made.URL+"/ws")
			busy.echoes(t, "before")
			written := make(chan struct{})
			go func() { // it writes until it is cut
				defer close(written)
				for {
					if _, err := busy.Write([]byte("more")); err != nil {
						return
					}
				}
			}()
			var asking sync.WaitGroup
			defer asking.Wait()
			asking.Go(func() {
				a, err := c.api.try(call.method, "/api/instances/"+made.Prefix+call.tail, nil)
				if err != nil || a.Status != http.StatusOK {
					t.Errorf("%s: %v %s", action, err, a.raw)
				}
			})

			eventually(t, 10*time.Second, func() error {
				now := c.api.call(t, http.MethodGet, "/api/instances/"+made.Prefix, nil)
				if now.Status == http.StatusOK && now.instance(t).Status == "running" && now.instance(t).Generation == made.Generation &&
					now.instance(t).StartedAt.Equal(*made.StartedAt) {
					return fmt.Errorf("still %s", now.raw)
				}
				return nil
			})
			begun := time.Now()
			for name, socket := range map[string]webSocket{"idle": idle, "busy": busy} {
				code := socket.awaitClose(t, time.Minute)
				t.Logf("%s: the %s socket was closed with code %d", action, name, code)
				if code != goingAway && (name == "idle" || code != 0) {
					t.Errorf("the %s socket was closed with code %d, want %d", name, code, goingAway)
				}
				// Not a byte after the closing frame; and 5 s for us to close, which
				// we do not, then the end.
				if err := socket.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
					t.Fatal(err)
				}
				_, err := socket.NewFrameReader()
				if ne, ok := errors.AsType[net.Error](err); err == nil || ok && ne.Timeout() {
					t.Errorf("the %s socket was closed and is not cut: %v", name, err)
				}
			}
			t.Logf("%s: both ended within %s", action, time.Since(begun).Round(time.Millisecond))
			select {
			case <-written:
			case <-time.After(time.Minute):
				t.Error("after the close the client can go on writing")
			}
		})
	}
}

// The port and the address of an instance are given to the next one. Whoever
// was connected to the old one must not end up there.
func TestTheSuccessorHearsNothingOfOldConnections(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Ports: freeRange(1)})
	networkOfOneAddress(t, c)
	old := c.api.create(t, createRequest{Prefix: "predecessor"})
	before := inspect(t, old.ContainerID)

	// A WebSocket in mid-frame, a stream, an upload, and connections at rest.
	socket := c.visitor.rawWebSocket(t, old.URL+"/ws")
	stream, err := c.visitor.client.Get(old.URL + "/sse")
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Body.Close()
	upload, uploaded := c.visitor.upload(old.URL + "/echo")
	if _, err := upload.Write([]byte("the beginning")); err != nil {
		t.Fatal(err)
	}

	c.api.delete(t, old.Prefix)
	made := c.createOnceThePortHasRested(t, "successor")
	after := inspect(t, made.ContainerID)
	if made.Port != old.Port {
		t.Errorf("port %d, want the old one's, %d: it is the only one", made.Port, old.Port)
	}
	if is, was := addressOf(after.NetworkSettings.Networks), addressOf(before.NetworkSettings.Networks); is != was {
		t.Errorf("address %s, want the old one's, %s: it is the only one", is, was)
	}

	received := func() string { return tcpSegments(t, after.State.Pid) }
	calm := received()
	eventually(t, 20*time.Second, func() error { // what Caddy has to say to it is said
		if now := received(); now != calm {
			calm = now
			return errors.New("the successor still receives")
		}
		return nil
	})
	failed := 0
	for range 200 {
		// Half a frame goes on, in masked text.
		if _, err := socket.Write(bytes.Repeat([]byte("x"), 100)); err != nil {
			failed++
		}
		if _, err := upload.Write([]byte("more")); err != nil {
			failed++
		}
	}
	if now := received(); now != calm {
		t.Errorf("the successor received something: %s segments, before the old clients wrote %s", now, calm)
	}
	if failed == 0 {
		t.Error("the old connections take all that is written: are they cut?")
	}

	// Nor do they hear from it.
	if err := socket.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	for name, from := range map[string]io.Reader{"WebSocket": socket, "stream": stream.Body} {
		rest, _ := io.ReadAll(from)
		if strings.Contains(string(rest), "successor") {
			t.Errorf("the %s of the old instance goes on with %q", name, rest)
		}
	}
	upload.Close()
	if r := <-uploaded; r.err == nil {
		t.Errorf("the upload to the old instance ended well: %q", r.body)
	}
	r := c.visitor.get(t, old.URL+"/")
	if r.StatusCode != http.StatusNotFound {
		t.Errorf("the old host answers %d: %s", r.StatusCode, r.body)
	}
}

// rawWebSocket opens a WebSocket and begins a frame of a kilobyte.
func (v *visitor) rawWebSocket(t testing.TB, rawURL string) net.Conn {
	t.Helper()
	socket := v.dialWebSocket(t, rawURL)
	socket.echoes(t, "before")
	raw, err := v.handshake(t.Context(), hostOf(t, rawURL), "http/1.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { raw.Close() })
	_, err = fmt.Fprintf(raw, "GET /ws HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nOrigin: %s\r\n\r\n", hostOf(t, rawURL), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	head := make([]byte, len("HTTP/1.1 101"))
	if _, err := io.ReadFull(raw, head); err != nil || string(head) != "HTTP/1.1 101" {
		t.Fatalf("opening a WebSocket: %q %v", head, err)
	}
	// FIN and text, masked, 1024 bytes, mask 0, and one byte of them.
	if _, err := raw.Write([]byte{0x81, 0x80 | 126, 4, 0, 0, 0, 0, 0, 'x'}); err != nil {
		t.Fatal(err)
	}
	return raw
}

// uploadResult is how an upload ended.
type uploadResult struct {
	body string
	err  error
}

// upload begins a POST whose body is what is written.
func (v *visitor) upload(url string) (io.WriteCloser, <-chan uploadResult) {
	body, write := io.Pipe()
	ended := make(chan uploadResult, 1)
	go func() {
		res, err := v.client.Post(url, "text/plain", body)
		if err != nil {
			body.CloseWithError(err)
			ended <- uploadResult{err: err}
			return
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		body.CloseWithError(io.ErrClosedPipe)
		ended <- uploadResult{string(text), err}
	}()
	return write, ended
}

// createOnceThePortHasRested creates on the only port that there is.
func (c *caddyServer) createOnceThePortHasRested(t testing.TB, prefix string) (made instanceView) {
	t.Helper()
	eventually(t, 60*time.Second, func() error {
		a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Prefix: prefix})
		if a.Code == 1008 {
			return errors.New(a.Message)
		}
		made = a.expect(t, http.StatusCreated, 0).instance(t)
		return nil
	})
	return made
}

// networkOfOneAddress makes the network of c before c does, with room for one
// container.
func networkOfOneAddress(t testing.TB, c *caddyServer) {
	t.Helper()
	owner := c.owner()[:8]
	subnet := fmt.Sprintf("10.214.%d.%d", rand.IntN(256), 4*rand.IntN(64))
	made, err := engine.NetworkCreate(t.Context(), "sandbox-"+owner+"-0", network.CreateOptions{
		Driver:  "bridge",
		Labels:  map[string]string{"sandbox.manager": c.owner()},
		Options: map[string]string{"com.docker.network.bridge.name": "sbx" + owner + "-0"},
		IPAM:    &network.IPAM{Config: []network.IPAMConfig{{Subnet: subnet + "/30"}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("network %s has %s/30", made.ID[:12], subnet)
}

func addressOf(networks map[string]*network.EndpointSettings) string {
	for _, each := range networks {
		return each.IPAddress
	}
	return ""
}

// tcpSegments is how many TCP segments reached the network that a process of
// this machine lives in.
func tcpSegments(t testing.TB, pid int) string {
	t.Helper()
	counters, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/snmp", pid))
	if err != nil {
		t.Skipf("needs containers whose processes are this machine's: %v", err)
	}
	var names []string
	for line := range strings.Lines(string(counters)) {
		fields := strings.Fields(line)
		switch {
		case fields[0] != "Tcp:":
		case names == nil:
			names = fields
		default:
			for n, name := range names {
				if name == "InSegs" {
					return fields[n]
				}
			}
		}
	}
	t.Fatalf("no count of TCP segments in %s", counters)
	return ""
}
