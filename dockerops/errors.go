package dockerops

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/docker/docker/client"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// overdueError is the cause of a context whose call took longer than limit.
type overdueError struct {
	doing string
	limit time.Duration
}

func (e *overdueError) Error() string {
	return fmt.Sprintf("%s: no answer within %s", e.doing, e.limit)
}

// isOverdue reports whether err is that of a call that ran into the deadline
// of this package, not into its caller's.
func isOverdue(err error) bool {
	_, overdue := errors.AsType[*overdueError](err)
	return overdue
}

// classify turns the engine's errors into those of package instance. ctx is
// that of the call, doing what it tried. It is the only place that reads the
// engine's texts, and reads them only where the engine has no class for what
// happened.
func (c *Client) classify(ctx context.Context, doing string, err error) error {
	if known, ok := errors.AsType[*instance.Error](err); ok {
		return known
	}
	if ctx.Err() != nil {
		return timedOut(doing, context.Cause(ctx))
	}
	if errors.Is(err, errClosed) {
		return engineDown(err, "Caddy is shutting down or has let go of Docker at %s", c.host)
	}
	if client.IsErrConnectionFailed(err) {
		return c.unreachable(err)
	}
	words := engineWords(err)
	switch {
	case isPortTaken(words):
		return failed(instance.PortTaken, err, "the host port is taken: Docker cannot bind it (%s)", doing)
	case errdefs.IsNotFound(err) && strings.Contains(words, "No such container"): // not a network, say
		return failed(instance.NotFound, err, "the container has gone: Docker failed %s", doing)
	}
	return failed(instance.EngineFailed, err, "Docker failed %s", doing)
}

// failed is an error whose message is fit for any caller; the engine's own
// words, which may name paths and hosts, are a detail for those who may see it.
func failed(kind instance.Kind, cause error, format string, args ...any) *instance.Error {
	err := instance.Errorf(kind, format, args...)
	err.Err = cause
	return err.With("engine", engineWords(cause))
}

func timedOut(doing string, cause error) error {
	err := &instance.Error{Kind: instance.Timeout, Err: cause}
	overdue, ok := errors.AsType[*overdueError](cause)
	if !ok {
		err.Message = "the caller gave up " + doing + "; whether Docker did it is unknown"
		return err.With("waited_for", "Docker: "+doing)
	}
	err.Message = fmt.Sprintf("Docker took longer than %s %s; whether it did it is unknown", overdue.limit, doing)
	return err.With("waited_for", "Docker: "+doing).With("after", overdue.limit.String())
}

// unreachable says what to do when there is no connection to the engine.
func (c *Client) unreachable(err error) error {
	switch words := err.Error(); {
	case errors.Is(err, fs.ErrPermission) || strings.Contains(words, "permission denied"):
		return engineDown(err, "no permission to use Docker at %s: "+
			"run Caddy as root, or add its user to the group that owns the socket (usually docker) and restart it", c.host)
	case strings.Contains(words, "Is the docker daemon running"): // refused, or no such socket
		return engineDown(err, "Docker cannot be reached at %s: "+
			"start the Docker Engine there, or name its endpoint with the word docker", c.host)
	}
	return engineDown(err, "the connection to Docker at %s broke; whether it did what was asked is unknown", c.host)
}

// isPortTaken knows both texts of an engine that cannot publish a port: the
// first is for one of another container, the second for any other process's.
func isPortTaken(words string) bool {
	return strings.Contains(words, "port is already allocated") ||
		strings.Contains(words, "address already in use")
}

// engineWords is what the engine said, without what its client library puts
// before it.
func engineWords(err error) string {
	return strings.TrimPrefix(err.Error(), "Error response from daemon: ")
}
