package dockerops

import (
	"context"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// adoptions are the containers that somebody else made and that count as ours.
// They have no label of ours, so there is only their id to know them by.
type adoptions struct {
	mu   sync.RWMutex
	ids  map[string]string // prefix to container id
	once sync.Once
	// begun is closed by the first adoption: from then on the owner's label no
	// longer finds all events.
	begun chan struct{}
}

func newAdoptions() *adoptions {
	return &adoptions{ids: map[string]string{}, begun: make(chan struct{})}
}

func (a *adoptions) add(prefix, id string) {
	a.mu.Lock()
	a.ids[prefix] = id
	a.mu.Unlock()
	a.once.Do(func() { close(a.begun) })
}

// forget ends the adoption of a container that is gone: its prefix is that of
// the next container, if that has our labels.
func (a *adoptions) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	maps.DeleteFunc(a.ids, func(_, adopted string) bool { return adopted == id })
}

// named returns the id of the container that answers to a name of ours; empty
// if that is none but the one which has the name.
func (a *adoptions) named(name string) (id string) {
	prefix, ok := strings.CutPrefix(name, instance.ContainerName(""))
	if !ok {
		return ""
	}
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.ids[prefix]
}

// prefixOf returns what container id was adopted for; empty: it was not.
func (a *adoptions) prefixOf(id string) (prefix string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	for prefix, adopted := range a.ids {
		if adopted == id {
			return prefix
		}
	}
	return ""
}

func (a *adoptions) all() (ids []string) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return slices.Collect(maps.Values(a.ids))
}

// Adopt implements instance.Adopting. An adopted container keeps its name,
// its network and all else that its maker gave it; it is reached at its
// published port, and docker-compose.yml leaves it out.
func (c *Client) Adopt(prefix, id string) { c.adopted.add(prefix, id) }

// Candidates implements instance.Adopting. It is one call to the engine. The
// containers of other managers are left out: they have one.
func (c *Client) Candidates(ctx context.Context) ([]instance.Candidate, error) {
	var running []container.Summary
	err := c.query(ctx, "listing the containers of everybody", c.Deadlines.List,
		func(ctx context.Context, engine *client.Client) (err error) {
			running, err = engine.ContainerList(ctx, container.ListOptions{})
			return err
		})
	if err != nil {
		return nil, err
	}
	candidates := []instance.Candidate{} // not nil: the engine answered
	for _, each := range running {
		if _, managed := each.Labels[labelManager]; managed {
			continue
		}
		candidates = append(candidates, instance.Candidate{
			ID: each.ID, Name: ownName(each.Names), Service: each.Labels[composeService], Ports: localPorts(each.Ports),
		})
	}
	return candidates, nil
}

// ownName is a container's name among those it is listed with: links have it
// listed below the names of others, too.
func ownName(names []string) string {
	for _, name := range names {
		if name = strings.TrimPrefix(name, "/"); !strings.Contains(name, "/") {
			return name
		}
	}
	return ""
}

// localPorts are the ports of this host at which something of a container can
// be reached as 127.0.0.1, each once, in order.
func localPorts(published []container.Port) []int {
	var ports []int
	for _, each := range published {
		if each.Type == "tcp" && each.PublicPort != 0 && isLocal(each.IP) {
			ports = append(ports, int(each.PublicPort))
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports)
}

// isLocal reports whether what is published on an address of the host is
// reached as 127.0.0.1.
func isLocal(hostIP string) bool {
	if hostIP == "" { // all of them
		return true
	}
	ip, err := netip.ParseAddr(hostIP)
	return err == nil && (ip.IsUnspecified() || ip == netip.MustParseAddr("127.0.0.1"))
}

// adoptedSpec says what of a Spec labels would tell, had an adopted container
// any of ours.
func adoptedSpec(spec instance.Spec, prefix string, host *container.HostConfig) instance.Spec {
	spec.Prefix = prefix
	for _, target := range slices.Sorted(maps.Keys(host.PortBindings)) {
		for _, binding := range host.PortBindings[target] {
			if port, _ := strconv.Atoi(binding.HostPort); port != 0 && target.Proto() == "tcp" && isLocal(binding.HostIP) {
				spec.Port, spec.ContainerPort = port, target.Int()
				return spec
			}
		}
	}
	return spec
}
