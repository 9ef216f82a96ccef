package dockerops

import (
	"slices"
	"strconv"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Labels of our containers: the proof of ownership, and a copy of what cannot
// change, from which lost records are rebuilt.
const (
	labelManager    = "sandbox.manager" // the owner; on our network too
	labelPrefix     = "sandbox.prefix"  // what it was made for; see labelPool
	labelTemplate   = "sandbox.template"
	labelPort       = "sandbox.port"  // host port
	labelPorts      = "sandbox.ports" // further container ports, and any; absent: none
	labelGeneration = "sandbox.generation"
	// labelPool is on what a pool made, with the name of the template: of these
	// the name says whose they are, for it is all that can change.
	labelPool = "sandbox.pool"
	// labelLateEnv is the file that late variables come in; absent: none do.
	labelLateEnv = "sandbox.late-env"
	labelCaller  = "sandbox.label." // and the caller's key: no other label is theirs
)

// Labels by which Docker Compose knows its own.
const (
	composeProject    = "com.docker.compose.project"
	composeService    = "com.docker.compose.service"
	composeOneoff     = "com.docker.compose.oneoff"
	composeNumber     = "com.docker.compose.container-number"
	composeConfigHash = "com.docker.compose.config-hash"
	composeImage      = "com.docker.compose.image"
	composeNetwork    = "com.docker.compose.network"
)

// sandboxLabels are the labels of spec's container that do not depend on the
// engine; docker-compose.yml has them too.
func sandboxLabels(spec instance.Spec, owner string) map[string]string {
	labels := map[string]string{
		labelManager:    owner,
		labelPrefix:     spec.BornFor(),
		labelTemplate:   spec.Template,
		labelPort:       strconv.Itoa(spec.Port),
		labelGeneration: strconv.Itoa(spec.Generation),
	}
	if ports := portsLabel(spec); ports != "" {
		labels[labelPorts] = ports
	}
	if spec.Spare != "" {
		labels[labelPool] = spec.Template
	}
	if spec.LateEnv != "" {
		labels[labelLateEnv] = spec.LateEnv
	}
	for key, value := range spec.Labels {
		labels[labelCaller+key] = value
	}
	return labels
}

// keyOf is the prefix of our container with these labels and that name, or what
// a spare has in its place. ours: it is one of an instance or a spare. With the
// labels goes the name: `docker compose run` makes containers that have the
// labels alone.
func (c *Client) keyOf(labels map[string]string, name string) (key string, ours bool) {
	key, ours = labels[labelPrefix], name == instance.ContainerName(labels[labelPrefix])
	if labels[labelPool] != "" {
		key, ours = instance.KeyOf(name)
	}
	return key, ours && labels[labelManager] == c.owner
}

const anyPort = "any"

// portsLabel is such as "3000,9229" or "3000,any"; empty where the dev server's
// port is the only one.
func portsLabel(spec instance.Spec) string {
	var parts []string
	for _, port := range spec.ContainerPorts {
		parts = append(parts, strconv.Itoa(port))
	}
	if spec.AnyPort {
		parts = append(parts, anyPort)
	}
	return strings.Join(parts, ",")
}

// readPorts undoes portsLabel; what somebody spoilt is left out.
func readPorts(label string) (ports []int, others bool) {
	for part := range strings.SplitSeq(label, ",") {
		if part == anyPort {
			others = true
		} else if port := number(part); instance.ValidPort(port) {
			ports = append(ports, port)
		}
	}
	slices.Sort(ports)
	return slices.Compact(ports), others
}

// callerLabels are the caller's among the labels of a container; nil if none.
func callerLabels(labels map[string]string) map[string]string {
	var callers map[string]string
	for label, value := range labels {
		key, ok := strings.CutPrefix(label, labelCaller)
		if !ok {
			continue
		}
		if callers == nil {
			callers = map[string]string{}
		}
		callers[key] = value
	}
	return callers
}

// number reads a label that holds one; zero if somebody spoilt it.
func number(label string) int {
	n, _ := strconv.Atoi(label)
	return n
}
