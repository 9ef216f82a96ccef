package caddymodule

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func init() {
	caddy.RegisterModule(new(SiteAPI))
}

// exampleToken is that of Caddyfile.example where SANDBOX_TOKEN is not set:
// everybody knows it.
const exampleToken = "for-local-use-only"

// SiteAPI serves the API on a site, at `/api/instances`, to callers that bring
// a token (`Authorization: Bearer <token>`). It answers all paths below
// `/api/` and passes the others on.
//
// Mount it on a host that is not below the domain of the instances: what runs
// in them can set cookies for their common parent.
type SiteAPI struct {
	// The tokens that callers may bring; at least one. Whoever has one may do
	// everything. Write `{env.NAME}` or `{file./path}` to keep a token out of
	// the configuration.
	Tokens []string `json:"tokens,omitempty"`

	app    *App
	hashes [][sha256.Size]byte // of the tokens, so that comparing tells nothing about their lengths
}

// CaddyModule returns the Caddy module information.
func (*SiteAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.sandbox_api",
		New: func() caddy.Module { return new(SiteAPI) },
	}
}

// Provision reads the tokens.
func (s *SiteAPI) Provision(ctx caddy.Context) error {
	var err error
	if s.app, err = appOf(ctx); err != nil {
		return fmt.Errorf("sandbox_api: %w", err)
	}
	if len(s.Tokens) == 0 {
		return errors.New("sandbox_api: there is no token: without one anybody could run containers here")
	}
	repl := caddy.NewReplacer()
	for i, raw := range s.Tokens {
		token, err := repl.ReplaceOrErr(raw, true, true)
		if err == nil {
			err = checkToken(token, ctx.Logger())
		}
		if err != nil {
			return fmt.Errorf("sandbox_api: token %d: %w", i+1, err)
		}
		s.hashes = append(s.hashes, sha256.Sum256([]byte(token)))
	}
	return nil
}

// checkToken refuses the example's token where the server was started with
// another one: the Caddyfile was then read by a reload in a shell that lacks it.
func checkToken(token string, log *zap.Logger) error {
	if strings.TrimSpace(token) == "" {
		return errors.New("it is empty")
	}
	if token != exampleToken {
		return nil
	}
	if own := os.Getenv("SANDBOX_TOKEN"); own != "" && own != token {
		return fmt.Errorf("%q is known to everybody, and this server was started with another SANDBOX_TOKEN: set it for the reload, too", token)
	}
	log.Warn("the API takes a token that everybody knows: set SANDBOX_TOKEN", zap.String("token", token))
	return nil
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (s *SiteAPI) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !strings.HasPrefix(r.URL.Path, "/api/") {
		return next.ServeHTTP(w, r)
	}
	boundBody(w, r)
	call := api{manager: s.app.manager(), ports: s.app.settings.Ports, requestID: requestID(r), log: s.app.settings.Log}
	if !s.authorized(r) {
		w.Header().Set("X-Request-Id", call.requestID)
		w.Header().Set("WWW-Authenticate", `Bearer realm="sandbox"`)
		writeError(w, instance.Errorf(unauthorized, "token missing or unknown: send Authorization: Bearer <token>"), call.requestID, call.log)
		return nil
	}
	call.serve(w, r)
	return nil
}

// authorized compares with every token, and in constant time, so that how long
// it takes tells nothing.
func (s *SiteAPI) authorized(r *http.Request) bool {
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	hash := sha256.Sum256([]byte(token))
	known := 0
	for i := range s.hashes {
		known |= subtle.ConstantTimeCompare(hash[:], s.hashes[i][:])
	}
	return known == 1 && strings.EqualFold(scheme, "Bearer")
}

// requestID is the one that Caddy's access log can show as {http.request.uuid}.
func requestID(r *http.Request) string {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if id, ok := repl.GetString("http.request.uuid"); ok {
			return id
		}
	}
	return uuid.NewString()
}

// Interface guards
var (
	_ caddy.Provisioner           = (*SiteAPI)(nil)
	_ caddyhttp.MiddlewareHandler = (*SiteAPI)(nil)
)
