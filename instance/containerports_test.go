package instance_test

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// withTemplates adds templates with ports to those of b.
func (b *bench) withTemplates() {
	settings := b.settings()
	wide := settings.Templates["hello"]
	wide.Ports = []int{9229, 4000}
	open := settings.Templates["hello"]
	open.AnyPort = true
	settings.Templates["wide"], settings.Templates["open"] = wide, open
	b.manager.Use(settings)
}

func (b *bench) createWith(prefix, template string, ports []int, env ...string) instance.Instance {
	b.Helper()
	req := request(prefix, env...)
	req.Template, req.Ports = &template, ports
	in, err := b.manager.Create(b.Context(), req)
	if err != nil {
		b.Fatal(err)
	}
	return in
}

func TestURLsOfDeclaredPorts(t *testing.T) {
	b := newBench(t, 3)
	b.withTemplates()
	in := b.createWith("abcdefgh", "wide", []int{5000, 4000, 3000, 5000}) // 3000 is the dev server's
	want := map[int]string{
		4000: "https://4000-abcdefgh.sandbox.example.com",
		5000: "https://5000-abcdefgh.sandbox.example.com",
		9229: "https://9229-abcdefgh.sandbox.example.com",
	}
	if !maps.Equal(in.URLs, want) {
		t.Errorf("urls %v, want %v", in.URLs, want)
	}
	b.reopen()
	if in, _ = b.manager.Get("abcdefgh"); !maps.Equal(in.URLs, want) {
		t.Errorf("after a restart: urls %v, want %v", in.URLs, want)
	}
	if in := b.create("zzzzzzzz"); in.URLs == nil || len(in.URLs) != 0 {
		t.Errorf("without ports: urls %v, want an empty map", in.URLs)
	}
}

func TestPortsOfACreateAreChecked(t *testing.T) {
	b := newBench(t, 1)
	for _, ports := range [][]int{{0}, {-1}, {65536}, {80, 100000}, make([]int, 33)} {
		req := request("abcdefgh")
		req.Ports = ports
		_, err := b.manager.Create(t.Context(), req)
		if e := b.failure(err, instance.BadRequest); e.Details["field"] != "ports" {
			t.Errorf("%v: details %v", ports, e.Details)
		}
	}
	b.nothingLeft("abcdefgh")
}

func TestLeasesOfPorts(t *testing.T) {
	b := newBench(t, 2)
	b.withTemplates()
	b.createWith("abcdefgh", "wide", nil)
	b.createWith("anything", "open", nil)
	for _, row := range []struct {
		prefix     string
		port, want int // -1: NoSuchPort
	}{
		{"abcdefgh", 0, 0},
		{"abcdefgh", 3000, 0},
		{"abcdefgh", 4000, 4000},
		{"abcdefgh", 9229, 9229},
		{"abcdefgh", 22, -1},
		{"anything", 3000, 0},
		{"anything", 22, 22},
		{"anything", 65535, 65535},
	} {
		lease, err := b.manager.Acquire(row.prefix, row.port)
		if row.want < 0 {
			if e := b.failure(err, instance.NoSuchPort); e.Details["port"] != row.port {
				t.Errorf("details %v", e.Details)
			}
			continue
		}
		if err != nil || lease.ContainerPort != row.want {
			t.Errorf("%s at %d: %+v, %v, want port %d", row.prefix, row.port, lease, err, row.want)
			continue
		}
		lease.Release()
	}
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	_, err := b.manager.Acquire("abcdefgh", 4000)
	b.fails(err, instance.NotRunning)
	_, err = b.manager.Acquire("abcdefgh", 22)
	b.fails(err, instance.NoSuchPort)
}

func TestAPortOfAnEndpoint(t *testing.T) {
	b := newBench(t, 2)
	b.create("abcdefgh")
	b.engine.GiveAddresses()
	b.create("zzzzzzzz")
	for prefix, reached := range map[string]bool{"abcdefgh": false, "zzzzzzzz": true} {
		lease, err := b.manager.Acquire(prefix, 0)
		if err != nil {
			t.Fatal(err)
		}
		e := lease.Endpoint()
		lease.Release()
		if e.At(0) != e.Direct || e.At(4000).IsValid() != reached {
			t.Errorf("%s is dialled at %v and %v", prefix, e.At(0), e.At(4000))
		}
		if reached && (e.At(4000).Addr() != e.Direct.Addr() || e.At(4000).Port() != 4000) {
			t.Errorf("port 4000 of %v is dialled at %v", e.Direct, e.At(4000))
		}
	}
}

// A stranger who counts through the ports must not cause a certificate each.
func TestFewUndeclaredPortsGetACertificate(t *testing.T) {
	for _, template := range []string{"wide", "open"} {
		b := newBench(t, 1)
		b.withTemplates()
		b.createWith("abcdefgh", template, []int{8080})
		var allowed []int
		for port := 1; port <= 65535; port++ {
			if b.manager.Certify("abcdefgh", port) {
				allowed = append(allowed, port)
			}
		}
		declared := []int{3000, 8080}
		if template == "wide" {
			declared = []int{3000, 4000, 8080, 9229}
		}
		for _, port := range declared {
			if !slices.Contains(allowed, port) {
				t.Errorf("%s: declared port %d has no certificate", template, port)
			}
		}
		if n := len(allowed) - len(declared); n != 16 {
			t.Errorf("%s: %d undeclared ports have one, want 16", template, n)
		}
		if !b.manager.Certify("abcdefgh", allowed[0]) || !b.manager.Known("abcdefgh", 0) {
			t.Errorf("%s: what had a certificate has none any more", template)
		}
		if b.manager.Certify("whoknows", 3000) {
			t.Error("a port of no instance has one")
		}
	}
}

