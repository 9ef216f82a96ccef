package instance

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"strconv"
	"time"
	"unique"

	"github.com/google/uuid"
)

// stateFile is the truth on one machine; stateVersion is its schema.
const (
	stateFile    = ".instances.json"
	stateVersion = 1
)

// state is what the state file holds.
type state struct {
	Version  int    `json:"version"`
	Owner    string `json:"owner"`
	NextPort int    `json:"nextPort"`
	// Resting are ports in quarantine, and until when.
	Resting map[int]time.Time `json:"resting,omitempty"`
	// Degraded is why creates are refused until somebody confirmed the state;
	// empty: they are not.
	Degraded string `json:"degraded,omitempty"`
	// Lifetimes are those that were in force: see Manager.reprieve.
	Lifetimes lifetimes          `json:"lifetimes,omitempty"`
	Instances map[string]*Record `json:"instances"`
	// Spares are those of the pools, by their keys.
	Spares map[string]*Record `json:"spares,omitempty"`

	first bool     // there was no state of ours
	old   oldState // a first start only: what the system before this one left
}

// parseState reads a state file and refuses what it cannot vouch for: names in
// it go on to Docker, to other files and into URLs.
func parseState(data []byte) (state, error) {
	var s state
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return s, fmt.Errorf("reading JSON: %w", err)
	}
	if s.Version = head.Version; s.Version != stateVersion { // the rest may have another form
		return s, fmt.Errorf("schema version %d is not %d", s.Version, stateVersion)
	}
	if !summed(data) {
		return s, errors.New("its checksum does not match: it was changed by hand, or by a failing disk")
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("reading JSON: %w", err)
	}
	s.share()
	if !isOwner(s.Owner) {
		return s, fmt.Errorf("owner %q is no uuid", s.Owner)
	}
	for prefix, r := range s.Instances {
		if r == nil || r.Prefix != prefix || !ValidPrefix(prefix) || r.Spare != "" && !ValidPrefix(r.Spare) {
			return s, fmt.Errorf("record %q is malformed", prefix)
		}
	}
	for key, r := range s.Spares {
		if r == nil || r.Prefix != key || key != spareKey(r.Spare) || !ValidPrefix(r.Spare) {
			return s, fmt.Errorf("spare %q is malformed", key)
		}
	}
	ports, hosts := map[int]string{}, map[string]string{}
	for prefix, r := range s.records() {
		switch other, taken := ports[r.Port]; {
		case r.Port < 1 || r.Port > 65535:
			return s, fmt.Errorf("record %q has port %d", prefix, r.Port)
		case taken:
			return s, fmt.Errorf("records %q and %q have the same port %d", prefix, other, r.Port)
		case !validPorts(r.ContainerPorts):
			return s, fmt.Errorf("record %q has the container ports %v", prefix, r.ContainerPorts)
		}
		if err := checkDomains(r, hosts); err != nil {
			return s, err
		}
		ports[r.Port] = prefix
	}
	return s, nil
}

func isOwner(owner string) bool {
	_, err := uuid.Parse(owner)
	return err == nil
}

// records are those of instances and of spares.
func (s state) records() map[string]*Record {
	all := make(map[string]*Record, len(s.Instances)+len(s.Spares))
	maps.Copy(all, s.Instances)
	maps.Copy(all, s.Spares)
	return all
}

// share has equal variables share their memory: among thousands of records, most
// are the same.
func (s state) share() {
	for _, r := range s.records() {
		if r == nil || r.Env == nil {
			continue
		}
		env := make(map[string]string, len(r.Env))
		for name, value := range r.Env {
			env[unique.Make(name).Value()] = unique.Make(value).Value()
		}
		r.Env = env
	}
}

// encodeRecord makes a record's part of the state file.
func encodeRecord(r Record) ([]byte, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding record %s: %w", r.Prefix, err)
	}
	return append(strconv.AppendQuote(nil, r.Prefix), append([]byte{':'}, value...)...), nil
}

// joinState makes the state file of its parts, a record a line.
func joinState(head Head, blocks [][]byte) []byte {
	text := fmt.Sprintf(`{"version":%d,"owner":%q,"nextPort":%d,`, stateVersion, head.Owner, head.NextPort)
	if len(head.Resting) > 0 {
		resting, err := json.Marshal(head.Resting)
		if err != nil {
			panic(err) // numbers and times only
		}
		text += fmt.Sprintf(`"resting":%s,`, resting)
	}
	if head.Degraded != "" {
		text += fmt.Sprintf(`"degraded":%q,`, head.Degraded)
	}
	if len(head.Lifetimes) > 0 {
		encoded, err := json.Marshal(head.Lifetimes)
		if err != nil {
			panic(err) // durations and words only
		}
		text += fmt.Sprintf(`"lifetimes":%s,`, encoded)
	}
	instances, spares := partition(blocks)
	data := joinJSON(text+`"instances":{`, instances, "}")
	if len(spares) > 0 { // apart, for others who read the file
		data = append(data, joinJSON(`,"spares":{`, spares, "}")...)
	}
	return append(data, sum(data)...)
}

// partition tells the parts of instances from those of spares.
func partition(blocks [][]byte) (instances, spares [][]byte) {
	for _, block := range blocks {
		if bytes.HasPrefix(block, []byte(`"`+spareMark)) {
			spares = append(spares, block)
		} else {
			instances = append(instances, block)
		}
	}
	return instances, spares
}

// sumLength is that of the end of the file: the checksum of all that is before.
const sumLength = len(`,"crc32c":"01234567"}` + "\n")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func sum(data []byte) string {
	return fmt.Sprintf(`,"crc32c":"%08x"}`+"\n", crc32.Checksum(data, castagnoli))
}

// summed reports whether data ends with the right checksum. A flipped bit in a
// port or a path is well-formed JSON: nothing else would notice it.
func summed(data []byte) bool {
	at := len(data) - sumLength
	return at > 0 && string(data[at:]) == sum(data[:at])
}

// joinJSON puts blocks between head and tail, one a line.
func joinJSON(head string, blocks [][]byte, tail string) []byte {
	size := len(head) + len(tail) + len("\n")
	for _, block := range blocks {
		size += len(block) + len(",\n")
	}
	var b bytes.Buffer
	b.Grow(size)
	b.WriteString(head)
	for i, block := range blocks {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('\n')
		b.Write(block)
	}
	if len(blocks) > 0 {
		b.WriteByte('\n')
	}
	b.WriteString(tail)
	return b.Bytes()
}
