#!/usr/bin/env bash
# Runs fuzz targets, each for the time given: those of the packages named, else
# all. A package is built anew for it, with all that it imports.
#
#	scripts/fuzz.sh 30s ./instance
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

time=$1
shift
# shellcheck disable=SC2046 # package paths have no spaces
[ $# -gt 0 ] || set -- $(go list -f '.{{slice .ImportPath (len .Module.Path)}}' ./...)
for package; do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
		say "fuzzing $package $target for $time"
		go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package"
	done
done
