// Package test is the end-to-end suite: a real Caddy process with this plugin
// (built once per run, with the race detector), a real Docker Engine, a real
// Vite dev server and a real browser. It has no code of its own to import.
//
// The suite knows the product from outside only: its command line, its API,
// its files and what Docker says. Nothing here imports the other packages, so
// a test states what a user may rely on, not how it comes about.
//
// Most tests run against one shared Caddy ([sharedCaddy]) and a small server in
// a container (testserver), which does what the test tells it to. Tests that
// break, kill or reload Caddy start their own with [startCaddy]. Each Caddy has
// its own state directory, ports and data, and takes its containers with it.
//
// Start reading at main_test.go, then lifecycle_test.go.
package test
