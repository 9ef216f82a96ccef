#!/usr/bin/env bash
# Makes sure that a Docker Engine answers. As root on Debian or Ubuntu it
# installs and starts one, also after the last one was killed and left its files
# behind; elsewhere it says what to do.
#
# ENGINE_DIR=/some/folder: work on an engine of its own, with all its files
# below that folder, and leave the system's alone. For trying this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/lib.sh

run=/run
log=/var/log/dockerd.log
flags=() # the system's engine keeps to its daemon.json
if [ -n "${ENGINE_DIR:-}" ]; then
	run=$ENGINE_DIR/run
	log=$ENGINE_DIR/dockerd.log
	export DOCKER_HOST=unix://$run/docker.sock
	flags=(--host "$DOCKER_HOST" --pidfile "$run/docker.pid" --exec-root "$run/docker" --data-root "$ENGINE_DIR/data")
fi

main() {
	engine_answers && return
	explain_what_we_cannot_do
	install_engine
	if with_systemd; then
		start_with_systemd
	else
		start_dockerd
	fi
	remove_dead_containers
	say "Docker Engine $(docker version --format '{{.Server.Version}}') is ready"
}

# engine_answers asks through the client, whose settings may name another engine
# than this machine's. A hung engine counts as none.
engine_answers() { have docker && timeout 10 docker version >/dev/null 2>&1; }

explain_what_we_cannot_do() {
	local endpoint=${DOCKER_HOST:-}
	[ -n "$endpoint" ] || ! have docker || endpoint=$(docker_endpoint)
	case $endpoint in
	'' | unix:///var/run/docker.sock | "unix://$run/docker.sock") ;;
	*) die "no Docker Engine answers at $endpoint, which DOCKER_HOST or the docker context names: start it, or choose another" ;;
	esac
	is_root && return
	if [ -S /var/run/docker.sock ] && [ ! -w /var/run/docker.sock ]; then
		die "you may not use Docker: sudo usermod -aG docker $(id -un), log in again, and repeat (this makes you as powerful as root)"
	fi
	if have dockerd; then
		die "no Docker Engine answers: sudo systemctl start docker, and repeat"
	fi
	die "no Docker Engine answers. Install one (Debian, Ubuntu: sudo apt-get install docker.io && sudo usermod -aG docker $(id -un), and log in again; others: https://docs.docker.com/engine/install/), and repeat"
}

install_engine() {
	have dockerd || apt_install docker.io ca-certificates
	have docker || apt_install docker-cli # a package of its own from Debian 13 on
}

with_systemd() { [ -z "${ENGINE_DIR:-}" ] && [ "$(cat /proc/1/comm)" = systemd ]; }

start_with_systemd() {
	say "starting the Docker Engine"
	if ! systemctl start docker || ! wait_for 60 engine_answers; then
		journalctl --no-pager --lines 20 --unit docker >&2
		die "the Docker Engine did not start"
	fi
}

# start_dockerd starts the engine where nothing else does, in a container say.
# It outlives this script and the terminal.
start_dockerd() {
	remove_pidfile_unless "$run/docker.pid" dockerd
	remove_pidfile_unless "$run/docker/containerd/containerd.pid" containerd
	mkdir -p "$run" "$(dirname "$log")"
	if [ ! -e "$run/docker.pid" ]; then
		say "starting dockerd, log in $log"
		setsid dockerd "${flags[@]}" >>"$log" 2>&1 </dev/null &
	fi
	await_dockerd
}

# remove_pidfile_unless removes a pid file whose process is not the program it
# should be: it ended, is a zombie, or its number is another's by now. dockerd
# believes these files: it would refuse to start, or wait for a containerd that
# is none.
remove_pidfile_unless() {
	local file=$1 program=$2
	[ -e "$file" ] || return 0
	runs_program "$(cat "$file")" "$program" || rm -f "$file"
}

runs_program() {
	[[ "$(readlink "/proc/$1/exe")" =~ /"$2"( \(deleted\))?$ ]]
}

# await_dockerd waits until the engine answers, or until no dockerd runs that
# could: neither ours nor one that somebody else started meanwhile.
await_dockerd() {
	local end=$((SECONDS + 90))
	until engine_answers; do
		if [ "$SECONDS" -ge "$end" ] || ! dockerd_runs; then
			[ ! -e "$log" ] || tail -n 20 "$log" >&2
			die "dockerd did not come up; above are its last lines, all are in $log"
		fi
		sleep 0.2
	done
}

dockerd_runs() {
	[ -n "$(jobs -r)" ] || { [ -e "$run/docker.pid" ] && runs_program "$(cat "$run/docker.pid")" dockerd; }
}

# remove_dead_containers finishes removals of sandboxes that the last engine was
# killed in.
remove_dead_containers() {
	docker ps --all --quiet --filter status=dead --filter label=sandbox.manager | xargs -r docker rm --force >/dev/null
}

main "$@"
