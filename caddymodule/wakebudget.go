package caddymodule

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// defaultWakeBudget is how many starts a minute the visits of one client may
// cause: more than a person opens, and few enough that a machine bears it.
const defaultWakeBudget = 30

// mostWakes bounds the word: it is as good as no limit.
const mostWakes = 1_000_000

// parseWakeBudget reads "<number>/minute".
func parseWakeBudget(s string) (int, error) {
	if s == "" {
		return defaultWakeBudget, nil
	}
	number, ok := strings.CutSuffix(s, "/minute")
	limit, err := strconv.Atoi(number)
	switch {
	case !ok || err != nil:
		return 0, fmt.Errorf("%q is not a budget: write <number>/minute, such as %d/minute", s, defaultWakeBudget)
	case limit < 1 || limit > mostWakes:
		return 0, fmt.Errorf("%q: the number is not from 1 to %d", s, mostWakes)
	}
	return limit, nil
}

const (
	// networksKept bounds a generation of networks: 2 × 32768 of them take about
	// 8 MiB.
	networksKept = 1 << 15
	// networksAge is how long a generation lasts. After a minute without a wake,
	// a budget is whole again, and as good as forgotten.
	networksAge = time.Minute
)

// wakeBudget is what is left to each client. It belongs to the engine, so that
// reloads give nobody a new one. Safe for concurrent use.
//
// Networks are kept in two generations, and the older one is dropped as a whole:
// whoever has asked since is in the younger one. That bounds it, at the price
// that a flood of addresses has some forgotten early.
type wakeBudget struct {
	mu         sync.Mutex
	young, old map[netip.Prefix]time.Time // when the budget of a network is whole again
	begun      time.Time                  // of the young generation
}

// take takes one start out of the budget of so many a minute of each network of
// from, or says when there is one again. giveBack undoes that.
func (b *wakeBudget) take(from client, perMinute int) (giveBack func(), err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	for _, n := range from {
		if wait := b.wholeLocked(n, now).Add(n.price(perMinute)).Sub(now) - time.Minute; wait > 0 {
			return nil, instance.TooManyWakes("instances were started by visits from your address or network", perMinute*n.clients, wait)
		}
	}
	b.addLocked(1, from, perMinute, now)
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.addLocked(-1, from, perMinute, time.Now())
	}, nil
}

// addLocked adds so many starts to those that were taken out of the budgets of
// from.
func (b *wakeBudget) addLocked(starts int, from client, perMinute int, now time.Time) {
	if len(b.young)+len(from) > networksKept || now.Sub(b.begun) > networksAge {
		b.old, b.young, b.begun = b.young, map[netip.Prefix]time.Time{}, now
	}
	for _, n := range from {
		whole := b.wholeLocked(n, now).Add(time.Duration(starts) * n.price(perMinute))
		delete(b.old, n.Prefix)
		delete(b.young, n.Prefix)
		if whole.After(now) {
			b.young[n.Prefix] = whole
		}
	}
}

// wholeLocked is when n's budget is whole again, at the earliest now.
func (b *wakeBudget) wholeLocked(n network, now time.Time) time.Time {
	for _, generation := range []map[netip.Prefix]time.Time{b.young, b.old} {
		if whole := generation[n.Prefix]; whole.After(now) {
			return whole
		}
	}
	return now
}

// price is what one start of so many a minute takes: the time in which it comes
// back.
func (n network) price(perMinute int) time.Duration {
	return time.Minute / time.Duration(perMinute*n.clients)
}
