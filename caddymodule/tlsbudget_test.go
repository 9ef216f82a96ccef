package caddymodule

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"github.com/caddyserver/certmagic"
)

// order tells the handler what Caddy tells it before an order, or after one.
func order(t *testing.T, event, host string, renewal bool) error {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	e, err := caddy.NewEvent(ctx, event, map[string]any{"identifier": host, "renewal": renewal})
	if err != nil {
		t.Fatal(err)
	}
	return orderHandler{inForce.top()}.Handle(t.Context(), e)
}

func ask(host string) error {
	return (&TLSPermission{app: inForce.top()}).CertificateAllowed(context.Background(), host)
}

func TestTheBudgetCallsOrdersOff(t *testing.T) {
	s := startServer(t, config{sandbox: "tls_budget 2/week"})
	for _, prefix := range []string{"firstone", "secondone", "thirdone"} {
		s.create(t, prefix)
	}
	for range 2 {
		if err := order(t, "cert_obtaining", hostOf("firstone"), false); err != nil {
			t.Fatal(err)
		}
		if err := order(t, "cert_failed", hostOf("firstone"), false); err != nil {
			t.Fatal(err)
		}
	}
	for _, prefix := range []string{"firstone", "secondone"} {
		if err := order(t, "cert_obtaining", hostOf(prefix), false); err != nil {
			t.Fatalf("%s: %v", prefix, err)
		}
	}

	if err := ask("3000-" + hostOf("firstone")); err == nil {
		t.Error("a stranger who counts through ports spends what all instances share")
	}
	third := hostOf("thirdone")
	if err := ask(third); err != nil {
		t.Errorf("%v: it may have a certificate in storage", err)
	}
	for range 3 {
		err := order(t, "cert_obtaining", third, false)
		if _, last := errors.AsType[certmagic.ErrNoRetry](err); !errors.Is(err, caddy.ErrEventAborted) || !last {
			t.Fatalf("%v, want it called off, for good", err)
		}
	}
	if err := ask(third); !errors.Is(err, caddytls.ErrPermissionDenied) || !strings.Contains(err.Error(), "tls_budget 2/week is spent until") {
		t.Errorf("%v, want it denied because of the budget", err)
	}
	if n := strings.Count(s.log(t), "tls_budget is spent: "); n != 1 {
		t.Errorf("the log was told %d times that the budget is spent, want once", n)
	}
	if n := strings.Count(s.log(t), "tls_budget is nearly spent"); n != 1 {
		t.Errorf("the log was told %d times that the budget is nearly spent, want once", n)
	}

	for name, err := range map[string]error{
		"a renewal":              order(t, "cert_obtaining", third, true),
		"another site":           order(t, "cert_obtaining", "api.localhost", false),
		"a wildcard certificate": order(t, "cert_obtaining", "*."+testDomain, false),
		"an issued one":          ask(hostOf("firstone")),
	} {
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}

	if err := s.load(t, config{sandbox: "tls_budget 2/week\n prefix_length 20"}); err != nil {
		t.Fatal(err)
	}
	if err := order(t, "cert_obtaining", third, false); err == nil {
		t.Error("a reload brought a new budget")
	}
	if err := s.load(t, config{sandbox: "tls_budget 3/week"}); err != nil {
		t.Fatal(err)
	}
	if err := ask(third); err != nil {
		t.Errorf("%v, though a larger budget is in force", err)
	}
	if err := order(t, "cert_obtaining", third, false); err != nil {
		t.Errorf("%v, though a larger budget is in force", err)
	}
}

func TestWithoutABudgetNothingIsCounted(t *testing.T) {
	s := startServer(t, config{})
	s.create(t, "firstone")
	if err := ask(hostOf("firstone")); err != nil {
		t.Error(err)
	}
	if issued := inForce.top().engine.ledger.issued; len(issued) != 0 {
		t.Errorf("the ledger has %v", issued)
	}
}

func TestABadBudgetIsRefused(t *testing.T) {
	s := newServer(t)
	err := s.load(t, config{sandbox: "tls_budget many"})
	if err == nil || !strings.Contains(err.Error(), `sandbox: tls_budget: "many" is not a budget`) {
		t.Errorf("%v, want the word that is wrong", err)
	}
	if inForce.top() != nil {
		t.Error("it is in force all the same")
	}
}

func TestDeletedInstancesAreNotCounted(t *testing.T) {
	s := startServer(t, config{sandbox: "tls_budget 1/week"})
	s.create(t, "vanished")
	s.call(t, http.MethodDelete, "/api/instances/vanished", "").expect(t, http.StatusOK, 0)
	if err := ask(hostOf("vanished")); !errors.Is(err, caddytls.ErrPermissionDenied) {
		t.Errorf("%v, want ErrPermissionDenied", err)
	}
}
