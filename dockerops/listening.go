package dockerops

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// maxTable bounds what is read of a table of sockets: a line is 150 bytes, and
// those that listen come first.
const maxTable = 1 << 20

// Listening implements instance.Listening. It is one call to the engine; the
// rest is read from the kernel, which shows the sockets of the container's
// network to everybody who can see one of its processes.
func (c *Client) Listening(ctx context.Context, ref string) ([]instance.Listener, error) {
	found, err := c.own(ctx, ref)
	if err != nil {
		return nil, err
	}
	if !found.State.Running {
		return nil, instance.Errorf(instance.EngineFailed, "container %s does not run", ref)
	}
	listeners, err := listenersOf(fmt.Sprintf("/proc/%d", found.State.Pid), found.ID)
	if err != nil {
		return nil, instance.Errorf(instance.EngineFailed, "looking at what listens in container %s: %w", ref, err)
	}
	return listeners, nil
}

// listenersOf reads what listens in the network of the process at proc, which
// must be one of container id: the engine may be on another machine, or in
// another namespace of processes, where the number means another one, and the
// container may have ended since.
func listenersOf(proc, id string) ([]instance.Listener, error) {
	var sockets []socket
	for _, family := range []string{"tcp", "tcp6"} {
		table, err := readStart(filepath.Join(proc, "net", family))
		if errors.Is(err, fs.ErrNotExist) && family == "tcp6" { // a kernel without IPv6
			continue
		}
		if err != nil {
			return nil, err
		}
		more, err := parseSockets(table)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", family, err)
		}
		sockets = append(sockets, more...)
	}
	groups, err := readStart(filepath.Join(proc, "cgroup")) // last: now the process was the container's all along
	if err != nil {
		return nil, err
	}
	if !bytes.Contains(groups, []byte(id)) {
		return nil, errors.New("its process is not one of this host's: Caddy has to run on the engine's host and see its processes")
	}
	return listeners(sockets), nil
}

// readStart reads a file, and no more than the start of a huge one.
func readStart(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxTable))
}

// socket is one that listens.
type socket = netip.AddrPort

// listenState is TCP_LISTEN of the kernel's include/net/tcp_states.h.
const listenState = "0A"

// parseSockets returns the sockets that listen of a table such as
// /proc/net/tcp, whose form is in the kernel's Documentation/networking/proc_net_tcp.rst.
func parseSockets(table []byte) ([]socket, error) {
	var sockets []socket
	lines := bufio.NewScanner(bytes.NewReader(table))
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != listenState { // also: cut off by maxTable
			continue
		}
		s, err := parseSocket(fields[1])
		if err != nil {
			return nil, err
		}
		sockets = append(sockets, s)
	}
	return sockets, lines.Err()
}

// parseSocket reads an address and port such as 0100007F:1F90, whose address is
// in words of four bytes, each in the order of this machine.
func parseSocket(text string) (socket, error) {
	words, port, _ := strings.Cut(text, ":")
	raw, err := hex.DecodeString(words)
	if err != nil {
		return socket{}, fmt.Errorf("%q is no address and port: %w", text, err)
	}
	if len(raw)%4 == 0 {
		for word := range slices.Chunk(raw, 4) {
			binary.BigEndian.PutUint32(word, binary.NativeEndian.Uint32(word))
		}
	}
	ip, ok := netip.AddrFromSlice(raw)
	number, err := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil {
		return socket{}, fmt.Errorf("%q is no address and port", text)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(number)), nil
}

// engineResolver is the address that Docker's own resolver has in a container,
// on a port that changes.
var engineResolver = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// listeners are the ports of sockets. One that is bound to an address of the
// container, or to all of them, is reached from outside; the address is of
// IPv4, for our networks have no other.
func listeners(sockets []socket) []instance.Listener {
	loopback := map[int]bool{}
	for _, s := range sockets {
		if s.Addr() == engineResolver {
			continue
		}
		inside := !s.Addr().IsUnspecified() && (s.Addr().IsLoopback() || s.Addr().Is6())
		before, seen := loopback[int(s.Port())]
		loopback[int(s.Port())] = inside && (before || !seen)
	}
	var all []instance.Listener
	for port, inside := range loopback {
		all = append(all, instance.Listener{Port: port, Loopback: inside})
	}
	slices.SortFunc(all, func(a, b instance.Listener) int { return a.Port - b.Port })
	return all[:min(len(all), instance.MaxListeners)]
}
