package instance_test

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// adopting is a runtime in memory that may take over foreign containers.
type adopting struct {
	*instancetest.Memory
	candidates []instance.Candidate
	adopted    map[string]string
}

func (a *adopting) Candidates(context.Context) ([]instance.Candidate, error) {
	return a.candidates, nil
}
func (a *adopting) Adopt(prefix, id string) { a.adopted[prefix] = id }

// oldSystem is a bench whose directory holds the files of the old system.
func oldSystem(t *testing.T, files map[string]string) *bench {
	t.Helper()
	first := instancetest.FreePorts(t, 9)
	b := &bench{
		T: t, dir: t.TempDir(), engine: instancetest.NewEngine(t),
		ports: instance.PortRange{First: first, Last: first + 8},
	}
	if err := os.Mkdir(filepath.Join(b.dir, "config"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(b.dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		if b.manager != nil {
			b.manager.Close()
		}
	})
	return b
}

func TestAFirstStartImportsTheOldSystem(t *testing.T) {
	oldFile := `{"nextPort":5180,"instances":{"aaaaaaaa":5174,"bbbbbbbb":{"port":5175},"bad":5176}}`
	oldRoutes := `{"cccccccc":5178,"aaaaaaaa":5174,"dddddddd":5175}`
	b := oldSystem(t, map[string]string{".instances.json": oldFile, "config/subdomain-proxy.json": oldRoutes})
	plan, err := instance.ImportPlan(b.dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"read " + b.dir + "/.instances.json (a copy is kept beside it)",
		"read " + b.dir + "/config/subdomain-proxy.json (a copy is kept beside it)",
		"import aaaaaaaa on port 5174, stopped",
		"import bbbbbbbb on port 5175, stopped",
		"import cccccccc on port 5178, stopped",
		`cannot import "bad": its prefix is not ` + instance.PrefixRule,
		`cannot import "dddddddd": its port 5175 is that of bbbbbbbb`,
	}
	if got := strings.Join(plan, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("the plan is\n%s\nwant\n%s", got, strings.Join(want, "\n"))
	}
	if _, err := os.Stat(filepath.Join(b.dir, ".instances.lock")); err == nil {
		t.Error("the plan left a lock file")
	}

	b.open()
	for prefix, port := range map[string]int{"aaaaaaaa": 5174, "bbbbbbbb": 5175, "cccccccc": 5178} {
		in := b.awaitStatus(prefix, instance.Stopped, instance.ReasonImported)
		if in.Port != port || in.Template != "hello" || in.ContainerID != "" {
			t.Errorf("imported %+v", in)
		}
	}
	for name, content := range map[string]string{".instances.json": oldFile, "config/subdomain-proxy.json": oldRoutes} {
		kept, _ := filepath.Glob(filepath.Join(b.dir, name+".imported-*"))
		if len(kept) != 1 {
			t.Fatalf("%d copies of %s", len(kept), name)
		}
		if data, _ := os.ReadFile(kept[0]); string(data) != content {
			t.Errorf("the copy of %s holds %s", name, data)
		}
	}
	b.reopen() // the second start imports nothing
	if page, _ := b.manager.List(instance.Query{}); page.Total != 3 {
		t.Errorf("%d instances after a restart", page.Total)
	}
	if plan, _ := instance.ImportPlan(b.dir, nil); len(plan) != 1 || !strings.HasPrefix(plan[0], "nothing: ") {
		t.Errorf("the plan is now %q", plan)
	}
}

func TestAnImportedInstanceKeepsItsPortWhenItStarts(t *testing.T) {
	port := instancetest.FreePort(t)
	b := oldSystem(t, map[string]string{"config/subdomain-proxy.json": `{"routes":{"aaaaaaaa":` + strconv.Itoa(port) + `}}`})
	b.open()
	in, err := b.manager.Start(t.Context(), "aaaaaaaa", "")
	if err != nil || in.Port != port || in.Generation != 1 {
		t.Fatalf("started: %+v, %v", in, err)
	}
	b.answers(in)
}

func TestRunningContainersOfTheOldSystemAreAdopted(t *testing.T) {
	b := oldSystem(t, map[string]string{".instances.json": `{"aaaaaaaa":5174,"bbbbbbbb":5175,"cccccccc":5176,"dddddddd":5177}`})
	runtime := &adopting{adopted: map[string]string{}, candidates: []instance.Candidate{
		{ID: "1", Name: "old-aaaaaaaa-1", Ports: []int{5174}},
		{ID: "2", Name: "x", Service: "bbbbbbbb", Ports: []int{80, 5175}},
		{ID: "3", Name: "stranger", Ports: []int{5176}},
		{ID: "4", Name: "dddddddd", Ports: []int{80}},
	}}
	b.manager = instance.New(b.dir, func(owner string) (instance.Runtime, error) {
		runtime.Memory = b.engine.Runtime(owner)
		return runtime, nil
	})
	b.manager.Use(b.settings())
	if err := b.manager.Open(); err != nil {
		t.Fatal(err)
	}
	b.awaitStatus("cccccccc", instance.Stopped, "imported: port 5176 is that of container stranger, whose name does not carry the prefix")
	b.awaitStatus("dddddddd", instance.Stopped, "imported: no running container publishes port 5177")
	b.manager.Close() // so that what was adopted can be read
	if len(runtime.adopted) != 2 || runtime.adopted["aaaaaaaa"] != "1" || runtime.adopted["bbbbbbbb"] != "2" {
		t.Errorf("adopted %v", runtime.adopted)
	}
}

func TestAnImportWithoutADefaultTemplateChangesNothing(t *testing.T) {
	b := oldSystem(t, map[string]string{".instances.json": `{"aaaaaaaa":5174}`})
	s := b.settings()
	s.DefaultTemplate = ""
	for range 2 { // the second time must not find traces of the first
		m := instance.New(b.dir, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil })
		m.Use(s)
		if err := m.Open(); err == nil || !strings.Contains(err.Error(), "set default_template") {
			t.Fatalf("Open = %v", err)
		}
		m.Close()
	}
	if data, _ := os.ReadFile(filepath.Join(b.dir, ".instances.json")); string(data) != `{"aaaaaaaa":5174}` {
		t.Errorf("the old file holds %s", data)
	}
	if kept, _ := filepath.Glob(filepath.Join(b.dir, "*.imported-*")); len(kept) > 0 {
		t.Errorf("left %v", kept)
	}
	b.open()
	b.awaitStatus("aaaaaaaa", instance.Stopped, instance.ReasonImported)
}

