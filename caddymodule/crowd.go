package caddymodule

import (
	"net/netip"
	"sync"
)

// crowd bounds how many may wait for something at a time. Safe for concurrent
// use.
//
// One client may fill half of the places, of all as of one instance: a whole
// office, or a proxy that the operator said nothing of, has one address. The
// other half is for clients with less than their share, so that others find one.
type crowd struct {
	all         int // places
	ofInstance  int // of them for one instance
	shareOfEach int // client

	mu        sync.Mutex
	taken     int
	instances map[string]int // taken for each, by prefix
	networks  map[netip.Prefix]int
}

func newCrowd(all, ofInstance, shareOfEach int) *crowd {
	return &crowd{
		all: all, ofInstance: ofInstance, shareOfEach: shareOfEach,
		instances: map[string]int{}, networks: map[netip.Prefix]int{},
	}
}

// join takes one of the places for from, if there is one.
func (c *crowd) join(prefix string, from client) (leave func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	here := c.instances[prefix]
	switch {
	case c.taken >= c.all || here >= c.ofInstance:
		return nil, false
	case (c.taken >= c.all/2 || here >= c.ofInstance/2) && c.hasShareLocked(from):
		return nil, false
	}
	c.addLocked(1, prefix, from)
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.addLocked(-1, prefix, from)
	}, true
}

func (c *crowd) hasShareLocked(from client) bool {
	for _, n := range from {
		if c.networks[n.Prefix] >= n.clients*c.shareOfEach {
			return true
		}
	}
	return false
}

// addLocked adds n places to those that are taken.
func (c *crowd) addLocked(n int, prefix string, from client) {
	c.taken += n
	if c.instances[prefix] += n; c.instances[prefix] == 0 {
		delete(c.instances, prefix)
	}
	for _, network := range from {
		if c.networks[network.Prefix] += n; c.networks[network.Prefix] == 0 {
			delete(c.networks, network.Prefix)
		}
	}
}
