package instance

import (
	"cmp"
	"errors"

	"go.uber.org/zap"
)

// Dev is a family of dev servers, by what they demand of a proxy.
type Dev string

// The families. Auto: nobody said, and no refusal has shown it yet. None: not
// a dev server, so nothing is done for it.
const (
	DevAuto    Dev = "auto"
	DevVite    Dev = "vite"
	DevNext    Dev = "next"
	DevWebpack Dev = "webpack"
	DevNone    Dev = "none"
)

// Devs lists all of them.
var Devs = []Dev{DevAuto, DevVite, DevNext, DevWebpack, DevNone}

// HostHeader is the Host that a dev server gets.
type HostHeader string

// The values. Auto is for templates alone: what an instance gets is always one
// of the others.
const (
	HostAuto      HostHeader = "auto"
	HostPreserve  HostHeader = "preserve"  // the client's
	HostLocalhost HostHeader = "localhost" // localhost and the container port
)

// HostHeaders lists all of them.
var HostHeaders = []HostHeader{HostAuto, HostPreserve, HostLocalhost}

// Mode is how requests are put to a dev server so that it takes them. Empty
// fields mean auto.
type Mode struct {
	Dev        Dev        `json:"dev,omitempty"`
	HostHeader HostHeader `json:"host_header,omitempty"`
}

// With is what holds for an instance whose template says m, and whose dev
// server has shown learned by a refusal. What a template says is never
// overruled.
func (m Mode) With(learned Mode) Mode {
	if m.Dev == "" || m.Dev == DevAuto {
		m.Dev = cmp.Or(learned.Dev, DevAuto)
	} else {
		learned = Mode{}
	}
	if m.HostHeader == "" || m.HostHeader == HostAuto {
		m.HostHeader = cmp.Or(learned.HostHeader, m.Dev.hostHeader())
	}
	return m
}

// hostHeader is the Host that every version of such a dev server takes.
func (d Dev) hostHeader() HostHeader {
	if d == DevVite || d == DevWebpack {
		return HostLocalhost
	}
	return HostPreserve
}

// lesson is what a dev server has shown, and at which start of the container.
type lesson struct {
	Mode
	at    string // key of the endpoint
	turns int    // how often it changed its mind since then
}

// maxTurns is how often a server may change its mind in one run of its
// container: an agent replaces it by another now and then, but none is to keep
// us writing.
const maxTurns = 8

// maxLessons bounds what is remembered of ports besides the dev server's, for
// where all of them are open.
const maxLessons = MaxContainerPorts

// Mode is how requests are put to the instance now. It changes when a refusal
// shows that it was wrong: see [Lease.Learn].
func (l *Lease) Mode() Mode {
	l.entry.mu.Lock()
	defer l.entry.mu.Unlock()
	return l.configured().With(l.entry.lessons[l.ContainerPort].Mode)
}

// Learns reports whether there is something to learn: the template leaves it
// to what the dev server shows.
func (l *Lease) Learns() bool {
	dev := l.configured().Dev
	return dev == "" || dev == DevAuto
}

// configured is what the template says. It speaks of the dev server: behind
// another port may be anything.
func (l *Lease) configured() Mode {
	m := l.template
	if l.ContainerPort != 0 && m.Dev != DevNone {
		m.Dev = DevAuto
	}
	return m
}

// Learn takes over what a refusal by the dev server showed, unless the
// template says otherwise. It holds for later requests at once, and is made
// durable in the background; that of a server behind another port is kept in
// memory alone. See maxTurns.
func (l *Lease) Learn(shown Mode) {
	if !l.entry.learn(l.ContainerPort, l.configured(), shown) {
		return
	}
	m := l.manager
	m.log().Info("the dev server has shown what it is: requests are put to it accordingly from now on",
		zap.String("prefix", l.Prefix), zap.Int("port", l.ContainerPort),
		zap.String("dev", string(shown.Dev)), zap.String("host_header", string(shown.HostHeader)))
	if l.ContainerPort != 0 {
		return
	}
	m.begin(func() {
		if err := m.keep(l.entry); err != nil {
			m.log().Warn("writing what a dev server takes; the next change of its instance does it",
				zap.String("prefix", l.Prefix), zap.Error(err))
		}
	})
}

// learn reports whether what was shown is news.
func (e *entry) learn(port int, configured, shown Mode) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	old, known := e.lessons[port]
	switch {
	case e.gone || e.endpoint == nil || e.endpoint.key == old.at && old.turns >= maxTurns,
		!known && len(e.lessons) > maxLessons,
		configured.With(shown) == configured.With(old.Mode):
		return false
	}
	if e.lessons == nil {
		e.lessons = map[int]lesson{}
	}
	next := lesson{Mode: shown, at: e.endpoint.key, turns: 1}
	if old.at == next.at {
		next.turns = old.turns + 1
	}
	e.lessons[port] = next
	return true
}

// keep saves e's record with what is news in it. It waits for its turn: what an
// operation in progress writes last may have been made before the news.
func (m *Manager) keep(e *entry) error {
	op := newOperation(m.ctx, "keep", WaitReady)
	op.brief.Store(true)
	for {
		e.mu.Lock()
		holder, gone := e.op, e.gone || e.rec.Status == Deleting
		if holder == nil && !gone {
			e.op = op
		}
		e.mu.Unlock()
		switch {
		case gone:
			return nil
		case holder == nil:
			rec := *e.record()
			err := m.save(e, &rec)
			m.finish(e, op, err)
			return err
		}
		select {
		case <-holder.done:
		case <-m.ctx.Done():
			return errors.Join(errClosing(), m.ctx.Err())
		}
	}
}
