package instance_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// What visitors woke, and what crashed as soon as it was ready, is not started
// for whoever comes; and those who press its button have to wait longer and
// longer.
func TestWhatCrashesOnceItIsReadyIsHeldBack(t *testing.T) {
	b := newBench(t, 1)
	b.create("abcdefgh")
	b.sleepByHand("abcdefgh")
	if _, err := b.manager.Wake(t.Context(), "abcdefgh", nil); err != nil {
		t.Fatal(err)
	}
	for n := 1; ; n++ {
		b.crash("abcdefgh", 1)
		_, err := b.manager.Wake(t.Context(), "abcdefgh", nil)
		b.fails(err, instance.NotRunning)
		p, _, err := b.manager.Progress("abcdefgh")
		if err != nil || p.Failures != n {
			t.Fatalf("after %d crashes: %+v, %v", n, p, err)
		}
		if p.StartIn > 0 {
			b.fails(b.manager.Retry(t.Context(), "abcdefgh", nil), instance.Overloaded)
			break
		}
		if err := b.manager.Retry(t.Context(), "abcdefgh", nil); err != nil {
			t.Fatal(err)
		}
		if _, err := b.manager.AwaitStart(t.Context(), "abcdefgh"); err != nil {
			t.Fatal(err)
		}
	}
}

// crash has what runs in the container end with that code, and awaits that it
// is noticed.
func (b *bench) crash(prefix string, code int) {
	b.Helper()
	lease, err := b.manager.Acquire(prefix, 0)
	if err != nil {
		b.Fatal(err)
	}
	defer lease.Release()
	res, err := http.Get(fmt.Sprintf("http://%s/exit?code=%d", lease.Endpoint().Published, code))
	if err != nil {
		b.Fatal(err)
	}
	res.Body.Close()
	b.eventually("its end is noticed", func() bool {
		in, err := b.manager.Get(prefix)
		return err == nil && in.Status != instance.Running
	})
}
