// Package wsframes tells what passes over a WebSocket that somebody uses from
// what only keeps it open. It watches bytes go by and never changes or holds
// one; of each frame it reads the header and the first bytes of its payload. It
// is pure and knows nothing of Caddy or of instances. Start at [Reader].
package wsframes
