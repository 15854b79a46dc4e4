#!/bin/sh
# harden.sh REF NAME [OPTION...]: an image in which no program is set-id, and which says so. OPTIONs are bg-publish's.
#
# What flows between two stages is JSON: jq changes the manifest after bg-fetch, and the tree after bg-flatten. If a
# stage fails, the one after it finds no manifest on its stdin and fails, too: no pipefail is needed.
set -eu
[ $# -ge 2 ] || { echo 'usage: harden.sh REF NAME [OPTION...]' >&2; exit 64; }
ref=$1 name=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

bg-fetch "$ref" |
	jq '.image.config.Labels += {"hardened": "yes"} | .image.config.Env += ["UMASK=027"]' |
	bg-flatten -o "$work/all.jsonl" >"$work/all.json"

# A mode is four octal digits, and the first one holds set-uid (4), set-gid (2) and sticky (1).
jq -c 'if .type == "file" and (.mode | test("^[2-7]")) then
		.mode |= (if test("^[357]") then "1" else "0" end) + .[1:]
	else . end' "$work/all.jsonl" >"$work/changed.jsonl"

bg-flatten -o "$work/tree.jsonl" "$work/changed.jsonl" |
	jq --slurpfile all "$work/all.json" '$all[0] + {tree, history: ($all[0].history + .history)}' |
	bg-mkext4 -C "$work" |
	bg-chown |
	bg-inject |
	bg-seed -C "$work" |
	bg-publish --move --name="$name" "$@" |
	jq -r .published.path
