package instance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"
)

// Settings are the part of a configuration that a [Manager] works by. They are
// replaced as a whole by [Manager.Use] and never changed; the Manager keeps
// nothing else that belongs to one configuration.
type Settings struct {
	Domain string // parent of all instance host names, lower case
	// URL is the form of public URLs, with {prefix} and {domain} in it.
	URL             string
	Ports           PortRange
	PrefixLength    int      // of generated prefixes
	Reserved        []string // prefixes that nobody gets, beside the built-in ones
	OwnHosts        []string // custom hosts that nobody gets: sites of ours
	Templates       map[string]Template
	DefaultTemplate string // for creates that name none; empty: they must name one
	// StartOnBoot has the instances started that ran when the engine went down,
	// once it is back; else the first visitor of each does.
	StartOnBoot bool
	Log         *zap.Logger
	// Projected is told the path, below the state directory, of each projection
	// that was written with new bytes. It must not block. Nil: nobody is told.
	Projected func(path string)
	// Created is told the prefix of each new instance whose container was
	// started. It must not block. Nil: nobody is told.
	Created func(prefix string)
}

// Manager is the table of instances of one state directory, and all that
// happens to them. Safe for concurrent use.
//
// It has two kinds of goroutines, both ended by Close: the background ones
// (store writer, watcher, reconciler, sweeper, pools) and one for each operation in progress.
// Operations run on the Manager's context, so they outlive the caller who
// asked for them.
type Manager struct {
	dir         string
	openRuntime func(owner string) (Runtime, error)
	settings    atomic.Pointer[Settings]

	owner     string
	ownership io.Closer              // see claimOwner
	degraded  atomic.Pointer[string] // why creates are refused; nil: they are not
	runtime   Runtime
	store     *store
	ports     *ports
	seekers   atomic.Int64 // operations that look for a port where none is left
	pools     *pools
	gate      *gate
	sync      *syncState
	looks     chan struct{} // has an element for each look into a container
	ends      chan struct{} // has an element for each end that nobody asked for
	boots     chan struct{} // has an element when instances ended with the engine
	openedAt  time.Time
	before    *lifetimes                // that were in force before Open; nil after the first look at all
	filing    sync.Mutex                // see writeSettings
	filed     atomic.Pointer[lifetimes] // for the next write of the state file
	sooner    chan struct{}             // has an element when a deadline came closer
	nextEnd   atomic.Int64              // the first deadline, in nanoseconds of the Unix time

	ctx      context.Context // of the operations and background work
	cancel   context.CancelFunc
	work     sync.WaitGroup
	inFlight atomic.Int64 // operations in progress

	wakes struct{ started, failed, refused atomic.Uint64 } // see WakeCounts

	opened atomic.Bool // Open has done its work

	mu     sync.RWMutex // guards the following; never held across I/O
	closed bool
	table  map[string]*entry
	spares map[string]*entry // by key; nobody but the pools sees them
	keys   map[string]string // idempotency key to prefix
	hosts  map[string]string // custom host to prefix: see domains.go
	births map[string]string // what a container was made for to the other prefix that has it
}

// entry is one row of the table.
type entry struct {
	mu         sync.Mutex // guards the following; never held across I/O
	rec        *Record    // replaced, never changed
	endpoint   *Endpoint  // set while the instance runs and is ready
	op         *operation // who may change rec; nil: nobody
	abandon    func()     // of a spare: ends the operation that makes it
	missed     bool       // an event came while op held the slot
	reprieve   time.Time  // nothing ends it before; zero: see Manager.reprieve
	doubted    time.Time  // its deadline has seemed long past; zero: it does not
	routedAt   time.Time  // when it last became reachable; zero: at Open, or never
	unpausable bool       // the engine failed to, so it is stopped instead
	reserved   bool       // the intent is not durable yet
	gone       bool       // no longer in the table
	crashes    crashLoop
	waking     *operation    // a start for visitors, before it has the slot
	wakes      *rate.Limiter // of such starts; nil: there was none
	leases     int
	lastActive time.Time
	lessons    map[int]lesson // by container port, zero for the dev server's
	certified  []int          // undeclared ports whose hosts got a certificate: see Certify
	look       *look          // the last one; nil: nobody has looked
	steps      steps          // see progress.go
	words      *lastWords     // nil: nobody has asked for them
	feed       *feed          // nil: nobody sees the output
}

