package test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	loadTime        = 2 * time.Second
	loadConnections = 64
)

// loadResult is what one round of load gave.
type loadResult struct {
	perSecond float64
	p50, p99  float64 // milliseconds
}

// resultOf sums up a round from the milliseconds that each request took.
func resultOf(latencies []float64) loadResult {
	slices.Sort(latencies)
	at := func(percent int) float64 { return latencies[len(latencies)*percent/100] }
	return loadResult{perSecond: float64(len(latencies)) / loadTime.Seconds(), p50: at(50), p99: at(99)}
}

// load asks url for loadTime over loadConnections; host names the site. It uses
// wrk, which takes less of the machine, if there is one.
func load(b *testing.B, url, host string) loadResult {
	b.Helper()
	if wrk, err := exec.LookPath("wrk"); err == nil {
		return loadByWrk(b, wrk, url, host)
	}
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: loadConnections}}
	defer client.CloseIdleConnections()
	return loadByGo(b, client, url, host)
}

// loadHTTP2 is load over TLS and HTTP/2, by h2load if there is one.
func (c *caddyServer) loadHTTP2(b *testing.B, host, path string) loadResult {
	b.Helper()
	url := c.siteURL(host) + path
	if h2load, err := exec.LookPath("h2load"); err == nil {
		return c.loadByH2load(b, h2load, url)
	}
	return loadByGo(b, c.visitor.client, url, host)
}

var (
	wrkPerSecond = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkLatency   = regexp.MustCompile(`(50|99)%\s+([0-9.]+(?:us|ms|s))`)
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
	rate, latencies := wrkPerSecond.FindSubmatch(out), wrkLatency.FindAllSubmatch(out, -1)
	if rate == nil || len(latencies) != 2 {
		b.Fatalf("wrk says something else than expected:\n%s", out)
	}
	var percentiles [2]float64
	for i, found := range latencies {
		latency, err := time.ParseDuration(string(found[2]))
		if err != nil {
			b.Fatal(err)
		}
		percentiles[i] = milliseconds(latency)
	}
	perSecond, err := strconv.ParseFloat(string(rate[1]), 64)
	if err != nil {
		b.Fatal(err)
	}
	return loadResult{perSecond: perSecond, p50: percentiles[0], p99: percentiles[1]}
}

// loadByH2load uses 16 connections with 4 streams each, which are as many
// requests at once as those of HTTP/1.
func (c *caddyServer) loadByH2load(b *testing.B, h2load, url string) loadResult {
	b.Helper()
	const connections = 16
	log := filepath.Join(b.TempDir(), "h2load.log")
	out, err := exec.Command(h2load, "-t", "1", "-c", fmt.Sprint(connections), "-m", fmt.Sprint(loadConnections/connections),
		"-D", fmt.Sprint(loadTime.Seconds()), "--connect-to", c.visitor.addr, "--log-file", log, url).CombinedOutput()
	if err != nil {
		b.Fatalf("h2load: %v\n%s", err, out)
	}
	requests, err := os.ReadFile(log) // start, status and duration in microseconds, a request a line
	if err != nil {
		b.Fatal(err)
	}
	var latencies []float64
	for line := range strings.Lines(string(requests)) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[1] != "200" {
			b.Fatalf("h2load: %s: %s\n%s", url, line, out)
		}
		micros, err := strconv.ParseFloat(fields[2], 64)
		if err != nil {
			b.Fatal(err)
		}
		latencies = append(latencies, micros/1000)
	}
	if len(latencies) == 0 {
		b.Fatalf("h2load: %s: no answers\n%s", url, out)
	}
	return resultOf(latencies)
}

func loadByGo(b *testing.B, client *http.Client, url, host string) loadResult {
	b.Helper()
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
	return resultOf(slices.Concat(latencies...))
}

func getHost(client *http.Client, url, host string) (status int, err error) {
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return 0, err
	}
	req.Host = host
	return statusOf(client.Do(req))
}
