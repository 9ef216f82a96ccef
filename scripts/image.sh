#!/usr/bin/env bash
# Builds the demo image caddy-sandbox/vite-demo from examples/vite: with its
# Dockerfile where a registry has the Node image, else around this machine's
# own Node. Does nothing when the image of just these files is there.
set -euo pipefail
umask 022 # the image's files are read by another user
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
. scripts/system.sh

image=caddy-sandbox/vite-demo
base=node:22-slim
app=examples/vite

main() {
	local tag
	tag=$image:$(fingerprint $app scripts/image.sh scripts/system.sh)
	if ! docker image inspect "$tag" >/dev/null 2>&1; then
		say "building $tag"
		build_on_public_node "$tag" || build_on_own_node "$tag"
	fi
	docker tag "$tag" "$image:latest"
	say "image $image is ready"
}

# build_on_public_node fails where no registry answers; the engine tells that at
# once where names do not resolve, and after 15 s where packets are dropped.
build_on_public_node() {
	if ! docker image inspect "$base" >/dev/null 2>&1 && ! docker pull -q "$base"; then
		say "$base cannot be had, taking this machine's Node instead"
		return 1
	fi
	if ! docker build -q -t "$1" --label "$checkout_label=$PWD" --build-arg NODE_IMAGE="$base" "$app"; then
		say "docker build failed, taking this machine's Node instead"
		return 1
	fi
}

# build_on_own_node puts together by hand what the Dockerfile describes: Node and
# the libraries it needs, busybox for the tools, and the app.
build_on_own_node() {
	local tag=$1 modules
	have npm || die "please install Node.js 20.19 or newer with npm (https://nodejs.org)"
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	install_app "$app" "$work/app"
	mapfile -t modules < <(find "$work/app" -name '*.node')
	install_system "$work/system" "$(node -p process.execPath)" "${modules[@]}"
	make_image "$work" "$tag" 'ENV HOST=0.0.0.0 PORT=5174' 'EXPOSE 5174' \
		"LABEL $checkout_label=\"$PWD\"" 'CMD ["node", "node_modules/vite/bin/vite.js"]'
}

main "$@"
