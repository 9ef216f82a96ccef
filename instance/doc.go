// Package instance is the domain of caddy-sandbox: instances, their life and
// their records.
//
// A [Manager] owns one state directory. It gives each instance a prefix and a
// host port, makes its container through a [Runtime], keeps the records in
// .instances.json, and tells the proxy where to dial ([Manager.Acquire]).
//
// The package knows neither Caddy nor Docker: package caddymodule brings the
// requests, package dockerops the containers.
//
// Start reading at manager.go, then create.go, which tells the whole story of
// one operation; store.go says how a change becomes durable, reconcile.go how
// records and containers come to agree again.
package instance
