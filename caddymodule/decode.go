package caddymodule

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// maxBody is the longest body of a call, in bytes.
const maxBody = 64 << 10

// decodeBody reads the JSON object in r's body into the struct that into
// points at. No body is an empty object. Strict: a field that is unknown, in
// another case or given twice is an error, and so is what follows the object.
// (encoding/json takes the last of two equal keys; a caller who sends both
// would not learn which one counted.)
func decodeBody(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return instance.Errorf(bodyTooLarge, "body too large: send at most %d bytes", maxBody).With("limit", maxBody)
	}
	if err != nil {
		return instance.Errorf(instance.BadRequest, "reading the body: %w", err).With("field", "body")
	}
	body = bytes.TrimSpace(body)
	if len(body) == 0 {
		return nil
	}
	if jsontext.Value(body).Kind() != jsontext.KindBeginObject {
		return badField("body", "a JSON object")
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return explain(err, into)
	}
	return nil
}

// badField is the error for a part of a request that is not what it may be.
func badField(field string, allowed ...string) *instance.Error {
	return instance.Errorf(instance.BadRequest, "%s: must be %s", field, strings.Join(allowed, ", ")).
		With("field", field).With("allowed", allowed)
}

// explain says in the caller's words what the decoder found.
func explain(err error, into any) error {
	if bad, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldName(bad.JSONPointer)
		if errors.Is(bad, json.ErrUnknownName) {
			allowed := fieldsOf(into)
			return instance.Errorf(instance.BadRequest, "%s: there is no such field; allowed: %s", field, orNone(allowed)).
				With("field", field).With("allowed", allowed)
		}
		return badField(field, wordFor(bad.GoType))
	}
	if bad, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		if errors.Is(bad, jsontext.ErrDuplicateName) {
			field := fieldName(bad.JSONPointer)
			return instance.Errorf(instance.BadRequest, "%s: is given twice", field).
				With("field", field).With("allowed", []string{"each key once"})
		}
		return instance.Errorf(instance.BadRequest, "body: must be one JSON object and nothing after it; byte %d does not fit", bad.ByteOffset).
			With("field", "body").With("allowed", []string{"one JSON object"})
	}
	return instance.Errorf(instance.BadRequest, "body: %w", err).With("field", "body")
}

// fieldName is a JSON pointer as people write it: env.NAME for /env/NAME.
func fieldName(pointer jsontext.Pointer) string {
	if pointer == "" {
		return "body"
	}
	return shorten(strings.Join(slices.Collect(pointer.Tokens()), "."))
}

// shorten bounds what goes back of a name that a stranger chose.
func shorten(name string) string {
	const longest = 100
	if len(name) > longest {
		return strings.ToValidUTF8(name[:longest], "") + "…"
	}
	return name
}

// fieldsOf lists the JSON names of a struct's fields.
func fieldsOf(into any) []string {
	names := []string{}
	for field := range reflect.TypeOf(into).Elem().Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}

// wordFor says what JSON goes into a Go type.
func wordFor(t reflect.Type) string {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case t == nil:
		return "valid"
	case t.Kind() == reflect.String:
		return "a string"
	case t.Kind() == reflect.Int:
		return "a whole number"
	default:
		return "an object"
	}
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
			return nil, badField(fmt.Sprintf("%s.%s", field, key), "a string")
		}
		values[key] = *m[key]
	}
	return values, nil
}
