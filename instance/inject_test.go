package instance_test

import (
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// with puts a changed template in force.
func (b *bench) with(change func(*instance.Template)) {
	s := b.settings()
	t := s.Templates["hello"]
	change(&t)
	s.Templates["hello"] = t
	b.manager.Use(s)
}

// env is what the container of prefix was given.
func (b *bench) env(prefix string) map[string]string {
	b.Helper()
	for _, c := range b.engine.Containers() {
		if c.Spec.Prefix == prefix {
			return c.Spec.Env
		}
	}
	b.Fatalf("there is no container of %s", prefix)
	return nil
}

func TestAContainerIsTold(t *testing.T) {
	const preload = "--import=data:text/javascript,…"
	all := map[string]string{
		"PORT": "3000", "HOST": "0.0.0.0", "NODE_OPTIONS": preload,
		"__VITE_ADDITIONAL_SERVER_ALLOWED_HOSTS": ".sandbox.example.com",
		"WDS_SOCKET_PORT":                        "0",
		"WEBPACK_DEV_SERVER_BASE_PORT":           "3000",
		"BROWSER":                                "none", "NO_COLOR": "1", "NEXT_TELEMETRY_DISABLED": "1",
		"SANDBOX_ID": "curious1", "SANDBOX_PREFIX": "curious1", "SANDBOX_PORT": "3000", "SANDBOX_PORTS": "3000",
		"SANDBOX_URL":          "https://curious1.sandbox.example.com",
		"SANDBOX_URL_TEMPLATE": "https://{port}-curious1.sandbox.example.com",
	}
	ours := []string{"PORT", "SANDBOX_ID", "SANDBOX_PREFIX", "SANDBOX_PORT", "SANDBOX_PORTS", "SANDBOX_URL", "SANDBOX_URL_TEMPLATE"}
	for _, row := range []struct {
		name     string
		inject   instance.Inject
		template map[string]string
		caller   []string
		image    map[string]string
		want     map[string]string // what differs from all; "-": not set
	}{
		{name: "all that it takes"},
		{name: "the variables alone", inject: "env", want: map[string]string{"NODE_OPTIONS": "-"}},
		{name: "what the template says", template: map[string]string{"HOST": "::", "BROWSER": "x", "SANDBOX_ID": "forged"},
			want: map[string]string{"HOST": "::", "BROWSER": "x"}},
		{name: "what the caller says", template: map[string]string{"HOST": "::"}, caller: []string{"HOST", "localhost", "PORT", "8080"},
			want: map[string]string{"HOST": "localhost", "PORT": "8080"}},
		{name: "the template's options and ours", template: map[string]string{"NODE_OPTIONS": "--max-old-space-size=99"},
			want: map[string]string{"NODE_OPTIONS": "--max-old-space-size=99 " + preload}},
		{name: "the caller's options and ours", template: map[string]string{"NODE_OPTIONS": "--a"}, caller: []string{"NODE_OPTIONS", " --b "},
			image: map[string]string{"NODE_OPTIONS": "--c"}, want: map[string]string{"NODE_OPTIONS": "--b  " + preload}},
		{name: "the image's options and ours", image: map[string]string{"NODE_OPTIONS": "--c", "NODE_VERSION": "20.1.0"},
			want: map[string]string{"NODE_OPTIONS": "--c " + preload, "NODE_VERSION": "20.1.0"}},
		{name: "no options that its Node does not know", image: map[string]string{"NODE_VERSION": "18.17.1"},
			want: map[string]string{"NODE_OPTIONS": "-", "NODE_VERSION": "18.17.1"}},
		{name: "options that its Node just knows", image: map[string]string{"NODE_VERSION": "18.18.0"},
			want: map[string]string{"NODE_VERSION": "18.18.0"}},
		{name: "no options of ours for a Node in between", image: map[string]string{"NODE_VERSION": "19.9.0", "NODE_OPTIONS": "--c"},
			want: map[string]string{"NODE_OPTIONS": "--c", "NODE_VERSION": "19.9.0"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			b := newBench(t, 2)
			b.engine.SetImageEnv(row.image)
			b.with(func(t *instance.Template) { t.Inject, t.Env = row.inject, row.template })
			b.create("curious1", row.caller...)
			got := b.env("curious1")
			delete(got, "PATH")
			if options, ok := got["NODE_OPTIONS"]; ok {
				before, code, _ := strings.Cut(options, "--import=data:text/javascript,")
				if code != "" {
					got["NODE_OPTIONS"] = before + preload
				}
				if strings.ContainsAny(code, " $\"'\\#&=?") {
					t.Errorf("the code has what others take for their own: %s", code)
				}
			}
			for name, value := range all {
				want := value
				if w, ok := row.want[name]; ok {
					want = w
				}
				if have, ok := got[name]; have != want && (ok || want != "-") {
					t.Errorf("%s=%q, want %q", name, have, want)
				}
			}
			for name := range got {
				if _, known := all[name]; !known && row.want[name] == "" {
					t.Errorf("it has %s=%q", name, got[name])
				}
			}
		})
	}
	t.Run("nothing but where it is", func(t *testing.T) {
		b := newBench(t, 2)
		b.with(func(t *instance.Template) { t.Inject = instance.InjectNone })
		b.create("curious1")
		got := b.env("curious1")
		delete(got, "PATH")
		for _, name := range ours {
			if got[name] != all[name] {
				t.Errorf("%s=%q, want %q", name, got[name], all[name])
			}
			delete(got, name)
		}
		if len(got) > 0 {
			t.Errorf("it has %v besides", got)
		}
	})
}

func TestAnOldNodeRunsWithoutThePreload(t *testing.T) {
	for _, wait := range []instance.Wait{instance.WaitReady, instance.WaitStarted, instance.WaitNone} {
		t.Run(string(wait), func(t *testing.T) {
			b := newBench(t, 2)
			req := request("oldnode1", "TEST_MODE", "oldnode", "NODE_OPTIONS", "--own")
			req.Wait = wait
			if _, err := b.manager.Create(t.Context(), req); err != nil {
				t.Fatal(err)
			}
			in := b.awaitStatus("oldnode1", instance.Running, "")
			if in.Generation != 2 {
				t.Errorf("generation %d, want 2: its second container", in.Generation)
			}
			if got := b.env("oldnode1")["NODE_OPTIONS"]; got != "--own" {
				t.Errorf("NODE_OPTIONS=%q", got)
			}
			b.answers(in)
			b.reopen()
			if in, err := b.manager.Restart(t.Context(), "oldnode1", ""); err != nil || !in.Ready {
				t.Errorf("it did not restart: %v, %v", in, err)
			}
		})
	}
}

func TestAServerThatEndsWithThatCodeAnywayIsMadeTwiceOnly(t *testing.T) {
	b := newBench(t, 2)
	_, err := b.manager.Create(t.Context(), request("oldnode1", "TEST_MODE", "exit", "TEST_EXIT_CODE", "9"))
	b.fails(err, instance.Exited)
	if n := b.engine.Calls("Create"); n != 2 {
		t.Errorf("%d containers were made, want 2", n)
	}
	b.nothingLeft("oldnode1")
}
