package instancetest

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Image is the image that an [Engine] has from the start.
const Image = "caddy-sandbox/testserver"

// grace is the time from asking a container to end to killing it.
const grace = 5 * time.Second

// defaultDeadline bounds each call, as dockerops does.
const defaultDeadline = 30 * time.Second

// Engine is a container engine in memory. Its containers run package
// devserver, in the mode that TEST_MODE in their environment names, on
// 127.0.0.1 and their host port; they have an address of their own only after
// [Engine.GiveAddresses]. They
// survive the runtimes that made them, so a test restarts a manager by asking
// for another [Engine.Runtime] of the same owner. Safe for concurrent use.
//
// The methods of Engine itself act by hand, past any runtime; they take a
// container's id or name and do nothing if there is none.
type Engine struct {
	mu         sync.Mutex
	containers map[string]*container // by name
	images     map[string]bool
	imageEnv   map[string]string // of every image
	imageIDs   map[string]string // by name; see Retag
	watchers   map[chan instance.Event]bool
	calls      map[string]int
	fault      Hook
	loss       Hook
	deadline   time.Duration
	dropEvents bool
	down       bool      // calls fail
	addresses  bool      // see GiveAddresses
	up         time.Time // since when it is; zero: see HideStart
	lastPID    int
}

// Hook is called with the name of a Runtime method and the name of the
// container it is about, whatever ref the caller gave; an empty one in List.
// An error fails the call: as it is if it is an *instance.Error, as Timeout if
// ctx ended, else as EngineFailed. To delay a call, block; to hang it, block
// until ctx ends. It must be safe for concurrent use.
type Hook func(ctx context.Context, call, name string) error

// NewEngine returns an engine without containers that knows [Image]. All its
// containers are removed when the test ends.
func NewEngine(t testing.TB) *Engine {
	e := &Engine{
		containers: map[string]*container{},
		images:     map[string]bool{Image: true},
		imageIDs:   map[string]string{},
		watchers:   map[chan instance.Event]bool{},
		calls:      map[string]int{},
		deadline:   defaultDeadline,
		lastPID:    1,
		up:         time.Now(),
	}
	t.Cleanup(func() {
		for _, c := range e.Containers() {
			e.RemoveByHand(c.ID)
		}
	})
	return e
}

// Runtime returns the Runtime of the manager named owner.
func (e *Engine) Runtime(owner string) *Memory { return &Memory{engine: e, owner: owner} }

// Fault has hook called before the engine does what a call asks; the engine
// then does nothing if hook returns an error. Nil removes it.
func (e *Engine) Fault(hook Hook) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fault = hook
}

// LoseAnswer has hook called after the engine did what a call asked; its error
// hides the success. Nil removes it.
func (e *Engine) LoseAnswer(hook Hook) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.loss = hook
}

// SetDeadline bounds each call from now on; without it, 30 s do.
func (e *Engine) SetDeadline(d time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.deadline = d
}

// SetImages replaces the images that the engine has; others are ImageMissing.
func (e *Engine) SetImages(names ...string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.images = map[string]bool{}
	for _, name := range names {
		e.images[name] = true
	}
}

// SetImageEnv says what variables the images bring.
func (e *Engine) SetImageEnv(env map[string]string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.imageEnv = maps.Clone(env)
}

// Retag has the name of an image mean another image from now on.
func (e *Engine) Retag(name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.imageIDs[name] = "sha256:" + newID()
}

// imageID is the image that a name means. The caller holds e.mu.
func (e *Engine) imageIDLocked(name string) string {
	return cmp.Or(e.imageIDs[name], "sha256:"+name)
}

// Calls counts the calls of a Runtime method so far, failed ones included.
func (e *Engine) Calls(method string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[method]
}

// DropEvents loses all events until it is called with false, for tests of what
// notices a change without them.
func (e *Engine) DropEvents(drop bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.dropEvents = drop
}

// GiveAddresses has containers that are started from now on be reached at an
// address of their own too, as those of a Docker Engine on the same host: one
// of 127.0.0.0/8, all of which is this host's.
func (e *Engine) GiveAddresses() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.addresses = true
}

