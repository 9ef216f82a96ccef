package caddymodule

import (
	"fmt"
	"testing"
)

// fill joins until somebody is refused, and returns how many were not.
func (c *crowd) fill(prefix string, from client) (n int) {
	for ; n < 10_000; n++ {
		if _, ok := c.join(prefix, from); !ok {
			break
		}
	}
	return n
}

func TestOneClientFillsHalfOfACrowd(t *testing.T) {
	one, other := at("192.0.2.1"), at("192.0.2.2")
	c := newCrowd(100, 20, 3)
	if n := c.fill("popular", one); n != 10 {
		t.Errorf("one client has %d places of 20 for an instance", n)
	}
	if n := c.fill("popular", other); n != 3 {
		t.Errorf("the next one has %d, want its share of 3", n)
	}
	for _, prefix := range []string{"a", "b", "c"} {
		if n := c.fill(prefix, one); n != 10 {
			t.Errorf("%d places for another instance", n)
		}
	}
	if n := c.fill("d", one); n != 7 { // 50 of 100
		t.Errorf("one client has %d places beyond 43, want 7", n)
	}
	if n := c.fill("d", other); n != 0 { // it has its share
		t.Errorf("the other one has %d more", n)
	}
	for n := range 16 {
		if got := c.fill(fmt.Sprintf("e%d", n), at(fmt.Sprintf("198.51.100.%d", n))); got != 3 {
			t.Errorf("client %d has %d places, want 3", n, got)
		}
	}
	if n := c.fill("f", at("198.51.100.99")); n != 2 { // 98 were taken
		t.Errorf("the last one has %d places, want 2", n)
	}
	if n := c.fill("g", at("203.0.113.1")); n != 0 {
		t.Errorf("%d more than there are places", n)
	}
}

func TestAnInstanceHasSoManyPlaces(t *testing.T) {
	c := newCrowd(1000, 20, 3)
	all := 0
	for n := range 50 {
		all += c.fill("popular", at(fmt.Sprintf("192.0.2.%d", n)))
	}
	if all != 20 {
		t.Errorf("%d places for one instance, want 20", all)
	}
}

func TestASiteFillsNoCrowd(t *testing.T) {
	c := newCrowd(1000, 1000, 3)
	all := 0
	for n := range 1000 {
		all += c.fill("popular", at(fmt.Sprintf("2001:db8:1:%x::1", n)))
	}
	if all != 500 {
		t.Errorf("a site has %d places, want half of 1000", all)
	}
	if n := c.fill("popular", at("2001:db8:2::1")); n != 3 {
		t.Errorf("another one has %d, want 3", n)
	}
}

func TestWhoLeavesACrowdMakesRoom(t *testing.T) {
	c := newCrowd(4, 4, 1)
	one := at("2001:db8::1")
	for range 10 {
		var all []func()
		for range 2 {
			leave, ok := c.join("popular", one)
			if !ok {
				t.Fatal("the places of those who left are taken")
			}
			all = append(all, leave)
		}
		for _, leave := range all {
			leave()
		}
	}
	if c.taken != 0 || len(c.instances) != 0 || len(c.networks) != 0 {
		t.Errorf("of those who left, %d places, %v and %v are remembered", c.taken, c.instances, c.networks)
	}
}
