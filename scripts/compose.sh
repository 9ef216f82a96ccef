#!/usr/bin/env bash
# Prints the path of a docker-compose of the version that docs/compose.md speaks
# of. The first time it builds it, from the Go module, which takes minutes; the
# user's cache keeps it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

module=github.com/docker/compose/v2
version=v2.40.3
cache=${XDG_CACHE_HOME:-$HOME/.cache}/caddy-sandbox
program=$cache/docker-compose-$version

main() {
	[ -x "$program" ] || build >&2
	echo "$program"
}

# build works on a copy: go install refuses a module with exclude lines in its
# go.mod, and Go keeps what it has downloaded read-only.
build() {
	say "building docker-compose $version (takes minutes, once)"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cp -R --no-preserve=mode "$(source_folder)" "$work/source"
	mkdir -p "$cache"
	(
		cd "$work/source"
		CGO_ENABLED=0 go build -ldflags "-s -w -X $module/internal.Version=$version" -o "$work/docker-compose" ./cmd
	)
	mv "$work/docker-compose" "$program.new"
	mv "$program.new" "$program" # whole or not at all, for whoever looks meanwhile
}

# source_folder is where Go has the module, fetched now if it must be.
source_folder() {
	cd "$work" # outside our module, whose versions are not Compose's
	go mod download -json "$module@$version" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'
}

main "$@"
