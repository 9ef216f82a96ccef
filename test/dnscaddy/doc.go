// Command dnscaddy is Caddy with this plugin and, for tests, a DNS provider: it
// is itself the DNS server of the zone, at the address that its word says.
package main
