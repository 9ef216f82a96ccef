#!/usr/bin/env bash
# Runs the demo: Caddy with Caddyfile.example in the foreground, and one sandbox.
#
#	demo.sh         start it; the sandbox of the last time is used again
#	demo.sh clean   remove all that it made
#
# It expects a Docker Engine, bin/caddy and the demo image (`make demo` sees to
# them), and keeps everything else in .demo.
set -euo pipefail
umask 077 # .demo holds keys and a token
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

dir=.demo
image=caddy-sandbox/vite-demo
ports=(8443 8080 2019) # of Caddyfile.example
api=https://api.localhost:8443/api/instances
ca=$dir/data/caddy/pki/authorities/local/root.crt
caddy_pid=

main() {
	case ${1:-start} in
	start) start ;;
	clean) clean ;;
	*) die "usage: $0 [start|clean]" ;;
	esac
}

start() {
	have curl || apt_install curl ca-certificates
	check_ours
	check_ports
	make_token
	trap 'exit 0' INT TERM HUP # and then EXIT
	trap stop_caddy EXIT
	start_caddy
	await_caddy
	cp "$ca" $dir/ca.crt
	open_sandbox
	tell_what_to_do
	wait "$caddy_pid" || die "Caddy ended with status $?; see its log above"
}

# check_ours fails where another user, root say, has run the demo before.
check_ours() {
	[ ! -e $dir ] || [ -O $dir ] || die "$dir belongs to $(stat -c %U $dir), who ran the demo here before: have it removed with make demo-clean, as that user"
}

# check_ports looks for listeners, because Caddy does not: another Caddy and ours
# would share a port, and each get some of the requests.
check_ports() {
	local port
	for port in "${ports[@]}"; do
		! listening "$port" || die "port $port is taken$(listener "$port"): end that program, and repeat. If it is a demo, it may be running in another terminal"
	done
}

listening() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# listener names the program that listens on a port, if it can be seen.
listener() {
	have ss || return 0
	ss -Hltnp "sport = :$1" | sed -n 's/.*users:(("\([^"]*\)",pid=\([0-9]*\).*/ by \1 (process \2)/p' | head -n 1
}

# make_token keeps the API's token as a header for curl, where other users of
# this machine cannot see it; a command line they can.
make_token() {
	mkdir -p $dir
	[ -s $dir/auth ] || printf 'Authorization: Bearer %s\n' "$(od -An -N 24 -tx1 /dev/urandom | tr -d ' \n')" >$dir/auth
}

start_caddy() {
	local token
	token=$(sed 's/.* //' $dir/auth)
	say "starting Caddy"
	# In a process group of its own (-m), so that Ctrl-C reaches this script alone.
	set -m
	SANDBOX_TOKEN=$token DOCKER_HOST=$(docker_endpoint) \
		XDG_DATA_HOME=$PWD/$dir/data XDG_CONFIG_HOME=$PWD/$dir/config \
		bin/caddy run --config Caddyfile.example </dev/null &
	caddy_pid=$!
	set +m
	echo "$caddy_pid" >$dir/caddy.pid
}

# await_caddy waits until a site answers; Caddy opens these last.
await_caddy() {
	local end=$((SECONDS + 30))
	until call GET >/dev/null 2>&1; do
		kill -0 "$caddy_pid" 2>/dev/null || die "Caddy ended; see its log above"
		[ "$SECONDS" -lt "$end" ] || die "Caddy does not answer; see its log above"
		sleep 0.1
	done
}

# With the body, an error says what is wrong; curl before 7.76 has only the plain form.
fail=--fail-with-body
curl --help all 2>/dev/null | grep -q -e "$fail" || fail=--fail

# call METHOD [PATH] calls the API and prints the answer; it fails when the call
# did.
call() {
	curl --silent --show-error "$fail" --max-time 120 --cacert "$ca" \
		--resolve api.localhost:8443:127.0.0.1 --header @$dir/auth \
		--request "$1" "$api${2:-}"
}

