package caddymodule

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write what the Caddyfiles in testdata are adapted to into their files")

// TestAdapt compares what each Caddyfile in testdata is adapted to with what
// its file says below the line: JSON, or what the error has in it.
func TestAdapt(t *testing.T) {
	const separator = "\n----------\n"
	files, err := filepath.Glob("testdata/*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("found no files: %v", err)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".caddyfiletest"), func(t *testing.T) {
			content, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(content), separator)
			got := describeAdapt(t, input)
			if *update {
				if err := os.WriteFile(path, []byte(input+separator+got+"\n"), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if want = strings.TrimSpace(want); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func describeAdapt(t *testing.T, input string) string {
	t.Helper()
	adapted, err := adapt(input)
	if err != nil {
		return err.Error()
	}
	var pretty bytes.Buffer
	if err := json.Indent(&pretty, adapted, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return pretty.String()
}

func TestAWordOfATemplateIsCheckedWhereItStands(t *testing.T) {
	adaptTemplate := func(kind, words string) error {
		_, err := adapt("{\n sandbox {\n " + kind + " {\n env GREETING {env.GREETING}\n " + words + "\n }\n }\n}")
		return err
	}
	for _, bad := range []string{
		"idle_timeout -3s", "ttl 100000d", "on_idle sleep", "wake always", "hold -1s", "hold 11m", "pool 101", "pool -1",
		"websocket_activity all", "page_logs all", "pull often", "dev rails", "host_header none", "inject some", "port 70000",
		"ports 80 70000", "workdir app", "memory 1MiB", "cpus 0.001", "pids -1", "ready -1s", "late_env env",
	} {
		name, _, _ := strings.Cut(bad, " ")
		for _, kind := range []string{"template web", "defaults"} {
			err := adaptTemplate(kind, bad+"\n user node")
			if err == nil || !strings.Contains(err.Error(), name) || !strings.HasSuffix(err.Error(), ", at Caddyfile:5") {
				t.Errorf("%s in %s: got %v", bad, kind, err)
			}
		}
	}
	for _, good := range []string{"on_idle {env.ON_IDLE}", "wake {env.WAKE}", "late_env {env.FILE}", `command sh -c "{ date; }"`, "pages /nowhere", "memory 64MiB"} {
		if err := adaptTemplate("template web", good); err != nil {
			t.Errorf("%s: got %v", good, err)
		}
	}
}
