package caddymodule

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// never is how operators and callers write a time that does not come.
const never = "never"

// parseSpan reads a time of a lifetime: a duration, as Caddy reads them, or
// never.
func parseSpan(text string) (instance.Duration, error) {
	if text == never {
		return 0, nil
	}
	d, err := caddy.ParseDuration(text)
	span := instance.Duration(d)
	if err != nil || d == 0 || (instance.Lifetime{TTL: &span}).Check() != nil { // who writes 0 may mean at once
		return 0, fmt.Errorf("%q is not a duration from 1s to 10 years: write it like 15m or 2h30m, or never", request.Shorten(text))
	}
	return span, nil
}

// spanWord is a word of a template whose value is a duration or never.
func spanWord(into **caddy.Duration) word {
	return oneValue(into, func(s string) (*caddy.Duration, error) {
		d, err := parseSpan(s)
		return new(caddy.Duration(d)), err
	})
}

// lifetime is the part of a template that ends instances without a call.
func (t *Template) lifetime(defaults *Template, expand expander) instance.Lifetime {
	span := func(own, other *caddy.Duration) *instance.Duration {
		if own == nil {
			own = other
		}
		if own == nil {
			return nil
		}
		return new(instance.Duration(*own))
	}
	l := instance.Lifetime{
		IdleTimeout:        span(t.IdleTimeout, defaults.IdleTimeout),
		TTL:                span(t.TTL, defaults.TTL),
		DeleteAfterStopped: span(t.DeleteAfterStopped, defaults.DeleteAfterStopped),
	}
	for _, text := range []string{defaults.OnIdle, t.OnIdle} {
		if text != "" {
			l.OnIdle = new(instance.OnIdle(expand(text)))
		}
	}
	return l
}

// spanAllowed is what may be the value of a time of a lifetime.
var spanAllowed = []string{"a duration from 1s to 10 years, such as 15m", never, "null for the template's"}

func badSpan(field string) error {
	return instance.Errorf(instance.BadRequest, "%s: must be %s", field, strings.Join(spanAllowed, "; or ")).
		With("field", field).With("allowed", spanAllowed)
}

// lifetimeBody are the fields of a call about a lifetime, as they came: absent
// ones are nil, and null is the template's own.
type lifetimeBody struct {
	IdleTimeout        jsontext.Value `json:"idle_timeout"`
	OnIdle             jsontext.Value `json:"on_idle"`
	TTL                jsontext.Value `json:"ttl"`
	DeleteAfterStopped jsontext.Value `json:"delete_after_stopped"`
}

// change returns what makes the change that b asks for.
func (b lifetimeBody) change() (func(*instance.Lifetime), error) {
	var wanted instance.Lifetime
	for _, each := range []struct {
		field string
		raw   jsontext.Value
		into  **instance.Duration
	}{
		{"idle_timeout", b.IdleTimeout, &wanted.IdleTimeout},
		{"ttl", b.TTL, &wanted.TTL},
		{"delete_after_stopped", b.DeleteAfterStopped, &wanted.DeleteAfterStopped},
	} {
		text, err := textOrNull(each.raw)
		if err != nil {
			return nil, badSpan(each.field)
		}
		if text == nil {
			continue
		}
		d, err := parseSpan(*text)
		if err != nil {
			return nil, badSpan(each.field)
		}
		*each.into = &d
	}
	text, err := textOrNull(b.OnIdle)
	if err != nil {
		return nil, request.BadField("on_idle", "stop", "pause", "delete", "null for the template's")
	}
	if text != nil {
		wanted.OnIdle = new(instance.OnIdle(*text))
	}
	if err := wanted.Check(); err != nil {
		return nil, err
	}
	return func(l *instance.Lifetime) {
		if b.IdleTimeout != nil {
			l.IdleTimeout = wanted.IdleTimeout
		}
		if b.OnIdle != nil {
			l.OnIdle = wanted.OnIdle
		}
		if b.TTL != nil {
			l.TTL = wanted.TTL
		}
		if b.DeleteAfterStopped != nil {
			l.DeleteAfterStopped = wanted.DeleteAfterStopped
		}
	}, nil
}

// textOrNull reads a JSON string; nil for null, or for nothing at all.
func textOrNull(raw jsontext.Value) (*string, error) {
	if raw == nil {
		return nil, nil
	}
	var text *string
	err := json.Unmarshal(raw, &text)
	return text, err
}

// update changes the lifetime of an instance.
func (a *api) update(w http.ResponseWriter, r *http.Request, prefix string, _ url.Values) (reply, error) {
	var body lifetimeBody
	if err := decodeBody(w, r, &body); err != nil {
		return reply{}, err
	}
	change, err := body.change()
	if err != nil {
		return reply{}, err
	}
	changed, err := a.manager.Update(r.Context(), prefix, change)
	return reply{data: changed}, err
}

// touch tells that an instance is still needed.
func (a *api) touch(w http.ResponseWriter, r *http.Request, prefix string, _ url.Values) (reply, error) {
	if err := decodeBody(w, r, &noBody{}); err != nil {
		return reply{}, err
	}
	touched, err := a.manager.Touch(prefix)
	return reply{data: touched}, err
}
