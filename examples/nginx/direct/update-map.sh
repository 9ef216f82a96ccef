#!/bin/sh
# Makes nginx's map of the instances and has nginx read it:
#
#	update-map.sh MAP [NGINX...]
#
# MAP is the file to write, NGINX how to run nginx (default: nginx). Caddy calls
# it as a reload_hook and says by SANDBOX_STATE_DIR where its files are. When
# something fails, nginx goes on with the map it has; the next call tries again.
set -eu

map=${1:?usage: update-map.sh MAP [NGINX...]}
routes=${SANDBOX_STATE_DIR:?is not set: it is the state_dir of Caddy}/config/subdomain-proxy.json
shift
[ $# -gt 0 ] || set -- nginx

# write_map turns the routes, one a line, into "host target;", and fails on a
# line that it does not know rather than leave out an instance.
write_map() {
	awk -F '"' '
		/^\{"domain":"[a-z0-9.-]+","routes":\{(\}\})?$/ { domain = $4; whole = /\}\}$/; next }
		/^"[a-z0-9]+":\{"target":"http:\/\/127\.0\.0\.1:[0-9]+","status":"[a-z]+"(,"domains":\["[a-z0-9.",-]+"\])?\},?$/ {
			target = $10 == "running" ? substr($6, length("http://") + 1) : "down"
			print $2 "." domain, target ";"
			for (i = 14; i < NF; i += 2) print $i, target ";" # custom hosts
			next
		}
		/^\}\}$/ { whole = 1; next }
		{ print "unknown line: " $0 >"/dev/stderr"; exit 1 }
		END { if (!domain || !whole) exit 1 }
	' "$routes"
}

if ! write_map >"$map.new"; then
	echo "update-map.sh: $routes has another form than expected" >&2
	exit 1
fi

# What nginx has read is kept as .read: a map of the same bytes needs no reload,
# of which each leaves old workers behind until their last WebSocket closes.
if cmp -s "$map.new" "$map.read" && cmp -s "$map.new" "$map"; then
	rm "$map.new"
	exit
fi
mv "$map.new" "$map"
if ! "$@" -t -q; then
	[ ! -e "$map.read" ] || cp "$map.read" "$map.new"
	mv "$map.new" "$map" 2>/dev/null || rm "$map"
	echo "update-map.sh: nginx would not run with the new map, or has another fault" >&2
	exit 1
fi
if ! "$@" -s reload; then # it reads the map when it starts
	echo "update-map.sh: nginx does not run, or could not be told" >&2
	exit 1
fi
cp "$map" "$map.new"
mv "$map.new" "$map.read"
