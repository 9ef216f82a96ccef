package instance

import (
	"maps"
	"strings"
	"time"
)

// Template is the operator's recipe for instances.
type Template struct {
	Image string
	Pull  PullPolicy
	Port  int // container port
	// Ports are container ports that are reached besides Port, in order; AnyPort
	// lets all others be reached too.
	Ports   []int
	AnyPort bool
	Command []string
	Env     map[string]string
	WorkDir string
	User    string
	Memory  int64 // bytes
	CPUs    float64
	Pids    int64
	// Ready is how long the dev server may take from the container's start to
	// its first HTTP answer.
	Ready time.Duration
	Lifetime
	// Mode is how requests are put to the dev server. It holds for instances
	// that exist, too.
	Mode
	Inject Inject
	// Pool is how many containers are kept ready for creates, 0 to MaxPool.
	Pool int
	// LateEnv is a file in the container, by its absolute path, in which it finds
	// what a create says of it, whether it came from a pool or not; empty: there
	// is none, and only creates that say nothing take spares.
	LateEnv string
}

// Defaults of a template. Memory: Vite with React uses about 160 MiB and dies
// at 128. Pids: the same needs 20 on two CPUs, and thread pools grow with CPUs.
const (
	DefaultContainerPort = 5174
	DefaultMemory        = 512 << 20
	DefaultCPUs          = 1.0
	DefaultPids          = 512
	DefaultReady         = 60 * time.Second
)

// spec is the container that an instance of t named prefix gets.
func (t Template) spec(prefix, template string, req CreateRequest, s *Settings) Spec {
	env := t.injected(s.Domain)
	maps.Copy(env, t.Env)
	maps.Copy(env, req.Env)
	ports := mergePorts(t.Port, t.Ports, req.Ports)
	maps.Copy(env, t.identity(prefix, s, ports))
	return Spec{
		Prefix: prefix, Template: template, Generation: 1,
		Image: t.Image, Pull: t.Pull,
		ContainerPort: t.Port, ContainerPorts: ports, AnyPort: t.AnyPort,
		Command: t.Command, Env: env, WorkDir: t.WorkDir, User: t.User,
		Memory: t.Memory, CPUs: t.CPUs, Pids: t.Pids, Labels: req.Labels,
		LateEnv: t.LateEnv,
	}
}

// url is the public URL of label: a prefix, or one with a port before it.
func (s *Settings) url(label string) string {
	return strings.NewReplacer("{prefix}", label, "{domain}", s.Domain).Replace(s.URL)
}
