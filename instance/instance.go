package instance

import (
	"maps"
	"time"
)

// Status speaks of an instance's container; whether the dev server in it
// answers is [Instance.Ready].
type Status string

// The states of an instance:
//
//	creating → running ⇄ stopped
//	           running ⇄ paused
//
// with starting, stopping and deleting as the steps between. Failed means
// that it ended by itself with an error, ran out of memory, or never became
// ready.
const (
	Creating Status = "creating"
	Starting Status = "starting"
	Running  Status = "running"
	Stopping Status = "stopping"
	Stopped  Status = "stopped"
	Paused   Status = "paused"
	Failed   Status = "failed"
	Deleting Status = "deleting"
)

// Statuses lists every status, for whoever has to check or to explain one.
var Statuses = []Status{Creating, Starting, Running, Stopping, Stopped, Paused, Failed, Deleting}

// Why an instance is stopped or paused.
const (
	ReasonUser    = "user"              // by a call; no request wakes it
	ReasonIdle    = "idle"              // nobody used it
	ReasonEngine  = "engine stopped"    // the engine or its machine went down; see Settings.StartOnBoot
	ReasonOutside = "stopped outside"   // by hand, past us, or by itself
	ReasonPaused  = "paused outside"    // by hand, past us
	ReasonRemoved = "container removed" // by hand; the next start makes it anew
)

// Instance is what the world sees of one instance. It is a copy: keeping or
// changing it touches nothing.
type Instance struct {
	Prefix string `json:"prefix"`
	Port   int    `json:"port"`
	Status Status `json:"status"`
	Ready  bool   `json:"ready"`
	URL    string `json:"url"`
	// URLs are those of the declared container ports besides ContainerPort.
	URLs map[int]string `json:"urls"`
	// Domains are the custom hosts, in order.
	Domains       []string          `json:"domains"`
	Template      string            `json:"template"`
	Image         string            `json:"image"`
	ContainerID   string            `json:"container_id"`
	ContainerPort int               `json:"container_port"`
	Labels        map[string]string `json:"labels"`
	Reason        string            `json:"reason"`
	Dev           Dev               `json:"dev"`
	HostHeader    HostHeader        `json:"host_header"`
	Generation    int               `json:"generation"`
	CreatedAt     time.Time         `json:"created_at"`
	StartedAt     *time.Time        `json:"started_at"`
	StoppedAt     *time.Time        `json:"stopped_at"`
	LastActiveAt  *time.Time        `json:"last_active_at"`
	// What ends it without a call, as it holds for it, and when.
	IdleTimeout        Duration   `json:"idle_timeout"`
	OnIdle             OnIdle     `json:"on_idle"`
	TTL                Duration   `json:"ttl"`
	DeleteAfterStopped Duration   `json:"delete_after_stopped"`
	IdleAt             *time.Time `json:"idle_at"`
	ExpiresAt          *time.Time `json:"expires_at"`
	DeleteAt           *time.Time `json:"delete_at"`
}

// Spec is the container that an instance is to have: all that a [Runtime]
// needs to make it, and all that survives in .instances.json.
type Spec struct {
	Prefix string `json:"prefix"` // of a spare: its key
	// Spare is the prefix that the container was made for if it came from a
	// pool; empty: it did not. See BornFor.
	Spare         string     `json:"spare,omitempty"`
	Port          int        `json:"port"` // host port, on 127.0.0.1
	Template      string     `json:"template"`
	Generation    int        `json:"generation"` // counts the containers that this prefix has had
	Image         string     `json:"image"`
	Pull          PullPolicy `json:"pull,omitempty"`
	ContainerPort int        `json:"container_port"` // where the dev server listens inside
	// ContainerPorts are those that are reached besides, in order; where
	// AnyPort is set, all others are too.
	ContainerPorts []int             `json:"container_ports,omitempty"`
	AnyPort        bool              `json:"any_port,omitempty"`
	Command        []string          `json:"command,omitempty"`
	Env            map[string]string `json:"env,omitempty"` // complete, as the container gets it
	WorkDir        string            `json:"workdir,omitempty"`
	User           string            `json:"user,omitempty"`
	Memory         int64             `json:"memory"` // bytes
	CPUs           float64           `json:"cpus"`
	Pids           int64             `json:"pids"`
	Labels         map[string]string `json:"labels,omitempty"` // the caller's
	// LateEnv is the file in the container that late variables come in, and
	// LateDir the folder of the host that its folder is; empty: there are none.
	LateEnv string `json:"late_env,omitempty"`
	LateDir string `json:"late_dir,omitempty"`
}

// PullPolicy says when an image is fetched from its registry.
type PullPolicy string

// The pull policies; the zero value means PullMissing.
const (
	PullMissing PullPolicy = "missing"
	PullNever   PullPolicy = "never"
	PullAlways  PullPolicy = "always"
)

// Record is one instance in .instances.json. A record in the table is never
// changed, only replaced, so a reader may keep the one it got.
type Record struct {
	Spec
	Status      Status `json:"status"`
	Ready       bool   `json:"ready"`
	Reason      string `json:"reason,omitempty"`
	ContainerID string `json:"container_id,omitempty"`
	// Domains are the custom hosts, in order; the slice is never changed.
	Domains []string `json:"domains,omitempty"`
	// Adopted tells that somebody else made the container, which therefore has
	// no labels of ours: see Adopting.
	Adopted bool `json:"adopted,omitempty"`
	// Address is the container's own address and port where the host reaches
	// it, kept so that routes work after a restart before Docker answers.
	Address      string     `json:"address,omitempty"`
	CreatedAt    time.Time  `json:"created_at"`
	StartedAt    *time.Time `json:"started_at,omitempty"`
	StoppedAt    *time.Time `json:"stopped_at,omitempty"`
	LastActiveAt *time.Time `json:"last_active_at,omitempty"`
	Lifetime                // its own, over its template's
	// Reprieve is before when nothing ends it: see Manager.reprieve.
	Reprieve *time.Time `json:"reprieve,omitempty"`
	// Mode is what a refusal by the dev server has shown; empty: nothing yet.
	Mode
	// IdempotencyKey and RequestHash let a retried create find its first answer.
	IdempotencyKey string `json:"idempotency_key,omitempty"`
	RequestHash    string `json:"request_hash,omitempty"`
	// Late are the late variables; nil: nobody knows them yet, or any more.
	Late map[string]string `json:"late,omitempty"`
	// Recipe and ImageID tell whether a spare is still what its template asks for.
	Recipe  string `json:"recipe,omitempty"`
	ImageID string `json:"image_id,omitempty"`
}

func (r *Record) view(s *Settings) Instance {
	labels := maps.Clone(r.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	mode := s.Templates[r.Template].Mode.With(r.Mode)
	return Instance{
		Prefix: r.Prefix, Port: r.Port, Status: r.Status, Ready: r.Ready,
		URL: s.url(r.Prefix), URLs: r.urls(s), Domains: append([]string{}, r.Domains...),
		Template: r.Template, Image: r.Image, ContainerID: r.ContainerID,
		ContainerPort: r.ContainerPort, Labels: labels, Reason: r.Reason,
		Dev: mode.Dev, HostHeader: mode.HostHeader, Generation: r.Generation, CreatedAt: r.CreatedAt, StartedAt: r.StartedAt,
		StoppedAt: r.StoppedAt, LastActiveAt: r.LastActiveAt,
	}
}

// now is the time as records keep it: UTC and to the millisecond, so that the
// files stay readable and a round trip changes nothing.
func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
