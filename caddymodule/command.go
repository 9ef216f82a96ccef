package caddymodule

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// exitFailed is the exit code of our commands when they fail: Caddy takes 1
// without an error for success.
const exitFailed = 2

// candidatesWait bounds how long a dry run of the import waits for Docker.
const candidatesWait = 5 * time.Second

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "sandbox",
		Usage: "<command>",
		Short: "Commands of the sandbox app",
		CobraFunc: func(root *cobra.Command) {
			root.PersistentFlags().StringP("config", "c", "", "The configuration file (default: the Caddyfile in this folder)")
			root.PersistentFlags().StringP("adapter", "a", "", "The name of the config adapter, where the file's name does not tell it")
			root.PersistentFlags().String("address", "", "The admin address of the running server (default: that of the configuration)")
			root.AddCommand(doctorCommand(), importCommand(), reconcileCommand())
		},
	})
}

func importCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "import --dry-run [--config <path> [--adapter <name>]]",
		Short: "Shows what the first start takes over from the Node system",
		Long: `
Shows what the first start takes over from the files of the Node system that
caddy-sandbox replaces: .instances.json and config/subdomain-proxy.json in the
state directory of the configuration. It reads, and changes nothing. The import
itself happens by the first start: caddy run, or a reload that brings the
sandbox app.

A relative state_dir is taken from the present folder; run this where the
server runs.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().Bool("dry-run", false, "Show the plan; required, for there is no other way to run this")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		cmd.SilenceErrors = true // runImport tells them itself
		return caddycmd.WrapCommandFuncForCobra(runImport)(cmd, args)
	}
	return cmd
}

func runImport(flags caddycmd.Flags) (int, error) {
	err := errors.New("it happens by itself, at the first start with old files in the state directory; " +
		"to see what it would do, add --dry-run")
	if flags.Bool("dry-run") {
		err = printImportPlan(context.Background(), os.Stdout, flags.String("config"), flags.String("adapter"))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "caddy sandbox import:", err)
		return exitFailed, nil
	}
	return 0, nil
}

// printImportPlan writes what the first start with a configuration would
// import, a line each.
func printImportPlan(ctx context.Context, out io.Writer, configFile, adapter string) error {
	app, err := configuredApp(configFile, adapter)
	if err != nil {
		return err
	}
	expand := newExpander()
	settings, err := app.makeSettings(expand)
	if err != nil {
		return fmt.Errorf("the configuration of the sandbox app: %w", err)
	}
	dir, err := stateDir(expand(app.StateDir))
	if err != nil {
		return fmt.Errorf("state_dir: %w", err)
	}
	candidates, unknown := importCandidates(ctx, expand(app.Docker))
	plan, err := instance.ImportPlan(dir, candidates)
	if err != nil {
		return err
	}
	if unknown != nil {
		plan = append(plan, fmt.Sprintf("Docker was not there to ask (%v): it is not known which of them run", unknown))
	}
	if settings.DefaultTemplate == "" {
		plan = append(plan, "default_template is not set: without it nothing can be imported, and the start fails")
	}
	for _, line := range plan {
		if _, err := fmt.Fprintln(out, line); err != nil {
			return err
		}
	}
	return nil
}

// configuredApp reads the sandbox app out of a configuration file.
func configuredApp(configFile, adapter string) (*App, error) {
	data, _, _, err := caddycmd.LoadConfig(configFile, adapter)
	if err != nil {
		return nil, err
	}
	if len(data) == 0 {
		return nil, errors.New("there is no Caddyfile in this folder: name the configuration by --config")
	}
	var config struct {
		Apps struct {
			Sandbox *App `json:"sandbox"`
		} `json:"apps"`
	}
	if err := json.Unmarshal(data, &config); err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if config.Apps.Sandbox == nil {
		return nil, errors.New("the configuration has no sandbox app: it needs the global option sandbox")
	}
	return config.Apps.Sandbox, nil
}

// importCandidates asks the container engine for the containers that an import
// could adopt. The list is not nil if it answered.
func importCandidates(ctx context.Context, docker string) ([]instance.Candidate, error) {
	runtime, err := newRuntime(docker, uuid.NewString()) // an owner of nothing: it only looks
	if err != nil {
		return nil, err
	}
	defer func() { _ = runtime.Close() }()
	adopting, ok := runtime.(instance.Adopting)
	if !ok {
		return nil, errors.New("this container engine can adopt none")
	}
	ctx, cancel := context.WithTimeout(ctx, candidatesWait)
	defer cancel()
	found, err := adopting.Candidates(ctx)
	if err != nil {
		return nil, err
	}
	return append([]instance.Candidate{}, found...), nil
}
