package test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The sites that sandbox_proxy is compared with, see startCaddyOfMany.
const (
	staticHost = "static.localhost"
	tunedHost  = "tuned.localhost"
)

// unlimited is the template of benchmarks: with as many processors as there
// are, so that the container's limit is never met.
var unlimited = fmt.Sprintf("template web {\n image {image}\n port 8080\n cpus %d\n}\n", runtime.NumCPU())

// BenchmarkProxy compares sandbox_proxy with a static reverse_proxy in the same
// process, to the same container, over 64 requests at a time; beside 10 and
// beside 10 000 instances:
//
//	x-10, x-10000          requests per second, as a multiple of the static one's
//	x-p50-…, x-p99-…       time within which 50 and 99 of 100 requests were answered, likewise
//	x-flat                 x-10000 as a multiple of x-10
//	x-tuned, x-cpu-tuned   as x-10000 and x-cpu-10000, of a static one that keeps
//	                       as many idle connections as sandbox_proxy does
//	cpu-µs/req, x-cpu-…    processor time of Caddy for a request, which other
//	                       programs on the machine change least
//	allocs/req, B/req      what sandbox_proxy allocates for a request (with 10 000)
//	x-allocs               that, as a multiple of the static one's
func BenchmarkProxy(b *testing.B) {
	small, one := startCaddyOfMany(b, 10, unlimited)
	large, another := startCaddyOfMany(b, 10_000, unlimited)
	for _, kind := range []struct {
		name  string
		http2 bool
		path  string
	}{
		{"http1-1KB", false, "/bytes/1024"},
		{"http1-64KB", false, "/bytes/65536"},
		{"http2-1KB", true, "/bytes/1024"},
		{"http2-64KB", true, "/bytes/65536"},
	} {
		b.Run(kind.name, func(b *testing.B) {
			run := func(c *caddyServer, host string) func(*testing.B) measured {
				return func(b *testing.B) measured { return c.measure(b, host, kind.path, kind.http2) }
			}
			for b.Loop() {
				got := inTurns(b, 8,
					run(small, one.Prefix+"."+domain), run(small, staticHost),
					run(large, another.Prefix+"."+domain), run(large, staticHost),
					run(large, tunedHost))
				compareProxies(b, got[0], got[1], got[2], got[3], got[4])
			}
		})
	}
}

func compareProxies(b *testing.B, small, smallStatic, large, largeStatic, tuned []measured) {
	x := func(of func(measured) float64, ours, static []measured) float64 {
		return median(each(ours, of)) / median(each(static, of))
	}
	rate := func(m measured) float64 { return m.perSecond }
	b.ReportMetric(0, "ns/op") // says nothing here
	b.ReportMetric(median(each(large, rate)), "req/s")
	b.ReportMetric(median(each(largeStatic, rate)), "static-req/s")
	b.ReportMetric(x(rate, small, smallStatic), "x-10")
	b.ReportMetric(x(rate, large, largeStatic), "x-10000")
	b.ReportMetric(x(rate, large, largeStatic)/x(rate, small, smallStatic), "x-flat")
	b.ReportMetric(x(rate, large, tuned), "x-tuned")
	cpu := func(m measured) float64 { return m.cpu }
	b.ReportMetric(x(cpu, large, tuned), "x-cpu-tuned")
	b.ReportMetric(median(each(large, cpu)), "cpu-µs/req")
	b.ReportMetric(median(each(large, func(m measured) float64 { return m.p50 })), "p50-ms")
	b.ReportMetric(median(each(large, func(m measured) float64 { return m.p99 })), "p99-ms")
	for name, of := range map[string]func(measured) float64{
		"cpu": cpu,
		"p50": func(m measured) float64 { return m.p50 },
		"p99": func(m measured) float64 { return m.p99 },
	} {
		b.ReportMetric(x(of, small, smallStatic), "x-"+name+"-10")
		b.ReportMetric(x(of, large, largeStatic), "x-"+name+"-10000")
	}
	allocs := func(m measured) float64 { return m.allocs }
	b.ReportMetric(median(each(large, allocs)), "allocs/req")
	b.ReportMetric(median(each(large, func(m measured) float64 { return m.bytes })), "B/req")
	b.ReportMetric(x(allocs, large, largeStatic), "x-allocs")
}

// measured is a round of load, and what each request of it cost Caddy.
type measured struct {
	loadResult
	cpu           float64 // microseconds
	allocs, bytes float64
}

func (c *caddyServer) measure(b *testing.B, host, path string, http2 bool) measured {
	b.Helper()
	return c.measureRound(b, func() loadResult {
		if http2 {
			return c.loadHTTP2(b, host, path)
		}
		return load(b, fmt.Sprintf("http://127.0.0.1:%d%s", c.httpPort, path), host)
	})
}

// measureRound runs a round of load, and sees what it costs.
func (c *caddyServer) measureRound(b *testing.B, round func() loadResult) measured {
	b.Helper()
	before, cpuBefore := c.goMemory(b), c.cpuTime(b)
	got := round()
	after, cpuAfter := c.goMemory(b), c.cpuTime(b)
	requests := got.perSecond * loadTime.Seconds()
	return measured{
		loadResult: got,
		cpu:        float64((cpuAfter - cpuBefore).Microseconds()) / requests,
		allocs:     (after.Mallocs - before.Mallocs) / requests,
		bytes:      (after.TotalAlloc - before.TotalAlloc) / requests,
	}
}

// cpuTime is what Caddy has used of the processors so far.
func (c *caddyServer) cpuTime(t testing.TB) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.pid()))
	if err != nil {
		t.Fatal(err)
	}
	// After the name, which may hold anything: user and system time are the
	// 14th and 15th field, in hundredths of a second.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := 0
	for _, field := range fields[11:13] {
		n, err := strconv.Atoi(field)
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}

// memoryStats are some of Go's runtime.MemStats.
type memoryStats struct{ Mallocs, TotalAlloc, HeapInuse, StackInuse float64 }

// goMemory is what Go's runtime in Caddy says of its memory.
func (c *caddyServer) goMemory(t testing.TB) memoryStats {
	t.Helper()
	res, err := http.Get("http://" + c.adminAddr + "/debug/vars")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var vars struct {
		MemStats memoryStats `json:"memstats"`
	}
	if err := json.NewDecoder(res.Body).Decode(&vars); err != nil {
		t.Fatal(err)
	}
	return vars.MemStats
}

// inTurns runs each variant once a round, after a round that only warms up. Who
// goes first changes, so that none gains by it: noise of the machine comes and
// goes, and must not hit one alone.
func inTurns[T any](b *testing.B, rounds int, variants ...func(*testing.B) T) (results [][]T) {
	b.Helper()
	results = make([][]T, len(variants))
	for round := range rounds + 1 {
		for i := range variants {
			turn := (i + round) % len(variants)
			result := variants[turn](b)
			if round > 0 {
				results[turn] = append(results[turn], result)
			}
		}
	}
	return results
}
