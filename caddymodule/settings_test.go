package caddymodule

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// minimal is a configuration with nothing but what it must have.
func minimal() *App {
	return &App{Domain: "sandbox.example.com", Templates: map[string]*Template{"vite": {Image: "demo"}}}
}

func TestDefaults(t *testing.T) {
	got, err := minimal().makeSettings(newExpander())
	if err != nil {
		t.Fatal(err)
	}
	want := &instance.Settings{
		Domain: "sandbox.example.com", Ports: instance.PortRange{First: 5174, Last: 32767}, PrefixLength: 16,
		DefaultTemplate: "vite",
		Templates: map[string]instance.Template{"vite": {
			Image: "demo", Pull: "missing", Port: 5174, Env: map[string]string{},
			Memory: 512 << 20, CPUs: 1, Pids: 512, Ready: time.Minute,
			Mode: instance.Mode{Dev: "auto", HostHeader: "auto"}, Inject: "all",
		}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestTemplatesTakeWhatTheyLackFromDefaults(t *testing.T) {
	t.Setenv("SANDBOX_TEST_IMAGE", "from-env")
	a := &App{
		Domain: "{env.SANDBOX_TEST_DOMAIN}", URL: "https://{prefix}.{domain}/", Reserved: []string{"UPPER123"},
		Defaults: &Template{
			Image: "{env.SANDBOX_TEST_IMAGE}", Pull: "never", ContainerPort: 80, Command: []string{"run", "{unknown}"},
			Env: map[string]string{"A": "1", "B": "1"}, WorkDir: "/work", User: "1000", ContainerPorts: []int{3000},
			Memory: 1 << 30, CPUs: 2, Pids: 99, Ready: caddy.Duration(time.Second),
			Dev: "vite", HostHeader: "preserve", Inject: "none", Pool: new(5), LateEnv: "/run/all/env",
		},
		Templates: map[string]*Template{
			"none": nil,
			"all": {
				Image: "own", Pull: "always", ContainerPort: 8080, Command: []string{"own"},
				Env: map[string]string{"B": "2"}, WorkDir: "/own", User: "0", ContainerPorts: []int{9229, 80}, AnyPort: true,
				Memory: 2 << 30, CPUs: 0.5, Pids: 11, Ready: caddy.Duration(time.Hour),
				Dev: "next", HostHeader: "localhost", Inject: "env", Pool: new(0), LateEnv: "/run/own/env",
			},
		},
	}
	t.Setenv("SANDBOX_TEST_DOMAIN", "Sandbox.Example.COM")
	s, err := a.makeSettings(newExpander())
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]instance.Template{
		"none": {
			Image: "from-env", Pull: "never", Port: 80, Command: []string{"run", "{unknown}"},
			Env: map[string]string{"A": "1", "B": "1"}, WorkDir: "/work", User: "1000", Ports: []int{3000},
			Memory: 1 << 30, CPUs: 2, Pids: 99, Ready: time.Second,
			Mode: instance.Mode{Dev: "vite", HostHeader: "preserve"}, Inject: "none", Pool: 5, LateEnv: "/run/all/env",
		},
		"all": {
			Image: "own", Pull: "always", Port: 8080, Command: []string{"own"},
			Env: map[string]string{"A": "1", "B": "2"}, WorkDir: "/own", User: "0", Ports: []int{9229, 80}, AnyPort: true,
			Memory: 2 << 30, CPUs: 0.5, Pids: 11, Ready: time.Hour,
			Mode: instance.Mode{Dev: "next", HostHeader: "localhost"}, Inject: "env", LateEnv: "/run/own/env",
		},
	}
	if !reflect.DeepEqual(s.Templates, want) {
		t.Errorf("got  %+v\nwant %+v", s.Templates, want)
	}
	if s.Domain != "sandbox.example.com" || s.URL != "https://{prefix}.{domain}/" || s.Reserved[0] != "upper123" || s.DefaultTemplate != "" {
		t.Errorf("got %+v", s)
	}
	if a.Domain != "{env.SANDBOX_TEST_DOMAIN}" {
		t.Errorf("the configuration itself was expanded to %q", a.Domain)
	}
}

func TestBadConfigurationsAreExplained(t *testing.T) {
	for name, row := range map[string]struct {
		spoil func(*App)
		want  string
	}{
		"no domain":            {func(a *App) { a.Domain = "" }, "domain: it is missing"},
		"unset domain":         {func(a *App) { a.Domain = "{env.SANDBOX_TEST_UNSET}" }, "domain: it is missing"},
		"wildcard":             {func(a *App) { a.Domain = "*.example.com" }, "write it without the wildcard: example.com"},
		"domain with a port":   {func(a *App) { a.Domain = "example.com:80" }, "is not a domain name"},
		"domain with two dots": {func(a *App) { a.Domain = "example..com" }, "is not a domain name"},
		"long domain":          {func(a *App) { a.Domain = strings.Repeat("abc.", 50) + "com" }, "is not a domain name"},
		"one port":             {func(a *App) { a.Ports = "5174" }, "ports: \"5174\" is not a range"},
		"words for ports":      {func(a *App) { a.Ports = "low-high" }, "is not a range"},
		"ports upside down":    {func(a *App) { a.Ports = "20-10" }, "is not a range of ports"},
		"port zero":            {func(a *App) { a.Ports = "0-10" }, "is not a range of ports"},
		"too many ports":       {func(a *App) { a.Ports = "1-65536" }, "is not a range of ports"},
		"short prefixes":       {func(a *App) { a.PrefixLength = 7 }, "prefix_length: 7 is not from 8 to 57"},
		"long prefixes":        {func(a *App) { a.PrefixLength = 58 }, "prefix_length: 58 is not from 8 to 57"},
		"one url for all":      {func(a *App) { a.URL = "https://example.com" }, "lacks {prefix}"},
		"url without scheme":   {func(a *App) { a.URL = "{prefix}.{domain}" }, "is not the form of a URL"},
		"url of files":         {func(a *App) { a.URL = "ftp://{prefix}" }, "is not the form of a URL"},
		"no template":          {func(a *App) { a.Templates = nil }, "there is no template"},
		"unknown default":      {func(a *App) { a.DefaultTemplate = "other" }, `default_template: there is no template "other"`},
		"template name":        {func(a *App) { a.Templates["No Name"] = &Template{Image: "x"} }, `template "No Name": use a name`},
		"no image":             {func(a *App) { a.Templates["vite"].Image = "" }, `template "vite": the image is missing`},
		"image with a space":   {func(a *App) { a.Templates["vite"].Image = "a b" }, "image:"},
		"pull":                 {func(a *App) { a.Templates["vite"].Pull = "sometimes" }, "pull: \"sometimes\" is not missing, never or always"},
		"container port":       {func(a *App) { a.Templates["vite"].ContainerPort = 65536 }, "port: 65536 is not"},
		"negative port":        {func(a *App) { a.Templates["vite"].ContainerPort = -1 }, "port: -1 is not"},
		"further ports":        {func(a *App) { a.Templates["vite"].ContainerPorts = []int{80, 0} }, "ports: [80 0] are not all"},
		"many further ports":   {func(a *App) { a.Templates["vite"].ContainerPorts = slices.Repeat([]int{80}, 33) }, "ports: there are 33"},
		"relative workdir":     {func(a *App) { a.Templates["vite"].WorkDir = "app" }, "workdir: \"app\" is not an absolute path"},
		"memory":               {func(a *App) { a.Templates["vite"].Memory = 1 << 20 }, "memory: 1048576 bytes"},
		"dev":                  {func(a *App) { a.Templates["vite"].Dev = "angular" }, "dev: \"angular\" is not auto, vite"},
		"host header":          {func(a *App) { a.Templates["vite"].HostHeader = "example.com" }, "host_header: \"example.com\" is not auto"},
		"inject":               {func(a *App) { a.Templates["vite"].Inject = "some" }, "inject: \"some\" is not all, env or none"},
		"cpus":                 {func(a *App) { a.Templates["vite"].CPUs = -1 }, "cpus: -1"},
		"pids":                 {func(a *App) { a.Templates["vite"].Pids = -1 }, "pids: -1"},
		"pool":                 {func(a *App) { a.Templates["vite"].Pool = new(-1) }, "pool: -1 is not from 0 to 100"},
		"a relative late_env":  {func(a *App) { a.Templates["vite"].LateEnv = "env" }, `late_env: "env" is not the absolute path`},
		"a root's late_env":    {func(a *App) { a.Templates["vite"].LateEnv = "/env" }, `late_env: "/env" is not the absolute path`},
		"a crooked late_env":   {func(a *App) { a.Templates["vite"].LateEnv = "/run/../env" }, `late_env: "/run/../env" is not the absolute path`},
		"a large pool":         {func(a *App) { a.Templates["vite"].Pool = new(101) }, "pool: 101 is not from 0 to 100"},
		"ready":                {func(a *App) { a.Templates["vite"].Ready = -1 }, "ready: -1ns is negative"},
		"env":                  {func(a *App) { a.Templates["vite"].Env = map[string]string{"1A": ""} }, "env: \"1A\""},
		"env of defaults":      {func(a *App) { a.Defaults = &Template{Env: map[string]string{"A=B": ""}} }, "env: \"A=B\""},
	} {
		t.Run(name, func(t *testing.T) {
			a := minimal()
			row.spoil(a)
			if _, err := a.makeSettings(newExpander()); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
}

func TestStateDir(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	if err := os.Mkdir("real", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", "link"); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		"":                     filepath.Join(resolveLinks(caddy.AppDataDir()), "sandbox"),
		"state":                dir + "/state",
		"./real/../state/":     dir + "/state",
		dir + "/real/state":    dir + "/real/state",
		"link/state":           dir + "/real/state",
		"link/not/yet/there":   dir + "/real/not/yet/there",
		"/nothing/of/the/sort": "/nothing/of/the/sort",
	} {
		if got, err := stateDir(in); err != nil || got != want {
			t.Errorf("%q gave %q, %v, want %q", in, got, err, want)
		}
	}
}

func TestURLOfASite(t *testing.T) {
	tls := caddytls.ConnectionPolicies{new(caddytls.ConnectionPolicy)}
	site := func(policies caddytls.ConnectionPolicies, listen ...string) *caddyhttp.Server {
		return &caddyhttp.Server{Listen: listen, TLSConnPolicies: policies}
	}
	for _, row := range []struct {
		sites []*caddyhttp.Server
		want  string
	}{
		{[]*caddyhttp.Server{site(tls, ":443")}, "https://{prefix}.{domain}"},
		{[]*caddyhttp.Server{site(tls, ":8443")}, "https://{prefix}.{domain}:8443"},
		{[]*caddyhttp.Server{site(nil, ":80")}, "http://{prefix}.{domain}"},
		{[]*caddyhttp.Server{site(nil, "127.0.0.1:8081")}, "http://{prefix}.{domain}:8081"},
		{[]*caddyhttp.Server{site(tls, ":8080")}, "http://{prefix}.{domain}:8080"}, // the HTTP port never has TLS
		{[]*caddyhttp.Server{site(nil, ":80"), site(tls, ":8443")}, "https://{prefix}.{domain}:8443"},
		{[]*caddyhttp.Server{site(nil, "unix//run/caddy.sock", ":8081")}, "http://{prefix}.{domain}:8081"},
	} {
		const httpPort = 8080
		if got := urlOf(row.sites, httpPort, 8443); got != row.want {
			t.Errorf("%s: got %s, want %s", describeSites(row.sites), got, row.want)
		}
	}
	if got, want := urlOf(nil, 80, 8443), "https://{prefix}.{domain}:8443"; got != want {
		t.Errorf("without a site: got %s, want %s", got, want)
	}
}

func describeSites(sites []*caddyhttp.Server) string {
	var text []string
	for _, s := range sites {
		text = append(text, fmt.Sprintf("%v (%d TLS policies)", s.Listen, len(s.TLSConnPolicies)))
	}
	return strings.Join(text, ", ")
}
