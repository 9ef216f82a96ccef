package caddymodule

import (
	"context"
	"fmt"
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

// at is a client of that address.
func at(address string) client {
	vars := map[string]any{caddyhttp.ClientIPVarKey: address}
	r := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	return clientOf(r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars)))
}

func (b *wakeBudget) takes(from client, perMinute int) bool {
	_, err := b.take(from, perMinute)
	return err == nil
}

func (b *wakeBudget) kept() int { return len(b.young) + len(b.old) }

func TestAWakeBudgetIsSpentAndComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b wakeBudget
		one, other := at("192.0.2.1"), at("192.0.2.2")
		for n := range 6 {
			if _, err := b.take(one, 6); err != nil {
				t.Fatalf("take %d: %v", n+1, err)
			}
		}
		_, err := b.take(one, 6)
		refused, ok := err.(*instance.Error) //nolint:errorlint // as take makes it
		if !ok || refused.Kind != instance.RateLimited || refused.RetryAfter != 10*time.Second || refused.Details["limit"] != "6/minute" {
			t.Fatalf("got %+v, want to be refused for 10s", err)
		}
		if !b.takes(other, 6) {
			t.Error("another client is refused")
		}
		time.Sleep(refused.RetryAfter) // of the bubble's clock, as all here
		if !b.takes(one, 6) {
			t.Error("refused after the time that it was told")
		}
		if b.takes(one, 6) {
			t.Error("being refused gave it more")
		}
		if b.takes(one, 60) { // a reload raises the budget
			t.Error("a reload gave it a new budget")
		}
		time.Sleep(time.Second)
		if !b.takes(one, 60) {
			t.Error("refused after the budget was raised")
		}
	})
}

func TestWhatIsGivenBackCanBeTakenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b wakeBudget
		one := at("2001:db8::1")
		for range 100 { // one start is in progress at a time
			giveBack, err := b.take(one, 2)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Millisecond) // of the bubble's clock
			giveBack()
		}
		if n := b.kept(); n != 0 {
			t.Errorf("%d networks are kept, all of which have spent nothing", n)
		}
		for n := range 3 {
			if b.takes(one, 2) != (n < 2) {
				t.Errorf("take %d of a budget of 2", n+1)
			}
		}
	})
}

// A site has 65 536 networks of the size that one client has.
func TestASiteHasTheBudgetOfAFewClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b wakeBudget
		neighbour := at("2001:db8:2::1")
		_ = b.takes(neighbour, 30)
		taken := 0
		for n := range 1 << 16 {
			if b.takes(at(fmt.Sprintf("2001:db8:1:%x::1", n)), 30) {
				taken++
			}
		}
		if taken != 8*30 {
			t.Errorf("a site took %d starts at once, want 240", taken)
		}
		if n := b.kept(); n > 2+1+taken {
			t.Errorf("%d networks are kept", n)
		}
		for range 29 {
			if !b.takes(neighbour, 30) {
				t.Fatal("another site has less for it")
			}
		}
		if b.takes(neighbour, 30) {
			t.Error("another site was forgotten")
		}
	})
}

// A client that a generation has dropped comes back with a whole budget, so it
// must have been whole.
func TestClientsAreForgottenOnlyWithAWholeBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b wakeBudget
		spender := at("192.0.2.1")
		taken := 0
		for second := range 600 {
			if b.takes(spender, 2) {
				taken++
			}
			_ = b.takes(at(fmt.Sprintf("10.0.%d.%d", second>>8, second&255)), 2)
			time.Sleep(time.Second) // of the bubble's clock
		}
		if most := 2 + 2*10; taken > most {
			t.Errorf("%d starts in 10 minutes, want at most %d", taken, most)
		}
		if kept := b.kept(); kept > 3*60 {
			t.Errorf("%d clients are kept of those that came in a minute or two", kept)
		}
	})
}

func TestAMillionClientsAreBounded(t *testing.T) {
	var b wakeBudget
	for n := range 1_000_000 {
		address := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		_ = b.takes(client{{netip.PrefixFrom(address, 32), 1}}, 30)
		if kept := b.kept(); kept > 2*networksKept {
			t.Fatalf("%d clients are kept", kept)
		}
	}
}
