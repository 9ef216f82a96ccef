package instance

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
)

// A spare is a container that a pool keeps started and ready until a create
// takes it. It is made for a prefix of its own, the one it was born for, by
// which its variables, labels and all else are those of that prefix's
// container; only its name and the key of its record say that it is nobody's
// yet. A create that names no prefix becomes what the spare was born for, so
// that it gets exactly the container that it would have got without a pool. One
// that names a prefix gets a spare only where the template says that who it is
// comes late (lateenv.go), for the variables of the container are another's.
//
// The name is the one thing of a container that can be changed: a spare's has
// a '-' in it where no prefix has one, and giving it the instance's name is
// what makes it an instance's. See takespare.go.
const spareMark = "pool-"

// spareKey stands for the prefix of a spare that was born for it, in records
// and names.
func spareKey(born string) string { return spareMark + born }

// isSpare reports whether key is a spare's and no prefix.
func isSpare(key string) bool { return strings.HasPrefix(key, spareMark) }

// validKey reports whether key is a prefix or a spare's key.
func validKey(key string) bool { return ValidPrefix(strings.TrimPrefix(key, spareMark)) }

// KeyOf is what stands for a prefix in the name of a container: the prefix of
// an instance, or what a spare has in its place. ok: the name is one of ours.
func KeyOf(containerName string) (key string, ok bool) {
	key, ok = strings.CutPrefix(containerName, ContainerName(""))
	return key, ok && validKey(key)
}

// BornFor is the prefix that the container was made for, which its labels and
// variables name: Prefix, unless the container came from a pool.
func (s *Spec) BornFor() string { return cmp.Or(s.Spare, s.Prefix) }

// IsSpare reports whether the container is still nobody's.
func (s *Spec) IsSpare() bool { return isSpare(s.Prefix) }

// spareSpec is the container of a spare of t that is born for the prefix born.
func (t Template) spareSpec(born, template string, s *Settings) Spec {
	spec := t.spec(born, template, CreateRequest{}, s)
	spec.Prefix, spec.Spare = spareKey(born), born
	return spec
}

// recipe tells containers apart that a template and the settings would make
// different, whatever their ports.
func (s *Spec) recipe() string {
	plain := *s
	plain.Port, plain.LateDir = 0, ""
	text, err := json.Marshal(plain)
	if err != nil {
		panic(err) // strings and numbers only
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}

// stale says why the settings no longer want a spare with the record r; empty:
// they do.
func (s *Settings) stale(r *Record) string {
	t, ok := s.Templates[r.Template]
	switch {
	case !ok || t.Pool == 0:
		return "its template has no pool any more"
	case r.Recipe == "":
		return "its record was lost"
	case len(r.Spare) != s.PrefixLength:
		return "prefixes have another length now"
	}
	if now := t.spareSpec(r.Spare, r.Template, s); now.recipe() != r.Recipe {
		return "its template has changed"
	}
	return ""
}

// decideSpare says what is to be done about the spare r whose container is c;
// nil if there is none. One that is not as it was left is not repaired: a new
// one costs nobody anything.
func decideSpare(r *Record, c *Container) *action {
	giveUp := func(cause string) *action { return &action{verb: discard, cause: cause} }
	switch {
	case r.Status == Failed: // see spoil
		return giveUp("it could not be taken")
	case r.Status != Running:
		return giveUp("it never became ready")
	case c == nil:
		return giveUp(ReasonRemoved)
	case !c.Running:
		_, reason := howEnded(*c, false)
		return giveUp(reason)
	case c.Paused:
		return giveUp(ReasonPaused)
	case c.ID != r.ContainerID || !startTime(r).Equal(startOf(*c)):
		return giveUp("its container was restarted or replaced from outside")
	}
	next := *r
	if next.follow(*c); next.Address != r.Address {
		return &action{verb: correct, next: &next, cause: "its address is " + c.Address.String()}
	}
	return nil
}
