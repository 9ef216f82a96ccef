// Package caddysandbox is what a Caddy build names to get the plugin:
//
//	xcaddy build --with github.com/aie-sandbox/caddy-sandbox
//
// It holds no code of its own. The Caddy modules are in package caddymodule,
// what an instance is in package instance, the containers in package dockerops.
package caddysandbox

import _ "github.com/aie-sandbox/caddy-sandbox/caddymodule" // registers the modules
