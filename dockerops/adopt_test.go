package dockerops

import (
	"crypto/rand"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/go-connections/nat"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// foreign is a running container that no client made.
type foreign struct {
	id, name, prefix string
	port             int // host port
}

// foreign runs one as the old system did: on Docker's own network, its name
// and the Compose service carry the prefix. It also publishes what is of no use
// to us: another address and UDP.
func (h hand) foreign(t *testing.T, labels map[string]string) foreign {
	t.Helper()
	prefix := strings.ToLower(rand.Text()[:16])
	f := foreign{name: "old-" + prefix + "-1", prefix: prefix, port: instancetest.FreePort(t)}
	elsewhere, udp := strconv.Itoa(instancetest.FreePort(t)), strconv.Itoa(instancetest.FreePort(t))
	made, err := h.ContainerCreate(t.Context(),
		&container.Config{
			Image: testImage(t), Env: []string{"PORT=8080", "SANDBOX_PREFIX=" + prefix}, Labels: labels,
			ExposedPorts: nat.PortSet{"8080/tcp": {}, "9/tcp": {}, "9/udp": {}},
		},
		&container.HostConfig{PortBindings: nat.PortMap{
			"8080/tcp": {{HostIP: "0.0.0.0", HostPort: strconv.Itoa(f.port)}},
			"9/tcp":    {{HostIP: "127.0.0.2", HostPort: elsewhere}},
			"9/udp":    {{HostIP: "127.0.0.1", HostPort: udp}},
		}}, nil, nil, f.name)
	must(t, err)
	t.Cleanup(func() { h.remove(t, made.ID) })
	f.id = made.ID
	must(t, h.ContainerStart(t.Context(), f.id, container.StartOptions{}))
	return f
}

func TestCandidatesAreTheRunningContainersThatNoManagerHas(t *testing.T) {
	h := needDocker(t)
	c, other := newClient(t, h), newClient(t, h)
	plain := h.foreign(t, nil)
	composed := h.foreign(t, map[string]string{composeService: "old-web"})
	stopped := h.foreign(t, nil)
	h.stop(t, stopped.id)
	managed, err := other.Create(t.Context(), testSpec(t))
	must(t, err)
	must(t, other.Start(t.Context(), managed))

	candidates, err := c.Candidates(t.Context())
	must(t, err)
	found := map[string]instance.Candidate{}
	for _, each := range candidates {
		found[each.ID] = each
	}
	for _, want := range []instance.Candidate{
		{ID: plain.id, Name: plain.name, Ports: []int{plain.port}},
		{ID: composed.id, Name: composed.name, Service: "old-web", Ports: []int{composed.port}},
	} {
		if got := found[want.ID]; !reflect.DeepEqual(got, want) {
			t.Errorf("candidate %+v, want %+v", got, want)
		}
	}
	for what, id := range map[string]string{"stopped container": stopped.id, "container of another manager": managed} {
		if _, ok := found[id]; ok {
			t.Errorf("a %s is a candidate", what)
		}
	}
}

func TestAnEngineWithoutContainersIsNotOneThatDidNotAnswer(t *testing.T) {
	engine := newFakeEngine(t)
	engine.answer("GET /containers/json", `[]`)
	if got, err := clientOn(t, engine.host()).Candidates(t.Context()); got == nil || err != nil {
		t.Errorf("candidates %v, error %v", got, err)
	}
	_, err := clientOn(t, "unix:///nowhere/docker.sock").Candidates(t.Context())
	wantKind(t, err, instance.EngineDown)
}

func TestOnlyWhatIsReachedAsLocalhostCountsAsPublished(t *testing.T) {
	tcp := func(ip string, port uint16) container.Port {
		return container.Port{IP: ip, PublicPort: port, PrivatePort: 80, Type: "tcp"}
	}
	got := localPorts([]container.Port{
		tcp("::", 5), tcp("0.0.0.0", 5), tcp("127.0.0.1", 4), tcp("", 3), // a socket of each family
		tcp("::1", 9), tcp("127.0.0.2", 9), tcp("192.0.2.1", 9), tcp("0.0.0.0", 0), {IP: "0.0.0.0", PublicPort: 9, Type: "udp"},
	})
	if want := []int{3, 4, 5}; !slices.Equal(got, want) {
		t.Errorf("ports %v, want %v", got, want)
	}
	if name := ownName([]string{"/web/alias", "/mine"}); name != "mine" {
		t.Errorf("name %q of a container that another links to", name)
	}
}

func TestAnAdoptedContainerAnswersToOurNameAsIfWeHadMadeIt(t *testing.T) {
	h := needDocker(t)
	first := newClient(t, h)
	old := h.foreign(t, nil)
	name := instance.ContainerName(old.prefix)
	_, err := first.Inspect(t.Context(), old.id)
	wantKind(t, err, instance.NotFound) // not yet

	for _, each := range []struct {
		when   string
		client *Client
	}{{"when adopted", first}, {"after a restart", clientOf(t, first.owner)}} {
		t.Run(each.when, func(t *testing.T) {
			c := each.client
			c.Adopt(old.prefix, old.id)
			for _, ref := range []string{name, old.id} {
				got, err := c.Inspect(t.Context(), ref)
				must(t, err)
				spec := got.Spec
				if got.ID != old.id || !got.Running || spec.Prefix != old.prefix || spec.Port != old.port || spec.ContainerPort != 8080 {
					t.Errorf("%s is %+v", ref, got)
				}
				if got.Address.IsValid() {
					t.Errorf("address %s: its network is not ours to rely on", got.Address)
				}
			}
			listed, err := c.List(t.Context())
			must(t, err)
			if len(listed) != 1 || listed[0].ID != old.id || listed[0].Spec.Prefix != old.prefix {
				t.Errorf("listed %+v", listed)
			}
			eventually(t, "its logs are read", func() bool {
				lines, err := c.Logs(t.Context(), name, 10)
				return err == nil && strings.Contains(strings.Join(lines, "\n"), "listening on")
			})

			networks := h.inspect(t, old.id).NetworkSettings.Networks
			must(t, c.Stop(t.Context(), name))
			if got, err := c.Inspect(t.Context(), name); err != nil || got.Running {
				t.Errorf("after a stop: running %v, error %v", got.Running, err)
			}
			must(t, c.Start(t.Context(), name))
			info := h.inspect(t, old.id)
			if !info.State.Running || info.Name != "/"+old.name {
				t.Errorf("after a start: running %v, name %s", info.State.Running, info.Name)
			}
			if _, ours := info.NetworkSettings.Networks[c.networkName()]; ours || len(info.NetworkSettings.Networks) != len(networks) {
				t.Errorf("its networks were %v and are %v", networks, info.NetworkSettings.Networks)
			}
		})
	}
}

func TestAfterAnAdoptedContainerItsNameIsThatOfTheNext(t *testing.T) {
	h := needDocker(t)
	for _, each := range []struct {
		how    string
		remove func(*testing.T, *Client, foreign)
	}{
		{"removed by us", func(t *testing.T, c *Client, old foreign) {
			must(t, c.Remove(t.Context(), instance.ContainerName(old.prefix)))
		}},
		{"removed by hand", func(t *testing.T, _ *Client, old foreign) { h.remove(t, old.id) }},
	} {
		t.Run(each.how, func(t *testing.T) {
			c := newClient(t, h)
			old := h.foreign(t, nil)
			name := instance.ContainerName(old.prefix)
			c.Adopt(old.prefix, old.id)
			each.remove(t, c, old)
			if _, err := h.ContainerInspect(t.Context(), old.id); err == nil {
				t.Fatal("it is still there")
			}
			wantKind(t, c.Start(t.Context(), name), instance.NotFound)

			spec := testSpec(t)
			spec.Prefix = old.prefix
			id, err := c.Create(t.Context(), spec)
			must(t, err)
			if got, err := c.Inspect(t.Context(), name); err != nil || got.ID != id {
				t.Errorf("the name is that of %s, want %s (%v)", got.ID, id, err)
			}
			listed, err := c.List(t.Context())
			must(t, err)
			if len(listed) != 1 || listed[0].ID != id {
				t.Errorf("listed %+v", listed)
			}
		})
	}
}

// The stream was opened for our label, which an adopted container has not.
func TestStatusOfAnAdoptedContainerFollowsWithin2s(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	old, stranger := h.foreign(t, nil), h.foreign(t, nil)
	seen := watch(t, c)
	next(t, seen)
	c.Adopt(old.prefix, old.id)
	if again := next(t, seen); again != (instance.Event{}) { // the new stream
		t.Fatalf("event %+v, want the zero one", again)
	}
	h.stop(t, stranger.id)
	for _, change := range []struct {
		name string
		make func()
	}{
		{"a stop", func() { h.stop(t, old.id) }},
		{"a start", func() { must(t, h.ContainerStart(t.Context(), old.id, container.StartOptions{})) }},
		{"a removal", func() { h.remove(t, old.id) }},
	} {
		drain(seen)
		change.make()
		if event := nextWithin2s(t, seen, change.name); event.Prefix != old.prefix {
			t.Errorf("%s is told as %+v", change.name, event)
		}
	}
}

func TestAnAdoptedContainerIsNotInTheComposeFile(t *testing.T) {
	block, err := fixedClient(t).Projection().Block(instance.Record{Spec: fullSpec(), Status: instance.Running, Adopted: true})
	if block != nil || err != nil {
		t.Errorf("block %q, error %v", block, err)
	}
}
