# shellcheck shell=bash
# Shared by the scripts beside it, which source it. Not to be run.

# checkout_label is the label of an image that names the folder whose scripts made
# it: an engine may serve several checkouts.
# shellcheck disable=SC2034 # scripts that source this use it
checkout_label=caddy-sandbox.checkout

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }

die() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

is_root() { [ "$(id -u)" = 0 ]; }

# can_apt says whether we may install packages here: root on Debian or one of
# its children.
can_apt() { is_root && have apt-get; }

# apt_install installs Debian packages, asking nothing.
apt_install() {
	can_apt || die "please install: $* (as root on Debian or Ubuntu: apt-get install $*)"
	say "installing $*"
	if ! { quietly apt_get update && quietly apt_get install --no-install-recommends "$@"; }; then
		die "apt-get could not install: $*"
	fi
}

apt_get() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=120 "$@" </dev/null; }

# quietly COMMAND... shows what the command says only when it fails.
quietly() {
	local log status=0
	log=$(mktemp)
	"$@" >"$log" 2>&1 || status=$?
	[ $status = 0 ] || tail -n 20 "$log" >&2
	rm -f "$log"
	return $status
}

# wait_for SECONDS COMMAND... runs the command until it succeeds.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.2
	done
}

# docker_endpoint prints the engine that the docker client talks to. Caddy knows
# DOCKER_HOST but no docker contexts, so it needs to be told.
docker_endpoint() { docker context inspect --format '{{.Endpoints.docker.Host}}'; }

# check_go fails unless there is a Go that can build this module. One that is a
# little older fetches a newer one by itself.
check_go() {
	local needed
	needed=$(sed -n 's/^go //p' go.mod)
	have go || die "please install Go $needed or newer: https://go.dev/dl/"
	go list -m >/dev/null || die "Go $needed or newer is needed: https://go.dev/dl/"
}
