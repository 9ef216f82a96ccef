package caddymodule

import (
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/time/rate"

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
	// clientsKept bounds a generation of clients: 2 × 32768 of them take about
	// 10 MiB.
	clientsKept = 1 << 15
	// clientsAge is how long a generation lasts. After a minute without a wake,
	// a budget is whole again, and as good as forgotten.
	clientsAge = time.Minute
)

// wakeBudget is what is left to each client. It belongs to the engine, so that
// reloads give nobody a new one. Safe for concurrent use.
//
// Clients are kept in two generations, and the older one is dropped as a whole:
// whoever has asked since is in the younger one. That bounds it, at the price
// that a flood of addresses has some forgotten early.
type wakeBudget struct {
	mu         sync.Mutex
	young, old map[netip.Addr]*rate.Limiter
	begun      time.Time // of the young generation
}

// take takes one start out of client's budget of so many a minute, or says when
// there is one again.
func (b *wakeBudget) take(client netip.Addr, perMinute int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := time.Now()
	left := b.of(client, perMinute, now)
	one := left.ReserveN(now, 1)
	wait := one.DelayFrom(now)
	if wait <= 0 {
		return nil
	}
	one.CancelAt(now)
	return instance.TooManyWakes("instances were started by visits from your address", perMinute, wait)
}

// of returns the client's budget. The caller holds b.mu.
func (b *wakeBudget) of(client netip.Addr, perMinute int, now time.Time) *rate.Limiter {
	perSecond := rate.Limit(perMinute) / 60
	left := b.young[client]
	if left == nil {
		if b.young == nil || len(b.young) >= clientsKept || now.Sub(b.begun) > clientsAge {
			b.old, b.young, b.begun = b.young, map[netip.Addr]*rate.Limiter{}, now
		}
		if left = b.old[client]; left == nil {
			left = rate.NewLimiter(perSecond, perMinute)
		}
		delete(b.old, client)
		b.young[client] = left
	}
	if left.Burst() != perMinute { // a reload has changed it
		left.SetLimitAt(now, perSecond)
		left.SetBurstAt(now, perMinute)
	}
	return left
}

// clientOf is who r comes from, for budgets, as the operator's trusted_proxies
// tell it: of IPv6, where one client has a network, the network. Without an
// address, as from a Unix socket, all are one.
func clientOf(r *http.Request) netip.Addr {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(text)
	if err != nil {
		return netip.Addr{}
	}
	address = address.Unmap().WithZone("")
	if address.Is4() {
		return address
	}
	network, err := address.Prefix(64)
	if err != nil {
		return netip.Addr{}
	}
	return network.Addr()
}
