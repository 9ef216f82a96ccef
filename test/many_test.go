package test

import (
	"bytes"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// stateOfMany makes a state directory with n instances that are stopped and
// have no containers: a container each would need another machine.
func stateOfMany(t testing.TB, n int) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp(runDir, "state-of-many-")
	if err != nil {
		t.Fatal(err)
	}
	const firstPort = highestPort + 1 // of no test, and of no instance that starts
	var file bytes.Buffer
	fmt.Fprintf(&file, `{"version":1,"owner":%q,"nextPort":%d,"instances":{`, uuid.NewString(), firstPort)
	for i := range n {
		if i > 0 {
			file.WriteByte(',')
		}
		fmt.Fprintf(&file, `%q:{"prefix":%[1]q,"port":%d,"template":"web","generation":1,"image":%q,"container_port":8080,`+
			`"env":{"PORT":"8080","SANDBOX_PREFIX":%[1]q},"memory":536870912,"cpus":1,"pids":512,`+
			`"status":"stopped","reason":"user","created_at":"2026-01-02T03:04:05Z"}`, manyPrefix(i), firstPort+i, serverImage)
	}
	file.WriteString("}")
	// The file ends with the checksum of all that is before it.
	sum := crc32.Checksum(file.Bytes(), crc32.MakeTable(crc32.Castagnoli))
	fmt.Fprintf(&file, ",\"crc32c\":\"%08x\"}\n", sum)
	if err := os.WriteFile(filepath.Join(dir, ".instances.json"), file.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func manyPrefix(i int) string { return fmt.Sprintf("oneofmany%05d", i) }

// startCaddyOfMany starts a Caddy with n instances, one of which runs; the
// others are stopped. Beside them it serves the same container at
// static.localhost, through a reverse_proxy that knows its address, and at
// tuned.localhost, where that keeps as many idle connections as sandbox_proxy;
// and nothing.localhost, where all is answered with 404.
func startCaddyOfMany(t testing.TB, n int, templates string) (c *caddyServer, running instanceView) {
	t.Helper()
	c = startCaddy(t, options{StateDir: stateOfMany(t, n-1), Sites: plainSite, Templates: templates})
	running = c.admin.create(t, createRequest{})
	if total := c.admin.list(t, "").Total; total != n {
		t.Fatalf("%d instances, want %d", total, n)
	}
	c.Sites += strings.ReplaceAll(`
http://static.localhost, https://static.localhost {
	tls internal
	reverse_proxy {address}
}
http://tuned.localhost, https://tuned.localhost {
	tls internal
	reverse_proxy {address} {
		transport http {
			keepalive_idle_conns_per_host 512
		}
	}
}
http://nothing.localhost {
	respond 404
}
`, "{address}", directAddress(t, running.ContainerID))
	c.reload(t, c.caddyfile())
	return c, running
}
