package instance

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"
)

// parallelBoots bounds how many instances are brought back at once, until they
// are ready: more dev servers that start together only make each other late,
// and half of the engine is left to what people ask for.
const parallelBoots = maxInFlight / 2

// bootSoon has the instances brought back that ended with the engine, if that is
// wanted.
func (m *Manager) bootSoon() {
	if !m.settings.Load().StartOnBoot {
		return
	}
	select {
	case m.boots <- struct{}{}:
	default:
	}
}

func (m *Manager) bootLoop() {
	for {
		select {
		case <-m.ctx.Done():
			return
		case <-m.boots:
			m.boot()
		}
	}
}

// boot starts the instances that ended with the engine, the last used first.
// One that fails stops no other; an engine that is down again stops all, and
// its return begins anew.
func (m *Manager) boot() {
	ended := m.endedWithEngine()
	if len(ended) == 0 {
		return
	}
	log, begun := m.log(), time.Now()
	log.Info("starting the instances that ended with the engine", zap.Int("instances", len(ended)))
	group, ctx := errgroup.WithContext(m.ctx)
	group.SetLimit(parallelBoots)
	var started, failed atomic.Int64
	for _, e := range ended {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			ran, err := m.startEnded(ctx, e)
			switch {
			case KindOf(err) == EngineDown:
				return err
			case err != nil: // one that fails stops no other; its own line tells why
				failed.Add(1)
				err = nil
			case ran:
				started.Add(1)
			}
			return err
		})
	}
	err := group.Wait()
	log.Info("started the instances that ended with the engine", zap.Int64("started", started.Load()),
		zap.Int64("failed", failed.Load()), zap.Duration("duration", time.Since(begun)), zap.Error(err))
}

// endedWithEngine lists them, the last used first.
func (m *Manager) endedWithEngine() []*entry {
	type used struct {
		entry *entry
		last  time.Time
	}
	var ended []used
	for _, e := range m.entries() {
		e.mu.Lock()
		if e.rec.endedWithEngine() {
			at := e.lastActive
			if stored := e.rec.LastActiveAt; stored != nil {
				at = later(at, *stored)
			}
			ended = append(ended, used{e, at})
		}
		e.mu.Unlock()
	}
	slices.SortFunc(ended, func(a, b used) int { return b.last.Compare(a.last) })
	entries := make([]*entry, len(ended))
	for i, each := range ended {
		entries[i] = each.entry
	}
	return entries
}

func (r *Record) endedWithEngine() bool { return r.Status == Stopped && r.Reason == ReasonEngine }

// startEnded starts e and returns once it is ready, unless somebody has done
// something about it meanwhile.
func (m *Manager) startEnded(ctx context.Context, e *entry) (ran bool, err error) {
	op := newOperation(ctx, "start", WaitReady)
	if holder, _ := m.claim(ctx, e, op); holder != op { // it is in other hands, or gone
		return false, nil
	}
	if !e.record().endedWithEngine() {
		m.finish(e, op, nil)
		return false, nil
	}
	m.run(e, op, func(ctx context.Context) error { return m.start(ctx, e, op) })
	<-op.done // ends with the Manager at the latest
	return true, op.err
}

// lastAlive is when a process before this one last worked, as far as its state
// file tells; zero: there was none.
func (m *Manager) lastAlive() time.Time {
	info, err := os.Stat(filepath.Join(m.dir, stateFile))
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// noteEnd has lastAlive tell that we worked until now. Where that fails, it
// tells of our last write.
func (m *Manager) noteEnd() {
	ended := time.Now()
	_ = os.Chtimes(filepath.Join(m.dir, stateFile), ended, ended)
}