// Reconnect gives every Watch the zero event that follows a reconnection.
func (e *Engine) Reconnect() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.notifyLocked(instance.Event{})
}

// Restart goes down with all that runs, and comes back. No event tells of the
// ends, but every Watch is reconnected. Calls fail meanwhile.
func (e *Engine) Restart() {
	e.setDown(true)
	for _, c := range e.Containers() {
		e.StopByHand(c.ID)
	}
	e.setDown(false)
	e.Reconnect()
}

func (e *Engine) setDown(down bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.down, e.dropEvents = down, down
	if !down && !e.up.IsZero() {
		e.up = time.Now()
	}
}

// HideStart has it tell no more when it was started.
func (e *Engine) HideStart() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.up = time.Time{}
}

// Containers returns the containers of all owners, ordered by name.
func (e *Engine) Containers() []instance.Container {
	e.mu.Lock()
	defer e.mu.Unlock()
	var all []instance.Container
	for _, name := range slices.Sorted(maps.Keys(e.containers)) {
		all = append(all, e.containers[name].inspect())
	}
	return all
}

// StartByHand starts a container and reports a taken port.
func (e *Engine) StartByHand(ref string) error { return e.start(e.find(ref)) }

// StopByHand stops a container as Runtime.Stop does.
func (e *Engine) StopByHand(ref string) { _ = e.stop(context.Background(), e.find(ref)) }

// RemoveByHand kills and removes a container.
func (e *Engine) RemoveByHand(ref string) { _ = e.remove(context.Background(), e.find(ref)) }

// HangByHand has what runs in a container answer nothing any more. The engine
// sees nothing of it.
func (e *Engine) HangByHand(ref string) {
	if r := e.runOf(e.find(ref)); r != nil {
		r.inside.port.freeze()
	}
}

// find returns the container of an id or a name; nil if there is none.
func (e *Engine) find(ref string) *container {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c := e.containers[ref]; c != nil {
		return c
	}
	for _, c := range e.containers {
		if c.id == ref {
			return c
		}
	}
	return nil
}

func (e *Engine) create(owner string, spec instance.Spec) (id string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	name := instance.ContainerName(spec.Prefix)
	if e.containers[name] != nil {
		return "", instance.Errorf(instance.EngineFailed, "the container name %s is already in use", name)
	}
	c := &container{
		id: newID(), name: name, owner: owner, imageID: e.imageIDLocked(spec.Image),
		spec: asEngineKeeps(spec, e.imageEnv), created: time.Now(),
	}
	e.containers[name] = c
	e.changedLocked(c)
	return c.id, nil
}

// asEngineKeeps is spec as it can be read back: with what images bring, and
// without what no engine remembers.
func asEngineKeeps(spec instance.Spec, imageEnv map[string]string) instance.Spec {
	env := map[string]string{}
	maps.Copy(env, imageEnv)
	maps.Copy(env, spec.Env)
	spec = cloneSpec(spec)
	spec.Pull, spec.Env = "", env
	if _, set := spec.Env["PATH"]; !set {
		spec.Env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	}
	return spec
}

func (e *Engine) rename(c *container, name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case c == nil || e.containers[c.name] != c || c.spec.Spare == "":
		return errNoContainer
	case c.name == name:
		return nil
	case e.containers[name] != nil:
		return instance.Errorf(instance.EngineFailed, "the container name %s is already in use", name)
	}
	delete(e.containers, c.name)
	c.name = name
	c.spec.Prefix, _ = instance.KeyOf(name)
	e.containers[name] = c
	e.changedLocked(c)
	return nil
}

func newID() string {
	var id [32]byte
	_, _ = rand.Read(id[:])
	return hex.EncodeToString(id[:])
}

