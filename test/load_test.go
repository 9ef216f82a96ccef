package test

import (
	"context"
	"fmt"
	"net/http"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

const (
	loadTime        = 3 * time.Second
	loadConnections = 64
)

// loadResult is what one round of load gave.
type loadResult struct {
	perSecond float64
	p99       float64 // milliseconds
}

// load asks url for loadTime over loadConnections; host names the site. It uses
// wrk, which takes less of the machine, if there is one.
func load(b *testing.B, url, host string) loadResult {
	b.Helper()
	if wrk, err := exec.LookPath("wrk"); err == nil {
		return loadByWrk(b, wrk, url, host)
	}
	return loadByGo(b, url, host)
}

var (
	wrkPerSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkP99       = regexp.MustCompile(`99%\s+([0-9.]+)(us|ms|s)`)
	wrkFailures  = regexp.MustCompile(`Non-2xx.*|Socket errors.*`)
)

func loadByWrk(b *testing.B, wrk, url, host string) loadResult {
	b.Helper()
	out, err := exec.Command(wrk, "-t", "1", "-c", fmt.Sprint(loadConnections), "-d", loadTime.String(),
		"--latency", "-H", "Host: "+host, url).CombinedOutput()
	if err != nil {
		b.Fatalf("wrk: %v\n%s", err, out)
	}
	if failures := wrkFailures.Find(out); failures != nil {
		b.Fatalf("wrk: %s: %s", host, failures)
	}
	perSecond, p99 := wrkPerSecond.FindSubmatch(out), wrkP99.FindSubmatch(out)
	if perSecond == nil || p99 == nil {
		b.Fatalf("wrk says something else than expected:\n%s", out)
	}
	latency, err := time.ParseDuration(string(p99[1]) + string(p99[2]))
	if err != nil {
		b.Fatal(err)
	}
	rate, err := strconv.ParseFloat(string(perSecond[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return loadResult{perSecond: rate, p99: milliseconds(latency)}
}

func loadByGo(b *testing.B, url, host string) loadResult {
	b.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: loadConnections}}
	defer client.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(b.Context(), loadTime)
	defer cancel()

	latencies := make([][]float64, loadConnections)
	failures := make([]error, loadConnections)
	var callers sync.WaitGroup
	for n := range loadConnections {
		callers.Go(func() {
			for ctx.Err() == nil {
				start := time.Now()
				status, err := getHost(client, url, host)
				if err != nil || status != http.StatusOK {
					failures[n] = fmt.Errorf("%d %w", status, err)
					return
				}
				latencies[n] = append(latencies[n], milliseconds(time.Since(start)))
			}
		})
	}
	callers.Wait()
	for _, err := range failures {
		if err != nil {
			b.Fatalf("%s: %v", host, err)
		}
	}
	all := slices.Sorted(slices.Values(slices.Concat(latencies...)))
	return loadResult{perSecond: float64(len(all)) / loadTime.Seconds(), p99: all[len(all)*99/100]}
}

func getHost(client *http.Client, url, host string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Host = host
	return statusOf(client.Do(req))
}
