package request

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/aie-sandbox/caddy-sandbox/instance"
)

// call has a field of every type that a body of the API has.
type call struct {
	Prefix *string            `json:"prefix"`
	Port   *int               `json:"port"`
	Env    map[string]*string `json:"env"`
	Ports  []int              `json:"ports"`
	Any    *bool              `json:"any"`
}

func FuzzBody(f *testing.F) {
	for _, body := range []string{
		"", "{}", " {} ", `{"prefix":"abcdefgh","port":5174,"env":{"A":"1","B":null},"ports":[1,2],"any":true}`,
		`{"prefix":"a","\u0070refix":"b"}`, `{"env":{"A":"1","A":"2"}}`, `{"Prefix":"a"}`, `{"env":{"A":"\ud800"}}`, `{} {}`, `[`, `null`,
		`{"port":1e400}`, `{"port":5174.5}`, `{"env":[[[[[[`, "{\"\xff\":1}",
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got call
		err := Decode(body, &got)
		if err != nil {
			e, ok := errors.AsType[*instance.Error](err)
			if !ok || e.Kind != instance.BadRequest || e.Message == "" || e.Details["field"] == nil {
				t.Fatalf("%q gave %#v, which does not tell the caller what is wrong", body, err)
			}
			return
		}
		if len(bytes.Trim(body, " \t\r\n")) == 0 {
			return // no body is an empty object
		}
		// What the strict reader takes means the same to a lenient one.
		var lenient call
		if err := json.Unmarshal(body, &lenient); err != nil {
			t.Fatalf("%q was taken, but encoding/json says %v", body, err)
		} else if !reflect.DeepEqual(got, lenient) {
			t.Fatalf("%q is %+v, but %+v to encoding/json", body, got, lenient)
		}
	})
}
