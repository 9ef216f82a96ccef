package test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Whoever asks for hosts that nobody has must not fill the disk by it: with an
// access log, one line each of at most 1 KiB, whatever the host's length.
func TestALongHostMakesNoLongLogLine(t *testing.T) {
	t.Parallel()
	access := filepath.Join(t.TempDir(), "access.log")
	c := startCaddy(t, options{Sites: `
http://*.` + domain + ` {
	log {
		output file ` + access + `
	}
	sandbox_proxy
}
`})
	made := c.admin.create(t, createRequest{Prefix: "longlines"})
	from := c.logSize()

	// The access log is there, and has what it should.
	short := "unknownhost." + domain
	c.mustAnswer404(t, lastRequest(short))
	c.mustAnswer404(t, lastRequest(strings.Repeat("b", 240)+"."+domain))
	logged := func() []byte {
		content, err := os.ReadFile(access)
		if err != nil {
			t.Fatal(err)
		}
		return append(content, c.logTail(from)...)
	}
	eventually(t, 10*time.Second, func() error {
		if log := logged(); !bytes.Contains(log, []byte(`"host":"`+short+`"`)) {
			return fmt.Errorf("the access log lacks the refused request:\n%s", log)
		}
		return nil
	})

	long := strings.Repeat("a", 20_000) + "." + domain
	hostile := []string{
		lastRequest(long),
		lastRequest(strings.Repeat("a", 262) + "." + domain),
		"GET http://" + long + "/ HTTP/1.1\r\nHost: " + domain + "\r\nConnection: close\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: " + long + "\r\nAccept: text/html\r\nConnection: close\r\n\r\n",
	}
	for _, send := range hostile {
		c.mustAnswer404(t, send)
	}
	if c.shakesHands(t, long) {
		t.Error("a handshake for the long host completed")
	}
	eventually(t, 10*time.Second, func() error {
		if n := bytes.Count(logged(), []byte("longer than any name")); n != len(hostile) {
			return fmt.Errorf("%d lines about %d long hosts:\n%.5000s", n, len(hostile), logged())
		}
		return nil
	})
	if status, err := c.getPlain(made); err != nil || status != 200 {
		t.Errorf("afterwards the instance answers %d (%v)", status, err)
	}
	longest := 0
	for line := range bytes.Lines(logged()) {
		if longest = max(longest, len(line)); len(line) > 1024 {
			t.Errorf("a line of %d bytes: %.300s…", len(line), line)
		}
	}
	t.Logf("longest line: %d bytes", longest)
}

func (c *caddyServer) mustAnswer404(t testing.TB, send string) {
	t.Helper()
	if got := summary(c.dialWire(t, "").exchange(t, send)); got != "404" {
		t.Fatalf("%.60q: %s, want 404", send, got)
	}
}
