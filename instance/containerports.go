package instance

import (
	"fmt"
	"slices"
	"strconv"
)

// MaxContainerPorts bounds what one template, and one create, declares.
const MaxContainerPorts = 32

// maxCertified bounds the certificates that the hosts of an instance's
// undeclared ports get: enough for whoever mistypes a port to see the page
// that says so, and nothing for a stranger who counts through them.
const maxCertified = 16

var portsAllowed = []string{fmt.Sprintf("at most %d container ports from 1 to 65535", MaxContainerPorts)}

// checkPorts checks the container ports that a caller declares.
func checkPorts(ports []int) error {
	if len(ports) > MaxContainerPorts {
		return badField("ports", fmt.Sprintf("there are %d ports: at most %d are allowed", len(ports), MaxContainerPorts), portsAllowed...)
	}
	for _, port := range ports {
		if !ValidPort(port) {
			return badField("ports", fmt.Sprintf("ports: %d is not from 1 to 65535", port), portsAllowed...)
		}
	}
	return nil
}

// ValidPort reports whether port is the number of one.
func ValidPort(port int) bool { return 1 <= port && port <= 65535 }

// validPorts reports whether a record may have declared ports.
func validPorts(ports []int) bool {
	for i, port := range ports {
		if !ValidPort(port) || i > 0 && ports[i-1] >= port {
			return false
		}
	}
	return true
}

// mergePorts joins the lists of declared ports, in order, each once and without
// the primary one, which needs no declaring; nil if none are left.
func mergePorts(primary int, lists ...[]int) []int {
	all := slices.Concat(lists...)
	slices.Sort(all)
	all = slices.DeleteFunc(slices.Compact(all), func(port int) bool { return port == primary })
	if len(all) == 0 {
		return nil
	}
	return all
}

// declares reports whether port, zero for the dev server's, has a URL of its
// own.
func (s *Spec) declares(port int) bool {
	if port == 0 || port == s.ContainerPort {
		return true
	}
	_, found := slices.BinarySearch(s.ContainerPorts, port)
	return found
}

// serves reports whether visitors may reach port.
func (s *Spec) serves(port int) bool { return s.AnyPort || s.declares(port) }

// urls are the public URLs of the declared ports besides the dev server's.
func (r *Record) urls(s *Settings) map[int]string {
	urls := make(map[int]string, len(r.ContainerPorts))
	for _, port := range r.ContainerPorts {
		urls[port] = s.portURL(r.Prefix, port)
	}
	return urls
}

func (s *Settings) portURL(prefix string, port int) string {
	return s.url(strconv.Itoa(port) + "-" + prefix)
}

// certifyLocked reports whether the host of port may have a certificate.
func (e *entry) certifyLocked(port int) bool {
	if e.rec.declares(port) || slices.Contains(e.certified, port) {
		return true
	}
	if len(e.certified) == maxCertified {
		return false
	}
	e.certified = append(e.certified, port)
	return true
}

func noSuchPort(port int) error {
	return Errorf(NoSuchPort, "port %d of this instance is not for visitors: declare it in ports when the instance is created, or in its template", port).
		With("port", port)
}
