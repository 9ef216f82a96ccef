package test

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
)

// BenchmarkWake compares the first byte of a visitor's call to an instance that
// sleeps with what Docker alone takes to start the same container again, until
// it answers; both without TLS and in turns. Calls of a person's page are held
// meanwhile.
//
//	x-docker    from stopped, as a multiple of Docker alone
//	over-ms     from paused, the milliseconds beyond a call to one that runs
//	unpause-ms  what Docker alone takes to unpause it
func BenchmarkWake(b *testing.B) {
	const rounds, sleepers = 21, 3 // in turns: visitors wake each a few times a minute at most
	c := startCaddy(b, options{Sites: plainSite, Sandbox: "wake_budget 600/minute", Templates: `
		template web {
			image {image}
			port 8080
			wake any
			hold 60s
		}
	`})
	var stopped []instanceView
	for range sleepers {
		stopped = append(stopped, c.api.create(b, createRequest{}))
	}
	paused := c.api.create(b, createRequest{})
	byHand := runByHand(b, inspect(b, paused.ContainerID))
	for b.Loop() {
		var docker, ours, thawed, running, unpaused []float64
		for n := range rounds {
			sleeper := stopped[n%sleepers]
			docker = append(docker, startByHand(b, byHand))
			c.putToSleep(b, sleeper.Prefix, "stop")
			ours = append(ours, c.firstByte(b, sleeper))

			unpaused = append(unpaused, unpauseByHand(b, byHand))
			c.putToSleep(b, paused.Prefix, "pause")
			thawed = append(thawed, c.firstByte(b, paused))
			running = append(running, c.firstByte(b, paused))
		}
		b.ReportMetric(0, "ns/op") // says nothing here
		b.ReportMetric(median(docker), "docker-ms")
		b.ReportMetric(median(ours), "wake-ms")
		b.ReportMetric(median(ratios(ours, docker)), "x-docker")
		b.ReportMetric(median(thawed)-median(running), "over-ms")
		b.ReportMetric(median(unpaused), "unpause-ms")
	}
}

// putToSleep has the instance idle at once, and be stopped or paused for it.
func (c *caddyServer) putToSleep(b *testing.B, prefix, onIdle string) {
	b.Helper()
	c.admin.patch(b, prefix, map[string]string{"idle_timeout": "1s", "on_idle": onIdle})
	status := map[string]string{"stop": "stopped", "pause": "paused"}[onIdle]
	c.admin.awaitStatus(b, time.Minute, prefix, status, "idle")
	c.admin.patch(b, prefix, map[string]any{"idle_timeout": nil, "on_idle": nil})
}

// firstByte is how many milliseconds a call waits for its answer.
func (c *caddyServer) firstByte(b *testing.B, i instanceView) float64 {
	b.Helper()
	start := time.Now()
	if status, err := c.getPlain(i); err != nil || status != http.StatusOK {
		b.Fatalf("a call to %s: %d %v", i.Prefix, status, err)
	}
	return milliseconds(time.Since(start))
}

// runByHand runs a container like model past the product.
func runByHand(b *testing.B, model container.InspectResponse) (id string) {
	b.Helper()
	config, host := *model.Config, *model.HostConfig
	config.Labels, config.Hostname = nil, ""
	for _, bindings := range host.PortBindings {
		bindings[0].HostPort = fmt.Sprint(freePort())
	}
	made, err := engine.ContainerCreate(b.Context(), &config, &host, nil, nil, fmt.Sprintf("sandbox-bench-%d", time.Now().UnixNano()))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = engine.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true})
	})
	if err := engine.ContainerStart(b.Context(), made.ID, container.StartOptions{}); err != nil {
		b.Fatal(err)
	}
	return made.ID
}

// startByHand stops the container and returns the milliseconds of its start,
// until it answers.
func startByHand(b *testing.B, id string) float64 {
	b.Helper()
	if err := engine.ContainerStop(b.Context(), id, container.StopOptions{}); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := engine.ContainerStart(b.Context(), id, container.StartOptions{}); err != nil {
		b.Fatal(err)
	}
	url := "http://" + directAddress(b, id) + "/"
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

func unpauseByHand(b *testing.B, id string) float64 {
	b.Helper()
	if err := engine.ContainerPause(b.Context(), id); err != nil {
		b.Fatal(err)
	}
	start := time.Now()
	if err := engine.ContainerUnpause(b.Context(), id); err != nil {
		b.Fatal(err)
	}
	return milliseconds(time.Since(start))
}
