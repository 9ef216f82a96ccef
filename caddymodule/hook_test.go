package caddymodule

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// diary is a reaction that notes when it ran and for what, and how often at
// once at most. In a synctest bubble, times are exact.
type diary struct {
	begin    time.Time
	takes    time.Duration
	failures int // of the first runs
	runs     []string
	running  int
	overlaps bool
}

func (d *diary) react(ctx context.Context, files []string) error {
	d.runs = append(d.runs, fmt.Sprintf("%s: %s", time.Since(d.begin), strings.Join(files, " ")))
	d.running++
	d.overlaps = d.overlaps || d.running > 1
	defer func() { d.running-- }()
	if d.takes > 0 {
		select {
		case <-time.After(d.takes):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if d.failures > 0 {
		d.failures--
		return errors.New("failing as asked")
	}
	return nil
}

func (d *diary) expect(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(d.runs, want) {
		t.Errorf("ran\n%s\nwant\n%s", strings.Join(d.runs, "\n"), strings.Join(want, "\n"))
	}
	if d.overlaps {
		t.Error("runs overlapped")
	}
}

// keep gives d a hook with a debounce of 100ms and a timeout of 10s.
func (d *diary) keep() *hook {
	d.begin = time.Now()
	h := newHook("test", d.react)
	h.debounce, h.timeout = 100*time.Millisecond, 10*time.Second
	return h
}

// After each of these tests the bubble is empty: synctest fails otherwise, so
// no hook leaves a goroutine behind. Their sleeps pass the bubble's time, which
// is exact and takes none of ours.

func TestChangesThatComeTogetherAreOneRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(diary)
		h := d.keep()
		for range 9 { // the window does not move, or a busy server would never get there
			h.notify(routesProjection)
			h.notify(composeProjection)
			time.Sleep(10 * time.Millisecond)
		}
		<-h.ended()
		h.notify(composeProjection)
		<-h.ended()
		d.expect(t, "100ms: config/subdomain-proxy.json docker-compose.yml", "300ms: docker-compose.yml")
	})
}

func TestChangesDuringARunAreOneMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{takes: time.Second}
		h := d.keep()
		for range 10 {
			h.notify(routesProjection)
			time.Sleep(100 * time.Millisecond)
		}
		<-h.ended()
		d.expect(t, "100ms: config/subdomain-proxy.json", "1.2s: config/subdomain-proxy.json")
	})
}

func TestFailedRunsAreTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{failures: 2}
		h := d.keep()
		h.notify(routesProjection)
		<-h.ended()
		d.expect(t, "100ms: config/subdomain-proxy.json", "1.1s: config/subdomain-proxy.json", "3.1s: config/subdomain-proxy.json")
	})
}

func TestRunsThatFailTooOftenAreGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{failures: hookTries}
		h := d.keep()
		h.notify(routesProjection)
		time.Sleep(time.Second)
		h.notify(composeProjection)
		<-h.ended()
		d.expect(t,
			"100ms: config/subdomain-proxy.json", "1.1s: config/subdomain-proxy.json", "3.1s: config/subdomain-proxy.json",
			"7.1s: config/subdomain-proxy.json", "15.1s: config/subdomain-proxy.json",
			"15.2s: docker-compose.yml")
	})
}

func TestRunsEndAtTheirDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &diary{takes: time.Hour}
		h := d.keep()
		h.notify(routesProjection)
		<-h.ended()
		if took := time.Since(d.begin); took > 2*time.Minute || len(d.runs) != hookTries {
			t.Errorf("%d runs in %s", len(d.runs), took)
		}
	})
}

func TestOnlyTheFilesOfAHookCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := new(diary)
		h := d.keep()
		h.files = []string{composeProjection}
		h.notify(routesProjection)
		<-h.ended()
		d.expect(t)
		h.notify(composeProjection)
		<-h.ended()
		d.expect(t, "100ms: docker-compose.yml")
	})
}

