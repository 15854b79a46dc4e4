#!/bin/sh
# from-container.sh CONTAINER NAME [OPTION...]: an image of a container as it stands. OPTIONs are bg-publish's.
#
# ENGINE is docker or podman. `export` writes the files and nothing else; what the container runs, and how, is asked for
# with `inspect` and put into the manifest again.
set -eu
[ $# -ge 2 ] || { echo 'usage: from-container.sh CONTAINER NAME [OPTION...]' >&2; exit 64; }
container=$1 name=$2
shift 2
engine=${ENGINE:-docker}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# podman before 5.0 gives the Entrypoint as one string; both engines tell programs that they are in a container.
"$engine" inspect --type container --format '{{json .Config}}' "$container" | jq '{
	Env: (.Env // [] | map(select(startswith("container=") | not))),
	Entrypoint: (.Entrypoint | if type == "string" then split(" ") else . end),
	Cmd, User, WorkingDir, Labels
}' >"$work/config.json"

"$engine" export "$container" |
	bg-fetch rootfs:- |
	jq --slurpfile config "$work/config.json" '.image.config = $config[0]' |
	bg-flatten -C "$work" |
	bg-mkext4 -C "$work" |
	bg-chown |
	bg-inject |
	bg-seed -C "$work" |
	bg-publish --move --name="$name" "$@" |
	jq -r .published.path
