package request

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// Decode reads the JSON object in body into the struct that into points at. No
// body is an empty object. Strict: a field that is unknown, in another case or
// given twice is an error, and so is what follows the object. (encoding/json
// takes the last of two equal keys; a caller who sends both would not learn
// which one counted.) Errors are BadRequest and name the field.
func Decode(body []byte, into any) error {
	body = bytes.Trim(body, " \t\r\n") // what JSON calls white space; Unicode knows more
	if len(body) == 0 {
		return nil
	}
	if jsontext.Value(body).Kind() != jsontext.KindBeginObject {
		return BadField("body", "a JSON object")
	}
	if err := json.Unmarshal(body, into, json.RejectUnknownMembers(true)); err != nil {
		return explain(err, into)
	}
	return nil
}

// BadField is the error for a part of a request that is not what it may be.
func BadField(field string, allowed ...string) *instance.Error {
	return instance.Errorf(instance.BadRequest, "%s: must be %s", field, strings.Join(allowed, ", ")).
		With("field", field).With("allowed", allowed)
}

// Unknown is the error for a part of a request, a field or a parameter, that
// there is not.
func Unknown(part, name string, allowed []string) *instance.Error {
	known := strings.Join(allowed, ", ")
	if len(allowed) == 0 {
		known = "none"
	}
	return instance.Errorf(instance.BadRequest, "%s: there is no such %s; allowed: %s", name, part, known).
		With("field", name).With("allowed", append([]string{}, allowed...))
}

// explain says in the caller's words what the decoder found.
func explain(err error, into any) error {
	if bad, ok := errors.AsType[*json.SemanticError](err); ok {
		field := fieldName(bad.JSONPointer)
		if errors.Is(bad, json.ErrUnknownName) {
			return Unknown("field", field, fieldsOf(into))
		}
		return BadField(field, wordFor(bad.GoType))
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
	return Shorten(strings.Join(slices.Collect(pointer.Tokens()), "."))
}

// Shorten bounds what goes back of a name that a stranger chose.
func Shorten(name string) string {
	const longest = 100
	if len(name) > longest {
		return strings.ToValidUTF8(name[:longest], "") + "…"
	}
	return name
}

// fieldsOf lists the JSON names of a struct's fields.
func fieldsOf(into any) []string {
	names := []string{}
	for _, field := range reflect.VisibleFields(reflect.TypeOf(into).Elem()) {
		if field.Anonymous { // its fields come themselves
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names = append(names, name)
	}
	return names
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
	case t.Kind() == reflect.Slice:
		return "a list"
	default:
		return "an object"
	}
}
