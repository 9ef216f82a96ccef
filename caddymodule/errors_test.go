package caddymodule

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// The table as it is documented. Programs out there rely on it, so it is here
// a second time.
func TestCodesAndStatuses(t *testing.T) {
	want := map[instance.Kind]failure{
		instance.Internal: {1000, 500}, instance.BadPrefix: {1001, 400}, instance.PrefixTaken: {1002, 400},
		instance.PortTaken: {1003, 400}, instance.NotFound: {1004, 404}, instance.Busy: {1005, 409},
		instance.BadRequest: {1006, 400}, instance.NoTemplate: {1007, 400}, instance.NoFreePort: {1008, 503},
		methodNotAllowed: {1009, 405}, bodyTooLarge: {1010, 413}, noRoute: {1011, 404},
		instance.EngineFailed: {1101, 502}, instance.EngineDown: {1102, 503}, instance.Timeout: {1103, 504},
		instance.ImageMissing: {1104, 422}, instance.NotRunning: {1105, 503}, instance.Overloaded: {1106, 503},
		instance.BadHost: {1012, 400}, instance.HostTaken: {1013, 409}, instance.NoSuchPort: {1014, 404},
		instance.Exited: {1107, 502}, instance.NotOpen: {1108, 503}, brokenOff: {1109, 502}, instance.PortClosed: {1110, 503},
		instance.StateFailed: {1201, 500}, instance.DiskFull: {1201, 507}, unauthorized: {1301, 401}, mayNotStart: {1302, 403},
		instance.RateLimited: {1303, 429}, foreignOrigin: {1304, 403},
	}
	if !maps.Equal(failures, want) {
		t.Errorf("the table is\n%v, want\n%v", failures, want)
	}
	byCode := map[int][]instance.Kind{}
	for kind, f := range failures {
		byCode[f.code] = append(byCode[f.code], kind)
	}
	for code, kinds := range byCode {
		if len(kinds) > 1 && code != 1201 {
			t.Errorf("code %d stands for %v", code, kinds)
		}
	}
}

func TestEveryKindOfErrorHasACode(t *testing.T) {
	kinds := kindsIn(t, "../instance/errors.go")
	if len(kinds) < 18 || !slices.Contains(kinds, instance.NotFound) {
		t.Fatalf("found only %q in package instance", kinds)
	}
	for _, kind := range append(kinds, kindsIn(t, "errors.go")...) {
		if _, ok := failures[kind]; !ok {
			t.Errorf("kind %q has no code", kind)
		}
	}
}

// kindsIn lists the constants of type Kind in a Go file.
func kindsIn(t *testing.T, path string) []instance.Kind {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var kinds []instance.Kind
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || !isKind(spec.Type) {
			return true
		}
		for _, value := range spec.Values {
			text, err := strconv.Unquote(value.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			kinds = append(kinds, instance.Kind(text))
		}
		return true
	})
	return kinds
}

func isKind(expr ast.Expr) bool {
	if sel, ok := expr.(*ast.SelectorExpr); ok {
		expr = sel.Sel
	}
	id, ok := expr.(*ast.Ident)
	return ok && id.Name == "Kind"
}

func TestWriteError(t *testing.T) {
	cause := errors.New("open /var/lib/secret: permission denied")
	for _, row := range []struct {
		name   string
		err    error
		status int
		retry  string
		body   string
		logged bool
	}{
		{
			"with details and a time to wait",
			(&instance.Error{Kind: instance.Busy, Message: "busy", RetryAfter: 1100 * time.Millisecond, Err: cause}).With("status", "deleting"),
			409, "2", `{"code":1005,"message":"busy","data":{"status":"deleting"},"request_id":"id"}`, false,
		},
		{
			"without details",
			instance.Errorf(instance.PrefixTaken, "prefix already exists"),
			400, "", `{"code":1002,"message":"prefix already exists","data":{},"request_id":"id"}`, false,
		},
		{
			"of no kind", cause,
			500, "", `{"code":1000,"message":"internal error: the server's log has the cause, under this request_id","data":{},"request_id":"id"}`, true,
		},
		{
			"of the kind internal", instance.Errorf(instance.Internal, "reading: %w", cause),
			500, "", `{"code":1000,"message":"internal error: the server's log has the cause, under this request_id","data":{},"request_id":"id"}`, true,
		},
	} {
		t.Run(row.name, func(t *testing.T) {
			core, logs := observer.New(zap.DebugLevel)
			w := httptest.NewRecorder()
			writeError(w, row.err, "id", zap.New(core))
			if w.Code != row.status || w.Header().Get("Retry-After") != row.retry || strings.TrimSpace(w.Body.String()) != row.body {
				t.Errorf("got %d, Retry-After %q, %s", w.Code, w.Header().Get("Retry-After"), w.Body)
			}
			if got := logs.FilterField(zap.String("request_id", "id")).Len() == 1; got != row.logged {
				t.Errorf("logged: %v, want %v", got, row.logged)
			}
		})
	}
}
