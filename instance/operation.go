package instance

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// operation is work in progress on one instance; while it lasts it alone may
// change the record. It runs on the Manager's context; callers wait for it on
// theirs and may leave.
type operation struct {
	name    string // create, delete, start, stop, restart: the log's word
	request string // the request id of who asked for it
	wait    Wait   // how long that caller waits
	retries bool   // a visitor asked for this start: it may be of what has failed
	quit    func() // gives up the place in the engine's queue
	// giveBack undoes what a start for visitors took out of their budget.
	giveBack func()
	// brief: it is over in a moment, so others wait for it instead of giving up.
	brief atomic.Bool

	// wanted ends where a start is to make way, which callOff does: see yieldsTo.
	wanted  context.Context
	callOff context.CancelFunc
	insists bool // it has called a start off: no other that comes between is in its way

	intent  chan struct{} // closed when the intent is durable
	started chan struct{} // closed when the container runs
	served  chan struct{} // closed when a start lets visitors in: see serve
	done    chan struct{} // closed at the end; then result and err are set
	result  Instance
	err     error
}

func newOperation(ctx context.Context, name string, wait Wait) *operation {
	request, _ := ctx.Value(requestIDKey{}).(string)
	wanted, callOff := context.WithCancel(context.Background())
	return &operation{
		wanted: wanted, callOff: callOff,
		name: name, request: request, wait: wait, quit: func() {}, giveBack: func() {},
		intent: make(chan struct{}), started: make(chan struct{}), served: make(chan struct{}), done: make(chan struct{}),
	}
}

// answered reports whether the caller got its answer before the end.
func (op *operation) answered() bool {
	return op.wait == WaitNone || op.wait == WaitStarted && op.hasStarted()
}

// markStarted tells those who wait for the container to run.
func (op *operation) markStarted() {
	if !op.hasStarted() { // else this is a second container, after one that could not run
		close(op.started)
	}
}

// serve lets visitors in before it is durable that e runs. They need not wait
// for the disk: a crash in between leaves a record that says starting or paused
// beside a container that runs, and the next Open serves that again. rec is a
// copy, for what is shown is never changed.
func (op *operation) serve(e *entry, rec Record) {
	op.brief.Store(true) // who sees that it runs may go on with it
	e.show(&rec)
	close(op.served)
}

type requestIDKey struct{}

// WithRequestID returns ctx with the id that log lines of operations carry.
func WithRequestID(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, requestIDKey{}, id)
}

// Wait says how long a create or a start makes its caller wait.
type Wait string

// What can be waited for; the zero value means WaitReady.
const (
	WaitReady   Wait = "ready"   // the dev server answered HTTP
	WaitStarted Wait = "started" // the container runs
	WaitNone    Wait = "none"    // the intent is durable

	waitServed Wait = "served" // as WaitReady, but not until that is durable
)

// checkWait reports a wait that is none.
func checkWait(wait Wait) error {
	switch wait {
	case "", WaitReady, WaitStarted, WaitNone:
		return nil
	}
	return badField("wait", "wait must be ready, started or none", "ready", "started", "none")
}

