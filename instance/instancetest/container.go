package instancetest

import (
	"bytes"
	"cmp"
	"context"
	"maps"
	"math"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/test/testserver/devserver"
)

// container is one container of an [Engine], which guards the fields below run.
type container struct {
	id, name, owner string
	imageID         string
	spec            instance.Spec
	created         time.Time
	output          output

	run               *run // nil: it does not run
	started, finished time.Time
	exitCode          int
	oomKilled         bool
}

// run is one run of a container, from a start to its end.
type run struct {
	inside *inside
	term   context.CancelFunc // SIGTERM
	kill   context.CancelFunc // SIGKILL
	ended  chan struct{}      // closed when the engine has noted the end
	begun  int                // how much the container had printed before

	paused bool
}

// serve is the process in the container; ctx ends when it is killed and asked
// when it is to end.
func (c *container) serve(ctx, asked context.Context, pid int, network *inside) (exitCode int, oomKilled bool) {
	if c.spec.Env["TEST_MODE"] == "oom" {
		return devserver.Killed, true
	}
	server := devserver.Server{
		Env:      c.spec.Env,
		Process:  devserver.Process{PID: pid, UID: uid(c.spec.User), Dir: cmp.Or(c.spec.WorkDir, "/"), Args: c.spec.Command},
		Listen:   func() (net.Listener, error) { return network.listen(c.spec.ContainerPort) },
		ListenOn: network.listenOn,
		Stdout:   &c.output,
		Stderr:   &c.output,
	}
	return server.Run(ctx, asked.Done()), false
}

// uid of a user such as 1000 or 1000:1000; names of users mean root here, as
// there is no image to look them up in.
func uid(user string) int {
	user, _, _ = strings.Cut(user, ":")
	id, _ := strconv.Atoi(user)
	return id
}

// inspect is what the engine says of c. The engine's lock must be held.
func (c *container) inspect() instance.Container {
	var address netip.AddrPort
	if c.run != nil && c.run.inside.address.IsValid() {
		address = netip.AddrPortFrom(c.run.inside.address, uint16(c.spec.ContainerPort))
	}
	return instance.Container{
		ID: c.id, ImageID: c.imageID, Spec: cloneSpec(c.spec), Running: c.run != nil, Paused: c.run != nil && c.run.paused,
		ExitCode: c.exitCode, OOMKilled: c.oomKilled,
		CreatedAt: c.created, StartedAt: c.started, FinishedAt: c.finished, Address: address,
	}
}

func cloneSpec(s instance.Spec) instance.Spec {
	s.Command = slices.Clone(s.Command)
	s.ContainerPorts = slices.Clone(s.ContainerPorts)
	s.Env = maps.Clone(s.Env)
	s.Labels = maps.Clone(s.Labels)
	return s
}

// output keeps what a container prints, over all its runs.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed when there is more; nil: nobody waits for it
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return o.text.Write(p)
}

func (o *output) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Len()
}

// from returns what was printed from position at on, and a channel that is
// closed when there is more.
func (o *output) from(at int) (text string, more <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = make(chan struct{})
	}
	return string(o.text.Bytes()[at:]), o.more
}

// tail tells the last n lines that were printed from position at on, and then
// each as it comes, until ended is closed or ctx ends.
func (o *output) tail(ctx context.Context, at, n int, ended <-chan struct{}, tell func(string)) error {
	for over := false; ; {
		text, more := o.from(at)
		lines := strings.SplitAfter(text, "\n")
		unfinished := lines[len(lines)-1]
		lines = lines[:len(lines)-1]
		at += len(text) - len(unfinished)
		for _, line := range lines[max(0, len(lines)-n):] {
			tell(strings.TrimRight(line, "\r\n"))
		}
		if over {
			if unfinished != "" {
				tell(unfinished)
			}
			return nil
		}
		n = math.MaxInt // from now on all
		select {
		case <-more:
		case <-ended:
			over = true
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (o *output) last(n int) []string {
	o.mu.Lock()
	lines := strings.Split(strings.TrimSuffix(o.text.String(), "\n"), "\n")
	o.mu.Unlock()
	if len(lines) == 1 && lines[0] == "" {
		return nil
	}
	return lines[max(0, len(lines)-n):]
}
