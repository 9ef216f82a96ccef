package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"time"

	"github.com/aie-sandbox/caddy-sandbox/caddymodule/request"
	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// maxBody is the longest body of a call, in bytes, and bodyTime how long it may
// take to arrive, which is what Caddy's admin endpoint allows.
const (
	maxBody  = 64 << 10
	bodyTime = 10 * time.Second
)

// boundBody has r's body arrive within bodyTime or be cut off; by itself, a
// site of Caddy's bounds only the pauses in it. Call it before anything is
// answered: net/http reads on where a handler did not.
func boundBody(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength == 0 {
		return // what is read then is whether the client leaves
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTime)) // a server that cannot has none
}

// decodeBody reads r's body, which has to be short, as [request.Decode] does.
func decodeBody(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		slow := request.BadField("body", "sent within "+bodyTime.String())
		slow.Err = err
		return slow
	}
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return instance.Errorf(bodyTooLarge, "body too large: send at most %d bytes", maxBody).With("limit", maxBody)
	}
	if err != nil {
		return instance.Errorf(instance.BadRequest, "reading the body: %w", err).With("field", "body")
	}
	return request.Decode(body, into)
}

// withoutNulls turns a map as decoded, in which a JSON null is nil, into one
// of strings; null is no value for an entry.
func withoutNulls(field string, m map[string]*string) (map[string]string, error) {
	if m == nil {
		return nil, nil
	}
	values := make(map[string]string, len(m))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		if m[key] == nil {
			return nil, request.BadField(fmt.Sprintf("%s.%s", field, key), "a string")
		}
		values[key] = *m[key]
	}
	return values, nil
}
