// Testserver stands in for a dev server inside a container: one static binary,
// good for an image made from scratch, that answers, keeps silent, is slow or
// fails as its environment says.
//
// It knows nothing of sandboxes. What it does is in package devserver, which
// the in-memory runtime of package instancetest runs too, so that both kinds
// of container behave alike. An image names it as its entry point:
//
//	FROM scratch
//	COPY testserver /testserver
//	ENTRYPOINT ["/testserver"]
//
// Build it with CGO_ENABLED=0.
package main
