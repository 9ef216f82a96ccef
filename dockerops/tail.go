package dockerops

import (
	"bytes"
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

// maxTailLine bounds what is kept of a line, in bytes.
const maxTailLine = 4 << 10

// Tail implements instance.Runtime. Its deadline is for the stream to open.
func (c *Client) Tail(ctx context.Context, ref string, lines int, tell func(line string)) error {
	found, err := c.own(ctx, ref)
	if err != nil || !found.State.Running {
		return err
	}
	if err := c.health.check(c.host); err != nil {
		return err
	}
	doing := "following the logs of container " + nameOf(found)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	overdue := time.AfterFunc(c.Deadlines.Logs, func() { cancel(&overdueError{doing, c.Deadlines.Logs}) })
	defer overdue.Stop()
	engine, err := c.connect(ctx)
	if err == nil {
		err = tail(ctx, engine, found, lines, tell, overdue.Stop)
	}
	if err != nil {
		return c.classify(ctx, doing, err)
	}
	return nil
}

// tail reads one stream to its end; opened is called when it is there. The
// time of the run's start would leave out what was printed before the engine
// noted that; that of the last run's end leaves out nothing.
func tail(ctx context.Context, engine *client.Client, found container.InspectResponse, lines int, tell func(string), opened func() bool) error {
	options := container.LogsOptions{ShowStdout: true, ShowStderr: true, Follow: true, Tail: strconv.Itoa(max(0, lines))}
	if !instant(found.State.FinishedAt).IsZero() {
		options.Since = found.State.FinishedAt
	}
	stream, err := engine.ContainerLogs(ctx, found.ID, options)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	opened()
	w := &lineWriter{tell: tell}
	_, err = stdcopy.StdCopy(w, w, stream)
	w.end()
	return err
}

// lineWriter tells the lines of what is written to it.
type lineWriter struct {
	tell func(line string)
	line []byte // the one that has begun
}

func (w *lineWriter) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part, after, whole := bytes.Cut(rest, []byte("\n"))
		w.line = append(w.line, part[:min(len(part), maxTailLine-len(w.line))]...)
		if whole {
			w.flush()
		}
		rest = after
	}
	return len(p), nil
}

// end tells a last line that was not ended.
func (w *lineWriter) end() {
	if len(w.line) > 0 {
		w.flush()
	}
}

func (w *lineWriter) flush() {
	w.tell(strings.TrimSuffix(strings.ToValidUTF8(string(w.line), "\uFFFD"), "\r"))
	w.line = w.line[:0]
}
