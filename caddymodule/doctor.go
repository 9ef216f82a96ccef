package caddymodule

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func doctorCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "doctor [--address <admin address>]",
		Short: "Shows how the running server is, and what to do",
		Long: `
Asks the running server how it is (GET /api/health on the admin endpoint) and
shows it: instances, Docker, state files, drift between records and containers,
versions, and what an operator should do. It changes nothing.

The exit status is 0 if the status is ok; then what there is to do can wait.`,
		Args: cobra.NoArgs,
		RunE: healthCommand("doctor", printHealth),
	}
}

func reconcileCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "reconcile --dry-run [--address <admin address>]",
		Short: "Shows what the running server would correct now",
		Long: `
Compares records and containers as the running server does by itself on every
event of Docker and every 15 seconds, and shows what it would do, a line each
with the cause. It changes nothing.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().Bool("dry-run", false, "Show the plan; required, for the server reconciles by itself")
	show := healthCommand("reconcile", printDrift)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dry, _ := cmd.Flags().GetBool("dry-run"); !dry {
			return errors.New("the server reconciles by itself; to see what it would do now, add --dry-run")
		}
		return show(cmd, args)
	}
	return cmd
}

// healthCommand is a command that shows a part of the server's health.
func healthCommand(name string, show func(io.Writer, health) (exit int)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true // told here
		return caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
			h, err := askHealth(flags)
			if err != nil {
				fmt.Fprintf(os.Stderr, "caddy sandbox %s: %v\n", name, err)
				return exitFailed, nil
			}
			return show(os.Stdout, h), nil
		})(cmd, args)
	}
}

// askHealth asks the running server.
func askHealth(flags caddycmd.Flags) (health, error) {
	address, err := caddycmd.DetermineAdminAPIAddress(flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return health{}, fmt.Errorf("finding the admin address: %w", err)
	}
	res, err := caddycmd.AdminAPIRequest(address, http.MethodGet, healthPath, nil, nil)
	if err != nil {
		return health{}, fmt.Errorf("asking the server at %s: %w; does it run, and with the sandbox app?", address, err)
	}
	defer res.Body.Close()
	var answer struct {
		Data health `json:"data"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return health{}, fmt.Errorf("reading the answer of %s: %w", address, err)
	}
	return answer.Data, nil
}

// printHealth shows all of h. The exit status is 0 if it is ok.
func printHealth(out io.Writer, h health) (exit int) {
	row := func(what, text string) { fmt.Fprintf(out, "%-12s%s\n", what, text) }
	row("status", h.Status)
	row("versions", fmt.Sprintf("Caddy %s, %s", h.Versions["caddy"], h.Versions["go"]))
	row("instances", counts(h.Instances))
	for i, name := range slices.Sorted(maps.Keys(h.Pools)) {
		what := "pools"
		if i > 0 {
			what = ""
		}
		row(what, describePool(name, h.Pools[name]))
	}
	row("docker", describeDocker(h.Docker))
	row("state", fmt.Sprintf("%s (owner %s)", h.State.Dir, h.State.Owner))
	for _, trouble := range []string{h.State.Error, h.State.Degraded} {
		if trouble != "" {
			row("", trouble)
		}
	}
	row("drift", fmt.Sprint(len(h.Drift)))
	for _, line := range h.Drift {
		row("", line)
	}
	for _, line := range h.Advice {
		row("to do", line)
	}
	if h.Status != "ok" {
		return exitFailed
	}
	return 0
}

// describePool is the pool of a template in a line.
func describePool(template string, p instance.PoolHealth) string {
	text := fmt.Sprintf("%s %d of %d ready", template, p.Ready, p.Wanted)
	return strings.TrimSuffix(text+": "+p.Error, ": ")
}

// describeDocker is the engine in a line.
func describeDocker(d instance.EngineHealth) string {
	text := d.Status
	if d.Version != "" {
		text += fmt.Sprintf(", version %s (API %s)", d.Version, d.API)
	}
	return strings.TrimSuffix(text+": "+d.Error, ": ")
}

// counts says how many instances have each status.
func counts(byStatus map[instance.Status]int) string {
	var parts []string
	for _, status := range instance.Statuses {
		if n := byStatus[status]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, status))
		}
	}
	if len(parts) == 0 {
		return "none"
	}
	return strings.Join(parts, ", ")
}

// printDrift shows what would be corrected.
func printDrift(out io.Writer, h health) (exit int) {
	if h.Docker.Status != "ok" {
		fmt.Fprintln(out, "Docker cannot be asked:", h.Docker.Error)
		return exitFailed
	}
	lines := slices.Clone(h.Drift)
	if len(lines) == 0 {
		lines = []string{"nothing: records and containers agree"}
	}
	fmt.Fprintln(out, strings.Join(lines, "\n"))
	return 0
}
