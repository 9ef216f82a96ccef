package caddymodule

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Where Linux tells, of the network namespace of this process, which ports it
// takes for the near ends of outgoing connections, and which of these it never
// takes all the same. Both hold for IPv6, too.
const (
	ephemeralPath = "/proc/sys/net/ipv4/ip_local_port_range"
	reservedPath  = "/proc/sys/net/ipv4/ip_local_reserved_ports"
)

// adviseOnPorts says what to do where the kernel may give some of the ports
// to any outgoing connection, which keeps Docker from publishing an instance
// there for as long; empty: nothing. It is only about Linux, and reads two
// lines of /proc: `caddy validate` may do that, too.
func adviseOnPorts(ports instance.PortRange) string {
	kernel, err := os.ReadFile(ephemeralPath)
	if err != nil {
		return "" // no Linux
	}
	reserved, _ := os.ReadFile(reservedPath)
	return overlapAdvice(ports, string(kernel), string(reserved))
}

// overlapAdvice is adviseOnPorts once the kernel has spoken.
func overlapAdvice(ports instance.PortRange, kernel, reserved string) string {
	var first, last int
	if _, err := fmt.Sscan(kernel, &first, &last); err != nil {
		return ""
	}
	from, to := max(ports.First, first), min(ports.Last, last)
	if from > to || keptFree(from, to, reserved) {
		return ""
	}
	return fmt.Sprintf("ports %d to %d of `ports` are also the kernel's, for outgoing connections (%d to %d), and now and then taken by one: "+
		"choose others, or run sysctl -w net.ipv4.ip_local_reserved_ports=%d-%d", from, to, first, last, from, to)
}

// keptFree reports whether a list like "80,5174-6000", whose ranges the kernel
// keeps in order and joined, holds all from the first port to the last.
func keptFree(from, to int, list string) bool {
	for entry := range strings.SplitSeq(strings.TrimSpace(list), ",") {
		low, high, isRange := strings.Cut(entry, "-")
		if !isRange {
			high = low
		}
		first, err1 := strconv.Atoi(low)
		last, err2 := strconv.Atoi(high)
		if err1 == nil && err2 == nil && first <= from && to <= last {
			return true
		}
	}
	return false
}
