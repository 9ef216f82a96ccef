package test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// What streams through Caddy costs it no memory. The limit is far above the
// buffers of one connection, and far below the streams: two gigabytes each
// way. QUIC is done by the processes themselves, and takes four times as long,
// so it gets a quarter.
func TestGigabytesPassInConstantMemory(t *testing.T) {
	t.Parallel()
	const most = 32 << 20
	sizes := map[string]int64{"HTTP/1.1": 2 << 30, "HTTP/2": 2 << 30, "HTTP/3": 512 << 20}
	c := startCaddy(t, options{Binary: plainCaddy(t)})
	made := c.api.create(t, createRequest{})
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			size := sizes[protocol]
			transport := c.visitor.over(t, protocol)
			down := func(size int64) {
				res := request(t, transport, protocol, http.MethodGet, fmt.Sprintf("%s/bytes/%d", made.URL, size), nil)
				if n, err := io.Copy(io.Discard, res.Body); err != nil || n != size {
					t.Fatalf("of %d bytes %d came down: %v", size, n, err)
				}
			}
			up := func(size int64) {
				res := request(t, transport, protocol, http.MethodPost, made.URL+"/count", io.LimitReader(zeroes{}, size))
				if got, err := io.ReadAll(res.Body); err != nil || string(got) != fmt.Sprint(size) {
					t.Fatalf("of %d bytes %s came up: %v", size, got, err)
				}
			}
			down(32 << 20) // the buffers that connections of this sort have
			up(32 << 20)
			for name, move := range map[string]func(int64){"down": down, "up": up} {
				before := c.resetPeak(t)
				start := time.Now()
				move(size)
				took := time.Since(start)
				grown := c.memory(t, "VmHWM") - before
				t.Logf("%d MiB %s in %s: at most %d KiB more than the %d KiB before", size>>20, name, took.Round(time.Millisecond), grown>>10, before>>10)
				if grown > most {
					t.Errorf("%s: Caddy grew by %d MiB while %d MiB passed, want at most %d", name, grown>>20, size>>20, most>>20)
				}
			}
		})
	}
}

type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { return len(p), nil }

// resetPeak forgets how much memory Caddy once had, and returns what it has.
func (c *caddyServer) resetPeak(t testing.TB) (now int64) {
	t.Helper()
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", c.pid()), []byte("5"), 0); err != nil {
		t.Skipf("needs a kernel that keeps the peak of a process's memory: %v", err)
	}
	return c.memory(t, "VmRSS")
}

// memory is a line of what the kernel says of Caddy's memory, in bytes.
func (c *caddyServer) memory(t testing.TB, line string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.pid()))
	if err != nil {
		t.Fatal(err)
	}
	for text := range strings.Lines(string(status)) {
		if value, ok := strings.CutPrefix(text, line+":"); ok {
			var kilobytes int64
			if _, err := fmt.Sscanf(value, "%d kB", &kilobytes); err != nil {
				t.Fatalf("reading %q: %v", text, err)
			}
			return kilobytes << 10
		}
	}
	t.Fatalf("no %s in %s", line, status)
	return 0
}