// start holds the lock over the bind, which never blocks, so that two starts
// of one container cannot both run it.
func (e *Engine) start(c *container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c == nil || e.containers[c.name] != c {
		return errNoContainer
	}
	if c.run != nil {
		e.thawLocked(c)
		return nil
	}
	port, err := publish(c.spec.Port)
	if errors.Is(err, syscall.EADDRINUSE) {
		c.exitCode = 128 // so does Docker
		return instance.Errorf(instance.PortTaken, "starting container %s: port %d is taken", c.name, c.spec.Port)
	}
	if err != nil {
		return instance.Errorf(instance.EngineFailed, "starting container %s: %w", c.name, err)
	}
	e.runLocked(c, port)
	e.changedLocked(c)
	return nil
}

func (e *Engine) pause(c *container) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case c == nil || e.containers[c.name] != c:
		return errNoContainer
	case c.run == nil:
		return instance.Errorf(instance.EngineFailed, "container %s is not running", c.name)
	case !c.run.paused:
		c.run.paused = true
		c.run.inside.port.freeze()
		e.changedLocked(c)
	}
	return nil
}

func (e *Engine) thawLocked(c *container) {
	if c.run != nil && c.run.paused {
		c.run.paused = false
		c.run.inside.port.thaw()
		e.changedLocked(c)
	}
}

func (e *Engine) runLocked(c *container, port *published) {
	asked, term := context.WithCancel(context.Background())
	alive, kill := context.WithCancel(context.Background())
	e.lastPID++
	pid := e.lastPID
	r := &run{inside: &inside{port: port}, term: term, kill: kill, ended: make(chan struct{}), begun: c.output.size()}
	if e.addresses {
		r.inside.address = randomAddress()
	}
	c.run, c.started, c.exitCode, c.oomKilled = r, time.Now(), 0, false
	go func() {
		defer close(r.ended)
		exitCode, oomKilled := c.serve(alive, asked, pid, r.inside)
		term()
		kill()
		r.inside.close()
		e.mu.Lock()
		defer e.mu.Unlock()
		c.run, c.finished, c.exitCode, c.oomKilled = nil, time.Now(), exitCode, oomKilled
		e.changedLocked(c)
	}()
}

// stop returns when c has ended; if ctx ends first, c may still end later.
func (e *Engine) stop(ctx context.Context, c *container) error {
	r := e.runOf(c)
	if r == nil {
		return nil
	}
	e.mu.Lock()
	e.thawLocked(c)
	e.mu.Unlock()
	r.term()
	patience := time.NewTimer(grace)
	defer patience.Stop()
	select {
	case <-r.ended:
		return nil
	case <-patience.C:
		r.kill()
	case <-ctx.Done():
		return ctx.Err()
	}
	<-r.ended
	return nil
}

func (e *Engine) remove(ctx context.Context, c *container) error {
	if r := e.runOf(c); r != nil {
		r.kill()
		select {
		case <-r.ended:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if c != nil && e.containers[c.name] == c {
		delete(e.containers, c.name)
		e.changedLocked(c)
	}
	return nil
}

func (e *Engine) runOf(c *container) *run {
	e.mu.Lock()
	defer e.mu.Unlock()
	if c == nil {
		return nil
	}
	return c.run
}

func (e *Engine) changedLocked(c *container) {
	e.notifyLocked(instance.Event{Prefix: c.spec.Prefix})
}

// notifyLocked never waits for a watcher: one that is too slow misses events.
func (e *Engine) notifyLocked(event instance.Event) {
	if e.dropEvents {
		return
	}
	for watcher := range e.watchers {
		select {
		case watcher <- event:
		default:
		}
	}
}

// begin counts a call and returns what bounds and disturbs it.
func (e *Engine) begin(method string) (deadline time.Duration, fault, loss Hook) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.calls[method]++
	if e.down {
		return e.deadline, isDown, nil
	}
	return e.deadline, e.fault, e.loss
}

func isDown(context.Context, string, string) error {
	return instance.Errorf(instance.EngineDown, "the engine is down")
}

// nameOf is the name of the container that ref means, known or not.
func (e *Engine) nameOf(ref string) string {
	if c := e.find(ref); c != nil {
		return c.name
	}
	return ref
}

// hasImage ignores the tag latest, which a name without one means.
func (e *Engine) hasImage(name string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.images[strings.TrimSuffix(name, ":latest")] || e.images[name]
}