// New returns a Manager of the state directory dir. It does no I/O: see Open.
// openRuntime makes the runtime, given the owner uuid of the directory; it
// must not need an engine that answers.
func New(dir string, openRuntime func(owner string) (Runtime, error)) *Manager {
	m := &Manager{
		dir:         dir,
		openRuntime: openRuntime,
		gate:        newGate(),
		sync:        newSyncState(),
		sooner:      make(chan struct{}, 1),
		pools:       newPools(),
		table:       map[string]*entry{},
		spares:      map[string]*entry{},
		keys:        map[string]string{},
		hosts:       map[string]string{},
		births:      map[string]string{},
		looks:       make(chan struct{}, parallelLooks),
		ends:        make(chan struct{}, parallelEnds),
		boots:       make(chan struct{}, 1),
	}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// Use puts s in force; call it before Open, and again whenever the
// configuration changes.
func (m *Manager) Use(s *Settings) {
	old := m.settings.Load()
	spares := old != nil && m.reprieve(old.lifetimes(), s.lifetimes())
	m.settings.Store(s)
	if spares {
		m.tellReprieved()
	}
	if m.opened.Load() { // else Open writes them
		m.begin(func() {
			if err := m.writeSettings(); err != nil {
				m.log().Error("writing what the new configuration changes", zap.Error(err))
			}
		})
	}
	m.sweepSoon() // templates may end instances otherwise
	m.pools.forgive()
	m.tendPools()
}

// Open locks and loads the state directory and starts the background work.
// Errors say what to do: the directory is not writable, is in use by another
// process, or holds a file that this version must not touch. Docker need not
// answer: instances that ran are served from their records.
func (m *Manager) Open() (err error) {
	m.store = &store{
		head:     m.head,
		inFlight: func() int { return int(m.inFlight.Load()) },
		logError: func(msg string, err error) { m.log().Error(msg, zap.Error(err)) },
		changed: func(path string) {
			if told := m.settings.Load().Projected; told != nil {
				told(path)
			}
		},
		logEdit: func(path, aside string) {
			m.log().Warn("a file was edited by hand while we run: it was written anew, and the edit kept; use the API instead",
				zap.String("file", path), zap.String("kept", aside))
		},
	}
	m.sync.looked = m.lastAlive()
	loaded, err := openStore(m.dir, m.store)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.store.lock.Close()
		}
	}()
	if err := m.importRecords(&loaded); err != nil {
		return err
	}
	m.owner = loaded.Owner
	if m.ownership, err = claimOwner(m.owner); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			m.ownership.Close()
		}
	}()
	if loaded.Degraded != "" {
		m.degraded.Store(&loaded.Degraded)
	}
	m.openedAt = time.Now()
	m.fill(loaded)
	runtime, err := m.openRuntime(m.owner)
	if err != nil {
		return err
	}
	if err := m.beginStore(runtime, loaded); err != nil {
		return errors.Join(err, runtime.Close())
	}
	m.runtime = runtime
	m.rememberAdopted()
	if m.degraded.Load() == nil { // else the records are not all there
		m.sweepLate()
	}
	m.opened.Store(true)
	m.work.Go(m.sweepLoop)
	m.work.Go(m.poolLoop)
	m.work.Go(m.bootLoop)
	m.work.Go(m.watch)
	m.work.Go(m.reconcileLoop)
	return nil
}

// beginStore starts the store with all its files.
func (m *Manager) beginStore(runtime Runtime, loaded state) error {
	projections := []Projection{routesProjection}
	if p, ok := runtime.(Projecting); ok {
		projections = append(projections, p.Projection())
	}
	if loaded.first {
		if err := m.keepStrangers(projections); err != nil {
			return err
		}
	}
	return m.store.begin(loaded.records(), projections)
}

// head is what the files say besides the records.
func (m *Manager) head() Head {
	head := Head{Owner: m.owner, Domain: m.settings.Load().Domain}
	head.NextPort, head.Resting = m.ports.state()
	if why := m.degraded.Load(); why != nil {
		head.Degraded = *why
	}
	if filed := m.filed.Load(); filed != nil {
		head.Lifetimes = *filed
	}
	return head
}

// fill makes the table of what the state file holds. The configuration may be
// another one than before.
func (m *Manager) fill(loaded state) {
	m.ports = newPorts(loaded.NextPort, loaded.Resting)
	for prefix, r := range loaded.records() {
		m.insert(prefix, &entry{rec: r, endpoint: endpointOf(r), lessons: map[int]lesson{0: {Mode: r.Mode}}})
		m.ports.mark(r.Port)
	}
	after := m.settings.Load().lifetimes()
	m.before = &loaded.Lifetimes
	m.reprieve(loaded.Lifetimes, after)
	for _, e := range m.unfiled() {
		e.stamp(e.rec) // which nobody else has yet: it is written with the lifetimes
	}
	m.filed.Store(&after)
}

