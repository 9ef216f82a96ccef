package test

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// BenchmarkCreateFromPool compares a create that takes a spare with one that
// makes its container, each from the request to the answer, in turns, and with
// a full pool before each:
//
//	pool-ms      a create that takes a spare
//	cold-ms      one that does not
//	x-faster     the second as a multiple of the first
//	x-faster-200 the same up to the first 200 of the instance
func BenchmarkCreateFromPool(b *testing.B) {
	const rounds = 15
	c := startCaddy(b, options{Ports: freeRange(100), Sites: plainSite, Templates: pooled(2)})
	for b.Loop() {
		var pool, poolVisit, cold, coldVisit []float64
		for i := range rounds {
			created, visited := c.timeCreate(b, createRequest{})
			pool, poolVisit = append(pool, created), append(poolVisit, visited)
			created, visited = c.timeCreate(b, createRequest{Prefix: fmt.Sprintf("bench%03d", i)})
			cold, coldVisit = append(cold, created), append(coldVisit, visited)
		}
		b.ReportMetric(0, "ns/op") // says nothing here
		b.ReportMetric(median(pool), "pool-ms")
		b.ReportMetric(median(cold), "cold-ms")
		b.ReportMetric(median(ratios(cold, pool)), "x-faster")
		b.ReportMetric(median(ratios(coldVisit, poolVisit)), "x-faster-200")
	}
}

// timeCreate returns the milliseconds to the answer of a create and to the
// first 200, and deletes the instance.
func (c *caddyServer) timeCreate(b *testing.B, req createRequest) (created, visited float64) {
	b.Helper()
	spares := c.awaitPool(b, 2)
	start := time.Now()
	made := c.admin.call(b, http.MethodPost, "/api/instances", req).expect(b, http.StatusCreated, 0).instance(b)
	created = milliseconds(time.Since(start))
	if status, err := c.getPlain(made); err != nil || status != http.StatusOK {
		b.Fatalf("first request: %d %v", status, err)
	}
	visited = milliseconds(time.Since(start))
	if _, taken := spares[made.ContainerID]; taken != (req.Prefix == "") {
		b.Fatalf("a create with prefix %q took a spare: %v", req.Prefix, taken)
	}
	c.admin.delete(b, made.Prefix)
	return created, visited
}
