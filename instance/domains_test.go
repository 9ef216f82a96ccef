package instance_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func TestParseHost(t *testing.T) {
	label := strings.Repeat("a", 63)
	longest := label + "." + label + "." + label + "." + strings.Repeat("a", 61)
	for text, want := range map[string]string{ // what it becomes, or a part of the error after "!"
		"app.example.com":                 "app.example.com",
		"App.Example.COM":                 "app.example.com",
		"app.example.com.":                "app.example.com",
		"a.b":                             "a.b",
		"1.example":                       "1.example",
		"r3---sn-4g5e6nz7.example.com":    "r3---sn-4g5e6nz7.example.com",
		"xn--bcher-kva.example":           "xn--bcher-kva.example",
		"XN--BCHER-KVA.example":           "xn--bcher-kva.example",
		longest:                           longest,
		"":                                "!single label",
		".":                               "!single label",
		"localhost":                       "!single label",
		"com.":                            "!single label",
		"*.example.com":                   "!wildcard",
		"a*.example.com":                  "!wildcard",
		"127.0.0.1":                       "!IP address",
		"127.0.0.1.":                      "!IP address",
		"127.1":                           "!IP address",
		"app.0x7f":                        "!IP address",
		"::1":                             "!IP address",
		"[::1]":                           "!IP address",
		"bücher.example":                  "!as xn--bcher-kva.example",
		"B\u00dcCHER.example":             "!as xn--bcher-kva.example",
		"app。example.com":                 "!as app.example.com", // a dot, but not of ASCII
		"\u212aelvin.example":             "!as kelvin.example",
		"\xff.example":                    "!punycode",
		"xn--zzzzzzzzzzzzzzz.example":     "!punycode",
		"xn--.example":                    "!malformed",
		"xn--abc-.example":                "!malformed",
		"app.example.com:443":             "!malformed",
		"https://app.example.com":         "!malformed",
		"app.example.com/":                "!malformed",
		"user@app.example.com":            "!malformed",
		"app..example.com":                "!malformed",
		".example.com":                    "!malformed",
		"app.example.com..":               "!malformed",
		"-app.example.com":                "!malformed",
		"app-.example.com":                "!malformed",
		"a_b.example.com":                 "!malformed",
		"app example.com":                 "!malformed",
		"app.example.com\n":               "!malformed",
		"app\x00.example.com":             "!malformed",
		"{env.HOME}.example.com":          "!malformed",
		label + "a.example.com":           "!malformed",
		longest + "a":                     "!malformed",
		longest + "a.":                    "!longer",
		strings.Repeat("a.", 10000) + "b": "!longer",
	} {
		host, err := instance.ParseHost(text)
		wanted, isError := strings.CutPrefix(want, "!")
		switch {
		case !isError && (err != nil || host != want):
			t.Errorf("%.40q: got %q, %v, want %q", text, host, err, want)
		case isError && (instance.KindOf(err) != instance.BadHost || !strings.Contains(err.Error(), wanted)):
			t.Errorf("%.40q: got %q, %v, want an error with %q", text, host, err, wanted)
		case isError && len(err.Error()) > 500:
			t.Errorf("%.40q: the error has %d bytes", text, len(err.Error()))
		}
	}
}

func FuzzParseHost(f *testing.F) {
	for _, text := range []string{"App.Example.COM.", "bücher.example", "xn--bcher-kva.example", "127.1", "*.a.b", "[::1]", "a..b"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		host, err := instance.ParseHost(text)
		if err != nil {
			if instance.KindOf(err) != instance.BadHost {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		if again, err := instance.ParseHost(host); err != nil || again != host {
			t.Fatalf("%q is %q, which is %q, %v", text, host, again, err)
		}
		if !strings.EqualFold(strings.TrimSuffix(text, "."), host) {
			t.Fatalf("%q became %q, another name", text, host)
		}
	})
}

func (b *bench) addHost(prefix, host string) instance.Instance {
	b.Helper()
	in, err := b.manager.AddHost(b.Context(), prefix, host)
	if err != nil {
		b.Fatal(err)
	}
	return in
}

// ownedBy checks whose a host is; empty: nobody's.
func (b *bench) ownedBy(host, prefix string) {
	b.Helper()
	owner, ok := b.manager.HostOwner(host)
	if ok != (prefix != "") || ok && owner != prefix {
		b.Errorf("%s belongs to %q (%v), want %q", host, owner, ok, prefix)
	}
}

func (b *bench) file(name string) string {
	b.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, name))
	if err != nil {
		b.Fatal(err)
	}
	return string(data)
}