// Close ends the operations in progress and the background work, and unlocks
// the directory. An operation that it cut short is finished or undone at the
// next Open. Containers run on. Further calls do nothing.
func (m *Manager) Close() error {
	m.mu.Lock()
	again := m.closed
	m.closed = true
	m.mu.Unlock()
	if again {
		return nil
	}
	m.cancel()
	m.work.Wait()
	if m.runtime == nil { // never opened
		return nil
	}
	var active []*Record
	for _, e := range m.entries() {
		e.unroute()
		rec := *e.record()
		if e.stamp(&rec) {
			active = append(active, &rec)
		}
	}
	err := errors.Join(m.store.putAll(active), m.ownership.Close(), m.store.close(), m.runtime.Close())
	m.noteEnd()
	return err
}

// begin runs f in a goroutine of the Manager, and reports whether it could:
// not after Close.
func (m *Manager) begin(f func()) bool {
	m.inFlight.Add(1)
	began := m.spawn(func() {
		defer m.inFlight.Add(-1)
		f()
	})
	if !began {
		m.inFlight.Add(-1)
	}
	return began
}

// spawn is begin for what changes no record, so that no write waits for it.
func (m *Manager) spawn(f func()) bool {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.closed || m.store == nil {
		return false
	}
	m.work.Go(f)
	return true
}

// Get returns the instance of prefix, or NotFound.
func (m *Manager) Get(prefix string) (Instance, error) {
	e, err := m.find(prefix)
	if err != nil {
		return Instance{}, err
	}
	return m.view(e), nil
}

// find is lookup, with the error for a caller. Before Open has read the
// records, nothing is known of any prefix.
func (m *Manager) find(prefix string) (*entry, error) {
	if err := m.isOpen(); err != nil {
		return nil, err
	}
	if e := m.lookup(prefix); e != nil {
		return e, nil
	}
	return nil, notFound(prefix)
}

func (m *Manager) isOpen() error {
	if m.opened.Load() {
		return nil
	}
	return &Error{Kind: NotOpen, Message: "the sandbox app is starting", RetryAfter: time.Second}
}

// Known reports whether prefix is an instance that is not being deleted: from
// its intent on, running or not. port is the container port that the host
// names, zero if none; one that is not declared is unknown.
func (m *Manager) Known(prefix string, port int) bool {
	return m.known(prefix, func(e *entry) bool { return e.rec.declares(port) })
}

// Certify is Known, but takes undeclared ports too, the first few that it is
// asked about. The TLS permission asks it.
func (m *Manager) Certify(prefix string, port int) bool {
	return m.known(prefix, func(e *entry) bool { return e.certifyLocked(port) })
}

