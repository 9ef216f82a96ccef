package test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func TestASecondCaddyOnTheSameStateIsRefused(t *testing.T) {
	t.Parallel()
	first := startCaddy(t, options{})
	made := first.api.create(t, createRequest{Prefix: "firstcaddy"})
	second := prepareCaddy(t, options{StateDir: first.StateDir, Ports: first.Ports})

	requests := keepRequesting(first.visitor, made.URL)
	second.refused(t, first)
	if done, failed := requests(); len(failed) > 0 || done == 0 {
		t.Errorf("the first Caddy failed %d of %d requests meanwhile: %v", len(failed), done, failed)
	}
	sameInstance(t, first.api.get(t, "firstcaddy"), made)
}

func TestTheSameCommandTwiceLeavesTheFirstCaddyServing(t *testing.T) {
	t.Parallel()
	first := startCaddy(t, options{})
	made := first.api.create(t, createRequest{Prefix: "sametwice"})
	// The same ports, too: as long as the second lives, the kernel hands it
	// some of the connections, so nothing is asked meanwhile.
	second := *first
	second.dir = t.TempDir()
	if err := second.writeConfig(first.caddyfile()); err != nil {
		t.Fatal(err)
	}
	second.refused(t, first)
	for range 50 {
		first.visitor.forgetConnections()
		first.visitor.mustGet(t, made.URL)
	}
	first.admin.get(t, "sametwice")
}

// refused launches c and waits until it ends, saying who has the directory.
func (c *caddyServer) refused(t testing.TB, holder *caddyServer) {
	t.Helper()
	if err := c.launch(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(20 * time.Second):
		_ = c.cmd.Process.Kill()
		t.Fatalf("the second Caddy goes on:\n%s", c.logTail(0))
	}
	if c.exitErr == nil {
		t.Error("the second Caddy ended with exit code 0")
	}
	want := fmt.Sprintf("is in use by another process (pid %d)", holder.pid())
	if log := c.logTail(0); !strings.Contains(log, want) || !strings.Contains(log, holder.StateDir) {
		t.Errorf("the second Caddy does not say %q and %s:\n%s", want, holder.StateDir, log)
	}
}

// keepRequesting asks for url until stop is called, each time on a new
// connection.
func keepRequesting(v *visitor, url string) (stop func() (done int, failed []error)) {
	quit, ended := make(chan struct{}), make(chan struct{})
	var done int
	var failed []error
	go func() {
		defer close(ended)
		for {
			select {
			case <-quit:
				return
			default:
			}
			v.forgetConnections()
			if _, err := v.answers200(url); err != nil {
				failed = append(failed, err)
			}
			done++
		}
	}()
	return func() (int, []error) {
		close(quit)
		<-ended
		return done, failed
	}
}
