package caddymodule

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/dockerops"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// engines holds one engine for each state directory, for as long as any
// configuration refers to it: across a reload, the old and the new one do.
var engines = caddy.NewUsagePool()

// inForce are the configurations that were started and not stopped. The last
// one holds; during a reload there are two, and if the reload fails halfway
// the first one holds again, though Caddy tells it nothing.
var inForce stack

// newRuntime makes the container engine's client. Tests put their own here.
var newRuntime = func(docker, owner string) (instance.Runtime, error) {
	client, err := dockerops.New(dockerops.Options{Host: docker, Owner: owner})
	if err != nil {
		return nil, err
	}
	return client, nil
}

// engine is what outlives a configuration: the Manager of one state directory.
type engine struct {
	dir     string
	docker  string // where the container engine listens, fixed when the Manager is opened
	manager *instance.Manager
	ledger  *tlsLedger
	ahead   *aheadMaker
	wakes   wakeBudget
	leaving context.Context // ends when the process does: see endOfWaits
	leave   func()
	open    func() error // opens Manager and ledger the first time; the outcome is for good
}

// acquireEngine returns the engine of dir; release gives it back.
func acquireEngine(dir, docker string) (*engine, error) {
	e, _, err := engines.LoadOrNew(dir, func() (caddy.Destructor, error) { return newEngine(dir, docker), nil })
	if err != nil {
		return nil, err
	}
	return e.(*engine), nil
}

func newEngine(dir, docker string) *engine {
	manager := instance.New(dir, func(owner string) (instance.Runtime, error) { return newRuntime(docker, owner) })
	e := &engine{dir: dir, docker: docker, manager: manager, ledger: newTLSLedger(dir), ahead: newAheadMaker(makeAhead)}
	e.leaving, e.leave = context.WithCancel(context.Background())
	e.open = sync.OnceValue(func() error {
		if err := manager.Open(); err != nil {
			return err
		}
		return e.ledger.open(caddy.Log().Named("sandbox"))
	})
	return e
}

func (e *engine) release() error {
	_, err := engines.Delete(e.dir)
	return err
}

// Destruct implements caddy.Destructor: no configuration refers to e any more.
// Requests that began under one may still ask the Manager, which bears it.
func (e *engine) Destruct() error {
	e.leave()
	e.ahead.close()
	return e.manager.Close()
}

// attach puts a in force, or says why it cannot be. Caddy calls it, and
// detach, for one configuration at a time.
func (e *engine) attach(a *App) error {
	if err := mayFollow(inForce.top(), a); err != nil {
		return fmt.Errorf("sandbox: %w", err)
	}
	e.manager.Use(a.settings)
	if err := e.open(); err != nil {
		return fmt.Errorf("sandbox: opening the state directory %s: %w", e.dir, err)
	}
	inForce.push(a)
	return nil
}

// detach takes a out of force; it does nothing if a is not.
func (e *engine) detach(a *App) {
	if below := inForce.remove(a); below != nil {
		below.engine.manager.Use(below.settings)
	}
}

// mayFollow reports what a reload from old to a must not change. Only the
// instances know their state directory, so leaving it would orphan them.
func mayFollow(old, a *App) error {
	if old == nil {
		return nil
	}
	if old.engine == a.engine {
		if a.dockerHost != a.engine.docker {
			return fmt.Errorf("docker cannot change from %q to %q by a reload: restart Caddy", a.engine.docker, a.dockerHost)
		}
		return nil
	}
	for template, pool := range old.manager().Pools() {
		if pool.Ready > 0 {
			return fmt.Errorf("state_dir cannot change from %s to %s while the template %s has a pool: take the word pool out first",
				old.engine.dir, a.engine.dir, template)
		}
	}
	page, err := old.manager().List(instance.Query{Limit: 1})
	if err != nil {
		return err
	}
	if page.Total > 0 {
		return fmt.Errorf("state_dir cannot change from %s to %s while there are instances (%d): delete them first, or stop Caddy and move the folder",
			old.engine.dir, a.engine.dir, page.Total)
	}
	return nil
}

// stack is a stack whose top can be read without a lock.
type stack struct {
	mu   sync.Mutex
	apps []*App
	last atomic.Pointer[App]
}

// top returns the configuration in force; nil if none is.
func (s *stack) top() *App { return s.last.Load() }

func (s *stack) push(a *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.apps = append(s.apps, a)
	s.last.Store(a)
}

// remove takes a out. If that brings another one to the top, it is returned.
func (s *stack) remove(a *App) (uncovered *App) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.apps, a)
	if i < 0 {
		return nil
	}
	s.apps = slices.Delete(s.apps, i, i+1)
	if i < len(s.apps) { // a was below another one
		return nil
	}
	if i > 0 {
		uncovered = s.apps[i-1]
	}
	s.last.Store(uncovered)
	return uncovered
}
