package instance

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.uber.org/zap"
)

// CreateRequest is what a caller may choose about a new instance. Nil takes
// the default; an empty string is a value and is checked as one.
type CreateRequest struct {
	Prefix   *string
	Template *string
	Port     *int
	Env      map[string]string
	Labels   map[string]string
	Lifetime
	// Ports are container ports to be reached besides the template's.
	Ports []int `json:",omitempty"`
	// Wait is how long the caller waits; the zero value means WaitReady.
	Wait Wait `json:"-"`
	// IdempotencyKey makes a repeated request return the first one's instance.
	IdempotencyKey string `json:"-"`
}

// Create makes an instance and returns it once it has come as far as req.Wait
// says. A create that fails leaves nothing, unless its caller was answered
// before: then the instance stays, failed, with the reason.
func (m *Manager) Create(ctx context.Context, req CreateRequest) (Instance, error) {
	if err := checkCreate(req); err != nil {
		return Instance{}, err
	}
	if err := m.isOpen(); err != nil {
		return Instance{}, err
	}
	if err := m.sync.await(ctx); err != nil {
		return Instance{}, err
	}
	if err := m.mayCreate(); err != nil {
		return Instance{}, err
	}
	hash := req.hash()
	if first, err := m.firstAnswer(req.IdempotencyKey, hash); first != nil || err != nil {
		return m.join(ctx, first, req, err)
	}
	rec, spare, err := m.plan(ctx, req)
	if err != nil {
		return Instance{}, err
	}
	if req.IdempotencyKey != "" {
		rec.IdempotencyKey, rec.RequestHash = req.IdempotencyKey, hash
	}

	op := newOperation(ctx, "create", req.Wait)
	e := &entry{rec: rec, op: op, reserved: true}
	if winner, err := m.reserve(e, req.Prefix == nil); winner != nil || err != nil {
		m.letGo(spare)
		return m.join(ctx, winner, req, err)
	}
	if spare != nil {
		op.passed("reserved")
		m.run(e, op, func(ctx context.Context) error { return m.createFrom(ctx, spare, e, op) })
		return m.await(ctx, e, op, req.Wait)
	}
	if op.quit, err = m.gate.join(); err != nil {
		m.remove(rec.Prefix)
		m.finish(e, op, err) // others may have joined it
		return Instance{}, err
	}
	op.passed("reserved")
	m.run(e, op, func(ctx context.Context) error { return m.create(ctx, e, op, req.Port) })
	return m.await(ctx, e, op, req.Wait)
}

// plan turns the request into the record that it asks for, without a port. If
// there is a spare to take, that is seized.
func (m *Manager) plan(ctx context.Context, req CreateRequest) (planned *Record, spare *entry, err error) {
	s := m.settings.Load()
	name, template, err := s.template(req.Template)
	if err != nil {
		return nil, nil, err
	}
	prefix := generatePrefix(s.PrefixLength)
	if req.Prefix != nil {
		prefix = *req.Prefix
		if err := checkPrefix(prefix, s.Reserved); err != nil {
			return nil, nil, err
		}
		if err := m.freePrefix(ctx, prefix); err != nil {
			return nil, nil, err
		}
	}
	spare = m.seizeSpare(req, name)
	if spare != nil && req.Prefix == nil {
		prefix = spare.record().Spare
	}
	spec := template.spec(prefix, name, req, s)
	if spec.LateEnv != "" {
		spec.LateDir = m.lateDir(prefix)
	}
	return &Record{
		Spec:      spec,
		Late:      template.late(prefix, req.Env, spec, s),
		Lifetime:  req.Lifetime,
		Status:    Creating,
		CreatedAt: now(),
	}, spare, nil
}

// template finds the template that a caller named, or the default one.
func (s *Settings) template(name *string) (string, Template, error) {
	wanted := s.DefaultTemplate
	if name != nil {
		wanted = *name
	}
	if t, ok := s.Templates[wanted]; ok {
		return wanted, t, nil
	}
	names := slices.Sorted(maps.Keys(s.Templates))
	err := Errorf(NoTemplate, "no template %q: choose one of %s", wanted, strings.Join(names, ", "))
	if name == nil {
		err.Message = "template is missing: name one of " + strings.Join(names, ", ")
	}
	return "", Template{}, err.With("templates", names)
}

