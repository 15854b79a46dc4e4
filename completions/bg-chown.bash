# Written by `make docs`; edit the program's docstring instead.
# shellcheck shell=bash source=/dev/null
. "${BASH_SOURCE[0]%/*}/banger.bash"
