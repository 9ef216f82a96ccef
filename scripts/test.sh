#!/usr/bin/env bash
# Runs all tests, with all that they need, and then the fuzz targets for half a
# minute each. Arguments go to go test, in place of all that:
#
#	scripts/test.sh ./test -run Vite
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

check_go
scripts/docker.sh
scripts/deps.sh
scripts/image.sh
scripts/devservers.sh
scripts/compose.sh >/dev/null

DOCKER_HOST=$(docker_endpoint)
export DOCKER_HOST

# -count=1: what a test finds depends on Docker, of which Go's test cache knows
# nothing.
go_test() { go test -race -count=1 -timeout 60m "$@"; }

if [ $# -gt 0 ]; then
	go_test "$@"
	exit
fi
go_test ./...
# Without ./caddymodule, which takes minutes to build for it.
scripts/fuzz.sh 30s ./caddymodule/request ./caddymodule/wsframes ./dockerops ./instance
