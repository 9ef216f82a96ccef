package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"time"
)

// BenchmarkUnknownHosts asks for 500 hosts a second that nobody has, beside
// 10 000 instances, and in turns for as many pages that `respond 404` answers,
// whether or not the answers keep up:
//
//	p50-ms, p99-ms  from when the request was due to its answer
//	x-p50, x-p99    as multiples of those of `respond 404`
func BenchmarkUnknownHosts(b *testing.B) {
	const rate, duration, rounds = 500, 2 * time.Second, 15
	c, _ := startCaddyOfMany(b, 10_000, unlimited)
	random := rand.New(rand.NewPCG(1, 2))
	unknown := func() string { return fmt.Sprintf("unknown%013d.%s", random.Int64N(1e13), domain) }
	static := func() string { return "nothing.localhost" }
	for b.Loop() {
		var ours, theirs []loadResult
		for round := range rounds + 1 {
			got := c.openLoop(b, rate, duration, unknown, static)
			if round > 0 { // the first one warms up
				ours, theirs = append(ours, got[0]), append(theirs, got[1])
			}
		}
		p50 := func(r loadResult) float64 { return r.p50 }
		p99 := func(r loadResult) float64 { return r.p99 }
		b.ReportMetric(0, "ns/op") // says nothing here
		b.ReportMetric(median(each(ours, p50)), "p50-ms")
		b.ReportMetric(median(each(ours, p99)), "p99-ms")
		b.ReportMetric(median(each(ours, p50))/median(each(theirs, p50)), "x-p50")
		b.ReportMetric(median(each(ours, p99))/median(each(theirs, p99)), "x-p99")
	}
}

// openLoop sends rate requests a second to each of the hosts, by turns, so that
// a hiccup of the machine hits all alike. A late answer delays no request.
func (c *caddyServer) openLoop(b *testing.B, rate int, duration time.Duration, hosts ...func() string) []loadResult {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 512}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	url := fmt.Sprintf("http://127.0.0.1:%d/", c.httpPort)

	var mu sync.Mutex
	latencies := make([][]float64, len(hosts))
	var failure error
	var requests sync.WaitGroup
	pause := time.Second / time.Duration(rate*len(hosts))
	begun := time.Now()
	for n := range int(duration / pause) {
		due := begun.Add(time.Duration(n) * pause)
		time.Sleep(time.Until(due)) // the rate is what is asked for
		of := n % len(hosts)
		host := hosts[of]()
		requests.Go(func() {
			status, err := getHost(client, url, host)
			took := milliseconds(time.Since(due))
			mu.Lock()
			defer mu.Unlock()
			latencies[of] = append(latencies[of], took)
			if err != nil || status != http.StatusNotFound {
				failure = fmt.Errorf("%s: %d %w", host, status, err)
			}
		})
	}
	requests.Wait()
	if failure != nil {
		b.Fatal(failure)
	}
	results := make([]loadResult, len(hosts))
	for i := range hosts {
		results[i] = resultOf(latencies[i])
	}
	return results
}
