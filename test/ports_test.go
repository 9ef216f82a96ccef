package test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestAPortThatIsTakenIsRefusedWithAFreeOne(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Ports: freeRange(3)})
	taken := c.api.create(t, createRequest{Port: c.Ports.first}).Port
	outsiders := listenOn(t, c.Ports.first+1)
	for _, port := range []int{taken, outsiders} {
		a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Port: port}).expect(t, http.StatusBadRequest, 1003)
		if got, want := a.details(t)["suggested_port"], float64(c.Ports.last); got != want {
			t.Errorf("port %d: suggested_port %v, want %v, the only free one", port, got, want)
		}
	}
	if made := c.api.create(t, createRequest{Port: c.Ports.last}); made.Port != c.Ports.last {
		t.Errorf("port %d, want the one that was suggested", made.Port)
	}
	a := c.api.call(t, http.MethodPost, "/api/instances", createRequest{Port: taken}).expect(t, http.StatusBadRequest, 1003)
	if got, ok := a.details(t)["suggested_port"]; ok {
		t.Errorf("suggested_port %v, and none is free", got)
	}
}

func TestPortsThatOthersHoldAreSkipped(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Ports: freeRange(6)})
	listenOn(t, c.Ports.first)
	listenOn(t, c.Ports.first+1)
	listenOn(t, c.Ports.first+3)
	for _, want := range []int{c.Ports.first + 2, c.Ports.first + 4} {
		if made := c.api.create(t, createRequest{}); made.Port != want {
			t.Errorf("port %d, want %d", made.Port, want)
		}
	}
}

// The probe that looks for a free port is advice: here somebody holds half of
// the ports, and others all the time, so it is often wrong by the time Docker
// binds. As long as a port is free, no create may fail.
func TestAPortStolenAfterTheProbeIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Ports: freeRange(30)})
	thefts, stop := stealHalfOf(c.Ports)
	defer stop()
	for range 8 {
		made := c.api.create(t, createRequest{})
		c.visitor.mustGet(t, made.URL)
	}
	if n := len(c.containers(t)); n != 8 {
		t.Errorf("%d containers for 8 instances", n)
	}
	t.Logf("8 creates while ports changed hands %d times", thefts.Load())
	if thefts.Load() < 100 {
		t.Error("too little was stolen for that to mean anything")
	}
}

// stealHalfOf holds one of every two ports of r, now this one, now the other,
// for a moment each.
func stealHalfOf(r portRange) (thefts *atomic.Int64, stop func()) {
	thefts, quit := new(atomic.Int64), make(chan struct{})
	var thieves sync.WaitGroup
	for first := r.first; first < r.last; first += 2 {
		thieves.Go(func() {
			var held net.Listener
			for {
				if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", first+rand.IntN(2))); err == nil {
					if thefts.Add(1); held != nil {
						held.Close()
					}
					held = l
				}
				select {
				case <-quit:
					if held != nil {
						held.Close()
					}
					return
				case <-time.After(time.Duration(rand.IntN(100)) * time.Millisecond):
				}
			}
		})
	}
	return thefts, func() {
		close(quit)
		thieves.Wait()
	}
}

func TestAFullRangeIsNamed(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{Ports: freeRange(2)})
	c.api.create(t, createRequest{})
	c.api.create(t, createRequest{})
	a := c.api.call(t, http.MethodPost, "/api/instances", nil).expect(t, http.StatusServiceUnavailable, 1008)
	if got := a.details(t)["range"]; got != c.Ports.String() {
		t.Errorf("range %v, want %s", got, c.Ports)
	}
	if n := len(c.containers(t)); n != 2 {
		t.Errorf("%d containers, want the 2 that there were", n)
	}
}

func TestFiftyCreatesOfOnePrefixGiveOneInstance(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	answers := make([]answer, 50)
	errs := make([]error, len(answers))
	var callers sync.WaitGroup
	for n := range answers {
		callers.Go(func() {
			answers[n], errs[n] = c.admin.try(http.MethodPost, "/api/instances", createRequest{Prefix: "onlyonce"})
		})
	}
	callers.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	outcomes := map[string]int{}
	for _, a := range answers {
		outcomes[fmt.Sprintf("%d, code %d", a.Status, a.Code)]++
	}
	if outcomes["201, code 0"] != 1 || outcomes["400, code 1002"] != len(answers)-1 {
		t.Errorf("answers: %v, want one 201 and the rest 400 with code 1002", outcomes)
	}
	if n := len(c.containers(t)); n != 1 {
		t.Errorf("%d containers", n)
	}
	c.visitor.mustGet(t, c.urlOf("onlyonce"))
}

// listenOn holds a port of this machine until the end of the test.
func listenOn(t testing.TB, port int) int {
	t.Helper()
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return port
}
