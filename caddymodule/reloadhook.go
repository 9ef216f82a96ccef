package caddymodule

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// ReloadHook tells another program of new bytes in a file generated from the
// instances: by a signal, by a command, or by a POST request. It has exactly
// one of these. Changes that come together are one run, runs of one hook never
// overlap, and a change during a run makes one more afterwards. No API call
// waits for it, or fails with it.
//
// A run that fails is logged and tried again after 1, 2, 4 and 8 seconds; then
// the next change begins anew.
type ReloadHook struct {
	// The signal, with `pid_file` to say who gets it: `HUP`, `INT`, `QUIT`,
	// `TERM`, `USR1`, `USR2` or `WINCH`.
	Signal string `json:"signal,omitempty"`

	// The file whose first line is the id of the process that gets `signal`.
	PIDFile string `json:"pid_file,omitempty"`

	// The command and its arguments; no shell is involved. It runs as the
	// server does, with its environment and working folder. `SANDBOX_STATE_DIR`
	// is the state directory, `SANDBOX_FILE` the changed files below it,
	// separated by spaces.
	Command []string `json:"command,omitempty"`

	// The URL that gets a POST request with `{"files":["<changed file>", …]}`.
	// Every status but 2xx is a failure.
	Post string `json:"post,omitempty"`

	// The files whose changes count: `config/subdomain-proxy.json`,
	// `docker-compose.yml`. Default: all.
	Files []string `json:"files,omitempty"`

	// How long after a change others may join it. Default: `100ms`.
	Debounce caddy.Duration `json:"debounce,omitempty"`

	// How long a run may take; after that a command is killed, with all that
	// it started and did not put into a process group of its own. Default: `10s`.
	Timeout caddy.Duration `json:"timeout,omitempty"`
}

const (
	defaultHookDebounce = 100 * time.Millisecond
	defaultHookTimeout  = 10 * time.Second
)

// The files generated from the instances, below the state directory.
const (
	routesProjection  = "config/subdomain-proxy.json"
	composeProjection = "docker-compose.yml"
)

var projections = []string{routesProjection, composeProjection}

// hooks holds one hook for each state directory and configuration of it. One
// that a reload leaves as it is goes on with what it is at.
var hooks = caddy.NewUsagePool()

type hookKey struct{ dir, config string }

// acquire returns what runs h; releaseHooks gives it back. It does no I/O.
func (h *ReloadHook) acquire(dir string, expand expander) (*hook, error) {
	if h == nil {
		h = new(ReloadHook)
	}
	expanded := ReloadHook{
		Signal: h.Signal, PIDFile: expand(h.PIDFile),
		Command: expand.all(h.Command),
		Post:    expand(h.Post),
		Files:   h.Files, Debounce: h.Debounce, Timeout: h.Timeout,
	}
	act, err := expanded.reaction(dir)
	if err != nil {
		return nil, err
	}
	if err := expanded.check(); err != nil {
		return nil, err
	}
	config, err := json.Marshal(expanded)
	if err != nil {
		return nil, err
	}
	key := hookKey{dir, string(config)}
	acquired, _, err := hooks.LoadOrNew(key, func() (caddy.Destructor, error) {
		made := newHook(h.describe(), act)
		made.key, made.files = key, h.Files
		made.debounce = cmp.Or(time.Duration(h.Debounce), defaultHookDebounce)
		made.timeout = cmp.Or(time.Duration(h.Timeout), defaultHookTimeout)
		return made, nil
	})
	if err != nil {
		return nil, err
	}
	return acquired.(*hook), nil
}

func (h *ReloadHook) check() error {
	for _, file := range h.Files {
		if !slices.Contains(projections, file) {
			return fmt.Errorf("files: %q is not one of %s", file, strings.Join(projections, ", "))
		}
	}
	switch {
	case h.Debounce < 0:
		return fmt.Errorf("debounce: %s is negative", time.Duration(h.Debounce))
	case h.Timeout < 0:
		return fmt.Errorf("timeout: %s is negative", time.Duration(h.Timeout))
	}
	return nil
}

// reaction returns what a run of h does.
func (h *ReloadHook) reaction(dir string) (reaction, error) {
	ways := 0
	for _, given := range []bool{h.Signal != "" || h.PIDFile != "", len(h.Command) > 0, h.Post != ""} {
		if given {
			ways++
		}
	}
	switch {
	case ways != 1:
		return nil, errors.New("it needs exactly one of signal, command and post")
	case h.Post != "":
		if u, err := url.Parse(h.Post); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return nil, errors.New("post: it is not the URL of a page, like http://127.0.0.1:9000/reload")
		}
		return post(h.Post), nil
	case len(h.Command) > 0:
		if h.Command[0] == "" {
			return nil, errors.New("command: its first word is empty")
		}
		return command(dir, h.Command), nil
	}
	number, ok := signals[strings.TrimPrefix(h.Signal, "SIG")]
	switch {
	case !ok:
		return nil, fmt.Errorf("signal: %q is not one of %s", h.Signal, signalNames())
	case h.PIDFile == "":
		return nil, errors.New("signal: the pid file is missing")
	}
	return signal(number, h.PIDFile), nil
}

// describe names the hook in logs, with its placeholders as they are: what
// they stand for may be secret.
func (h *ReloadHook) describe() string {
	switch {
	case h.Post != "":
		return "post " + h.Post
	case len(h.Command) > 0:
		return "command " + strings.Join(h.Command, " ")
	}
	return "signal " + h.Signal + " " + h.PIDFile
}
