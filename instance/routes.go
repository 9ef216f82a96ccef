package instance

import (
	"encoding/json"
	"fmt"
	"strconv"
)

// routesProjection is config/subdomain-proxy.json: the routes for proxies
// other than this process. It holds no secret, so others may read it.
var routesProjection = Projection{
	Path: "config/subdomain-proxy.json",
	Mode: 0o644,
	Block: func(r Record) ([]byte, error) {
		if r.Status == Creating || r.Status == Deleting || isSpare(r.Prefix) {
			return nil, nil
		}
		route, err := json.Marshal(struct {
			Target  string   `json:"target"`
			Status  Status   `json:"status"`
			Domains []string `json:"domains,omitempty"`
		}{"http://" + published(r.Port).String(), r.Status, r.Domains})
		return append(strconv.AppendQuote(nil, r.Prefix), append([]byte{':'}, route...)...), err
	},
	Join: func(head Head, blocks [][]byte) []byte {
		return joinJSON(fmt.Sprintf(`{"domain":%q,"routes":{`, head.Domain), blocks, "}}\n")
	},
}
