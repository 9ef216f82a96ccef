#!/usr/bin/env bash
# Builds the demo image caddy-sandbox/vite-demo from examples/vite: with its
# Dockerfile where a registry has the Node image, else around this machine's
# own Node. Does nothing when the image of just these files is there.
set -euo pipefail
umask 022 # the image's files are read by another user
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

image=caddy-sandbox/vite-demo
base=node:22-slim
app=examples/vite
uid=10001 # as in the Dockerfile

main() {
	local tag
	tag=$image:$(fingerprint)
	if ! docker image inspect "$tag" >/dev/null 2>&1; then
		say "building $tag"
		build_on_public_node "$tag" || build_on_own_node "$tag"
	fi
	docker tag "$tag" "$image:latest"
	say "image $image is ready"
}

# fingerprint names the files that go into the image, and how they do.
fingerprint() {
	{ app_files | LC_ALL=C sort -z | xargs -0 sha256sum && sha256sum scripts/image.sh; } | sha256sum | cut -c 1-12
}

# app_files lists the app's files, each ended by a zero byte, without what a
# developer's own npm or Vite left there.
app_files() { find "$app" -name node_modules -prune -o -type f -print0; }

# build_on_public_node fails where no registry answers; the engine tells that at
# once where names do not resolve, and after 15 s where packets are dropped.
build_on_public_node() {
	if ! docker image inspect "$base" >/dev/null 2>&1 && ! docker pull -q "$base"; then
		say "$base cannot be had, taking this machine's Node instead"
		return 1
	fi
	if ! docker build -q -t "$1" --build-arg NODE_IMAGE="$base" "$app"; then
		say "docker build failed, taking this machine's Node instead"
		return 1
	fi
}

# build_on_own_node puts together by hand what the Dockerfile describes: Node and
# the libraries it needs, busybox for the tools, and the app.
build_on_own_node() {
	local tag=$1
	[ "$(uname -s)" = Linux ] || die "cannot make a Linux image from this system's Node; let the engine pull $base"
	have npm || die "please install Node.js 20.19 or newer with npm (https://nodejs.org)"
	have busybox || apt_install busybox-static

	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	install_app "$work/app"
	install_system "$work/system" "$work/app"
	tar -C "$work/system" --owner=0 --group=0 --numeric-owner -cf "$work/image.tar" .
	tar -C "$work" --owner=$uid --group=$uid --numeric-owner -rf "$work/image.tar" ./app
	docker import \
		--change "USER $uid:$uid" \
		--change 'WORKDIR /app' \
		--change 'ENV PATH=/usr/local/bin:/usr/bin:/bin HOME=/app HOST=0.0.0.0 PORT=5174' \
		--change 'EXPOSE 5174' \
		--change 'CMD ["node", "node_modules/vite/bin/vite.js"]' \
		"$work/image.tar" "$tag" >/dev/null
}

install_app() {
	local dir=$1 file
	while IFS= read -r -d '' file; do
		install -D -m 644 "$file" "$dir/${file#"$app"/}"
	done < <(app_files)
	npm --prefix "$dir" ci --no-progress
}

# install_system fills dir with all of Linux that the app needs.
install_system() {
	local dir=$1 app_dir=$2 node applet
	node=$(node -p process.execPath)
	mkdir -p "$dir"/{bin,etc,usr/bin,usr/local/bin}
	mkdir -m 1777 "$dir/tmp"
	cp -L "$node" "$dir/usr/local/bin/node"
	cp -L "$(command -v busybox)" "$dir/bin/busybox"
	for applet in $(busybox --list | grep -vx busybox); do
		ln -s busybox "$dir/bin/$applet"
	done
	ln -s /bin/busybox "$dir/usr/bin/env" # where scripts look for it
	libraries "$node" "$(command -v busybox)" "$app_dir" | xargs cp -L --parents -t "$dir"
	printf 'root:x:0:0:root:/:/bin/sh\napp:x:%s:%s:app:/app:/bin/sh\n' $uid $uid >"$dir/etc/passwd"
	printf 'root:x:0:\napp:x:%s:\n' $uid >"$dir/etc/group"
}

# libraries lists the shared libraries of two programs and of the native modules
# below a folder, the loader among them. ldd fails for a static program, which
# needs none.
libraries() {
	{
		printf '%s\n' "$1" "$2"
		find "$3" -name '*.node'
	} | { xargs -n 1 ldd 2>/dev/null || true; } | grep -o '/[^ )]*\.so[^ )]*' | sort -u
}

main "$@"
