package caddymodule

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// TestMain lets the test binary be Caddy itself: the exit code of a command is
// made in its main function.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "sandbox" {
		caddycmd.Main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// importing is a folder with a configuration, and a state directory in it with
// files of the old system.
type importing struct {
	dir    string
	config string
}

func newImporting(t *testing.T, old map[string]string) *importing {
	t.Helper()
	dir := t.TempDir()
	i := &importing{dir, filepath.Join(dir, "Caddyfile")}
	i.write(t, "Caddyfile", "{\n sandbox {\n domain a.example\n state_dir "+dir+"/state\n docker unix://"+dir+"/none.sock\n template web {\n image demo\n }\n }\n}\n")
	for name, content := range old {
		i.write(t, "state/"+name, content)
	}
	return i
}

func (i *importing) write(t *testing.T, name, content string) {
	t.Helper()
	path := filepath.Join(i.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// files is all that is in the folder, with when it was changed.
func (i *importing) files(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(i.dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		fmt.Fprintln(&all, path, info.Size(), info.ModTime().UnixNano())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// adopting is a runtime that knows of other people's containers.
type adopting struct {
	instance.Runtime
	candidates []instance.Candidate
	err        error
}

func (a adopting) Candidates(context.Context) ([]instance.Candidate, error) {
	return a.candidates, a.err
}
func (adopting) Adopt(string, string) {}

// plan is what a dry run prints, with the given answer of the engine.
func (i *importing) plan(t *testing.T, engine adopting) (string, error) {
	t.Helper()
	docker := newRuntime
	defer func() { newRuntime = docker }()
	newRuntime = func(_, owner string) (instance.Runtime, error) {
		engine.Runtime = instancetest.NewEngine(t).Runtime(owner)
		return engine, nil
	}
	var out bytes.Buffer
	err := printImportPlan(t.Context(), &out, i.config, "")
	return out.String(), err
}

var oldFiles = map[string]string{
	".instances.json":             `{"nextPort":5180,"instances":{"keepsake":5174,"sleeping":{"port":5175},"short":5176}}`,
	"config/subdomain-proxy.json": `{"routes":{"fromfile":{"target":"http://127.0.0.1:5177"}}}`,
}

func TestImportPlanShowsWhatTheFirstStartWouldDo(t *testing.T) {
	i := newImporting(t, oldFiles)
	before := i.files(t)
	got, err := i.plan(t, adopting{candidates: []instance.Candidate{{ID: "1", Name: "dev-keepsake-1", Ports: []int{5174}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"read " + i.dir + "/state/.instances.json", "read " + i.dir + "/state/config/subdomain-proxy.json",
		"import keepsake on port 5174, running, adopting container dev-keepsake-1\n",
		"import sleeping on port 5175, stopped: no running container publishes port 5175\n",
		"import fromfile on port 5177, stopped: ",
		"cannot import", "short",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
	if strings.Contains(got, "Docker was not there") || strings.Contains(got, "default_template") {
		t.Errorf("it says too much:\n%s", got)
	}
	if after := i.files(t); after != before {
		t.Errorf("it changed files: before\n%s\nafter\n%s", before, after)
	}
}

func TestImportPlanWithoutAnEngine(t *testing.T) {
	i := newImporting(t, oldFiles)
	got, err := i.plan(t, adopting{err: errors.New("nobody listens")})
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(got, "import keepsake on port 5174, stopped\n") || !strings.Contains(got, "Docker was not there to ask (nobody listens)") {
		t.Errorf("got\n%s", got)
	}
}

func TestImportPlanWhereNothingRuns(t *testing.T) {
	i := newImporting(t, oldFiles)
	got, err := i.plan(t, adopting{}) // it answered, and has none
	if err != nil {
		t.Fatal(err)
	}
	if want := "import keepsake on port 5174, stopped: no running container publishes port 5174\n"; !strings.Contains(got, want) {
		t.Errorf("%q is missing in\n%s", want, got)
	}
}

func TestImportPlanOfNothing(t *testing.T) {
	got, err := newImporting(t, nil).plan(t, adopting{})
	if err != nil || !strings.HasPrefix(got, "nothing: ") {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestImportPlanTellsOfAMissingDefaultTemplate(t *testing.T) {
	i := newImporting(t, oldFiles)
	i.write(t, "Caddyfile", "{\n sandbox {\n domain a.example\n state_dir "+i.dir+"/state\n template one {\n image demo\n }\n template two {\n image demo\n }\n }\n}\n")
	got, err := i.plan(t, adopting{})
	if err != nil || !strings.Contains(got, "default_template is not set") {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestImportPlansThatCannotBeMade(t *testing.T) {
	for name, row := range map[string]struct{ file, content, want string }{
		"no app":            {"Caddyfile", "{\n admin off\n}\n", "needs the global option sandbox"},
		"bad configuration": {"Caddyfile", "{\n sandbox {\n }\n}\n", "domain: it is missing"},
		"bad Caddyfile":     {"Caddyfile", "{\n sandbox {\n template_of_what\n }\n}\n", "there is no word"},
		"broken old file":   {"state/.instances.json", `{"keepsake":`, "in no form that can be imported"},
	} {
		t.Run(name, func(t *testing.T) {
			i := newImporting(t, oldFiles)
			i.write(t, row.file, row.content)
			if got, err := i.plan(t, adopting{}); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %q, %v, want %q", got, err, row.want)
			}
		})
	}
}

func TestImportCommand(t *testing.T) {
	i := newImporting(t, oldFiles)
	for _, row := range []struct {
		args           []string
		code           int
		stdout, stderr string
	}{
		{[]string{"import", "--dry-run", "--config", i.config}, 0, "import keepsake on port 5174, stopped\n", ""},
		{[]string{"import", "--dry-run", "-c", i.config, "-a", "caddyfile"}, 0, "Docker was not there to ask", ""},
		{[]string{"import", "--config", i.config}, exitFailed, "", "it happens by itself, at the first start"},
		{[]string{"import", "--dry-run", "--config", i.config + ".missing"}, exitFailed, "", "Caddyfile.missing"},
		{[]string{"import", "--dry-run", "more"}, 1, "", "more"},
		{[]string{"import", "--dri-run"}, 1, "", "unknown flag"},
	} {
		var stdout, stderr bytes.Buffer
		cmd := exec.Command(os.Args[0], append([]string{"sandbox"}, row.args...)...)
		cmd.Stdout, cmd.Stderr = &stdout, &stderr
		err := cmd.Run()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		if code := cmd.ProcessState.ExitCode(); code != row.code ||
			!strings.Contains(stdout.String(), row.stdout) || !strings.Contains(stderr.String(), row.stderr) {
			t.Errorf("%q: exit code %d\nstdout: %s\nstderr: %s", row.args, code, &stdout, &stderr)
		}
		if row.stdout == "" && stdout.Len() > 0 {
			t.Errorf("%q: stdout: %s", row.args, &stdout)
		}
	}
}
