package instance

import (
	"errors"
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
)

// idleManager is a Manager of records without an engine and without goroutines.
func idleManager(b testing.TB, n int, change func(i int, r *Record)) *Manager {
	b.Helper()
	m := New(b.TempDir(), nil)
	m.ports = newPorts(0, nil)
	m.openedAt = time.Now()
	hour := Duration(time.Hour)
	m.Use(&Settings{Log: zap.NewNop(), Templates: map[string]Template{"vite": {Lifetime: Lifetime{IdleTimeout: &hour, DeleteAfterStopped: &hour}}}})
	for i := range n {
		r := benchRecord(fmt.Sprintf("prefix%05d", i), i)
		change(i, r)
		m.insert(r.Prefix, &entry{rec: r, endpoint: endpointOf(r), lessons: map[int]lesson{0: {Mode: r.Mode}}})
	}
	return m
}

func asleep(_ int, r *Record) {
	at := now()
	r.Status, r.Ready, r.Reason, r.StoppedAt = Stopped, false, ReasonIdle, &at
}

// BenchmarkSweep is what it costs to look for deadlines that are over, where
// none is, and what 10 000 sleeping instances cost while nothing happens:
//
//	cpu-ppm            CPU time of the sweeps as millionths of the time that
//	                   passes: one a minute
//	bytes-per-instance of the table
func BenchmarkSweep(b *testing.B) {
	const instances = 10_000
	for name, change := range map[string]func(int, *Record){
		"sleeping": asleep,
		"running":  func(int, *Record) {},
	} {
		b.Run(fmt.Sprintf("%s=%d", name, instances), func(b *testing.B) {
			before := heap()
			m := idleManager(b, instances, change)
			perInstance := float64(heap()-before) / instances
			begun := cpuTime(b)
			for b.Loop() {
				if pause := m.sweep(time.Now()); pause != sweepPause {
					b.Fatalf("something is due in %s", pause)
				}
			}
			each := float64(cpuTime(b)-begun) / float64(b.N)
			b.ReportMetric(each/float64(sweepPause)*1e6, "cpu-ppm")
			b.ReportMetric(perInstance, "bytes-per-instance")
			runtime.KeepAlive(m)
		})
	}
}

// BenchmarkRelist is what it costs to compare all records with what the engine
// lists, where nothing has changed, beside what is done every relistPause:
//
//	cpu-ppm  CPU time as millionths of the time that passes
func BenchmarkRelist(b *testing.B) {
	const instances = 10_000
	m := idleManager(b, instances, asleep)
	engine := &listing{up: time.Now()}
	for prefix, e := range m.entries() {
		engine.containers = append(engine.containers, Container{ID: e.rec.ContainerID, Spec: Spec{Prefix: prefix}})
	}
	m.runtime = engine
	if err := m.look(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.Run(fmt.Sprintf("all/sleeping=%d", instances), func(b *testing.B) {
		begun := cpuTime(b)
		for b.Loop() {
			m.sync.due = time.Now()
			if err := m.look(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
		each := (cpuTime(b) - begun) / time.Duration(b.N)
		b.ReportMetric(float64(each)/float64(pauseAfter(each))*1e6, "cpu-ppm")
	})
	b.Run(fmt.Sprintf("between/sleeping=%d", instances), func(b *testing.B) {
		m.sync.due = time.Now().Add(time.Hour)
		begun := cpuTime(b)
		for b.Loop() {
			if err := errors.Join(m.look(b.Context()), m.keepAll(m.entries(), stampPause)); err != nil {
				b.Fatal(err)
			}
		}
		each := float64(cpuTime(b)-begun) / float64(b.N)
		b.ReportMetric(each/float64(relistPause)*1e6, "cpu-ppm")
	})
}

func heap() uint64 {
	runtime.GC()
	runtime.GC() // what the first one only marked
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

// cpuTime is what this process has used of the CPUs.
func cpuTime(b *testing.B) time.Duration {
	b.Helper()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		b.Fatal(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}