// claim is tryClaim, but waits for what holds the slot and is over in a moment.
func (m *Manager) claim(ctx context.Context, e *entry, op *operation) (holder *operation, err error) {
	for {
		holder, wait, err := e.tryClaim(op)
		if err != nil || !wait {
			return holder, err
		}
		select {
		case <-holder.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryClaim gives op the slot of e. If an operation holds it that is over in a
// moment, or has the same name and can be shared, it returns that one, and
// whether it is to be waited for; else Busy.
func (e *entry) tryClaim(op *operation) (holder *operation, wait bool, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.gone:
		return nil, false, notFound(e.rec.Prefix)
	case e.op == nil && e.rec.Status == Deleting && op.name != "delete":
		return nil, false, busy(e.rec)
	case e.op == nil:
		e.op = op
		return op, false, nil
	case e.op.brief.Load(), e.op.yieldsTo(op):
		return e.op, true, nil
	case e.op.name == op.name && (op.name == "start" || op.name == "stop" || op.name == "pause"):
		return e.op, false, nil
	}
	return nil, false, busy(e.rec)
}

// yieldsTo has a start whose dev server has not answered yet give way to next,
// which ends the instance, and reports whether it does. Else what never becomes
// ready could not be stopped until its time is over, and visitors could have it
// started again. A create does so once its caller has been answered.
func (op *operation) yieldsTo(next *operation) bool {
	ends := next.name == "stop" || next.name == "delete"
	starts := op.name == "start" || op.name == "restart" || op.name == "create" && op.answered()
	if !ends || !starts || !op.hasStarted() && !next.insists { // the engine is at it
		return false
	}
	next.insists = true
	op.brief.Store(true)
	op.callOff()
	return true
}

// hasStarted reports whether the container runs.
func (op *operation) hasStarted() bool {
	select {
	case <-op.started:
		return true
	default:
		return false
	}
}

func busy(r *Record) error {
	err := Errorf(Busy, "another operation holds this instance (status %s): wait until it has ended", r.Status)
	err.RetryAfter = time.Second
	return err.With("status", r.Status)
}

// run does work as op on e in a goroutine of the Manager and ends op with its
// outcome. The caller has claimed e's slot.
func (m *Manager) run(e *entry, op *operation, work func(ctx context.Context) error) {
	begun := time.Now()
	ran := m.begin(func() {
		err := work(m.ctx)
		if err != nil && m.ctx.Err() != nil {
			err = errClosing()
		}
		m.finish(e, op, err)
		m.logOperation(e, op, time.Since(begun))
	})
	if !ran {
		m.finish(e, op, errClosing())
	}
}

// finish frees the slot and tells everybody who waits.
func (m *Manager) finish(e *entry, op *operation, err error) {
	op.quit()
	op.result, op.err = m.view(e), err
	m.free(e)
	close(op.done)
	op.passed("acked")
}

// becomes has op go on as one of that name, which is not over in a moment.
func (e *entry) becomes(op *operation, name string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	op.name = name
	op.brief.Store(false)
}

// passed tells tests how far op has come: see failpoint.
func (op *operation) passed(step string) { failpoint(op.name + "." + step) }

// free gives the slot up, and has an event looked at that came meanwhile.
func (m *Manager) free(e *entry) {
	e.mu.Lock()
	prefix, missed := e.rec.Prefix, e.missed
	e.op, e.missed = nil, false
	e.mu.Unlock()
	if missed {
		m.notify(Event{Prefix: prefix})
	}
}

func errClosing() error {
	return &Error{
		Kind:       Overloaded,
		Message:    "the server is shutting down: the operation is finished or undone at its next start",
		RetryAfter: 5 * time.Second,
	}
}

// await returns when op has come as far as wait says, has ended, or ctx has;
// then op goes on without its caller.
func (m *Manager) await(ctx context.Context, e *entry, op *operation, wait Wait) (Instance, error) {
	var enough <-chan struct{} // nil: only the end
	switch wait {
	case WaitNone:
		enough = op.intent
	case WaitStarted:
		enough = op.started
	case waitServed:
		enough = op.served
	}
	select {
	case <-op.done:
		return op.result, op.err
	case <-enough:
		return m.view(e), nil
	case <-ctx.Done():
		return Instance{}, context.Cause(ctx)
	}
}

// logOperation writes the one line of a lifecycle operation.
func (m *Manager) logOperation(e *entry, op *operation, took time.Duration) {
	rec := e.record()
	fields := []zap.Field{
		zap.String("op", op.name),
		zap.String("prefix", rec.Prefix),
		zap.String("container", rec.ContainerID),
		zap.String("status", string(rec.Status)),
		zap.Duration("duration", took),
	}
	if op.request != "" { // else nobody's request asked for it
		fields = append(fields, zap.String("request_id", op.request))
	}
	switch {
	case op.err == nil:
	case op.wanted.Err() != nil:
		m.log().Info("operation called off", fields...)
		return
	case KindOf(op.err) == BadRequest: // whose caller was told what to send
		m.log().Info("operation refused", append(fields, zap.Error(op.err))...)
		return
	default:
		m.log().Error("operation failed", append(fields, zap.Error(op.err))...)
		return
	}
	m.log().Info("operation done", fields...)
}
