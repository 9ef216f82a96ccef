package caddymodule

import (
	"context"
	"fmt"
	"net/http"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/devserver"
	"github.com/aie-sandbox/caddy-sandbox/instance"
	"github.com/aie-sandbox/caddy-sandbox/instance/instancetest"
)

// BenchmarkCompatibility is what each request pays for being put to the dev
// server in the way that it takes it, as an ordinary one (a module of a page)
// and one that is changed.
func BenchmarkCompatibility(b *testing.B) {
	engine := instancetest.NewEngine(b)
	first := instancetest.FreePorts(b, 2)
	manager := instance.New(b.TempDir(), func(owner string) (instance.Runtime, error) { return engine.Runtime(owner), nil })
	template := instance.Template{Image: instancetest.Image, Port: 5174, Memory: 64 << 20, CPUs: 1, Pids: 64}
	masked := template
	masked.Dev = instance.DevVite
	manager.Use(&instance.Settings{
		Domain: testDomain, URL: "https://{prefix}.{domain}", Ports: instance.PortRange{First: first, Last: first + 1}, PrefixLength: 16,
		Templates: map[string]instance.Template{"auto": template, "vite": masked}, Log: zap.NewNop(),
	})
	if err := manager.Open(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { manager.Close() })
	h := &Handler{app: &App{settings: &instance.Settings{URL: "https://{prefix}.{domain}", Domain: testDomain}}}
	h.app.useOrigins()
	for _, name := range []string{"auto", "vite"} {
		prefix := name + "bench"
		if _, err := manager.Create(b.Context(), instance.CreateRequest{Prefix: &prefix, Template: &name}); err != nil {
			b.Fatal(err)
		}
		for _, origin := range []string{"", "https://" + hostOf(prefix)} {
			b.Run(fmt.Sprintf("dev=%s/origin=%v", name, origin != ""), func(b *testing.B) {
				lease, err := manager.Acquire(prefix, 0)
				if err != nil {
					b.Fatal(err)
				}
				defer lease.Release()
				ctx := context.WithValue(b.Context(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.TrustedProxyVarKey: false})
				r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+hostOf(prefix)+"/src/components/App.jsx?t=1", nil)
				if err != nil {
					b.Fatal(err)
				}
				r.Host = hostOf(prefix)
				for _, h := range []string{"Accept", "Accept-Encoding", "Accept-Language", "Cookie", "Referer", "User-Agent", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-Dest"} {
					r.Header.Set(h, "value")
				}
				if origin != "" {
					r.Header.Set("Origin", origin)
				}
				b.ReportAllocs()
				for b.Loop() {
					if err := h.checkOrigin(r, lease.Prefix, lease.Mode()); err != nil && origin == "" {
						b.Fatal(err)
					}
					dropClaims(r)
					_, _ = devserver.Disguise(r, lease.Mode(), 5174, false)
				}
			})
		}
	}
}
