// Package request reads what strangers send: host names and JSON bodies. It is
// pure and knows nothing of Caddy or HTTP, so that it can be fuzzed without
// either. Start at [Host] and [Decode].
package request
