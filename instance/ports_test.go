package instance

import (
	"errors"
	"net"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/test/testports"
)

// freeRange returns n ports in a row that nobody listens on.
func freeRange(t *testing.T, n int) PortRange {
	t.Helper()
	for first := 21000; first < 32000; first += n {
		if testports.Take(first, n) {
			t.Cleanup(func() { testports.GiveBack(first, n) })
			return PortRange{first, first + n - 1}
		}
	}
	t.Fatal("no free ports")
	return PortRange{}
}

func occupy(t *testing.T, port int) {
	t.Helper()
	l, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
}

func TestPortsAreAllottedInOrderAndOnce(t *testing.T) {
	r := freeRange(t, 3)
	p := newPorts(0, nil)
	for want := r.First; want <= r.Last; want++ {
		if got, err := p.take(nil, r); err != nil || got != want {
			t.Fatalf("take = %d, %v, want %d", got, err, want)
		}
	}
	if next, _ := p.state(); next != r.Last+1 {
		t.Errorf("the next search begins at %d, want %d", next, r.Last+1)
	}
	_, err := p.take(nil, r)
	if KindOf(err) != NoFreePort {
		t.Fatalf("an empty pool gave %v, want NoFreePort", err)
	}
	p.free(r.First + 1)
	if got, err := p.take(nil, r); err != nil || got != r.First+1 {
		t.Errorf("after the end the search begins anew: got %d, %v, want %d", got, err, r.First+1)
	}
}

func TestAPortOfAnotherProcessIsPassedOver(t *testing.T) {
	r := freeRange(t, 2)
	occupy(t, r.First)
	if got, err := newPorts(r.First, nil).take(nil, r); err != nil || got != r.Last {
		t.Errorf("take = %d, %v, want %d", got, err, r.Last)
	}
}

func TestARefusedPortComesWithTheNextFreeOne(t *testing.T) {
	r := freeRange(t, 4)
	p := newPorts(r.First, nil)
	if _, err := p.take(nil, r); err != nil {
		t.Fatal(err)
	}
	occupy(t, r.First+1)
	for _, wanted := range []int{r.First, r.First + 1, r.Last + 1, -1} {
		_, err := p.take(&wanted, r)
		var e *Error
		if !errors.As(err, &e) || e.Kind != PortTaken || e.Details["suggested_port"] != r.First+2 {
			t.Errorf("take(%d) = %v %v, want PortTaken with suggested_port %d", wanted, err, e, r.First+2)
		}
	}
	free := r.First + 2
	if got, err := p.take(&free, r); err != nil || got != free {
		t.Errorf("the suggested port was not free: %d, %v", got, err)
	}
}

func TestADeletedPortRests(t *testing.T) {
	r := freeRange(t, 1)
	synctest.Test(t, func(t *testing.T) {
		p := newPorts(0, nil)
		port, _ := p.take(nil, r)
		p.rest(port)
		time.Sleep(portQuarantine - time.Millisecond)
		if _, err := p.take(&port, r); KindOf(err) != PortTaken {
			t.Errorf("given out while it rests: %v", err)
		}
		time.Sleep(time.Millisecond)
		if _, err := p.take(&port, r); err != nil {
			t.Errorf("still refused after its rest: %v", err)
		}
	})
}

func TestAPortThatTheEngineLostIsPassedOver(t *testing.T) {
	r := freeRange(t, 2)
	synctest.Test(t, func(t *testing.T) {
		p := newPorts(r.First, nil)
		lost, _ := p.take(nil, r)
		p.refused(lost)
		for range 3 {
			port, err := p.take(nil, r)
			if err != nil || port == lost {
				t.Fatalf("got %d, %v; %d is to be passed over", port, err, lost)
			}
			p.free(port)
		}
		other, _ := p.take(nil, r)
		if port, err := p.take(nil, r); err != nil || port != lost {
			t.Errorf("with no other left: got %d, %v, want %d", port, err, lost)
		}
		p.free(lost)
		p.free(other)
		time.Sleep(badTime + time.Second)
		p.rewind(lost)
		if port, err := p.take(nil, r); err != nil || port != lost {
			t.Errorf("after its time: got %d, %v, want %d", port, err, lost)
		}
	})
}

func TestAPortRestsAcrossARestart(t *testing.T) {
	r := freeRange(t, 1)
	for _, row := range []struct{ passed, jump, left time.Duration }{
		{time.Second, 0, portQuarantine - time.Second},
		{portQuarantine, 0, 0},
		{time.Second, -10 * 365 * 24 * time.Hour, portQuarantine}, // the clock was wrong when it was written
		{time.Second, 10 * 365 * 24 * time.Hour, 0},
	} {
		synctest.Test(t, func(t *testing.T) {
			before := newPorts(0, nil)
			port, _ := before.take(nil, r)
			before.rest(port)
			time.Sleep(row.passed)
			next, resting := before.state()
			for port := range resting {
				resting[port] = resting[port].Add(-row.jump)
			}
			p := newPorts(next, resting)
			time.Sleep(max(0, row.left-time.Millisecond))
			if _, err := p.take(&port, r); row.left > 0 && KindOf(err) != PortTaken {
				t.Errorf("%+v: given out while it rests: %v", row, err)
			}
			time.Sleep(2 * time.Millisecond)
			if row.left == 0 {
				p.free(port) // it was given out, as it should
			}
			if _, err := p.take(&port, r); err != nil {
				t.Errorf("%+v: refused after its rest: %v", row, err)
			}
		})
	}
}
