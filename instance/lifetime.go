package instance

import (
	"fmt"
	"time"
)

// OnIdle says what becomes of an instance that nobody uses any more.
type OnIdle string

// What can become of it; the zero value means IdleStop.
const (
	IdleStop   OnIdle = "stop"   // it keeps its files
	IdlePause  OnIdle = "pause"  // it keeps its memory too, and is back in milliseconds
	IdleDelete OnIdle = "delete" // it is gone
)

// Duration is a time.Duration that is written as text: 1h30m0s. Zero is never.
type Duration time.Duration //nolint:recvcheck // text is read into a pointer and written from a value

const never = "never"

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) {
	if d == 0 {
		return []byte(never), nil
	}
	return []byte(time.Duration(d).String()), nil
}

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	if string(text) == never {
		*d = 0
		return nil
	}
	parsed, err := time.ParseDuration(string(text))
	*d = Duration(parsed)
	return err
}

// Lifetime says when an instance ends without a call. In a template nil fields
// are zero, which means never; in an instance they are its template's.
type Lifetime struct {
	// IdleTimeout is how long nobody has to have used it for OnIdle.
	IdleTimeout *Duration `json:"idle_timeout,omitempty"`
	OnIdle      *OnIdle   `json:"on_idle,omitempty"`
	// TTL is how long after its creation it is deleted, used or not.
	TTL *Duration `json:"ttl,omitempty"`
	// DeleteAfterStopped is how long after its end, or after somebody touched it
	// since, it is deleted.
	DeleteAfterStopped *Duration `json:"delete_after_stopped,omitempty"`
}

// Bounds of the times of a Lifetime. Below a second an instance would end
// before anybody could use it; beyond the upper one nobody lives to see it.
const (
	minLifetime = time.Second
	maxLifetime = 10 * 365 * 24 * time.Hour
)

// Check reports the first field that is not what it may be.
func (l Lifetime) Check() error {
	for _, each := range []struct {
		field string
		value *Duration
	}{
		{"idle_timeout", l.IdleTimeout},
		{"ttl", l.TTL},
		{"delete_after_stopped", l.DeleteAfterStopped},
	} {
		if each.value == nil || *each.value == 0 {
			continue
		}
		if d := time.Duration(*each.value); d < minLifetime || d > maxLifetime {
			return badField(each.field, fmt.Sprintf("%s is %s: it must be never, or from %s to 10 years", each.field, d, minLifetime),
				never, fmt.Sprintf("%s to 10 years", minLifetime))
		}
	}
	if l.OnIdle == nil {
		return nil
	}
	switch *l.OnIdle {
	case IdleStop, IdlePause, IdleDelete:
		return nil
	}
	return badField("on_idle", fmt.Sprintf("on_idle is %s: it must be stop, pause or delete", quote(string(*l.OnIdle))),
		string(IdleStop), string(IdlePause), string(IdleDelete))
}

// or takes what l leaves open from other.
func (l Lifetime) or(other Lifetime) Lifetime {
	if l.IdleTimeout == nil {
		l.IdleTimeout = other.IdleTimeout
	}
	if l.OnIdle == nil {
		l.OnIdle = other.OnIdle
	}
	if l.TTL == nil {
		l.TTL = other.TTL
	}
	if l.DeleteAfterStopped == nil {
		l.DeleteAfterStopped = other.DeleteAfterStopped
	}
	return l
}

// lifetimes are those of templates, by their names; those that have none are not
// in it.
type lifetimes map[string]Lifetime

// of is what holds for r: its own, else its template's.
func (l lifetimes) of(r *Record) Lifetime { return r.Lifetime.or(l[r.Template]) }

func (s *Settings) lifetimes() lifetimes {
	all := lifetimes{}
	for name, t := range s.Templates {
		if t.Lifetime != (Lifetime{}) {
			all[name] = t.Lifetime
		}
	}
	return all
}

