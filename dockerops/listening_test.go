package dockerops

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

const testID = "2f0c1d3e4a5b60718293a4b5c6d7e8f90123456789abcdef0123456789abcdef"

// As a kernel on a little-endian machine shows them: 0.0.0.0:3000, 127.0.0.1:4000,
// 127.0.0.11:40363 (Docker's resolver), 172.18.0.5:5000, 127.0.0.1:6000, and a
// connection on port 3000.
const tableTCP = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000:0BB8 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 101 1 0000000000000000 100 0 0 10 0
   1: 0100007F:0FA0 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 102 1 0000000000000000 100 0 0 10 0
   2: 0B00007F:9DAB 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 103 1 0000000000000000 100 0 0 10 0
   3: 050012AC:1388 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 104 1 0000000000000000 100 0 0 10 0
   4: 0100007F:1770 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 105 1 0000000000000000 100 0 0 10 0
   5: 050012AC:0BB8 010012AC:C350 01 00000000:00000000 00:00000000 00000000     0        0 106 1 0000000000000000 100 0 0 10 0
`

// [::]:6000, [::1]:7000, [::ffff:127.0.0.1]:7001, [::ffff:0.0.0.0]:7002 and
// [fe80::1]:7003.
const tableTCP6 = `  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 00000000000000000000000000000000:1770 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 201 1 0000000000000000 100 0 0 10 0
   1: 00000000000000000000000001000000:1B58 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 202 1 0000000000000000 100 0 0 10 0
   2: 0000000000000000FFFF00000100007F:1B59 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 203 1 0000000000000000 100 0 0 10 0
   3: 0000000000000000FFFF000000000000:1B5A 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 204 1 0000000000000000 100 0 0 10 0
   4: 000080FE000000000000000001000000:1B5B 00000000000000000000000000000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 205 1 0000000000000000 100 0 0 10 0
`

// fakeProc is a folder such as /proc/<pid>; empty contents make no file.
func fakeProc(t *testing.T, tcp, tcp6, cgroup string) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "net"), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"net/tcp": tcp, "net/tcp6": tcp6, "cgroup": cgroup} {
		if content == "" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestListenersOfAProcess(t *testing.T) {
	for _, cgroup := range []string{
		"12:pids:/docker/" + testID + "\n11:memory:/docker/" + testID + "\n", // cgroup v1
		"0::/system.slice/docker-" + testID + ".scope\n",                     // v2 with systemd
		"0::/../" + testID + "\n",                                            // v2, seen from a namespace beside it
	} {
		got, err := listenersOf(fakeProc(t, tableTCP, tableTCP6, cgroup), testID)
		if err != nil {
			t.Fatal(err)
		}
		want := []instance.Listener{
			{Port: 3000}, {Port: 4000, Loopback: true}, {Port: 5000}, {Port: 6000}, // on ::, and on 127.0.0.1 as well
			{Port: 7000, Loopback: true}, {Port: 7001, Loopback: true}, {Port: 7002}, {Port: 7003, Loopback: true},
		}
		if !slices.Equal(got, want) {
			t.Errorf("got  %v\nwant %v", got, want)
		}
	}
}

func TestListenersWithoutIPv6(t *testing.T) {
	got, err := listenersOf(fakeProc(t, tableTCP, "", testID), testID)
	if err != nil || len(got) != 4 {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestAnotherProcessIsNotLookedAt(t *testing.T) {
	other := strings.Replace(testID, "2", "3", 1)
	for _, cgroup := range []string{"0::/\n", "0::/user.slice\n", "0::/docker/" + other + "\n", "0::/docker/" + testID[:63] + "\n"} {
		if got, err := listenersOf(fakeProc(t, tableTCP, tableTCP6, cgroup), testID); err == nil || got != nil {
			t.Errorf("%q: got %v, %v", cgroup, got, err)
		}
	}
	for name, proc := range map[string]string{"no process": filepath.Join(t.TempDir(), "1"), "one that ended": fakeProc(t, tableTCP, tableTCP6, "")} {
		if got, err := listenersOf(proc, testID); !errors.Is(err, fs.ErrNotExist) || got != nil {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
	if got, err := listenersOf(fmt.Sprintf("/proc/%d", os.Getpid()), testID); err == nil {
		t.Errorf("this process counts as a container's: %v", got)
	}
}

func TestManyListenersAreCutOff(t *testing.T) {
	heading, _, _ := strings.Cut(tableTCP, "\n")
	line := strings.Split(tableTCP, "\n")[1]
	var table strings.Builder
	table.WriteString(heading + "\n")
	for port := 1; port <= 65535; port++ {
		table.WriteString(strings.Replace(line, ":0BB8", ":"+strings.ToUpper(strconv.FormatInt(int64(port)|0x10000, 16))[1:], 1) + "\n")
	}
	got, err := listenersOf(fakeProc(t, table.String(), "", testID), testID)
	if err != nil || len(got) != instance.MaxListeners || got[0].Port != 1 {
		t.Errorf("%d ports, %v", len(got), err)
	}
}

func FuzzParseSockets(f *testing.F) {
	f.Add([]byte(tableTCP))
	f.Add([]byte(tableTCP6))
	f.Add([]byte("h\n0: zz:0BB8 x 0A\n"))
	f.Add([]byte("h\n0: 0000:0BB8 x 0A\n"))
	f.Fuzz(func(t *testing.T, table []byte) {
		sockets, err := parseSockets(table)
		if err != nil {
			return
		}
		for _, s := range sockets {
			if !s.IsValid() {
				t.Errorf("took %v for a socket", s)
			}
		}
		if n := len(listeners(sockets)); n > instance.MaxListeners {
			t.Errorf("%d listeners", n)
		}
	})
}
