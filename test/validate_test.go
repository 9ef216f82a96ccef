package test

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidateBesideARunningServerTouchesNothing(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "validated"})
	before := treeOf(t, c.StateDir)

	validate := c.command("validate", "--config", c.configPath())
	if out, err := validate.CombinedOutput(); err != nil {
		t.Fatalf("caddy validate: %v\n%s", err, out)
	}
	if after := treeOf(t, c.StateDir); !maps.Equal(after, before) {
		t.Errorf("the state directory changed:\nbefore %v\nafter  %v", before, after)
	}
	c.visitor.mustGet(t, made.URL)
	sameInstance(t, c.api.get(t, "validated"), made)
}

// treeOf describes every file below dir so that any write shows.
func treeOf(t testing.TB, dir string) map[string]string {
	t.Helper()
	tree := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		var content []byte
		if entry.Type().IsRegular() {
			if content, err = os.ReadFile(path); err != nil {
				return err
			}
		}
		tree[path] = fmt.Sprint(info.Mode(), info.ModTime().UnixNano(), sha256.Sum256(content))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return tree
}

func TestValidateOpensNeitherStateNorDocker(t *testing.T) {
	t.Parallel()
	needStrace(t)
	c := prepareCaddy(t, options{})
	trace := filepath.Join(c.dir, "trace")
	c.Wrap = []string{"strace", "-f", "--seccomp-bpf", "-e", "trace=%file,%network", "-o", trace}
	validate := c.command("validate", "--config", c.configPath())
	if out, err := validate.CombinedOutput(); err != nil {
		t.Fatalf("caddy validate: %v\n%s", err, out)
	}
	calls, err := os.ReadFile(trace)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(calls), c.configPath()) {
		t.Fatal("the trace does not even show the Caddyfile")
	}
	for line := range strings.Lines(string(calls)) {
		if strings.Contains(line, c.StateDir) || strings.Contains(line, "docker") {
			t.Errorf("caddy validate did this: %s", line)
		}
	}
}

func needStrace(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("needs strace (make test installs it where it can)")
	}
}