// reserve puts e into the table. Where a request with the same idempotency key
// was faster, it returns that one's entry.
func (m *Manager) reserve(e *entry, generated bool) (winner *entry, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if key := e.rec.IdempotencyKey; key != "" {
		if first := m.table[m.keys[key]]; first != nil {
			return first, checkSame(first.record(), e.rec.RequestHash)
		}
	}
	switch taken := m.table[e.rec.Prefix] != nil; {
	case taken && generated: // 36^8 at the least: do not trust the source of randomness any more
		return nil, Errorf(Internal, "generated the prefix %s twice", e.rec.Prefix)
	case taken:
		return nil, Errorf(PrefixTaken, "prefix already exists")
	case !generated && m.isBornLocked(e.rec.Prefix):
		return nil, Errorf(PrefixTaken, "prefix is taken: the container of another instance was made for it")
	}
	m.table[e.rec.Prefix] = e
	if e.rec.IdempotencyKey != "" {
		m.keys[e.rec.IdempotencyKey] = e.rec.Prefix
	}
	return nil, nil
}

// create does the work: intent, container, readiness, record; or undoes it.
func (m *Manager) create(ctx context.Context, e *entry, op *operation, port *int) error {
	rec := *e.record()
	if err := m.writeIntent(ctx, e, &rec, port); err != nil {
		m.forget(rec, nil)
		return err
	}
	op.passed("intent")
	close(op.intent)
	err := m.build(ctx, e, op, &rec, port != nil)
	switch {
	case err == nil || ctx.Err() != nil: // cut short by Close: the next Open undoes it
	case op.answered() && op.wanted.Err() != nil:
		rec.Status = Starting
		return m.makeWay(e, rec)
	case op.answered():
		m.markFailed(ctx, e, rec, err)
	default:
		m.undoCreate(ctx, rec)
	}
	return err
}

// build takes rec from its intent to running; fixed: on this port or none.
func (m *Manager) build(ctx context.Context, e *entry, op *operation, rec *Record, fixed bool) error {
	if err := m.pull(ctx, rec.Spec); err != nil {
		return err
	}
	if err := m.addPreload(ctx, rec); err != nil {
		return err
	}
	if err := m.writeLate(rec); err != nil {
		return err
	}
	err := m.gate.do(ctx, func() error { return m.launch(ctx, rec, fixed) })
	op.quit()
	if err != nil {
		return err
	}
	if told := m.settings.Load().Created; told != nil && !isSpare(rec.Prefix) {
		told(rec.Prefix)
	}
	err = m.complete(ctx, e, op, rec)
	if isBadOption(err) && rec.hasPreload() {
		return m.buildWithoutPreload(ctx, e, op, rec, fixed)
	}
	return err
}

// complete takes rec from a container that was started to running.
func (m *Manager) complete(ctx context.Context, e *entry, op *operation, rec *Record) error {
	// Of a start, the intent is durable; of a create, only what its caller was told.
	promised := rec.Status == Starting
	if err := m.recordStart(ctx, e, op, rec, promised); err != nil {
		return err
	}
	waiting, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(op.wanted, stop)()
	if err := m.awaitReady(waiting, rec, e.opened); err != nil {
		return err
	}
	rec.Status, rec.Ready = Running, true
	op.brief.Store(true) // who sees that it runs may go on with it
	if promised {
		op.serve(e, *rec)
	}
	err := m.record(e, rec, promised || op.wait == WaitStarted)
	op.passed("recorded")
	return err
}

// record makes rec durable, which runs. What was promised runs on, whatever
// becomes of the write; a create that nobody was told of is acknowledged by it.
func (m *Manager) record(e *entry, rec *Record, promised bool) error {
	if promised {
		m.note(e, rec)
		return nil
	}
	return m.save(e, rec)
}

func (m *Manager) writeIntent(ctx context.Context, e *entry, rec *Record, port *int) (err error) {
	if rec.Port, err = m.takePort(ctx, port); err != nil {
		return err
	}
	intent := *rec
	if err := m.save(e, &intent); err != nil {
		m.ports.free(rec.Port)
		return err
	}
	e.mu.Lock()
	e.reserved = false
	e.mu.Unlock()
	return nil
}

// portDeadline bounds the search for a port that the engine can bind.
const portDeadline = 30 * time.Second

// launch makes and starts rec's container. The engine's bind is the truth
// about ports: where it finds rec.Port taken, launch goes on to the next free
// one, unless the caller asked for this one.
func (m *Manager) launch(ctx context.Context, rec *Record, fixed bool) error {
	r := m.settings.Load().Ports
	var refused []int // kept until the end, so that none is tried twice
	defer func() {
		for _, port := range refused {
			m.ports.refused(port)
		}
	}()
	for begun := time.Now(); ; {
		err := m.startNew(ctx, rec, true)
		if KindOf(err) != PortTaken {
			return err
		}
		if err := m.runtime.Remove(ctx, ContainerName(rec.Prefix)); err != nil {
			return err
		}
		if fixed {
			return m.ports.refuse(r, "port %d is taken by another process", rec.Port)
		}
		if time.Since(begun) > portDeadline {
			return Errorf(NoFreePort, "no port found in %s that Docker can bind", portDeadline).With("range", r.String())
		}
		next, err := m.nextPort(ctx, rec)
		if err != nil {
			return err
		}
		refused = append(refused, rec.Port)
		rec.Port = next
	}
}

