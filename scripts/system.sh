# shellcheck shell=bash
# What the scripts that build images share: they put together by hand what a
# registry's Node image would hold. Sourced, after lib.sh. Not to be run.

uid=10001 # of the dev servers, and of the files that they may write

# app_files lists the files of an app, each ended by a zero byte, without what a
# developer's own npm or dev server left there. Apps share files by links.
app_files() { find -L "$1" \( -name node_modules -o -name '.?*' ! -name .npmrc \) -prune -o -type f -print0; }

# fingerprint names what the given files and folders hold.
fingerprint() {
	local path
	for path; do
		app_files "$path"
	done | LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12
}

# install_app copies an app to a folder, and installs what its lock file names.
# No package runs anything here: this machine is not where they shall live.
install_app() {
	local app=$1 dir=$2 file
	while IFS= read -r -d '' file; do
		install -D -m 644 "$file" "$dir/${file#"$app"/}"
	done < <(app_files "$app")
	npm --prefix "$dir" ci --no-progress --ignore-scripts --loglevel=error
}

# install_system fills a folder with all of Linux that a dev server needs: the
# given Node, busybox for the tools, and the libraries of these and of the native
# modules, if any are given.
install_system() {
	local dir=$1 node=$2 applet
	shift 2
	[ "$(uname -s)" = Linux ] || die "cannot make a Linux image of this system's files"
	have busybox || apt_install busybox-static
	mkdir -p "$dir"/{bin,etc,usr/bin,usr/local/bin}
	mkdir -m 1777 "$dir/tmp"
	cp -L "$node" "$dir/usr/local/bin/node"
	cp -L "$(command -v busybox)" "$dir/bin/busybox"
	for applet in $(busybox --list | grep -vx busybox); do
		ln -s busybox "$dir/bin/$applet"
	done
	ln -s /bin/busybox "$dir/usr/bin/env" # where scripts look for it
	libraries "$node" "$(command -v busybox)" "$@" | xargs cp -L --parents -t "$dir"
	printf 'root:x:0:0:root:/:/bin/sh\napp:x:%s:%s:app:/app:/bin/sh\n' $uid $uid >"$dir/etc/passwd"
	printf 'root:x:0:\napp:x:%s:\n' $uid >"$dir/etc/group"
}

# libraries lists the shared libraries of programs and native modules, the loader
# among them, and those that it is given. ldd fails for a static program, which
# needs none.
libraries() {
	{
		printf '%s\n' "$@"
		printf '%s\n' "$@" | xargs -n 1 ldd 2>/dev/null || true
	} | grep -o '/[^ )]*\.so[^ )]*' | sort -u
}

# make_image makes an image of the folders system and app below another, the app
# owned by the dev server's user. Further arguments are lines of a Dockerfile.
make_image() {
	local dir=$1 tag=$2 line changes=()
	shift 2
	for line in "USER $uid:$uid" 'WORKDIR /app' 'ENV PATH=/usr/local/bin:/usr/bin:/bin HOME=/app' "$@"; do
		changes+=(--change "$line")
	done
	tar -C "$dir/system" --owner=0 --group=0 --numeric-owner -cf "$dir/image.tar" .
	tar -C "$dir" --owner=$uid --group=$uid --numeric-owner -rf "$dir/image.tar" ./app
	docker import "${changes[@]}" "$dir/image.tar" "$tag" >/dev/null
}
