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
	have curl || missing+=(curl ca-certificates)
	have_browser || missing+=("$(browser_package)")
	[ ${#missing[@]} = 0 ] || apt_install "${missing[@]}"
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