// pull gets the image ready before the engine's time is asked for.
func (m *Manager) pull(ctx context.Context, spec Spec) error {
	if runtime, ok := m.runtime.(Pulling); ok {
		return runtime.Pull(ctx, spec)
	}
	return nil
}

// startNew makes rec's container and starts it. pulled tells that its image is
// as its pull policy wants it.
func (m *Manager) startNew(ctx context.Context, rec *Record, pulled bool) error {
	spec := rec.Spec
	if pulled && spec.Pull == PullAlways {
		spec.Pull = PullMissing
	}
	id, err := m.runtime.Create(ctx, spec)
	if err != nil {
		return err
	}
	rec.ContainerID = id
	failpoint("create.created")
	return m.startSurely(ctx, id)
}

// recordStart notes what the engine says of the started container. Where the
// caller waits for no more, this is the acknowledgement and has to be durable,
// unless it is promised: see record.
func (m *Manager) recordStart(ctx context.Context, e *entry, op *operation, rec *Record, promised bool) error {
	op.passed("started")
	c, err := m.inspectSurely(ctx, rec)
	if err != nil {
		return lostContainer(err)
	}
	rec.follow(c)
	e.ranUp()
	if op.wait == WaitStarted {
		running := *rec
		running.Status = Running
		if err := m.record(e, &running, promised); err != nil {
			return err
		}
	}
	op.markStarted()
	return nil
}

// inspectSurely looks at a container that was just started, again and again
// where the engine does not answer: it may run well.
func (m *Manager) inspectSurely(ctx context.Context, rec *Record) (Container, error) {
	for deadline := time.Now().Add(m.readyLimit(rec.Template)); ; {
		c, err := m.runtime.Inspect(ctx, ContainerName(rec.Prefix))
		if kind := KindOf(err); kind != Timeout && kind != EngineDown || time.Now().After(deadline) {
			return c, err
		}
		select {
		case <-time.After(inspectPause):
		case <-ctx.Done():
			return c, context.Cause(ctx)
		}
	}
}

// lostContainer is err, but for a container that somebody removed while we
// brought it up: the instance is not what was not found.
func lostContainer(err error) error {
	if KindOf(err) == NotFound {
		return Errorf(EngineFailed, "the container was removed from outside during its start: try again")
	}
	return err
}

// follow takes over what c says of the container's incarnation.
func (r *Record) follow(c Container) {
	started := c.StartedAt.UTC().Truncate(time.Millisecond)
	r.Adopted = r.Adopted && r.ContainerID == c.ID
	r.ContainerID, r.StartedAt, r.Address = c.ID, &started, ""
	if isSpare(r.Prefix) {
		r.ImageID = c.ImageID
	}
	if c.Address.IsValid() {
		r.Address = c.Address.String()
	}
}

// undoCreate takes back a create that failed: container, record, port.
func (m *Manager) undoCreate(ctx context.Context, rec Record) {
	err := m.gate.do(ctx, func() error { return m.runtime.Remove(ctx, ContainerName(rec.Prefix)) })
	if err != nil && KindOf(err) != NotFound {
		m.log().Warn("removing the container of a failed create; reconcile will try again",
			zap.String("prefix", rec.Prefix), zap.Error(err))
	}
	failpoint("undo.removed")
	m.forget(rec, m.store.drop(rec.Prefix))
	failpoint("undo.tombstone")
	m.ports.free(rec.Port)
}

// forget takes rec out of the table. If err kept that from being durable, the
// record on disk still says creating or deleting, and the next Open ends it.
func (m *Manager) forget(rec Record, err error) {
	if err != nil {
		m.log().Warn("writing the end of an instance; the next write does it",
			zap.String("prefix", rec.Prefix), zap.Error(err))
	}
	m.removeLate(rec)
	m.remove(rec.Prefix)
}

// firstAnswer finds the entry that an earlier request with key made.
func (m *Manager) firstAnswer(key, hash string) (*entry, error) {
	if key == "" {
		return nil, nil
	}
	m.mu.RLock()
	first := m.table[m.keys[key]]
	m.mu.RUnlock()
	if first == nil {
		return nil, nil
	}
	return first, checkSame(first.record(), hash)
}

func checkSame(first *Record, hash string) error {
	if first.RequestHash == hash {
		return nil
	}
	return badField("Idempotency-Key", "this Idempotency-Key was used for another request: take a new one",
		"a key for this request alone")
}