func TestHookWithoutReferencesDoesWhatItHasToAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		waiting, retrying := &diary{}, &diary{failures: 99}
		first, second := waiting.keep(), retrying.keep()
		first.debounce, second.debounce = time.Hour, 0
		first.notify(routesProjection)
		second.notify(routesProjection)
		time.Sleep(500 * time.Millisecond) // the second waits for its next try
		for _, h := range []*hook{first, second} {
			if err := h.Destruct(); err != nil {
				t.Fatal(err)
			}
			<-h.ended()
		}
		first.notify(composeProjection) // somebody still holds on to it
		<-first.ended()
		waiting.expect(t, "500ms: config/subdomain-proxy.json", "500ms: docker-compose.yml")
		retrying.expect(t, "0s: config/subdomain-proxy.json", "500ms: config/subdomain-proxy.json")
	})
}

func TestHooksEndWithTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		quick, hanging, resting := &diary{takes: time.Second}, &diary{takes: time.Hour}, new(diary)
		all := []*hook{hanging.keep(), quick.keep(), resting.keep()}
		for _, h := range all[:2] {
			h.timeout = 2 * time.Hour
			h.notify(routesProjection)
			if err := h.Destruct(); err != nil {
				t.Fatal(err)
			}
		}
		begin := time.Now()
		endHooks(all, 3*time.Second)
		if took := time.Since(begin); took != 3*time.Second {
			t.Errorf("it took %s, want 3s", took)
		}
		quick.expect(t, "0s: config/subdomain-proxy.json")
		hanging.expect(t, "0s: config/subdomain-proxy.json")
	})
}

func TestBadReloadHooksAreExplained(t *testing.T) {
	for name, row := range map[string]struct {
		hook *ReloadHook
		want string
	}{
		"null":              {nil, "needs exactly one of signal, command and post"},
		"nothing":           {&ReloadHook{Debounce: 1}, "needs exactly one of signal, command and post"},
		"two":               {&ReloadHook{Post: "http://a.example", Command: []string{"true"}}, "exactly one"},
		"pid file beside":   {&ReloadHook{Post: "http://a.example", PIDFile: "/run/x"}, "exactly one"},
		"unknown signal":    {&ReloadHook{Signal: "KILL", PIDFile: "/run/x"}, `signal: "KILL" is not one of HUP, INT, QUIT, TERM, USR1, USR2, WINCH`},
		"signal in numbers": {&ReloadHook{Signal: "1", PIDFile: "/run/x"}, `signal: "1" is not one of`},
		"no signal":         {&ReloadHook{PIDFile: "/run/x"}, `signal: "" is not one of`},
		"no pid file":       {&ReloadHook{Signal: "HUP"}, "the pid file is missing"},
		"unset pid file":    {&ReloadHook{Signal: "HUP", PIDFile: "{env.SANDBOX_TEST_UNSET}"}, "the pid file is missing"},
		"empty command":     {&ReloadHook{Command: []string{""}}, "command: its first word is empty"},
		"relative url":      {&ReloadHook{Post: "/reload"}, "post: it is not the URL"},
		"url of a file":     {&ReloadHook{Post: "file:///etc"}, "post: it is not the URL"},
		"unknown file":      {&ReloadHook{Command: []string{"true"}, Files: []string{"compose.yml"}}, `files: "compose.yml" is not one of config/subdomain-proxy.json, docker-compose.yml`},
		"the truth":         {&ReloadHook{Command: []string{"true"}, Files: []string{".instances.json"}}, `files: ".instances.json" is not one of`},
		"negative debounce": {&ReloadHook{Command: []string{"true"}, Debounce: -1}, "debounce: -1ns is negative"},
		"negative timeout":  {&ReloadHook{Command: []string{"true"}, Timeout: caddy.Duration(-time.Second)}, "timeout: -1s is negative"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := row.hook.acquire("/state", newExpander()); err == nil || !strings.Contains(err.Error(), row.want) {
				t.Errorf("got %v, want %q", err, row.want)
			}
		})
	}
	hooks.Range(func(key, _ any) bool {
		t.Errorf("%v is in the pool", key)
		return true
	})
}

func TestSignalsGoByEitherName(t *testing.T) {
	for _, name := range []string{"HUP", "SIGHUP"} {
		h, err := (&ReloadHook{Signal: name, PIDFile: "/run/x"}).acquire("/state", newExpander())
		if err != nil {
			t.Fatal(err)
		}
		if err := releaseHooks([]*hook{h}); err != nil {
			t.Fatal(err)
		}
	}
}
