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

	// The family of the dev server: `vite` (SvelteKit, Astro and all else that
	// is built on it), `next`, `webpack` (webpack-dev-server, Create React App,
	// Rspack) or `none`; requests are put to it in the way that it takes them
	// from a page at localhost. `auto`: as its first refusal shows. `none` says
	// that it is no dev server: nothing is changed, unless `host_header` says
	// so, and pages of other sites may call it, as an API may want. Like
	// `host_header` it holds for the instances that exist, too. Default: `auto`.
	Dev string `json:"dev,omitempty"`

	// The Host that the dev server gets: `preserve`, the one that the client
	// sent; `localhost`, which every dev server takes, with the container port;
	// `auto`: the one that fits `dev`, or that a refusal has shown to be needed.
	// The client's own is in X-Forwarded-Host. Default: `auto`.
	HostHeader string `json:"host_header,omitempty"`

	// What the container gets so that dev servers work in it as they are:
	// `all`: variables that they look for, and by NODE_OPTIONS a line of code
	// for every Node process, which makes a server that would listen on
	// localhost alone reachable; `env`: the variables alone; `none`: no more
	// than `PORT` and `SANDBOX_…`. Variables of the same name in `env` or of a
	// create win; NODE_OPTIONS is added to. Default: `all`.
	Inject string `json:"inject,omitempty"`

	// How many containers are kept started and ready for creates, which then
	// are answered in milliseconds; 0 to 100. A create takes one if it asks for
	// nothing that a container has to be made for: no `port`, `ports` or
	// `labels`, and `prefix` and `env` only with `late_env`. They are nobody's
	// until then, but need the memory, CPUs and ports of instances; ports they
	// give up where there are no others. Default: 0.
	Pool *int `json:"pool,omitempty"`

	// A file in the container, by its absolute path, in which it finds the
	// `SANDBOX_…` variables and the `env` of its create, as lines `NAME='value'`
	// for a shell. Its folder is mounted for that, read-only. In a container that
	// came from a pool, those of its process are not its create's: the file
	// appears when it is taken. In any other it is there from the start. Default:
	// none.
	LateEnv string `json:"late_env,omitempty"`

	// How long nobody has to have used an instance until `on_idle` is done to
	// it. A request uses it for as long as it lasts; an open WebSocket only while
	// something passes that is no keep-alive, see `websocket_activity`. A
	// duration of at least a second; in the Caddyfile also `never`. It may be
	// changed for each instance. Default: 0, never.
	IdleTimeout *caddy.Duration `json:"idle_timeout,omitempty"`

	// What becomes of an idle instance: `stop`, which keeps its files; `pause`,
	// which keeps its memory too and brings it back in milliseconds; `delete`.
	// Default: `stop`.
	OnIdle string `json:"on_idle,omitempty"`

	// How long after its creation an instance is deleted, used or not. Default:
	// 0, never.
	TTL *caddy.Duration `json:"ttl,omitempty"`

	// How long after it stopped, failed or was paused an instance is deleted.
	// Default: 0, never.
	DeleteAfterStopped *caddy.Duration `json:"delete_after_stopped,omitempty"`

	// Whose requests start an instance that sleeps, because it was idle or
	// Docker was restarted: `navigate`: people who open a page, and calls of
	// those whom Caddy has authenticated; `any`: those and all other calls;
	// `authenticated`: only people and calls that Caddy has authenticated, as
	// `basic_auth` before the proxy does (`{http.auth.user.id}` is set);
	// `never`: nobody's, so only the API does. Icons, robots, previews of links,
	// monitors, HEAD, WebSockets and the pings of pages that were left open
	// never do. Nobody wakes an instance that was stopped by a call. Default:
	// `navigate`.
	Wake string `json:"wake,omitempty"`

	// How long a call waits while its instance starts, before it is answered
	// with 503; 0 to `10m`. Instead of a page that somebody opens, one that tells
	// how far it is comes after a second. Default: `30s`.
	Hold *caddy.Duration `json:"hold,omitempty"`

	// What about an open WebSocket uses its instance: `data`: what passes over
	// it, in either direction, but for the keep-alives of dev servers and of the
	// protocol; `open`: that it is open; `none`: nothing, once it is open. It
	// holds for those that are opened from then on. Default: `data`.
	WebSocketActivity string `json:"websocket_activity,omitempty"`

	// Who sees the last lines of the log of an instance on the pages that are
	// shown while it starts and after it failed: `authenticated`, those whom
	// Caddy has authenticated; `anyone`; or `nobody`. Default: `authenticated`.
	PageLogs string `json:"page_logs,omitempty"`

	// A folder of pages to show in place of the built-in ones: see the manual on
	// their names and what they may use. Default: none.
	Pages string `json:"pages,omitempty"`
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
		Mode: instance.Mode{
			Dev:        instance.Dev(expand(cmp.Or(t.Dev, defaults.Dev, string(instance.DevAuto)))),
			HostHeader: instance.HostHeader(expand(cmp.Or(t.HostHeader, defaults.HostHeader, string(instance.HostAuto)))),
		},
		Inject:   instance.Inject(expand(cmp.Or(t.Inject, defaults.Inject, string(instance.InjectAll)))),
		Lifetime: t.lifetime(defaults, expand),
		Pool:     t.pool(defaults),
		LateEnv:  expand(cmp.Or(t.LateEnv, defaults.LateEnv)),
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

// checkSaid checks a template that may still lack words, or leave them to
// `defaults`. The folder of pages is not looked at, and nothing is said of a
// template with placeholders: what they stand for is known when it is loaded.
func (t *Template) checkSaid() error {
	said := *t
	said.Image, said.Pages = "image", ""
	said.Command, said.Env = nil, nil // may have braces of their own
	later := false
	expand := func(s string) string {
		later = later || strings.Contains(s, "{")
		return s
	}
	_, err := said.make("template", nil, expand)
	if err == nil {
		_, err = said.edge(nil, expand)
	}
	if later {
		return nil
	}
	return err
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
	case !slices.Contains(instance.Devs, t.Dev):
		return fmt.Errorf("dev: %q is not auto, vite, next, webpack or none", t.Dev)
	case !slices.Contains(instance.HostHeaders, t.HostHeader):
		return fmt.Errorf("host_header: %q is not auto, preserve or localhost", t.HostHeader)
	case !slices.Contains(instance.Injects, t.Inject):
		return fmt.Errorf("inject: %q is not all, env or none", t.Inject)
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
	case t.LateEnv != "" && !isFileBelowAFolder(t.LateEnv):
		return fmt.Errorf("late_env: %q is not the absolute path of a file in a folder, such as /run/sandbox/env", t.LateEnv)
	case t.Pool < 0 || t.Pool > instance.MaxPool:
		return fmt.Errorf("pool: %d is not from 0 to %d", t.Pool, instance.MaxPool)
	}
	if err := t.Lifetime.Check(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(t.Env)) {
		if !envName.MatchString(name) {
			return fmt.Errorf("env: %q is not the name of a variable", name)
		}
	}
	return nil
}
