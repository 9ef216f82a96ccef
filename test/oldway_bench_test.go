package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// BenchmarkOldWay compares one more instance with what it replaces: one more
// service in a Compose file that is written anew, `docker compose up -d`, and
// waiting until it answers. Each beside n that run already.
//
//	x-old-way  the old way, as a multiple of a create and a proxied request
func BenchmarkOldWay(b *testing.B) {
	const rounds = 5
	for _, n := range []int{10, 50} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) {
			for b.Loop() {
				var old, ours []float64
				project := newComposeProject(b, n, rounds)
				for range rounds {
					old = append(old, project.addOne(b))
				}
				project.down()
				c := startCaddy(b, options{Ports: freeRange(n + 2*rounds), Sites: plainSite})
				for range n {
					c.api.create(b, createRequest{})
				}
				for range rounds {
					ours = append(ours, c.createAndVisit(b, c.getPlain))
				}
				b.ReportMetric(0, "ns/op") // says nothing here
				b.ReportMetric(median(old), "old-ms")
				b.ReportMetric(median(ours), "create-ms")
				b.ReportMetric(median(old)/median(ours), "x-old-way")
			}
		})
	}
}

// composeProject is a file of services without us.
type composeProject struct {
	binary   string
	dir      string
	ports    portRange
	services int
}

// newComposeProject starts n services, with room for more.
func newComposeProject(b *testing.B, n, more int) *composeProject {
	b.Helper()
	binary, err := composeBinary()
	if err != nil {
		b.Fatalf("making docker-compose (scripts/compose.sh): %v", err)
	}
	p := &composeProject{binary: binary, dir: b.TempDir(), ports: freeRange(n + more), services: n}
	b.Cleanup(p.down)
	p.up(b)
	return p
}

// addOne returns the milliseconds until one more service answers.
func (p *composeProject) addOne(b *testing.B) float64 {
	b.Helper()
	start := time.Now()
	p.services++
	p.up(b)
	last := p.services - 1
	awaitPort(b, p.ports.first+last, fmt.Sprintf("service%d", last))
	return milliseconds(time.Since(start))
}

// up writes the file anew and has Compose make it true.
func (p *composeProject) up(b *testing.B) {
	b.Helper()
	var file strings.Builder
	file.WriteString("services:\n")
	for i := range p.services {
		fmt.Fprintf(&file, "  service%d:\n    image: %s\n    environment: {PORT: \"8080\", SANDBOX_PREFIX: service%d}\n    ports: [\"127.0.0.1:%d:8080\"]\n",
			i, serverImage, i, p.ports.first+i)
	}
	if err := os.WriteFile(filepath.Join(p.dir, "docker-compose.yml"), []byte(file.String()), 0o600); err != nil {
		b.Fatal(err)
	}
	if out, err := p.command("up", "-d").CombinedOutput(); err != nil {
		b.Fatalf("compose up: %v\n%s", err, out)
	}
}

func (p *composeProject) down() { _ = p.command("down", "--timeout", "0").Run() }

func (p *composeProject) command(args ...string) *exec.Cmd {
	cmd := exec.Command(p.binary, args...)
	cmd.Dir = p.dir
	return cmd
}
