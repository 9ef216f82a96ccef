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
output=$(mktemp)
trap 'rm -f "$output"' EXIT

fuzz() {
	say "fuzzing $package $target for $time"
	go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "$package" 2>&1 | tee "$output"
}

# failed_by_its_end says that no input failed, only the end of the time: before
# Go 1.27 it sometimes does, https://go.dev/issue/75804.
failed_by_its_end() {
	grep -qx ' *context deadline exceeded' "$output" && ! grep -q 'Failing input written to' "$output"
}

# shellcheck disable=SC2046 # package paths have no spaces
[ $# -gt 0 ] || set -- $(go list -f '.{{slice .ImportPath (len .Module.Path)}}' ./...)
for package; do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz'); do
		if ! fuzz; then
			failed_by_its_end || exit 1
			fuzz
		fi
	done
done