# open_sandbox wakes the sandbox of the last time, or makes one. The API answers
# when its dev server does.
open_sandbox() {
	local answer last
	last=$(cat $dir/prefix 2>/dev/null || true)
	if [ -n "$last" ] && answer=$(call POST "/$last/start" 2>/dev/null); then
		say "starting the sandbox of the last time"
	else
		say "creating a sandbox"
		answer=$(call POST) || die "it could not be created: $answer"
	fi
	prefix=$(field prefix "$answer")
	url=$(field url "$answer")
	echo "$prefix" >$dir/prefix
}

# field prints a text of a JSON object, one that needs no unquoting.
field() { sed -n 's/.*"'"$1"'":"\([^"]*\)".*/\1/p' <<<"$2"; }

tell_what_to_do() {
	cat <<END

  Your sandbox:  $url

  Open it in a browser, click the counter, then edit the page in another terminal
  (the browser warns of the certificate; $dir/ca.crt is its authority):

    docker exec sandbox-$prefix sed -i 's/Hello from the sandbox/Hello again/' src/App.jsx

  With curl:

    curl --cacert $dir/ca.crt $url/
    curl --cacert $dir/ca.crt -H @$dir/auth $api

  Ctrl-C ends it.

END
}

stop_caddy() {
	trap '' INT # a second Ctrl-C must not stop us halfway
	[ -n "$caddy_pid" ] || return 0
	if kill -TERM "$caddy_pid" 2>/dev/null; then
		echo
		say "stopping Caddy"
		wait "$caddy_pid" || true
	fi
	rm -f $dir/caddy.pid
	tell_what_is_left
}

tell_what_is_left() {
	local names
	names=$(docker ps --filter "label=sandbox.manager=$(owner)" --format '{{.Names}}')
	if [ -n "$names" ]; then
		say "Caddy has stopped, but these containers still run, or are paused:"
		printf '\n%s\n' "$names" | sed 's/^./    &/'
	else
		say "Caddy has stopped, and no container of the demo runs or is paused"
	fi
	cat <<END

  make demo         goes on from here
  make demo-clean   removes all that the demo made

END
}

# owner is the id that all containers of this demo carry.
owner() {
	local file
	file=$(cat $dir/data/caddy/sandbox/.instances.json 2>/dev/null || true)
	field owner "$(head -c 200 <<<"$file")"
}

clean() {
	check_ours
	! demo_runs || die "the demo is running (its Caddy is process $(cat $dir/caddy.pid)): end it with Ctrl-C first"
	remove_from_docker
	rm -rf $dir bin/caddy
	rmdir bin 2>/dev/null || true # unless something else is in it
	say "removed the demo"
}

# demo_runs tells of another run of this script, or of a Caddy that outlived it.
demo_runs() {
	[ -s $dir/caddy.pid ] && [ "$(ps -o comm= -p "$(cat $dir/caddy.pid)")" = caddy ]
}

remove_from_docker() {
	local id containers
	id=$(owner)
	if ! docker version >/dev/null 2>&1; then
		[ -z "$id" ] || die "no Docker Engine answers, so the demo's containers cannot be removed: start it, and repeat"
		return
	fi
	if [ -n "$id" ]; then
		mapfile -t containers < <(docker ps --all --quiet --filter "label=sandbox.manager=$id")
		if [ ${#containers[@]} -gt 0 ]; then
			docker rm --force --volumes "${containers[@]}" >/dev/null
			say "containers removed: ${#containers[@]}"
		fi
		docker network ls --quiet --filter "label=com.docker.compose.project=sandbox-${id:0:8}" | xargs -r docker network rm >/dev/null
	fi
	remove_images
}

# remove_images takes away the demo images that this checkout made and that no
# container uses. Others would be missed: Caddyfile.example pulls none.
remove_images() {
	local id left
	for id in $(docker images --quiet --no-trunc --filter "label=$checkout_label=$PWD" $image | sort -u); do
		[ -n "$(docker ps --all --quiet --filter "ancestor=$id")" ] || docker rmi --force "$id" >/dev/null || true
	done
	left=$(docker images --quiet $image | head -n 1) # the newest
	[ -n "$left" ] || return 0
	# The name without a tag, which may have gone with ours.
	docker image inspect $image >/dev/null 2>&1 || docker tag "$left" $image
	say "an image $image stays, for a container uses it or it was made elsewhere"
}

main "$@"
