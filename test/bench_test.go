package test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"slices"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// Benchmarks compare the product with what it is made of, in one run and in
// turns, since absolute numbers say more about the machine. They report
// medians over rounds; one iteration holds them all.

// plainSite serves the instances without TLS, too.
const plainSite = `
http://*.` + domain + ` {
	sandbox_proxy
}
`

// BenchmarkCreate compares a create with what Docker alone needs for the same
// container, each from the first request to the first 200:
//
//	x-docker      create and a proxied request, as a multiple of Docker alone
//	x-docker-tls  the same when the request also needs a new certificate
func BenchmarkCreate(b *testing.B) {
	const rounds = 15
	c := startCaddy(b, options{Ports: freeRange(100), Sites: plainSite})
	model := inspect(b, c.api.create(b, createRequest{}).ContainerID)
	for b.Loop() {
		var docker, plain, overTLS []float64
		for range rounds {
			docker = append(docker, createByHand(b, model))
			plain = append(plain, c.createAndVisit(b, c.getPlain))
			overTLS = append(overTLS, c.createAndVisit(b, c.getTLS))
		}
		b.ReportMetric(0, "ns/op") // says nothing here
		b.ReportMetric(median(docker), "docker-ms")
		b.ReportMetric(median(plain), "create-ms")
		b.ReportMetric(median(ratios(plain, docker)), "x-docker")
		b.ReportMetric(median(ratios(overTLS, docker)), "x-docker-tls")
	}
}

// createAndVisit returns the milliseconds from a create to the first 200 of
// visit, and deletes the instance.
func (c *caddyServer) createAndVisit(b *testing.B, visit func(instanceView) (int, error)) float64 {
	b.Helper()
	start := time.Now()
	made := c.admin.call(b, http.MethodPost, "/api/instances", nil).expect(b, http.StatusCreated, 0).instance(b)
	// No second try: after a 201 the first request must succeed.
	if status, err := visit(made); err != nil || status != http.StatusOK {
		b.Fatalf("first request: %d %v", status, err)
	}
	took := time.Since(start)
	c.admin.delete(b, made.Prefix)
	return milliseconds(took)
}

func (c *caddyServer) getPlain(i instanceView) (status int, err error) {
	return getHost(http.DefaultClient, fmt.Sprintf("http://127.0.0.1:%d/", c.httpPort), i.Prefix+"."+domain)
}

func (c *caddyServer) getTLS(i instanceView) (status int, err error) {
	return statusOf(c.visitor.client.Get(i.URL))
}

// createByHand makes, starts and asks a container like model through the
// Docker SDK, and returns how many milliseconds that took.
func createByHand(b *testing.B, model container.InspectResponse) float64 {
	b.Helper()
	ctx := context.Background()
	config, host := *model.Config, *model.HostConfig
	config.Labels = nil // it is not the product's
	config.Hostname = ""
	for _, bindings := range host.PortBindings {
		bindings[0].HostPort = fmt.Sprint(freePort())
	}
	start := time.Now()
	made, err := engine.ContainerCreate(ctx, &config, &host, nil, nil, fmt.Sprintf("sandbox-bench-%d", start.UnixNano()))
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := engine.ContainerRemove(ctx, made.ID, container.RemoveOptions{Force: true}); err != nil {
			b.Error(err)
		}
	}()
	if err := engine.ContainerStart(ctx, made.ID, container.StartOptions{}); err != nil {
		b.Fatal(err)
	}
	url := "http://" + directAddress(b, made.ID) + "/"
	for deadline := start.Add(time.Minute); ; time.Sleep(time.Millisecond) {
		status, err := statusOf(http.Get(url))
		if status == http.StatusOK {
			return milliseconds(time.Since(start))
		}
		if time.Now().After(deadline) {
			b.Fatalf("no 200 from %s: %d %v", url, status, err)
		}
	}
}

// directAddress is where a container listens, past every proxy.
func directAddress(t testing.TB, ref string) string {
	t.Helper()
	for _, network := range inspect(t, ref).NetworkSettings.Networks {
		return network.IPAddress + ":8080"
	}
	t.Fatal("the container has no network")
	return ""
}

// statusOf drains and closes the answer, so that its connection is used again.
func statusOf(res *http.Response, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, err = io.Copy(io.Discard, res.Body)
	return res.StatusCode, err
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func each[T any](values []T, f func(T) float64) []float64 {
	var result []float64
	for _, v := range values {
		result = append(result, f(v))
	}
	return result
}

// ratios are those of each round.
func ratios(a, b []float64) []float64 {
	var result []float64
	for i := range a {
		result = append(result, a[i]/b[i])
	}
	return result
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}
