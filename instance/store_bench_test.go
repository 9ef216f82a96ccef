package instance

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkChange is the time from a change to its durable answer, and the
// bytes that it wrote, with more and more records in the state.
func BenchmarkChange(b *testing.B) {
	for _, records := range []int{10, 1000, 10000} {
		b.Run(fmt.Sprintf("records=%d", records), func(b *testing.B) {
			s, prefixes := benchStore(b, records)
			size, _ := os.Stat(filepath.Join(s.dir, stateFile))
			for i := 0; b.Loop(); i++ {
				changeOne(b, s, prefixes[i%records], i)
			}
			b.ReportMetric(float64(size.Size()), "file-bytes")
		})
	}
}

// BenchmarkChangeBy64 is how long each of 64 callers waits who change records
// all the time.
func BenchmarkChangeBy64(b *testing.B) {
	const callers = 64
	for _, records := range []int{1000, 10000} {
		b.Run(fmt.Sprintf("records=%d", records), func(b *testing.B) {
			s, prefixes := benchStore(b, records)
			s.inFlight = func() int { return callers }
			waits := make([][]time.Duration, callers)
			var wg sync.WaitGroup
			b.ResetTimer()
			for caller := range callers {
				wg.Go(func() {
					for i := range max(1, b.N/callers) {
						begun := time.Now()
						changeOne(b, s, prefixes[(caller+i*callers)%records], i)
						waits[caller] = append(waits[caller], time.Since(begun))
					}
				})
			}
			wg.Wait()
			all := slices.Concat(waits...)
			slices.Sort(all)
			b.ReportMetric(float64(all[len(all)*99/100].Microseconds())/1e3, "p99-ms")
		})
	}
}

func benchStore(b *testing.B, records int) (*store, []string) {
	b.Helper()
	s := lonelyStore(b, nil)
	if _, err := openStore(b.TempDir(), s); err != nil {
		b.Fatal(err)
	}
	table := map[string]*Record{}
	var prefixes []string
	for i := range records {
		prefix := fmt.Sprintf("prefix%05d", i)
		prefixes = append(prefixes, prefix)
		table[prefix] = benchRecord(prefix, i)
	}
	if err := s.begin(table, []Projection{routesProjection}); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.close() })
	return s, prefixes
}

func changeOne(b *testing.B, s *store, prefix string, i int) {
	if err := s.put(benchRecord(prefix, i)); err != nil {
		b.Error(err)
	}
}

// benchRecord is as long as a real one.
func benchRecord(prefix string, i int) *Record {
	started := now()
	return &Record{
		Spec: Spec{
			Prefix: prefix, Port: 5174 + i%20000, Template: "vite", Generation: 1, Image: "caddy-sandbox/vite-demo",
			ContainerPort: 5174, Memory: DefaultMemory, CPUs: DefaultCPUs, Pids: DefaultPids,
			Env: map[string]string{
				"HOST": "0.0.0.0", "PORT": "5174", "SANDBOX_PREFIX": prefix,
				nodeOptions:                              preloadOption, // half of what is written
				"SANDBOX_URL":                            "https://" + prefix + ".sandbox.example.com",
				"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": ".sandbox.example.com",
			},
		},
		Status: Running, Ready: true, Address: "172.18.0.2:5174", CreatedAt: started, StartedAt: &started,
		ContainerID: "2f0c5a2f0c5a2f0c5a2f0c5a2f0c5a2f0c5a2f0c5a2f0c5a2f0c5a2f0c5a2f0c",
	}
}
