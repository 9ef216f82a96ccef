package instance

import (
	"context"
	"sync"

	"go.uber.org/zap"
)

// ShownLines is how many lines of an instance's output people are shown; each
// is bounded too: see [Printable].
const ShownLines = 20

// LastLines returns the last lines that an instance printed which does not run
// now, each made [Printable]; none where they cannot be had. Strangers may
// ask: the engine is asked once, for as long as nothing happens to the
// instance.
func (m *Manager) LastLines(ctx context.Context, prefix string) []string {
	e := m.lookup(prefix)
	if e == nil {
		return nil
	}
	w, begin := e.claimWords()
	if begin && !m.spawn(func() { m.readWords(e, w) }) {
		close(w.done) // closing: there is nothing to read
	}
	select {
	case <-w.done:
		return w.lines
	case <-ctx.Done():
		return nil
	}
}

// lastWords are the last lines of a container; several callers may share them.
type lastWords struct {
	rec   *Record       // of which they hold
	done  chan struct{} // closed when they are there; then lines is set
	lines []string
}

// claimWords returns the last words that hold for e; begin tells that the
// caller has to have them read.
func (e *entry) claimWords() (w *lastWords, begin bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.words != nil && e.words.rec == e.rec {
		return e.words, false
	}
	e.words = &lastWords{rec: e.rec, done: make(chan struct{})}
	return e.words, true
}

// readWords asks the engine. What failed is asked again by the next caller.
func (m *Manager) readWords(e *entry, w *lastWords) {
	defer close(w.done)
	ctx, cancel := context.WithTimeout(m.ctx, lookDeadline)
	defer cancel()
	select {
	case m.looks <- struct{}{}:
		defer func() { <-m.looks }()
	case <-ctx.Done():
		e.forgetWords(w)
		return
	}
	lines, err := m.runtime.Logs(ctx, ContainerName(w.rec.Prefix), ShownLines)
	if err != nil && KindOf(err) != NotFound {
		m.log().Debug("reading the last lines of a container", zap.String("prefix", w.rec.Prefix), zap.Error(err))
		e.forgetWords(w)
	}
	for _, line := range lines {
		w.lines = append(w.lines, Printable(line))
	}
}

func (e *entry) forgetWords(w *lastWords) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.words == w {
		e.words = nil
	}
}

// Output is what an instance prints on its way up, as one viewer sees it. Not
// safe for concurrent use. Close it.
type Output struct {
	manager *Manager
	entry   *entry
	feed    *feed
	next    int // the number of the first line that was not seen
}

// Output lets the caller see what the instance prints from its present start
// on, or from the next one. All viewers share one stream of the engine's. It
// tells nothing of instances that run and are ready already.
func (m *Manager) Output(prefix string) (*Output, error) {
	e, err := m.find(prefix)
	if err != nil {
		return nil, err
	}
	f, begin := e.joinFeed(m.ctx)
	if begin {
		m.spawn(func() { m.follow(e, f) }) // not when closing: then nothing comes
	}
	return &Output{manager: m, entry: e, feed: f}, nil
}

// Next returns the lines that were not returned yet, each made [Printable],
// and a channel that is closed when there are more. Who comes seldom sees the
// last [ShownLines] only.
func (o *Output) Next() (lines []string, more <-chan struct{}) {
	lines, o.next, more = o.feed.since(o.next)
	return lines, more
}

// Close ends it; with the last viewer the engine's stream ends too.
func (o *Output) Close() { o.entry.leaveFeed(o.feed) }

// feed is the output of one entry's container, while somebody sees it.
type feed struct {
	viewers int // guarded by the entry's mu
	ctx     context.Context
	end     context.CancelFunc

	mu    sync.Mutex // guards the following
	lines []string   // the last ones
	count int        // of all lines so far
	news  news
}

// joinFeed adds a viewer; begin tells that the caller has to begin the feed.
func (e *entry) joinFeed(ctx context.Context) (f *feed, begin bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.feed == nil {
		e.feed, begin = new(feed), true
		e.feed.ctx, e.feed.end = context.WithCancel(ctx)
	}
	e.feed.viewers++
	return e.feed, begin
}

func (e *entry) leaveFeed(f *feed) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f.viewers--
	if f.viewers == 0 {
		f.end()
		e.feed = nil
	}
}

func (f *feed) add(line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.lines) == ShownLines {
		f.lines = append(f.lines[:0], f.lines[1:]...)
	}
	f.lines = append(f.lines, Printable(line))
	f.count++
	f.news.tell()
}

// since returns the lines from number n on, as far as they are kept.
func (f *feed) since(n int) (lines []string, next int, more <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	missed := min(f.count-n, len(f.lines))
	return append(lines, f.lines[len(f.lines)-missed:]...), f.count, f.news.await()
}

// follow passes on what each run of e's container prints, until its last
// viewer has left.
func (m *Manager) follow(e *entry, f *feed) {
	prefix := e.record().Prefix
	for last := 0; ; {
		run, changed := e.currentRun()
		if run != 0 && run != last {
			last = run
			err := m.runtime.Tail(f.ctx, ContainerName(prefix), ShownLines, f.add)
			if err != nil && f.ctx.Err() == nil {
				m.log().Debug("following the output of a container", zap.String("prefix", prefix), zap.Error(err))
			}
			continue
		}
		select {
		case <-changed:
		case <-f.ctx.Done():
			return
		}
	}
}
