package caddymodule

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

const (
	// hookTries and hookBackoff, which doubles, give a program that restarts
	// a quarter of a minute to come back.
	hookTries   = 5
	hookBackoff = time.Second

	// hookLastRuns is what hooks get to end in when the process ends. Service
	// managers kill it after some seconds.
	hookLastRuns = 3 * time.Second
)

// reaction is what a hook does about changed files, paths below the state
// directory. It returns soon after ctx ends.
type reaction func(ctx context.Context, files []string) error

// hook runs its reaction after changes. It has a goroutine only while it has
// something to do, so there is none that had to be ended. Safe for concurrent
// use.
type hook struct {
	name     string // for logs
	act      reaction
	key      hookKey
	files    []string // that count; empty: all
	debounce time.Duration
	timeout  time.Duration // of one run

	ctx    context.Context // of runs; ends with the process
	cancel context.CancelFunc
	hurry  chan struct{} // closed when nobody refers to the hook: no more waiting

	mu      sync.Mutex    // guards the following; never held across a run
	changed []string      // files that no run knows of yet
	idle    chan struct{} // closed when the goroutine ends; nil: there is none
}

func newHook(name string, act reaction) *hook {
	h := &hook{name: name, act: act, hurry: make(chan struct{})}
	h.ctx, h.cancel = context.WithCancel(context.Background())
	return h
}

// notify has the reaction run for file, if that counts. It does not wait for it.
func (h *hook) notify(file string) {
	if len(h.files) > 0 && !slices.Contains(h.files, file) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Contains(h.changed, file) {
		h.changed = append(h.changed, file)
	}
	if h.idle == nil {
		h.idle = make(chan struct{})
		go h.work()
	}
}

// take returns the changed files. When there are none, the goroutine is over.
func (h *hook) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	files := h.changed
	h.changed = nil
	if len(files) == 0 {
		close(h.idle)
		h.idle = nil
	}
	return files
}

// work runs the reaction until no file is changed.
func (h *hook) work() {
	for {
		h.pause(h.debounce)
		files := h.take()
		if len(files) == 0 {
			return
		}
		h.run(files)
	}
}

// run runs the reaction for files until it succeeds, or too often failed.
// Changes that come meanwhile are the next run's.
func (h *hook) run(files []string) {
	backoff := hookBackoff
	for try := 1; ; try++ {
		err := h.try(files)
		// The log is asked for anew: a hook outlives configurations.
		log := caddy.Log().Named("sandbox").With(
			zap.String("hook", h.name), zap.Strings("files", files), zap.Int("try", try))
		switch {
		case err == nil:
			log.Debug("reload hook ran")
			return
		case try == hookTries || h.hurried():
			log.Error("reload hook failed; the next change tries again", zap.Error(err))
			return
		}
		log.Warn("reload hook failed", zap.Error(err), zap.Duration("again_in", backoff))
		h.pause(backoff)
		backoff *= 2
	}
}

func (h *hook) try(files []string) error {
	ctx, cancel := context.WithTimeout(h.ctx, h.timeout)
	defer cancel()
	return h.act(ctx, files)
}

func (h *hook) pause(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-h.hurry:
	}
}

func (h *hook) hurried() bool {
	select {
	case <-h.hurry:
		return true
	default:
		return false
	}
}

// Destruct implements caddy.Destructor: no configuration has the hook any
// more. What it still has to do it does at once, and once, in the background.
func (h *hook) Destruct() error {
	close(h.hurry)
	return nil
}

// releaseHooks gives back what acquire returned. If the process is about to
// end, the hooks end first.
func releaseHooks(all []*hook) error {
	var err error
	for _, h := range all {
		_, failed := hooks.Delete(h.key)
		err = errors.Join(err, failed)
	}
	if caddy.Exiting() {
		endHooks(all, hookLastRuns)
	}
	return err
}

// endHooks waits until all have done what they had to, or patience is over;
// then it has their runs cut short.
func endHooks(all []*hook, patience time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for _, h := range all {
		select {
		case <-h.ended():
		case <-ctx.Done():
			h.cancel()
			<-h.ended()
		}
	}
}

// ended is closed when the hook has nothing to do.
func (h *hook) ended() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle == nil {
		idle := make(chan struct{})
		close(idle)
		return idle
	}
	return h.idle
}
