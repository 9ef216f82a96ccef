package dockerops

import (
	"bytes"
	"context"
	"strconv"
	"strings"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/client"
	"github.com/docker/docker/pkg/stdcopy"
)

// Logs implements instance.Runtime. The engine keeps lines of more than 16 KiB
// in parts and counts each, so no container can make the answer large.
func (c *Client) Logs(ctx context.Context, ref string, lines int) ([]string, error) {
	found, err := c.own(ctx, ref)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	err = c.call(ctx, "reading the logs of container "+nameOf(found), c.Deadlines.Logs,
		func(ctx context.Context, engine *client.Client) error {
			stream, err := engine.ContainerLogs(ctx, found.ID, container.LogsOptions{
				ShowStdout: true, ShowStderr: true, Tail: strconv.Itoa(max(0, lines)),
			})
			if err != nil {
				return err
			}
			defer func() { _ = stream.Close() }()
			_, err = stdcopy.StdCopy(&text, &text, stream)
			return err
		})
	if err != nil {
		return nil, err
	}
	return splitLines(text.String()), nil
}

// splitLines makes lines of what a container printed: it may end them as
// Windows does, or print what is no text.
func splitLines(text string) []string {
	text = strings.ToValidUTF8(strings.TrimSuffix(text, "\n"), "\uFFFD")
	if text == "" {
		return nil
	}
	lines := strings.Split(text, "\n")
	for i := range lines {
		lines[i] = strings.TrimSuffix(lines[i], "\r")
	}
	return lines
}
