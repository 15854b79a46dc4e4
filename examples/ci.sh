#!/bin/sh
# ci.sh REF FOLDER COMMAND...: a CI job. Run COMMAND in /src, a copy of FOLDER, in a fresh machine; exit with its status.
#
# VMFLAGS are options of `banger vm run`, as in VMFLAGS='--cpus=4 --memory=4G'.
set -eu
[ $# -ge 3 ] || { echo 'usage: ci.sh REF FOLDER COMMAND...' >&2; exit 64; }
ref=$1 folder=$2
shift 2
image=ci-$$
work=$(mktemp -d)
clean() {
	rm -rf "$work"
	banger image delete "$image" 2>/dev/null || :
}
trap clean EXIT
trap 'exit 130' INT TERM

mkdir -p "$work/layer"
cp -R "$folder" "$work/layer/src"

echo "ci: making the image out of '$ref' and '$folder'" >&2
bg-fetch "$ref" |
	bg-flatten -C "$work" --layer="$work/layer" |
	bg-mkext4 -C "$work" --free=1G |
	bg-chown |
	bg-inject |
	bg-seed -C "$work" >"$work/seed.json"

echo 'ci: checking it' >&2
bg-chown --check "$work/seed.json"
/sbin/e2fsck -fn "$work/rootfs.ext4" >"$work/e2fsck" 2>&1 || { cat "$work/e2fsck" >&2; exit 1; }
bg-publish --move --name="$image" "$work/seed.json" >"$work/published.json"

echo "ci: running $*" >&2
# VMFLAGS is several words.
# shellcheck disable=SC2086
banger vm run --rm -T --image="$image" --pull=never --cwd=/src ${VMFLAGS:-} -- "$@" </dev/null
