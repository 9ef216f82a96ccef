package dockerops

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/api/types/network"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestTheNetworkIsOursAndKeepsContainersApart(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	_, err := c.Create(t.Context(), testSpec(t))
	must(t, err)
	found := h.network(t, c)
	if found.Driver != "bridge" || found.Options[optionICC] != "false" || found.Options[optionBridge] != c.bridgeName() {
		t.Errorf("driver %s, options %v", found.Driver, found.Options)
	}
	hash, err := c.networkHash(t.Context())
	must(t, err)
	for label, want := range map[string]string{
		labelManager: c.owner, composeProject: c.project, composeNetwork: "default", composeConfigHash: hash,
	} {
		if found.Labels[label] != want {
			t.Errorf("label %s is %q, want %q", label, found.Labels[label], want)
		}
	}
	if _, err := net.InterfaceByName(c.bridgeName()); err != nil && strings.HasPrefix(c.host, "unix:") {
		t.Errorf("the host has no interface %s: %v", c.bridgeName(), err)
	}
}

func TestBridgeNamesFitLinux(t *testing.T) {
	if name := fixedClient(t).bridgeName(); len(name) > 15 || !strings.HasPrefix(name, "sbx") {
		t.Errorf("bridge %s", name)
	}
}

// Docker makes several networks of one name if it is asked to at once.
func TestManyCreatesAtOnceMakeOneNetwork(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	clients := []*Client{c, clientOf(t, c.owner)} // a reload may have two for a moment
	errs := make([]error, 8)
	var group sync.WaitGroup
	for i := range errs {
		spec := testSpec(t)
		group.Go(func() { _, errs[i] = clients[i%len(clients)].Create(t.Context(), spec) })
	}
	group.Wait()
	for _, err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	found, err := h.NetworkList(t.Context(), network.ListOptions{Filters: filters.NewArgs(filters.Arg("name", c.networkName()))})
	must(t, err)
	if len(found) != 1 {
		t.Errorf("%d networks", len(found))
	}
}

// `docker compose down`, or somebody who tidies up.
func TestAContainerStartsThoughItsNetworkWasRemoved(t *testing.T) {
	h := needDocker(t)
	for _, test := range []struct {
		name string
		ran  bool
	}{{"before its first start", false}, {"after it ran", true}} {
		t.Run(test.name, func(t *testing.T) {
			c := newClient(t, h)
			id, err := c.Create(t.Context(), testSpec(t))
			must(t, err)
			if test.ran {
				must(t, c.Start(t.Context(), id))
				must(t, c.Stop(t.Context(), id))
			}
			must(t, h.NetworkRemove(t.Context(), c.networkName()))
			must(t, c.Start(t.Context(), id))
			endpoints := h.inspect(t, id).NetworkSettings.Networks
			if endpoint := endpoints[c.networkName()]; endpoint == nil || endpoint.NetworkID != h.network(t, c).ID || len(endpoints) != 1 {
				t.Errorf("it sits on %v", endpoints)
			}
		})
	}
}

func TestAContainerThatWasDisconnectedIsConnectedAgain(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	id, err := c.Create(t.Context(), testSpec(t))
	must(t, err)
	must(t, c.Start(t.Context(), id))
	must(t, h.NetworkDisconnect(t.Context(), c.networkName(), id, true))
	must(t, c.Stop(t.Context(), id))
	must(t, c.Start(t.Context(), id))
	if h.inspect(t, id).NetworkSettings.Networks[c.networkName()] == nil {
		t.Error("it is not on the network")
	}
}

func TestANetworkOfSomebodyElseIsNotUsed(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	_, err := h.NetworkCreate(t.Context(), c.networkName(), network.CreateOptions{Driver: "bridge"})
	must(t, err)
	_, err = c.Create(t.Context(), testSpec(t))
	failed := wantError(t, err, instance.EngineFailed)
	wantText(t, failed.Message, c.networkName(), "somebody else")
}

func TestTheAddressIsTheContainersOwnWhereThisHostHasItsBridge(t *testing.T) {
	h := needDocker(t)
	c := newClient(t, h)
	id, err := c.Create(t.Context(), testSpec(t))
	must(t, err)
	must(t, c.Start(t.Context(), id))
	got, err := c.Inspect(t.Context(), id)
	must(t, err)
	endpoint := h.inspect(t, id).NetworkSettings.Networks[c.networkName()]
	if _, err := net.InterfaceByName(c.bridgeName()); err != nil {
		if got.Address.IsValid() {
			t.Errorf("address %s, though this host has no bridge %s", got.Address, c.bridgeName())
		}
		return
	}
	if want := endpoint.IPAddress + ":5174"; got.Address.String() != want {
		t.Errorf("address %s, want %s", got.Address, want)
	}
}

// The engine may be elsewhere: an address there means nothing here, or worse,
// something else.
func TestNoAddressWhereTheBridgeIsNotThisHosts(t *testing.T) {
	c := fixedClient(t)
	at := func(networkID, gateway, ip string) netip.AddrPort {
		found := container.InspectResponse{
			ContainerJSONBase: &container.ContainerJSONBase{State: &container.State{Running: true}},
			NetworkSettings: &container.NetworkSettings{Networks: map[string]*network.EndpointSettings{
				c.networkName(): {NetworkID: networkID, Gateway: gateway, IPAddress: ip},
			}},
		}
		return c.address(found, 5174)
	}
	if got := at("n1", "127.0.0.1", "127.0.0.2"); got.IsValid() {
		t.Errorf("address %s though no interface has the bridge's name", got)
	}
	if !hasInterface("lo", "127.0.0.1") || hasInterface("lo", "192.0.2.1") || hasInterface("lo", "") || hasInterface("sbx-none", "127.0.0.1") {
		t.Error("hasInterface does not tell this host's interfaces")
	}
	c.bridge.last.Store(&bridge{"n2", true}) // as if it were here
	if got := at("n2", "172.18.0.1", "172.18.0.2"); got.String() != "172.18.0.2:5174" {
		t.Errorf("address %s", got)
	}
	if got := at("n2", "172.18.0.1", ""); got.IsValid() {
		t.Errorf("address %s of a container without one", got)
	}
	if got := at("n3", "172.18.0.1", "172.18.0.2"); got.IsValid() { // the network was made anew, elsewhere
		t.Errorf("address %s from what was known of another network", got)
	}
}

func (h hand) network(t *testing.T, c *Client) network.Inspect {
	t.Helper()
	found, err := h.NetworkInspect(t.Context(), c.networkName(), network.InspectOptions{})
	must(t, err)
	return found
}
