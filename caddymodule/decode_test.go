package caddymodule

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

func decode(body string) (createBody, error) {
	var into createBody
	r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
	return into, decodeBody(httptest.NewRecorder(), r, &into)
}

func TestDecodeTakesWhatIsAllowed(t *testing.T) {
	for _, body := range []string{
		"", " \n", "{}", " {} \n", `{"prefix":null,"template":null,"port":null,"env":null,"labels":null,"ports":null}`,
		`{"prefix":"","env":{},"labels":{"a":""}}`,
		"{}" + strings.Repeat(" ", maxBody-2),
	} {
		if _, err := decode(body); err != nil {
			t.Errorf("%.40q: %v", body, err)
		}
	}
	var into createBody
	body := strings.NewReader(`{"prefix":"abcdefgh","template":"web","port":5174,"env":{"A":"1"},"labels":{"a":"b"}}`)
	if err := decodeBody(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/", body), &into); err != nil {
		t.Fatal(err)
	}
	if *into.Prefix != "abcdefgh" || *into.Template != "web" || *into.Port != 5174 || *into.Env["A"] != "1" || *into.Labels["a"] != "b" {
		t.Errorf("got %+v", into)
	}
}

func TestDecodeRefusesTheRest(t *testing.T) {
	const fields = "[prefix template port env labels ports idle_timeout on_idle ttl delete_after_stopped]"
	for _, row := range []struct{ body, field, allowed string }{
		{`prefix=abc`, "body", "[a JSON object]"},
		{`[]`, "body", "[a JSON object]"},
		{`null`, "body", "[a JSON object]"},
		{`"text"`, "body", "[a JSON object]"},
		{`{`, "body", "[one JSON object]"},
		{`{"prefix":`, "body", "[one JSON object]"},
		{`{} {}`, "body", "[one JSON object]"},
		{`{}}`, "body", "[one JSON object]"},
		{`{},`, "body", "[one JSON object]"},
		{`{"env":{"A":"` + "\xff" + `"}}`, "body", "[one JSON object]"},
		{`{"env":{"A":"\ud800"}}`, "body", "[one JSON object]"},
		{`{"env":{"A":` + strings.Repeat("[", 60000), "body", "[one JSON object]"},
		{`{"prefx":"a"}`, "prefx", fields},
		{`{"Prefix":"a"}`, "Prefix", fields},
		{`{"":"a"}`, "", fields},
		{`{"` + strings.Repeat("x", 200) + `":1}`, strings.Repeat("x", 100) + "…", fields},
		{`{"prefix":"a","prefix":"b"}`, "prefix", "[each key once]"},
		{`{"prefix":"a","\u0070refix":"b"}`, "prefix", "[each key once]"},
		{`{"env":{"A":"1","A":"2"}}`, "env.A", "[each key once]"},
		{`{"prefix":1}`, "prefix", "[a string]"},
		{`{"prefix":["a"]}`, "prefix", "[a string]"},
		{`{"port":"5174"}`, "port", "[a whole number]"},
		{`{"port":5174.5}`, "port", "[a whole number]"},
		{`{"port":1e400}`, "port", "[a whole number]"},
		{`{"env":["A=1"]}`, "env", "[an object]"},
		{`{"env":{"A":1}}`, "env.A", "[a string]"},
		{`{"labels":{"a":{}}}`, "labels.a", "[a string]"},
		{`{"ports":"any"}`, "ports", "[a list]"},
		{`{"ports":{}}`, "ports", "[a list]"},
		{`{"ports":[80,"3000"]}`, "ports.1", "[a whole number]"},
		{`{"ports":[80.5]}`, "ports.0", "[a whole number]"},
	} {
		t.Run(fmt.Sprintf("%.30q", row.body), func(t *testing.T) {
			_, err := decode(row.body)
			e, ok := errors.AsType[*instance.Error](err)
			if !ok || e.Kind != instance.BadRequest {
				t.Fatalf("got %v", err)
			}
			if got := fmt.Sprint(e.Details["allowed"]); e.Details["field"] != row.field || got != row.allowed {
				t.Errorf("field %v, allowed %s; want %q, %s", e.Details["field"], got, row.field, row.allowed)
			}
			if e.Message == "" {
				t.Error("no message")
			}
		})
	}
}

func TestDecodeRefusesLongBodies(t *testing.T) {
	for _, body := range []string{
		"{}" + strings.Repeat(" ", maxBody-1),
		`{"prefix":"` + strings.Repeat("a", 1<<20) + `"}`,
	} {
		_, err := decode(body)
		e, ok := errors.AsType[*instance.Error](err)
		if !ok || e.Kind != bodyTooLarge || e.Details["limit"] != maxBody {
			t.Errorf("%d bytes gave %v", len(body), err)
		}
	}
}

func TestCallsWithoutFieldsTakeAnEmptyObject(t *testing.T) {
	for body, wantErr := range map[string]bool{"": false, "{}": false, `{"force":true}`: true} {
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body))
		err := decodeBody(httptest.NewRecorder(), r, &noBody{})
		if (err != nil) != wantErr {
			t.Errorf("%q gave %v", body, err)
		}
		if wantErr && !strings.Contains(err.Error(), "allowed: none") {
			t.Errorf("%q gave %q, want it to say that no field is allowed", body, err)
		}
	}
}

func TestNullIsNoValueOfAnEntry(t *testing.T) {
	one := "1"
	values, err := withoutNulls("env", map[string]*string{"A": &one})
	if err != nil || values["A"] != "1" {
		t.Errorf("got %v, %v", values, err)
	}
	_, err = withoutNulls("env", map[string]*string{"A": &one, "B": nil})
	if e, ok := errors.AsType[*instance.Error](err); !ok || e.Details["field"] != "env.B" {
		t.Errorf("got %v, want an error for env.B", err)
	}
}
