//go:build !failpoints

package instance

// failpoint is where a test may have the process end, as by kill -9. Without
// the build tag failpoints it is nothing.
func failpoint(string) {}
