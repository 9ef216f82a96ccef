package test

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

func TestFilesAreWrittenBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	made := c.api.create(t, createRequest{Prefix: "filesone", Labels: map[string]string{"team": "red"}})

	for name, mode := range map[string]fs.FileMode{
		".":                           0o711 | fs.ModeDir,
		".instances.json":             0o600,
		".instances.lock":             0o600,
		"config":                      0o755 | fs.ModeDir,
		"config/subdomain-proxy.json": 0o644,
		"docker-compose.yml":          0o600,
	} {
		info, err := os.Stat(filepath.Join(c.StateDir, name))
		if err != nil {
			t.Error(err)
		} else if info.Mode() != mode {
			t.Errorf("%s has mode %v, want %v", name, info.Mode(), mode)
		}
	}

	var state struct {
		Version   int
		Owner     string
		NextPort  int `json:"nextPort"`
		Instances map[string]struct{ Port int }
	}
	c.readJSON(t, ".instances.json", &state)
	if state.Version != 1 || state.NextPort <= made.Port || state.Instances["filesone"].Port != made.Port {
		t.Errorf(".instances.json says %+v", state)
	}
	if lock := c.readFile(t, ".instances.lock"); !strings.Contains(lock, state.Owner) {
		t.Errorf("the lock file lacks the owner %s: %q", state.Owner, lock)
	}

	var routes struct {
		Domain string
		Routes map[string]struct{ Target, Status string }
	}
	c.readJSON(t, "config/subdomain-proxy.json", &routes)
	wantRoute := struct{ Target, Status string }{fmt.Sprintf("http://127.0.0.1:%d", made.Port), "running"}
	if routes.Domain != domain || len(routes.Routes) != 1 || routes.Routes["filesone"] != wantRoute {
		t.Errorf("config/subdomain-proxy.json says %+v", routes)
	}

	compose := c.readCompose(t)
	info := inspect(t, made.ContainerID)
	project := "sandbox-" + state.Owner[:8]
	if compose.Name != project {
		t.Errorf("Compose project %q, want %q", compose.Name, project)
	}
	service := compose.Services["filesone"]
	if service.Image != serverImage || service.ContainerName != containerName("filesone") {
		t.Errorf("Compose service: %+v", service)
	}
	if network := compose.Networks[project+"-0"]; network["external"] != nil {
		t.Errorf("the Compose file calls our network external: %v", network)
	}
	for label, want := range map[string]string{
		"sandbox.manager":                     state.Owner,
		"sandbox.prefix":                      "filesone",
		"sandbox.template":                    "web",
		"sandbox.port":                        fmt.Sprint(made.Port),
		"sandbox.generation":                  "1",
		"sandbox.label.team":                  "red",
		"com.docker.compose.project":          project,
		"com.docker.compose.service":          "filesone",
		"com.docker.compose.oneoff":           "False",
		"com.docker.compose.container-number": "1",
		"com.docker.compose.image":            info.Image,
	} {
		if got := info.Config.Labels[label]; got != want {
			t.Errorf("container label %s=%q, want %q", label, got, want)
		}
	}
	if info.Config.Labels["com.docker.compose.config-hash"] == "" {
		t.Error("the container has no com.docker.compose.config-hash")
	}

	c.api.delete(t, "filesone")
	for _, name := range []string{".instances.json", "config/subdomain-proxy.json", "docker-compose.yml"} {
		if strings.Contains(c.readFile(t, name), "filesone") {
			t.Errorf("%s still names a deleted instance", name)
		}
	}
}

func TestStoppedInstancesStayInTheFiles(t *testing.T) {
	t.Parallel()
	c := startCaddy(t, options{})
	c.api.create(t, createRequest{Prefix: "filestwo"})
	c.api.act(t, "filestwo", "stop")
	var routes struct {
		Routes map[string]struct{ Status string }
	}
	c.readJSON(t, "config/subdomain-proxy.json", &routes)
	if got := routes.Routes["filestwo"].Status; got != "stopped" {
		t.Errorf("the route's status is %q, want stopped", got)
	}
	if !slices.Contains(c.readCompose(t).names(), "filestwo") {
		t.Error("docker-compose.yml lacks a stopped instance")
	}
}

func (c *caddyServer) readFile(t testing.TB, name string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(c.StateDir, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func (c *caddyServer) readJSON(t testing.TB, name string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.readFile(t, name)), into); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
}

// composeFile is what these tests look at of docker-compose.yml.
type composeFile struct {
	Name     string
	Services map[string]struct {
		Image         string
		ContainerName string `yaml:"container_name"`
	}
	Networks map[string]map[string]any
}

func (f composeFile) names() []string {
	var names []string
	for name := range f.Services {
		names = append(names, name)
	}
	return names
}

func (c *caddyServer) readCompose(t testing.TB) composeFile {
	t.Helper()
	var f composeFile
	if err := yaml.Unmarshal([]byte(c.readFile(t, "docker-compose.yml")), &f); err != nil {
		t.Fatal(err)
	}
	return f
}
