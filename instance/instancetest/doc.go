// Package instancetest tests and stands in for an instance.Runtime.
//
// [Contract] is the suite that every Runtime must pass; its subtests are the
// obligations of the interface, by name. [Engine] is a container engine in
// memory, whose containers are real HTTP servers on the host ports of their
// specs: they conflict over ports, end, get lost and are removed by hand as
// Docker's are. Each [Memory] is one manager's Runtime on it.
//
// The package knows nothing of Docker. Start reading at contract.go and
// engine.go.
package instancetest