func TestOpenPorts(t *testing.T) {
	b := newBench(t, 1)
	b.withTemplates()
	b.engine.GiveAddresses()
	b.createWith("abcdefgh", "wide", nil, "TEST_PORTS", "4000,5000,127.0.0.1:6000")
	want := []instance.OpenPort{
		{Port: 3000, URL: "https://abcdefgh.sandbox.example.com"},
		{Port: 4000, URL: "https://4000-abcdefgh.sandbox.example.com"},
		{Port: 5000},
		{Port: 6000, Loopback: true},
	}
	if got, known := b.manager.OpenPorts(t.Context(), "abcdefgh"); !known || !slices.Equal(got, want) {
		t.Errorf("got %+v (%v), want %+v", got, known, want)
	}
	if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"abcdefgh", "whoknows"} {
		if got, known := b.manager.OpenPorts(t.Context(), prefix); known || got != nil {
			t.Errorf("%s: got %v (%v), want nothing", prefix, got, known)
		}
	}
}

// Strangers ask as often as they like; the engine is asked once a second.
func TestLooksAreShared(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	var asking sync.WaitGroup
	for range 500 {
		asking.Go(func() {
			if got, known := b.manager.OpenPorts(t.Context(), "abcdefgh"); !known || len(got) != 1 {
				t.Errorf("got %v, %v", got, known)
			}
		})
	}
	began := time.Now()
	asking.Wait()
	if n, most := b.engine.Calls("Listening"), 1+int(time.Since(began).Seconds()); n > most {
		t.Errorf("the engine was asked %d times in %v, want %d at most", n, time.Since(began), most)
	}
	n := b.engine.Calls("Listening")
	b.eventually("it is asked again when a second has passed", func() bool {
		b.manager.OpenPorts(t.Context(), "abcdefgh")
		return b.engine.Calls("Listening") == n+1
	})
}

func TestLooksThatHangHoldNobodyUp(t *testing.T) {
	b := newBench(t, 3)
	for _, prefix := range []string{"aaaaaaaa", "bbbbbbbb", "cccccccc"} {
		b.create(prefix)
	}
	b.engine.Fault(func(ctx context.Context, call, _ string) error {
		if call != "Listening" {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	})
	impatient, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	for _, prefix := range []string{"aaaaaaaa", "bbbbbbbb"} {
		if got, known := b.manager.OpenPorts(impatient, prefix); known || got != nil {
			t.Errorf("%s: got %v, %v", prefix, got, known)
		}
	}
	began := time.Now()
	if got, known := b.manager.OpenPorts(t.Context(), "cccccccc"); known || got != nil || time.Since(began) > time.Second {
		t.Errorf("the third waited %v for %v, %v", time.Since(began), got, known)
	}
	if _, err := b.manager.Stop(t.Context(), "cccccccc"); err != nil {
		t.Errorf("an operation beside them: %v", err)
	}
	b.engine.Fault(nil)
	b.eventually("they end by themselves, and others look again", func() bool {
		_, known := b.manager.OpenPorts(t.Context(), "bbbbbbbb")
		return known
	})
}

func TestWhereNobodyCanLookDeclaredPortsAreTried(t *testing.T) {
	b := newBench(t, 2)
	b.withTemplates()
	b.engine.Fault(func(_ context.Context, call, _ string) error {
		if call == "Listening" {
			return instance.Errorf(instance.EngineFailed, "it is elsewhere")
		}
		return nil
	})
	b.create("faraway1") // reached at its published port alone
	if got, known := b.manager.OpenPorts(t.Context(), "faraway1"); known || got != nil {
		t.Errorf("got %v, %v", got, known)
	}
	b.engine.GiveAddresses()
	b.createWith("abcdefgh", "wide", nil, "TEST_PORTS", "4000,5000") // 9229 is declared and closed
	want := []instance.OpenPort{
		{Port: 3000, URL: "https://abcdefgh.sandbox.example.com"},
		{Port: 4000, URL: "https://4000-abcdefgh.sandbox.example.com"},
	}
	if got, known := b.manager.OpenPorts(t.Context(), "abcdefgh"); known || !slices.Equal(got, want) {
		t.Errorf("got %+v (%v), want %+v, and that it may not be all", got, known, want)
	}
}

// Ports come back from the containers when the records are lost; custom hosts
// do not, and the refusal to create says so.
func TestALostStateFileLosesHostsButNotPorts(t *testing.T) {
	b := newBench(t, 2)
	b.withTemplates()
	b.createWith("abcdefgh", "wide", []int{8080})
	b.addHost("abcdefgh", "app.example.org")
	if err := b.manager.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(b.dir, ".instances.json")); err != nil {
		t.Fatal(err)
	}
	b.open()
	b.awaitStatus("abcdefgh", instance.Running, "")
	in, err := b.manager.Get("abcdefgh")
	if err != nil || !slices.Equal(slices.Sorted(maps.Keys(in.URLs)), []int{4000, 8080, 9229}) || len(in.Domains) != 0 {
		t.Errorf("got %+v, %v", in, err)
	}
	b.ownedBy("app.example.org", "")
	_, err = b.manager.Create(t.Context(), request("zzzzzzzz"))
	if e := b.failure(err, instance.StateFailed); !strings.Contains(e.Message, "custom hosts") {
		t.Errorf("%q does not tell of the custom hosts", e.Message)
	}
	b.addHost("abcdefgh", "app.example.org") // so it is put right
	if health, err := b.manager.Health(t.Context()); err != nil || !strings.Contains(strings.Join(health.Advice, "\n"), "custom hosts") {
		t.Errorf("health %+v, %v", health, err)
	}
}
