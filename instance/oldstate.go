package instance

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
)

// oldState is what old files hold.
type oldState struct {
	sources   []string // their paths
	instances []oldInstance
	nextPort  int
	rest      []notImported // what is in it but makes no instance: nothing is dropped in silence
}

// oldInstance is what the Node system that this one replaces kept of one.
type oldInstance struct {
	prefix string
	port   int
}

// notImported is an entry of an old file that cannot become an instance.
type notImported struct {
	entry  string
	reason string
}

func (n notImported) String() string { return n.entry + ": " + n.reason }

// parseOldState reads the files that the Node system left, in every form that
// they are known to have:
//
//	{"<prefix>": 5174, "<prefix>": {"port": 5175}}   mixed, too
//	[{"prefix": "<prefix>", "port": 5174}]
//	{"nextPort": 5176, "instances": …}               either of them
//	{"routes": {"<prefix>": …}}                      subdomain-proxy.json
//	{"<prefix>": {"target": "http://127.0.0.1:5174"}}
//
// A file of another form is an error.
func parseOldState(data []byte) (old oldState, err error) {
	var file struct {
		NextPort  int             `json:"nextPort"`
		Instances json.RawMessage `json:"instances"`
		Routes    json.RawMessage `json:"routes"`
	}
	if json.Unmarshal(data, &file) != nil { // a list has no fields
		return old, old.addAll(data)
	}
	old.nextPort = file.NextPort
	switch {
	case file.Instances != nil:
		err = old.addAll(file.Instances)
	case file.Routes != nil:
		err = old.addAll(file.Routes)
	default:
		err = old.addAll(data)
		if err == nil && len(old.instances) == 0 && len(old.rest) > 0 {
			err = errors.New("nothing in it looks like an instance")
		}
	}
	return old, err
}

// addAll adds a list or a table of entries.
func (old *oldState) addAll(data []byte) error {
	var list []json.RawMessage
	if json.Unmarshal(data, &list) == nil {
		for _, item := range list {
			var entry struct {
				Prefix string `json:"prefix"`
			}
			if json.Unmarshal(item, &entry) != nil {
				old.refuse(string(item), "it is no object with prefix and port")
				continue
			}
			old.add(entry.Prefix, item)
		}
		return nil
	}
	var table map[string]json.RawMessage
	if err := json.Unmarshal(data, &table); err != nil {
		return fmt.Errorf("reading JSON: %w", err)
	}
	delete(table, "nextPort") // of a bare table
	for _, prefix := range slices.Sorted(maps.Keys(table)) {
		old.add(prefix, table[prefix])
	}
	return nil
}

// add adds one entry to the instances, or to the rest with the reason.
func (old *oldState) add(prefix string, value json.RawMessage) {
	port, err := oldPort(value)
	switch {
	case err != nil:
		old.refuse(prefix, err.Error())
		return
	case !ValidPrefix(prefix):
		old.refuse(prefix, "its prefix is not "+PrefixRule)
		return
	case checkPrefix(prefix, nil) != nil:
		old.refuse(prefix, "its prefix is reserved")
		return
	}
	for _, other := range old.instances {
		if other.prefix == prefix {
			old.refuse(prefix, "there is an earlier entry of this prefix")
			return
		}
		if other.port == port {
			old.refuse(prefix, fmt.Sprintf("its port %d is that of %s", port, other.prefix))
			return
		}
	}
	old.instances = append(old.instances, oldInstance{prefix, port})
}

func (old *oldState) refuse(entry, reason string) {
	old.rest = append(old.rest, notImported{quote(entry), reason})
}

// oldPort finds the port in an entry: a number, an object with it, or a route
// with a target.
func oldPort(value json.RawMessage) (int, error) {
	var port int
	if json.Unmarshal(value, &port) != nil {
		var entry struct {
			Port   int    `json:"port"`
			Target string `json:"target"`
		}
		if err := json.Unmarshal(value, &entry); err != nil {
			return 0, errors.New("it has no port")
		}
		if port = entry.Port; port == 0 {
			port = portOfURL(entry.Target)
		}
	}
	if port < 1 || port > 65535 {
		return 0, errors.New("it has no valid port")
	}
	return port, nil
}

// portOfURL returns the port that a URL names, 0 if it names none.
func portOfURL(target string) int {
	u, err := url.Parse(target)
	if err != nil {
		return 0
	}
	port, err := strconv.Atoi(u.Port())
	if err != nil {
		return 0
	}
	return port
}
