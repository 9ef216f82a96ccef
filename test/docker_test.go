package test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/docker/docker/api/types/container"
	"github.com/docker/docker/api/types/filters"
	"github.com/docker/docker/pkg/stdcopy"
)

func containerName(prefix string) string { return "sandbox-" + prefix }

func inspect(t testing.TB, ref string) container.InspectResponse {
	t.Helper()
	info, err := engine.ContainerInspect(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	return info
}

var uuidPattern = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)

// owner is the uuid of c's state directory; empty before there is one.
func (c *caddyServer) owner() string {
	for _, name := range []string{".instances.json", ".instances.lock"} {
		content, _ := os.ReadFile(filepath.Join(c.StateDir, name))
		var state struct{ Owner string }
		if json.Unmarshal(content, &state) == nil && state.Owner != "" {
			return state.Owner
		}
		if uuid := uuidPattern.Find(content); uuid != nil {
			return string(uuid)
		}
	}
	return ""
}

// containers are all that carry the label of c's state directory.
func (c *caddyServer) containers(t testing.TB) []container.Summary {
	t.Helper()
	list, err := containersOf(c.owner())
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func containersOf(owner string) ([]container.Summary, error) {
	return engine.ContainerList(context.Background(), container.ListOptions{
		All:     true,
		Filters: filters.NewArgs(filters.Arg("label", "sandbox.manager="+owner)),
	})
}

// removeAllOf removes the containers and the network of one state directory.
func removeAllOf(owner string) error {
	ctx := context.Background()
	// Somebody else may be removing one, such as a Caddy that has just been killed:
	// what counts is that none is left.
	err := poll(time.Minute, func() error {
		list, err := containersOf(owner)
		for _, c := range list {
			removed := engine.ContainerRemove(ctx, c.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
			err = errors.Join(err, fmt.Errorf("container %s is left", c.ID), removed)
		}
		return err
	})
	// The network is made with the first container: it may never have been.
	_ = engine.NetworkRemove(ctx, "sandbox-"+owner[:8]+"-0")
	return err
}

// execIn runs a command in a container and returns what it printed.
func execIn(t testing.TB, ref string, command ...string) string {
	t.Helper()
	exec, err := engine.ContainerExecCreate(t.Context(), ref, container.ExecOptions{
		Cmd: command, AttachStdout: true, AttachStderr: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	attached, err := engine.ContainerExecAttach(t.Context(), exec.ID, container.ExecAttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer attached.Close()
	var out strings.Builder
	if _, err := stdcopy.StdCopy(&out, &out, attached.Reader); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	info, err := engine.ContainerExecInspect(t.Context(), exec.ID)
	if err != nil {
		t.Fatal(err)
	}
	if info.ExitCode != 0 {
		t.Fatalf("%q in container %s: exit code %d\n%s", command, ref, info.ExitCode, out.String())
	}
	return out.String()
}

// runOnce runs a container to its end and returns what it printed.
func runOnce(t testing.TB, config *container.Config, host *container.HostConfig) string {
	t.Helper()
	made, err := engine.ContainerCreate(t.Context(), config, host, nil, nil, "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = engine.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true, RemoveVolumes: true})
	})
	ended, failed := engine.ContainerWait(t.Context(), made.ID, container.WaitConditionNextExit)
	if err := engine.ContainerStart(t.Context(), made.ID, container.StartOptions{}); err != nil {
		t.Fatal(err)
	}
	var status container.WaitResponse
	select {
	case status = <-ended:
	case err := <-failed:
		t.Fatal(err)
	}
	logs, err := engine.ContainerLogs(t.Context(), made.ID, container.LogsOptions{ShowStdout: true, ShowStderr: true})
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	var out strings.Builder
	if _, err := stdcopy.StdCopy(&out, &out, logs); err != nil {
		t.Fatal(err)
	}
	if status.StatusCode != 0 {
		t.Fatalf("%q: exit code %d\n%s", config.Cmd, status.StatusCode, out.String())
	}
	return out.String()
}

// foreignContainer makes a container of the given name that has nothing to do
// with any Caddy, and removes it at the end of the test.
func foreignContainer(t testing.TB, name string) string {
	t.Helper()
	made, err := engine.ContainerCreate(t.Context(), &container.Config{Image: serverImage}, nil, nil, nil, name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.ContainerRemove(context.Background(), made.ID, container.RemoveOptions{Force: true}); err != nil {
			t.Error(fmt.Errorf("removing the test's own container: %w", err))
		}
	})
	return made.ID
}