func (l Lifetime) onIdle() OnIdle {
	if l.OnIdle == nil {
		return IdleStop
	}
	return *l.OnIdle
}

// after is at plus d; zero where either is.
func (d *Duration) after(at time.Time) time.Time {
	if d == nil || *d == 0 || at.IsZero() {
		return time.Time{}
	}
	return at.Add(time.Duration(*d))
}

// deadlines are when an instance ends without a call; zero: never.
type deadlines struct {
	idle    time.Time // OnIdle
	expires time.Time // deleted: its lifetime is over
	deleted time.Time // deleted: it has been stopped for long
}

// usage is when somebody used an instance.
type usage struct {
	last  time.Time // by a request or a call; zero: never
	since time.Time // nobody did: last, or later where nobody could before
}

// clock is what times in records are held against.
type clock struct{ opened, now time.Time }

// believe returns a time that a record has. One in the future was written while
// the clock was wrong, and counts as that of our start: else a deadline might
// take years to come.
func (c clock) believe(at time.Time) time.Time {
	if at.After(c.now) {
		return c.opened
	}
	return at
}

// deadlinesOf computes them.
func deadlinesOf(r *Record, l Lifetime, used usage, c clock) deadlines {
	if r.Status == Deleting { // reconcile finishes it
		return deadlines{}
	}
	d := deadlines{expires: l.TTL.after(c.believe(r.CreatedAt))}
	switch r.Status {
	case Running:
		d.idle = l.IdleTimeout.after(used.since)
	case Stopped, Failed, Paused:
		if r.StoppedAt != nil {
			d.deleted = l.DeleteAfterStopped.after(later(c.believe(*r.StoppedAt), used.last))
		}
	}
	return d
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// due says what is to be done to the instance by now, and why; empty: nothing.
// onIdle is what is done to idle ones.
func (d deadlines) due(now time.Time, onIdle OnIdle) (do OnIdle, why string) {
	past := func(at time.Time) bool { return !at.IsZero() && !at.After(now) }
	switch {
	case past(d.expires):
		return IdleDelete, "its ttl is over"
	case past(d.deleted):
		return IdleDelete, "it has been stopped for longer than delete_after_stopped"
	case past(d.idle):
		return onIdle, whyIdle
	}
	return "", ""
}

// end is when the instance is deleted; zero: never.
func (d deadlines) end(onIdle OnIdle) time.Time {
	if onIdle != IdleDelete {
		d.idle = time.Time{}
	}
	return d.first()
}

// notBefore is d with nothing before then.
func (d deadlines) notBefore(then time.Time) deadlines {
	for _, at := range []*time.Time{&d.idle, &d.expires, &d.deleted} {
		if !at.IsZero() {
			*at = later(*at, then)
		}
	}
	return d
}

// whyIdle is why an instance is ended that nobody uses.
const whyIdle = "nobody uses it"

// first is the earliest of the deadlines; zero: there is none.
func (d deadlines) first() time.Time {
	first := d.idle
	for _, at := range []time.Time{d.expires, d.deleted} {
		if first.IsZero() || !at.IsZero() && at.Before(first) {
			first = at
		}
	}
	return first
}

// showLifetime fills in what ends the instance, and when.
func showLifetime(in *Instance, l Lifetime, d deadlines) {
	in.IdleTimeout, in.TTL, in.DeleteAfterStopped = l.IdleTimeout.orNever(), l.TTL.orNever(), l.DeleteAfterStopped.orNever()
	in.OnIdle = l.onIdle()
	in.IdleAt, in.ExpiresAt, in.DeleteAt = instant(d.idle), instant(d.expires), instant(d.deleted)
}

func (d *Duration) orNever() Duration {
	if d == nil {
		return 0
	}
	return *d
}

// instant is a time as the API tells it; nil: never.
func instant(at time.Time) *time.Time {
	if at.IsZero() {
		return nil
	}
	at = at.UTC().Truncate(time.Millisecond)
	return &at
}
