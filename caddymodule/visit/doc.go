// Package visit tells requests of people from those of machines, by what they
// say of themselves. It is pure and knows nothing of Caddy or of instances.
// Start at [Of].
package visit
