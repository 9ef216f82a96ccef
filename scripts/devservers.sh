#!/usr/bin/env bash
# Builds the images of the dev servers that the tests try: one for each app in
# test/devservers, caddy-sandbox/devserver:NAME, all of them on one with Node.
# Does nothing for those whose image of just these files is there.
#
#	devservers.sh             all of them
#	devservers.sh vite5 ...   these
#
# Node is an app, too: npm has it, and this machine's may be older than some of
# the dev servers take. It is good enough for npm.
set -euo pipefail
umask 022 # the images' files are read by another user
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh
. scripts/system.sh

image=caddy-sandbox/devserver
apps=test/devservers

main() {
	local base app names=("$@")
	[ $# -gt 0 ] || mapfile -t names < <(ls $apps)
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	base=$(tag_of node)
	have_image "$base" || build_node "$base"
	for app in "${names[@]}"; do
		[ "$app" = node ] || make_app "$app" "$base"
	done
	say "the images $image are ready"
}

# tag_of names the image of an app by all that goes into it.
tag_of() { echo "$image:$1-$(fingerprint "$apps/$1" "$apps/node" scripts/devservers.sh scripts/system.sh)"; }

have_image() { docker image inspect "$1" >/dev/null 2>&1; }

need_npm() { have npm || apt_install npm; }

build_node() {
	local tag=$1 dir=$work/node node libc
	say "building $tag"
	need_npm
	install_app $apps/node "$dir/npm" >/dev/null
	node=$(echo "$dir"/npm/node_modules/node-linux-*/bin/node)
	libc=$(libraries "$node" | grep '/libc\.so')
	# The last two are for native modules of the apps.
	install_system "$dir/system" "$node" "${libc%/*}"/{librt.so.1,libresolv.so.2}
	mkdir "$dir/app"
	make_image "$dir" "$tag"
	rm -rf "$dir"
}

# make_app makes the image of an app, unless there is one, and names it.
make_app() {
	local app=$1 base=$2 tag
	tag=$(tag_of "$app")
	have_image "$tag" || build_app "$app" "$base" "$tag"
	docker tag "$tag" "$image:$app"
}

build_app() {
	local app=$1 base=$2 tag=$3 dir=$work/$1
	say "building $tag"
	need_npm
	install_app "$apps/$app" "$dir/app" >/dev/null
	printf 'FROM %s\nCOPY --chown=%s:%s app /app\n' "$base" $uid $uid >"$dir/Dockerfile"
	quietly docker build --tag "$tag" "$dir"
	rm -rf "$dir"
}

main "$@"
