// Package caddymodule is the Caddy side of caddy-sandbox: configuration, the
// API, and the way of a request to its instance.
//
// It decides nothing about an instance's life (package instance does) and
// knows no container engine: only pool.go names package dockerops, to hand it
// to the Manager.
//
// Start reading at app.go, the configuration; pool.go says how the Manager
// survives a reload. A request is resolved in proxy.go, gets its address in
// upstreams.go and its connection in transport.go. A call of the API is routed
// in api.go, and its error becomes an answer by the table in errors.go.
//
// Programs that live on the files in the state directory have their own part:
// sandboxfile.go is the stand-by proxy, reloadhook.go has others follow a
// change, and command.go shows what would be imported.
package caddymodule