// known asks about an instance that is not being deleted; false if there is
// none.
func (m *Manager) known(prefix string, about func(locked *entry) bool) bool {
	e := m.lookup(prefix)
	if e == nil {
		return false
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec.Status != Deleting && !e.reserved && about(e)
}

// Query selects instances for [Manager.List]; zero fields select all.
type Query struct {
	Status   Status
	Template string
	Labels   map[string]string
	Limit    int    // 1 to 1000; 0 means 100
	After    string // the prefix that the page before ended with
}

// Page is one page of instances, ordered by prefix.
type Page struct {
	Instances []Instance `json:"instances"`
	Total     int        `json:"total"`          // all that match, on whatever page
	Next      string     `json:"next,omitempty"` // Query.After of the next page; empty: this was the last
}

func (q Query) matches(r *Record) bool {
	if q.Status != "" && q.Status != r.Status || q.Template != "" && q.Template != r.Template {
		return false
	}
	for k, v := range q.Labels {
		if have, ok := r.Labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// List returns a page of the instances that match q.
func (m *Manager) List(q Query) (Page, error) {
	if err := m.isOpen(); err != nil {
		return Page{}, err
	}
	if q.Limit == 0 {
		q.Limit = 100
	}
	if q.Limit < 1 || q.Limit > 1000 {
		return Page{}, badField("limit", "limit must be a number from 1 to 1000", "1 to 1000")
	}
	if q.Status != "" && !slices.Contains(Statuses, q.Status) {
		return Page{}, badField("status", fmt.Sprintf("status must be one of %v", Statuses), fmt.Sprint(Statuses))
	}
	page := Page{Instances: []Instance{}}
	entries := m.entries()
	for _, prefix := range slices.Sorted(maps.Keys(entries)) {
		if !q.matches(entries[prefix].record()) {
			continue
		}
		page.Total++
		switch {
		case prefix <= q.After:
		case len(page.Instances) < q.Limit:
			page.Instances = append(page.Instances, m.view(entries[prefix]))
		default:
			page.Next = page.Instances[q.Limit-1].Prefix
		}
	}
	return page, nil
}

func (m *Manager) lookup(prefix string) *entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.table[prefix]
}

// row is lookup, but finds spares too.
func (m *Manager) row(key string) *entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return m.tableOf(key)[key]
}

// tableOf is the table that key belongs to. The caller holds m.mu.
func (m *Manager) tableOf(key string) map[string]*entry {
	if isSpare(key) {
		return m.spares
	}
	return m.table
}

// entries returns a copy of the table.
func (m *Manager) entries() map[string]*entry {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return maps.Clone(m.table)
}

func (m *Manager) insert(prefix string, e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tableOf(prefix)[prefix] = e
	m.bornLocked(e.rec)
	if key := e.rec.IdempotencyKey; key != "" {
		m.keys[key] = prefix
	}
	for _, host := range e.rec.Domains {
		m.hosts[host] = prefix
	}
}

func (m *Manager) remove(prefix string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.tableOf(prefix)[prefix]
	if e == nil {
		return
	}
	delete(m.tableOf(prefix), prefix)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.gone = true
	if m.births[e.rec.Spare] == prefix {
		delete(m.births, e.rec.Spare)
	}
	e.steps.tell()
	delete(m.keys, e.rec.IdempotencyKey)
	for _, host := range e.rec.Domains {
		delete(m.hosts, host)
	}
}

func (m *Manager) view(e *entry) Instance {
	rec := *e.record()
	e.stamp(&rec)
	in := rec.view(m.settings.Load())
	showLifetime(&in, m.lifetime(&rec), m.deadlines(e))
	return in
}

func (m *Manager) log() *zap.Logger { return m.settings.Load().Log }

func (e *entry) record() *Record {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.rec
}

// show makes rec what everybody sees. A running, ready record is routed; the
// endpoint stays the same as long as the container and its start do.
func (e *entry) show(rec *Record) {
	e.mu.Lock()
	old := e.endpoint
	next := endpointOf(rec)
	if old != nil && next != nil && old.key == next.key && old.Direct == next.Direct {
		next = old
	}
	if old == nil && next != nil {
		e.routedAt = time.Now()
	}
	if rec.Status == Failed && e.rec.Status != Failed {
		e.crashes.failed(ran(e.rec, rec))
	}
	e.rec, e.endpoint = rec, next
	e.shownLocked(rec)
	e.mu.Unlock()
	if old != nil && old != next {
		old.end()
	}
}

// ran is how long an instance had been running when it failed; zero: it never
// came up.
func ran(before, failed *Record) time.Duration {
	if before.Status != Running || before.StartedAt == nil || failed.StoppedAt == nil {
		return 0
	}
	return failed.StoppedAt.Sub(*before.StartedAt)
}

// unroute closes all connections to the instance and lets no new ones in.
func (e *entry) unroute() {
	e.mu.Lock()
	old := e.endpoint
	e.endpoint = nil
	e.mu.Unlock()
	if old != nil {
		old.end()
	}
}

// stamp notes in rec what requests have shown: when e was last active, and how
// its dev server takes them. It reports whether that is news.
func (e *entry) stamp(rec *Record) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.stampLocked(rec)
}

func (e *entry) stampLocked(rec *Record) bool {
	learned := e.lessons[0].Mode
	changed := rec.Mode != learned
	rec.Mode = learned
	if r := e.reprieve; !r.IsZero() && (rec.Reprieve == nil || !rec.Reprieve.Equal(r)) {
		rec.Reprieve, changed = &r, true
	}
	last := e.lastActive.UTC().Truncate(time.Millisecond)
	if e.lastActive.IsZero() || rec.LastActiveAt != nil && !last.After(*rec.LastActiveAt) {
		return changed
	}
	rec.LastActiveAt = &last
	return true
}

// save makes rec durable, then visible.
func (m *Manager) save(e *entry, rec *Record) error {
	e.stamp(rec)
	if err := m.store.put(rec); err != nil {
		return err
	}
	e.show(rec)
	m.mind(m.deadlines(e).first())
	return nil
}

// note makes rec visible, and durable where that is possible: for what has
// happened to the container already, and cannot be taken back. What runs serves,
// though the disk be full. Until the disk has rec, which a refresh sees to, it
// has the intent before, of which the next Open makes the same.
func (m *Manager) note(e *entry, rec *Record) {
	e.stamp(rec)
	if err := m.store.note(rec); err != nil {
		m.log().Error("writing what has become of an instance; the next write does it",
			zap.String("prefix", rec.Prefix), zap.String("status", string(rec.Status)), zap.Error(err))
	}
	e.show(rec)
	m.mind(m.deadlines(e).first())
}

func endpointOf(r *Record) *Endpoint {
	if r.Status != Running || !r.Ready {
		return nil
	}
	return newEndpoint(r)
}

func notFound(prefix string) error {
	if !ValidPrefix(prefix) {
		return Errorf(NotFound, "no such instance: a prefix is %s", PrefixRule)
	}
	return Errorf(NotFound, "no such instance: %s", prefix)
}
