// Package devserver knows what dev servers demand of a proxy: what Host, Origin
// and Referer Vite, Next.js and webpack-dev-server take, what has to be put
// back in their responses then, and how they say no. It decides on headers
// alone and knows nothing of Caddy, instances' tables or connections.
//
// Whoever masks an Origin takes a protection away, and must have refused
// foreign ones before: see [Origins]. Start at [Disguise].
package devserver