// join waits with the first request of an idempotency key, and as long as that
// one does: only its wait decides what is left of a create that fails. Where
// the first has failed meanwhile, req is the first again.
func (m *Manager) join(ctx context.Context, first *entry, req CreateRequest, err error) (Instance, error) {
	if err != nil {
		return Instance{}, err
	}
	first.mu.Lock()
	op, gone, rec := first.op, first.gone, first.rec
	first.mu.Unlock()
	switch {
	case gone:
		return m.Create(ctx, req)
	case rec.Status == Deleting:
		return Instance{}, busy(rec)
	case op == nil || op.name != "create":
		return m.view(first), nil
	}
	return m.await(ctx, first, op, op.wait)
}

// hash tells requests of one idempotency key apart.
func (req CreateRequest) hash() string {
	body, err := json.Marshal(req)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:16])
}

// The bounds of what a caller may send along.
const (
	maxEnv        = 128
	maxEnvBytes   = 32 << 10
	maxLabels     = 32
	maxLabelBytes = 256
	maxKeyBytes   = 255
)

var (
	keyGrammar   = regexp.MustCompile(fmt.Sprintf(`^[ -~]{0,%d}$`, maxKeyBytes)) // JSON keeps these as they are
	envGrammar   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	labelGrammar = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
)

// What errors about them say is allowed.
var (
	envAllowed = []string{
		"names that match " + envGrammar.String() + " and do not begin with SANDBOX_",
		fmt.Sprintf("at most %d entries and %d bytes", maxEnv, maxEnvBytes),
		"no NUL bytes",
	}
	labelsAllowed = []string{
		"keys that match " + labelGrammar.String(),
		fmt.Sprintf("at most %d labels, with values of at most %d bytes", maxLabels, maxLabelBytes),
		"no NUL bytes",
	}
)

// checkCreate checks what needs no configuration.
func checkCreate(req CreateRequest) error {
	if err := checkWait(req.Wait); err != nil {
		return err
	}
	if !keyGrammar.MatchString(req.IdempotencyKey) {
		return badField("Idempotency-Key", fmt.Sprintf("Idempotency-Key must be at most %d printable ASCII characters", maxKeyBytes),
			fmt.Sprintf("at most %d printable ASCII characters", maxKeyBytes))
	}
	if err := checkEnv(req.Env); err != nil {
		return err
	}
	if err := checkPorts(req.Ports); err != nil {
		return err
	}
	if err := req.Lifetime.Check(); err != nil {
		return err
	}
	return checkLabels(req.Labels)
}

func checkEnv(env map[string]string) error {
	if len(env) > maxEnv {
		return badField("env", fmt.Sprintf("env has %d entries: at most %d are allowed", len(env), maxEnv), envAllowed...)
	}
	size := 0
	for _, name := range slices.Sorted(maps.Keys(env)) {
		size += len(name) + len(env[name])
		switch {
		case !envGrammar.MatchString(name):
			return badField("env", fmt.Sprintf("env name %s is malformed: it must match %s", quote(name), envGrammar), envAllowed...)
		case strings.HasPrefix(name, "SANDBOX_"):
			return badField("env", "env names that begin with SANDBOX_ are set by the server", envAllowed...)
		case strings.ContainsRune(env[name], 0):
			return badField("env", fmt.Sprintf("env value of %s has a NUL byte", name), envAllowed...)
		}
	}
	if size > maxEnvBytes {
		return badField("env", fmt.Sprintf("env has %d bytes: at most %d are allowed", size, maxEnvBytes), envAllowed...)
	}
	return nil
}

func checkLabels(labels map[string]string) error {
	if len(labels) > maxLabels {
		return badField("labels", fmt.Sprintf("there are %d labels: at most %d are allowed", len(labels), maxLabels), labelsAllowed...)
	}
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		switch {
		case !labelGrammar.MatchString(key):
			return badField("labels", fmt.Sprintf("label key %s is malformed: it must match %s", quote(key), labelGrammar), labelsAllowed...)
		case len(labels[key]) > maxLabelBytes:
			return badField("labels", fmt.Sprintf("label %s is longer than %d bytes", key, maxLabelBytes), labelsAllowed...)
		case strings.ContainsRune(labels[key], 0):
			return badField("labels", fmt.Sprintf("label %s has a NUL byte", key), labelsAllowed...)
		}
	}
	return nil
}

// quote makes a stranger's text safe and short enough for a message.
func quote(s string) string {
	if len(s) > 63 {
		s = s[:63] + "…"
	}
	return strconv.Quote(s)
}

// badField is the error for a part of a request that is not what it may be.
func badField(field, message string, allowed ...string) *Error {
	return Errorf(BadRequest, "%s", message).With("field", field).With("allowed", allowed)
}
