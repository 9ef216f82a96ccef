package caddymodule

import (
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// client is who requests come from, where bounds are for each: by the networks
// that it may have to itself, the widest first.
type client []network

// network is one of them, and how many clients it may be.
type network struct {
	netip.Prefix
	clients int
}

// clientsOfSite is how many clients a /48 of IPv6 may be. It has 65 536 networks
// of the size that one client has, and many of its owners have it alone.
const clientsOfSite = 8

// clientOf is who r comes from, as the operator's trusted_proxies tell it: of
// IPv6, where one client has a network, the network, and the site that this is
// in. Without an address, as from a Unix socket, all are one.
func clientOf(r *http.Request) client {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	address, _ := netip.ParseAddr(text)
	address = address.Unmap().WithZone("")
	if !address.Is6() {
		return client{{netip.PrefixFrom(address, address.BitLen()), 1}}
	}
	return client{
		{netip.PrefixFrom(address, 48).Masked(), clientsOfSite},
		{netip.PrefixFrom(address, 64).Masked(), 1},
	}
}
