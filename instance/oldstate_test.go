package instance

import (
	"fmt"
	"strings"
	"testing"
)

func TestParseOldState(t *testing.T) {
	for name, test := range map[string]struct{ file, want string }{
		"prefix to port":      {`{"aaaaaaaa":5174,"bbbbbbbb":5175}`, "aaaaaaaa:5174 bbbbbbbb:5175 next 0"},
		"prefix to object":    {`{"aaaaaaaa":{"port":5174,"createdAt":"x"}}`, "aaaaaaaa:5174 next 0"},
		"mixed":               {`{"aaaaaaaa":5174,"bbbbbbbb":{"port":5175}}`, "aaaaaaaa:5174 bbbbbbbb:5175 next 0"},
		"bare with nextPort":  {`{"nextPort":5180,"aaaaaaaa":5174}`, "aaaaaaaa:5174 next 5180"},
		"list":                {`[{"prefix":"aaaaaaaa","port":5174}]`, "aaaaaaaa:5174 next 0"},
		"wrapped table":       {`{"nextPort":5176,"instances":{"aaaaaaaa":5174}}`, "aaaaaaaa:5174 next 5176"},
		"wrapped list":        {`{"nextPort":5176,"instances":[{"prefix":"aaaaaaaa","port":5174}]}`, "aaaaaaaa:5174 next 5176"},
		"empty":               {`{}`, "next 0"},
		"nothing in it":       {`{"nextPort":5174,"instances":{}}`, "next 5174"},
		"routes":              {`{"routes":{"aaaaaaaa":5174}}`, "aaaaaaaa:5174 next 0"},
		"routes with targets": {`{"routes":{"aaaaaaaa":{"target":"http://localhost:5174"}}}`, "aaaaaaaa:5174 next 0"},
		"what is no instance is listed": {
			`{"aaaaaaaa":5174,"short":5175,"cccccccc":"x","dddddddd":5174,"localhost":5176,"eeeeeeee":{"port":70000}}`,
			`aaaaaaaa:5174 next 0 not "cccccccc" not "dddddddd" not "eeeeeeee" not "localhost" not "short"`,
		},
		"a prefix twice in a list": {
			`[{"prefix":"aaaaaaaa","port":5174},{"prefix":"aaaaaaaa","port":5175},7]`,
			`aaaaaaaa:5174 next 0 not "aaaaaaaa" not "7"`,
		},
		"another program's": {`{"name":"x","scripts":{}}`, "error"},
		"no JSON":           {`aaaaaaaa 5174`, "error"},
	} {
		t.Run(name, func(t *testing.T) {
			old, err := parseOldState([]byte(test.file))
			var words []string
			for _, in := range old.instances {
				words = append(words, fmt.Sprint(in.prefix, ":", in.port))
			}
			words = append(words, fmt.Sprint("next ", old.nextPort))
			for _, n := range old.rest {
				words = append(words, "not "+n.entry)
			}
			if err != nil {
				words = []string{"error"}
			}
			if got := strings.Join(words, " "); got != test.want {
				t.Errorf("got  %s\nwant %s (%v)", got, test.want, err)
			}
		})
	}
}
