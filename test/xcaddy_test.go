package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestXcaddyBuildsFromACheckout runs what xcaddy.md tells people to run.
func TestXcaddyBuildsFromACheckout(t *testing.T) {
	dir := t.TempDir()
	install := exec.Command("go", "install", "github.com/caddyserver/xcaddy/cmd/xcaddy@v0.4.5")
	install.Env = append(os.Environ(), "GOBIN="+dir)
	install.Dir = dir // outside the module, whose versions are not xcaddy's
	if out, err := install.CombinedOutput(); err != nil {
		t.Fatalf("installing xcaddy: %v\n%s", err, out)
	}
	binary := filepath.Join(dir, "caddy")
	build := exec.Command(filepath.Join(dir, "xcaddy"), "build", "v2.11.9",
		"--with", "github.com/aie-sandbox/caddy-sandbox@v0.0.0=.", "--output", binary)
	build.Dir = ".."
	// Built as caddyBinary is, so that little is left to compile.
	build.Env = append(os.Environ(), "XCADDY_RACE_DETECTOR=1", "XCADDY_GO_BUILD_FLAGS=-ldflags=-w")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("xcaddy build: %v\n%s", err, out)
	}
	out, err := exec.Command(binary, "list-modules").Output()
	if err != nil {
		t.Fatal(err)
	}
	modules := strings.Fields(string(out))
	for _, want := range []string{
		"sandbox", "admin.api.sandbox", "http.handlers.sandbox", "http.handlers.sandbox_api",
		"http.reverse_proxy.upstreams.sandbox", "tls.permission.sandbox",
	} {
		if !slices.Contains(modules, want) {
			t.Errorf("the binary lacks module %s", want)
		}
	}
}
