#!/usr/bin/env bash
# Runs all tests, with all that they need; arguments go to go test, in place of
# ./... :
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

[ $# -gt 0 ] || set -- ./...
# -count=1: what a test finds depends on Docker, of which Go's test cache knows
# nothing.
exec go test -race -count=1 -timeout 20m "$@"