func TestAHostIsInEveryFileWhenTheCallReturns(t *testing.T) {
	b := newBench(t, 2)
	b.create("abcdefgh")
	b.create("zzzzzzzz")
	b.addHost("abcdefgh", "two.example.org")
	in := b.addHost("abcdefgh", "One.Example.org.")
	if want := []string{"one.example.org", "two.example.org"}; !slices.Equal(in.Domains, want) {
		t.Errorf("domains %v, want %v", in.Domains, want)
	}
	b.ownedBy("one.example.org", "abcdefgh")
	const both = `"domains":["one.example.org","two.example.org"]`
	for _, name := range []string{".instances.json", "config/subdomain-proxy.json"} {
		if text := b.file(name); strings.Count(text, both) != 1 {
			t.Errorf("%s lacks %s: %s", name, both, text)
		}
	}
	var routes struct {
		Routes map[string]struct{ Domains []string }
	}
	if err := json.Unmarshal([]byte(b.file("config/subdomain-proxy.json")), &routes); err != nil {
		t.Fatal(err)
	}
	if len(routes.Routes["abcdefgh"].Domains) != 2 || routes.Routes["zzzzzzzz"].Domains != nil {
		t.Errorf("routes %v", routes)
	}

	b.reopen()
	b.ownedBy("one.example.org", "abcdefgh")
	if _, err := b.manager.Restart(t.Context(), "abcdefgh", ""); err != nil {
		t.Fatal(err)
	}
	b.ownedBy("two.example.org", "abcdefgh")
	if in, err := b.manager.RemoveHost(t.Context(), "abcdefgh", "ONE.example.org"); err != nil || len(in.Domains) != 1 {
		t.Errorf("removing: %v, %v", in.Domains, err)
	}
	b.ownedBy("one.example.org", "")
	b.addHost("zzzzzzzz", "one.example.org")
	b.reopen()
	b.ownedBy("one.example.org", "zzzzzzzz")
	b.ownedBy("two.example.org", "abcdefgh")
}

func TestHostsThatNobodyGets(t *testing.T) {
	b := newBench(t, 2)
	settings := b.settings()
	settings.OwnHosts = []string{"api.example.com"}
	b.manager.Use(settings)
	b.create("abcdefgh")
	b.create("zzzzzzzz")
	b.addHost("abcdefgh", "app.example.org")
	for host, kind := range map[string]instance.Kind{
		"sandbox.example.com":          instance.BadHost,
		"SANDBOX.example.com.":         instance.BadHost,
		"abcdefgh.sandbox.example.com": instance.BadHost,
		"a.b.sandbox.example.com":      instance.BadHost,
		"api.example.com":              instance.BadHost,
		"10.0.0.1":                     instance.BadHost,
		"app.example.org":              instance.HostTaken,
		"APP.example.org":              instance.HostTaken,
	} {
		_, err := b.manager.AddHost(t.Context(), "zzzzzzzz", host)
		b.fails(err, kind)
	}
	b.addHost("zzzzzzzz", "notsandbox.example.com") // of the same parent, but not below the domain
	b.addHost("zzzzzzzz", "example.com")
	b.addHost("abcdefgh", "app.example.org") // again: no error
	_, err := b.manager.AddHost(t.Context(), "whoknows", "new.example.org")
	b.fails(err, instance.NotFound)
	for _, host := range []string{"new.example.org", "", "*.x.org", "app.example.org"} {
		_, err := b.manager.RemoveHost(t.Context(), "zzzzzzzz", host)
		b.fails(err, instance.NotFound)
	}
	b.ownedBy("new.example.org", "")
	b.ownedBy("app.example.org", "abcdefgh")
}

func TestAnInstanceHasSixteenHostsAtMost(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	var adding sync.WaitGroup
	results := make(chan error, 40)
	for i := range 40 { // at once, and each waits for the one before
		adding.Go(func() {
			_, err := b.manager.AddHost(t.Context(), "abcdefgh", fmt.Sprintf("h%d.example.org", i))
			results <- err
		})
	}
	adding.Wait()
	added := 0
	for range 40 {
		if err := <-results; err == nil {
			added++
		} else {
			b.fails(err, instance.BadHost)
		}
	}
	if in, _ := b.manager.Get("abcdefgh"); added != 16 || len(in.Domains) != 16 {
		t.Errorf("%d added, %d there, want 16", added, len(in.Domains))
	}
}

func TestOneOfManyGetsAHost(t *testing.T) {
	const instances, each = 10, 100
	b := newBench(t, instances)
	var prefixes []string
	for i := range instances {
		prefixes = append(prefixes, b.create(fmt.Sprintf("contest%d", i)).Prefix)
	}
	var adding sync.WaitGroup
	var mu sync.Mutex
	winners := map[string]int{}
	for i := range instances * each {
		adding.Go(func() {
			prefix := prefixes[i%instances]
			_, err := b.manager.AddHost(t.Context(), prefix, "app.example.org")
			if err != nil && instance.KindOf(err) != instance.HostTaken {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				winners[prefix]++
			}
		})
	}
	adding.Wait()
	if len(winners) != 1 {
		t.Fatalf("winners %v, want one", winners)
	}
	for prefix, times := range winners {
		if times != each {
			t.Errorf("%s was told %d times that it has the host, want %d", prefix, times, each)
		}
		b.ownedBy("app.example.org", prefix)
	}
	if n := strings.Count(b.file(".instances.json"), "app.example.org"); n != 1 {
		t.Errorf("the host is %d times on disk", n)
	}
}

