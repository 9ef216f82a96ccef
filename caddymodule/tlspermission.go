package caddymodule

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
)

func init() {
	caddy.RegisterModule(new(TLSPermission))
}

// TLSPermission allows certificates for the hosts of instances only, custom ones
// included: from the moment that an instance is to be until it is being
// deleted, whether it runs or not. Of the hosts of its ports, `<port>-<prefix>`,
// those of the declared ports always get one, and a few others, so that there
// is a page that says what is wrong. It is asked during TLS handshakes, of names
// that strangers make up, and looks in memory only.
type TLSPermission struct {
	app *App
}

// CaddyModule returns the Caddy module information.
func (*TLSPermission) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "tls.permission.sandbox",
		New: func() caddy.Module { return new(TLSPermission) },
	}
}

// Provision finds the sandbox app.
func (p *TLSPermission) Provision(ctx caddy.Context) error {
	var err error
	if p.app, err = appOf(ctx); err != nil {
		return fmt.Errorf("permission sandbox: %w", err)
	}
	return nil
}

// CertificateAllowed implements caddytls.OnDemandPermission.
func (p *TLSPermission) CertificateAllowed(_ context.Context, name string) error {
	if !p.app.mayHave(name) {
		return fmt.Errorf("%s is no host of an instance: %w", request.Shorten(name), caddytls.ErrPermissionDenied)
	}
	return p.app.mayOrder(name)
}

// mayHave reports whether name may have a certificate. Where these are counted,
// ports that nobody declared have none: a stranger who counts through them
// would spend what all instances share.
func (a *App) mayHave(name string) bool {
	if a.budget != nil {
		return a.isHost(name)
	}
	target, ok := a.resolve(name)
	return ok && a.manager().Certify(target.Prefix, target.Port)
}

// isHost reports whether name is a host that an instance is served at.
func (a *App) isHost(name string) bool {
	target, ok := a.resolve(name)
	return ok && a.manager().Known(target.Prefix, target.Port)
}

// UnmarshalCaddyfile sets p up from Caddyfile tokens. Syntax:
//
//	permission sandbox
func (p *TLSPermission) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the name of the permission
	return endOfWord(d)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*TLSPermission)(nil)
	_ caddyfile.Unmarshaler       = (*TLSPermission)(nil)
	_ caddytls.OnDemandPermission = (*TLSPermission)(nil)
)
