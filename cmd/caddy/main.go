// Command caddy is Caddy with the sandbox plugin, for people without xcaddy.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/aie-sandbox/caddy-sandbox"
)

func main() {
	caddycmd.Main()
}
