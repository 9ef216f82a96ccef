package caddymodule

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Template is the operator's recipe for instances. What it leaves out comes
// from `defaults`, else from the default stated here.
type Template struct {
	// The image of the dev server. Required, here or in `defaults`.
	Image string `json:"image,omitempty"`

	// When the image is fetched from its registry: `missing`, when there is
	// none of that name on this machine; `never`; or `always`, before each
	// create. Default: `missing`.
	Pull string `json:"pull,omitempty"`

	// Where the dev server listens inside the container; it is told so by the
	// variable `PORT`. In the Caddyfile this is `port`. Default: 5174.
	ContainerPort int `json:"container_port,omitempty"`

	// Further container ports that visitors reach, at
	// `https://<port>-<prefix>.<domain>`; those that a create declares come on
	// top. In the Caddyfile this is `ports`. Default: none.
	ContainerPorts []int `json:"container_ports,omitempty"`

	// Whether visitors reach every other container port as well, declared or
	// not. Such a port may be a debugger or a database that was never meant for
	// strangers. In the Caddyfile this is `ports any`. Default: no.
	AnyPort bool `json:"any_port,omitempty"`

	// The command and its arguments, in place of the image's own.
	Command []string `json:"command,omitempty"`

	// Environment variables. Those of a create come on top of them.
	Env map[string]string `json:"env,omitempty"`

	// The working folder in the container, an absolute path. Default: the
	// image's.
	WorkDir string `json:"workdir,omitempty"`

	// The user, as `<name or uid>[:<group or gid>]`. Default: the image's.
	User string `json:"user,omitempty"`

	// The memory of the container in bytes; past it the kernel ends it. In the
	// Caddyfile a size, such as `512MiB`. Default: 536870912 (512 MiB).
	Memory int64 `json:"memory,omitempty"`

	// How many CPUs it may use; `0.5` is half of one. Default: 1.
	CPUs float64 `json:"cpus,omitempty"`

	// How many processes and threads it may have. Default: 512.
	Pids int64 `json:"pids,omitempty"`

	// How long the dev server may take from the start of its container to its
	// first HTTP answer; one that takes longer has failed. Default: `60s`.
	Ready caddy.Duration `json:"ready,omitempty"`
}

// minMemory is Docker's own: with less it refuses to make a container.
const minMemory = 6 << 20

var (
	templateName = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
	envName      = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
)

// make checks t and brings it into the form that the Manager takes.
func (t *Template) make(name string, defaults *Template, expand expander) (instance.Template, error) {
	if t == nil {
		t = new(Template)
	}
	if defaults == nil {
		defaults = new(Template)
	}
	made := instance.Template{
		Image:   expand(cmp.Or(t.Image, defaults.Image)),
		Pull:    instance.PullPolicy(expand(cmp.Or(t.Pull, defaults.Pull, string(instance.PullMissing)))),
		Port:    cmp.Or(t.ContainerPort, defaults.ContainerPort, instance.DefaultContainerPort),
		Ports:   orElse(t.ContainerPorts, defaults.ContainerPorts),
		AnyPort: t.AnyPort || defaults.AnyPort,
		Command: expand.all(orElse(t.Command, defaults.Command)),
		Env:     map[string]string{},
		WorkDir: expand(cmp.Or(t.WorkDir, defaults.WorkDir)),
		User:    expand(cmp.Or(t.User, defaults.User)),
		Memory:  cmp.Or(t.Memory, defaults.Memory, instance.DefaultMemory),
		CPUs:    cmp.Or(t.CPUs, defaults.CPUs, instance.DefaultCPUs),
		Pids:    cmp.Or(t.Pids, defaults.Pids, instance.DefaultPids),
		Ready:   cmp.Or(time.Duration(t.Ready), time.Duration(defaults.Ready), instance.DefaultReady),
	}
	maps.Copy(made.Env, defaults.Env)
	maps.Copy(made.Env, t.Env)
	for key, value := range made.Env {
		made.Env[key] = expand(value)
	}
	if !templateName.MatchString(name) {
		return made, errors.New("use a name of at most 63 lower-case letters, digits, '.', '_' and '-', that begins and ends with a letter or digit")
	}
	return made, checkTemplate(made)
}

func orElse[T any](list, otherwise []T) []T {
	if len(list) > 0 {
		return list
	}
	return otherwise
}

func checkTemplate(t instance.Template) error {
	pulls := []instance.PullPolicy{instance.PullMissing, instance.PullNever, instance.PullAlways}
	switch {
	case t.Image == "":
		return errors.New("the image is missing")
	case strings.ContainsAny(t.Image, " \t\r\n"):
		return fmt.Errorf("image: %q is not the name of an image", t.Image)
	case !slices.Contains(pulls, t.Pull):
		return fmt.Errorf("pull: %q is not missing, never or always", t.Pull)
	case t.Port < 1 || t.Port > 65535:
		return fmt.Errorf("port: %d is not from 1 to 65535", t.Port)
	case slices.ContainsFunc(t.Ports, func(port int) bool { return !instance.ValidPort(port) }):
		return fmt.Errorf("ports: %v are not all from 1 to 65535", t.Ports)
	case len(t.Ports) > instance.MaxContainerPorts:
		return fmt.Errorf("ports: there are %d, and at most %d are allowed", len(t.Ports), instance.MaxContainerPorts)
	case t.WorkDir != "" && !path.IsAbs(t.WorkDir):
		return fmt.Errorf("workdir: %q is not an absolute path", t.WorkDir)
	case t.Memory < minMemory:
		return fmt.Errorf("memory: %d bytes are less than Docker's least, 6MiB", t.Memory)
	case t.CPUs < 0.01:
		return fmt.Errorf("cpus: %v is less than 0.01", t.CPUs)
	case t.Pids < 1:
		return fmt.Errorf("pids: %d is less than 1", t.Pids)
	case t.Ready < 0:
		return fmt.Errorf("ready: %s is negative", t.Ready)
	}
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		if !envName.MatchString(name) {
			return fmt.Errorf("env: %q is not the name of a variable", name)
		}
	}
	return nil
}
