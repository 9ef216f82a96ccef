package caddymodule

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestWakeBudgetIsRead(t *testing.T) {
	for text, want := range map[string]int{"": defaultWakeBudget, "1/minute": 1, "1000000/minute": mostWakes} {
		if got, err := parseWakeBudget(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"5", "/minute", "5/hour", "0/minute", "-1/minute", "1000001/minute", "5/minutes", "five/minute", "99999999999999999999/minute"} {
		if got, err := parseWakeBudget(text); err == nil {
			t.Errorf("%q: %d, want an error", text, got)
		}
	}
}

func TestAWakeBudgetThatIsNoneIsRefused(t *testing.T) {
	s := newServer(t)
	if err := s.load(t, config{sandbox: "wake_budget many"}); err == nil || !strings.Contains(err.Error(), `sandbox: wake_budget: "many" is not a budget`) {
		t.Errorf("got %v", err)
	}
}

func TestAWakeBudgetIsSpentAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b wakeBudget
		one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		for n := range 6 {
			if err := b.take(one, 6); err != nil {
				t.Fatalf("take %d: %v", n+1, err)
			}
		}
		err := b.take(one, 6)
		refused, ok := err.(*instance.Error) //nolint:errorlint // as take makes it
		if !ok || refused.Kind != instance.RateLimited || refused.RetryAfter != 10*time.Second || refused.Details["limit"] != "6/minute" {
			t.Fatalf("got %+v, want to be refused for 10s", err)
		}
		if err := b.take(other, 6); err != nil {
			t.Errorf("another client: %v", err)
		}
		time.Sleep(refused.RetryAfter) // of the bubble's clock, as all here
		if err := b.take(one, 6); err != nil {
			t.Errorf("after the time that it was told: %v", err)
		}
		if err := b.take(one, 6); err == nil {
			t.Error("being refused gave it more")
		}
		if err := b.take(one, 60); err == nil { // a reload raises the budget
			t.Error("a reload gave it a new budget")
		}
		time.Sleep(time.Second)
		if err := b.take(one, 60); err != nil {
			t.Errorf("after the budget was raised: %v", err)
		}
	})
}

// A client that a generation has dropped comes back with a whole budget, so it
// must have been whole.
func TestClientsAreForgottenOnlyWithAWholeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b wakeBudget
		spender := netip.MustParseAddr("192.0.2.1")
		taken := 0
		for second := range 600 {
			if b.take(spender, 2) == nil {
				taken++
			}
			_ = b.take(netip.AddrFrom4([4]byte{10, 0, byte(second >> 8), byte(second)}), 2)
			time.Sleep(time.Second) // of the bubble's clock
		}
		if most := 2 + 2*10; taken > most {
			t.Errorf("%d starts in 10 minutes, want at most %d", taken, most)
		}
		if kept := len(b.young) + len(b.old); kept > 3*60 {
			t.Errorf("%d clients are kept of those that came in a minute or two", kept)
		}
	})
}

func TestAMillionClientsAreBounded(t *testing.T) {
	var b wakeBudget
	for n := range 1_000_000 {
		_ = b.take(netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}), 30)
		if kept := len(b.young) + len(b.old); kept > 2*clientsKept {
			t.Fatalf("%d clients are kept", kept)
		}
	}
}

func TestClientOf(t *testing.T) {
	for text, want := range map[string]string{
		"192.0.2.1":           "192.0.2.1",
		"::ffff:192.0.2.1":    "192.0.2.1",
		"2001:db8:1:2:3::4":   "2001:db8:1:2::",
		"2001:db8:1:2:ffff::": "2001:db8:1:2::",
		"fe80::1%eth0":        "fe80::",
		"":                    "invalid IP",
		"@":                   "invalid IP",
	} {
		vars := map[string]any{caddyhttp.ClientIPVarKey: text}
		r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
		r = r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
		if got := clientOf(r).String(); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}
