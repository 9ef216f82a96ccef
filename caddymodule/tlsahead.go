package caddymodule

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddytls"
	"go.uber.org/zap"
)

const (
	// aheadWorkers is how many certificates are made ahead at a time.
	aheadWorkers = 4

	// aheadQueue bounds how many wait for that. More are left to their visitors.
	aheadQueue = 1000

	// aheadTimeout allows for one order. The second try would come a minute
	// after the first one; it is left to the visitor.
	aheadTimeout = 55 * time.Second
)

// aheadMaker makes the certificates of new instances before their first
// visitor comes. It belongs to the engine, so a reload loses none. It has
// goroutines only while it has something to do. Safe for concurrent use.
type aheadMaker struct {
	make func(ctx context.Context, host string)

	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup

	mu      sync.Mutex // guards the following; never held while one is made
	waiting []string   // hosts
	workers int
}

func newAheadMaker(make func(ctx context.Context, host string)) *aheadMaker {
	m := &aheadMaker{make: make}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

// want has a certificate made for host, unless too many wait. It does not block.
func (m *aheadMaker) want(host string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx.Err() != nil || len(m.waiting) == aheadQueue {
		return
	}
	m.waiting = append(m.waiting, host)
	if m.workers < aheadWorkers {
		m.workers++
		m.work.Go(m.drain)
	}
}

func (m *aheadMaker) drain() {
	for {
		host, ok := m.next()
		if !ok {
			return
		}
		ctx, cancel := context.WithTimeout(m.ctx, aheadTimeout)
		m.make(ctx, host)
		cancel()
	}
}

// next returns a host that waits. When there is none, the worker is over.
func (m *aheadMaker) next() (host string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waiting) == 0 || m.ctx.Err() != nil {
		m.workers--
		return "", false
	}
	host, m.waiting = m.waiting[0], m.waiting[1:]
	return host, true
}

// close ends what is being made, and lets nothing new begin.
func (m *aheadMaker) close() {
	m.mu.Lock()
	m.cancel()
	m.mu.Unlock()
	m.work.Wait()
}

// startTLSAhead gets ready for handshakes with ourselves. It needs the tls app,
// so it is for Start: that app's permission needs us to be provisioned.
func (a *App) startTLSAhead() error {
	if !a.TLSAhead {
		return nil
	}
	if _, err := a.ctx.AppIfConfigured("tls"); err != nil {
		return errors.New("sandbox: tls_ahead: there is no site with TLS")
	}
	policies := caddytls.ConnectionPolicies{new(caddytls.ConnectionPolicy)}
	if err := policies.Provision(a.ctx); err != nil {
		return fmt.Errorf("sandbox: tls_ahead: %w", err)
	}
	a.tlsAhead = policies.TLSConfig(a.ctx)
	return nil
}

// created has a certificate made for a new instance, if that is wanted.
func (a *App) created(prefix string) {
	if a.TLSAhead {
		a.engine.ahead.want(prefix + "." + a.settings.Domain)
	}
}

// makeAhead has the configuration in force make a certificate for host.
func makeAhead(ctx context.Context, host string) {
	a := inForce.top()
	if a == nil || a.tlsAhead == nil {
		return
	}
	begun := time.Now()
	err := handshake(ctx, a.tlsAhead, host)
	log := a.settings.Log.With(zap.String("host", host), zap.Duration("took", time.Since(begun)))
	switch {
	case err == nil:
		log.Info("certificate is ready for the first visit")
	case errors.Is(err, caddytls.ErrPermissionDenied), errors.Is(err, caddy.ErrEventAborted):
		log.Debug("no certificate is made ahead", zap.Error(err)) // deleted, or the log knows of the budget
	default:
		log.Warn("making a certificate ahead failed; the first visit will try again", zap.Error(err))
	}
}

// handshake does in memory what a visitor of host does first, so all that
// happens then happens now: nothing at all where a certificate is there, or a
// wildcard one covers the host; else permission, storage and order, which a
// visitor that comes meanwhile waits for.
func handshake(ctx context.Context, config *tls.Config, host string) error {
	ours, visitors := net.Pipe()
	defer ours.Close()
	go func() {
		defer visitors.Close()
		visitor := tls.Client(visitors, &tls.Config{
			ServerName: host,
			NextProtos: []string{"http/1.1"},
			// We ask ourselves, and not in order to believe the answer.
			InsecureSkipVerify: true,
		})
		_ = visitor.HandshakeContext(ctx) // the other side tells what is wrong
	}()
	return tls.Server(ours, config).HandshakeContext(ctx)
}

// onOffWord is a word whose value is on or off.
func onOffWord(into *bool) word {
	return word{parse: func(d *caddyfile.Dispenser) error {
		var text string
		if err := oneOf(&text, "on", "off").parse(d); err != nil {
			return err
		}
		*into = text == "on"
		return nil
	}}
}