func TestDeletingFreesTheHosts(t *testing.T) {
	b := newBench(t, 2)
	b.create("abcdefgh", "TEST_MODE", "stubborn") // 5 s until it ends
	b.create("zzzzzzzz")
	b.addHost("abcdefgh", "app.example.org")
	deleted := make(chan error, 1)
	go func() {
		_, err := b.manager.Delete(t.Context(), "abcdefgh")
		deleted <- err
	}()
	b.eventually("abcdefgh is being deleted", func() bool {
		in, _ := b.manager.Get("abcdefgh")
		return in.Status == instance.Deleting
	})
	for _, host := range []string{"app.example.org", "new.example.org"} { // one it has, one it has not
		_, err := b.manager.AddHost(t.Context(), "abcdefgh", host)
		b.fails(err, instance.Busy)
		_, err = b.manager.RemoveHost(t.Context(), "abcdefgh", host)
		b.fails(err, instance.Busy)
	}
	_, err := b.manager.AddHost(t.Context(), "zzzzzzzz", "app.example.org")
	b.fails(err, instance.HostTaken)
	if b.manager.Known("abcdefgh", 0) {
		t.Error("a certificate for what is being deleted")
	}
	if err := <-deleted; err != nil {
		t.Fatal(err)
	}
	b.ownedBy("app.example.org", "")
	b.addHost("zzzzzzzz", "app.example.org")
	b.ownedBy("app.example.org", "zzzzzzzz")
}

func TestAHostDuringAStartIsBusyOrThere(t *testing.T) {
	b := newBench(t, 2)
	slow := request("abcdefgh", "TEST_MODE", "slow", "TEST_DELAY", "1h")
	slow.Wait = instance.WaitNone
	if _, err := b.manager.Create(t.Context(), slow); err != nil {
		t.Fatal(err)
	}
	_, err := b.manager.AddHost(t.Context(), "abcdefgh", "app.example.org")
	if b.failure(err, instance.Busy).RetryAfter == 0 {
		t.Error("nothing says when to try again")
	}
	b.ownedBy("app.example.org", "")
	b.create("ijklmnop")
	b.addHost("ijklmnop", "app.example.org")
	if _, err := b.manager.Restart(t.Context(), "ijklmnop", instance.WaitNone); err != nil {
		t.Fatal(err)
	}
	b.addHost("ijklmnop", "app.example.org") // it is there: nothing is to be done
}

// A stop that comes while a host is being added must not be turned away: that
// takes only as long as a write.
func TestOtherOperationsWaitForAHost(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	for i := range 10 {
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := b.manager.AddHost(t.Context(), "abcdefgh", fmt.Sprintf("h%d.example.org", i)); err != nil && instance.KindOf(err) != instance.Busy {
				t.Error(err)
			}
		})
		both.Go(func() {
			if _, err := b.manager.Stop(t.Context(), "abcdefgh"); err != nil {
				t.Error("stopping: ", err)
			}
		})
		both.Wait()
	}
	in := b.awaitStatus("abcdefgh", instance.Stopped, instance.ReasonUser)
	for _, host := range in.Domains {
		b.ownedBy(host, "abcdefgh")
	}
}

func TestHostOwnerAllocatesNothing(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.addHost("abcdefgh", "app.example.org")
	for _, host := range []string{"app.example.org", "unknown.example.org"} {
		if n := testing.AllocsPerRun(100, func() { b.manager.HostOwner(host) }); n > 0 {
			t.Errorf("%s: %v allocations, want none", host, n)
		}
	}
}

func TestAHostThatCannotBeWrittenIsNobodys(t *testing.T) {
	b := newBench(t, 2)
	b.create("abcdefgh")
	b.create("zzzzzzzz")
	b.addHost("abcdefgh", "old.example.org")
	blocker := filepath.Join(b.dir, ".instances.json.tmp")
	if err := os.Mkdir(blocker, 0o700); err != nil {
		t.Fatal(err)
	}
	_, err := b.manager.AddHost(t.Context(), "abcdefgh", "new.example.org")
	b.fails(err, instance.StateFailed)
	_, err = b.manager.RemoveHost(t.Context(), "abcdefgh", "old.example.org")
	b.fails(err, instance.StateFailed)
	b.ownedBy("new.example.org", "")
	b.ownedBy("old.example.org", "abcdefgh")
	if err := os.Remove(blocker); err != nil {
		t.Fatal(err)
	}
	b.addHost("zzzzzzzz", "new.example.org")
	_, err = b.manager.AddHost(t.Context(), "zzzzzzzz", "old.example.org")
	b.fails(err, instance.HostTaken)
	b.reopen()
	b.ownedBy("new.example.org", "zzzzzzzz")
	b.ownedBy("old.example.org", "abcdefgh")
}
