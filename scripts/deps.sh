#!/usr/bin/env bash
# Makes sure of what the tests use beside Go and Docker.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

# Where the tests look for a browser.
browsers=(chromium chromium-browser google-chrome google-chrome-stable)

main() {
	local missing=()
	have gcc || missing+=(gcc libc6-dev) # for the race detector
	have strace || missing+=(strace)
	have ip || missing+=(iproute2) # networks of the tests' own
	have curl || missing+=(curl ca-certificates)
	have_nginx || missing+=(nginx)
	have_browser || missing+=("$(browser_package)")
	[ ${#missing[@]} = 0 ] && return
	apt_install "${missing[@]}"
	case " ${missing[*]} " in *" nginx "*) stop_nginx ;; esac
}

# have_nginx looks where only root's PATH leads, too.
have_nginx() { have nginx || [ -x /usr/sbin/nginx ]; }

# stop_nginx ends the server that Debian starts with the package: the tests run
# their own.
stop_nginx() {
	if [ -d /run/systemd/system ]; then
		systemctl disable --now nginx
	else
		service nginx stop || true
	fi >/dev/null 2>&1
}

have_browser() {
	local name
	for name in "${browsers[@]}"; do
		! have "$name" || return 0
	done
	return 1
}

# browser_package names Debian's; Ubuntu's is a snap, which needs more than we
# can set up.
browser_package() {
	! grep -qs '^ID=ubuntu' /etc/os-release ||
		die "please install Google Chrome for the browser test (https://www.google.com/chrome/)"
	echo chromium
}

main "$@"
