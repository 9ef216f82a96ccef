// Package dockerops runs instances in containers of a Docker Engine: it
// implements instance.Runtime, and is the only package that knows Docker.
//
// A [Client] acts for one owner, the manager of one state directory. It sees
// and touches only containers that carry the owner's label, and puts them on a
// network of its own; beside these, only what it was told to adopt (adopt.go).
// It also generates docker-compose.yml, so that the same containers can be run
// without Caddy (compose.go).
//
// The package knows nothing of Caddy, of routes or of records, and keeps no
// state that the engine does not have: whatever it remembers is a cache.
//
// Start reading at client.go, which says how every call is bounded, then
// container.go: all that a container is allowed to be.
package dockerops