func TestAFirstStartKeepsWhatStandsInItsPlace(t *testing.T) {
	b := oldSystem(t, map[string]string{"config/subdomain-proxy.json": `{"routes":{}}`})
	b.open()
	kept, _ := filepath.Glob(filepath.Join(b.dir, "config", "subdomain-proxy.json.imported-*"))
	if len(kept) != 1 {
		t.Fatalf("kept %v", kept)
	}
	b.reopen()
	if again, _ := filepath.Glob(filepath.Join(b.dir, "config", "subdomain-proxy.json.imported-*")); len(again) != 1 {
		t.Errorf("a later start kept a copy of our own file: %v", again)
	}
}

func TestAForeignStateFileIsNotOverwritten(t *testing.T) {
	b := oldSystem(t, map[string]string{".instances.json": `{"name":"something else"}`})
	m := instance.New(b.dir, func(owner string) (instance.Runtime, error) { return b.engine.Runtime(owner), nil })
	m.Use(b.settings())
	if err := m.Open(); err == nil || !strings.Contains(err.Error(), "move it away") {
		t.Fatalf("Open = %v", err)
	}
	if data, _ := os.ReadFile(filepath.Join(b.dir, ".instances.json")); string(data) != `{"name":"something else"}` {
		t.Errorf("the file now holds %s", data)
	}
}
