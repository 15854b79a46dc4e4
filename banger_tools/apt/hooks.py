"""What runs inside mmdebstrap: the host's way to its archives put in for the time of the build, and host traces out.

Both are sh scripts that get the root folder as their first argument, as mmdebstrap(1), HOOKS says. What they need
to know comes in the environment, because under user namespaces they cannot read the user's private files.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from banger_tools import process

CONF_VARIABLE = "BANGER_APT_CONF"
AUTH_VARIABLE = "BANGER_APT_AUTH"
KEYS_VARIABLE = "BANGER_APT_KEYS"
PACKAGES_VARIABLE = "BANGER_APT_PACKAGES"

# mmdebstrap asks for our packages only when the essential ones are installed. A name that is misspelt is found out
# here, a minute earlier, and nothing is fetched twice: mmdebstrap uses the indexes that it finds.
SETUP = r"""
set -eu
umask 022
printf '%s\n' "$BANGER_APT_CONF" >"$1/etc/apt/apt.conf.d/99banger-host"
if [ -n "$BANGER_APT_AUTH" ]; then
  (umask 077 && printf '%s\n' "$BANGER_APT_AUTH" >"$1/etc/apt/auth.conf.d/99banger-host.conf")
fi
export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG"
apt-get update -oAPT::Update::Error-Mode=any >&2
if apt-get install --simulate $BANGER_APT_PACKAGES 2>&1 | grep '^E: Unable to locate package' >&2; then
  exit 1
fi
"""

# The host keys go because every machine needs its own: the drop-in has sshd make them when it first starts, unless
# somebody made some before, as bg-inject's unit does.
CUSTOMIZE = r"""
set -eu
umask 022
rm -f "$1/etc/apt/apt.conf.d/99banger-host" "$1/etc/apt/auth.conf.d/99banger-host.conf"
for key in $BANGER_APT_KEYS; do
  [ -e "$1$key" ] || install -D -m 0644 "$key" "$1$key"
done
[ -L "$1/etc/resolv.conf" ] || rm -f "$1/etc/resolv.conf"
rm -f "$1/etc/hostname" "$1/var/lib/systemd/random-seed" "$1/var/lib/systemd/credential.secret"
rm -f "$1"/etc/ssh/ssh_host_*_key "$1"/etc/ssh/ssh_host_*_key.pub
if [ -e "$1/lib/systemd/system/ssh.service" ]; then
  mkdir -p "$1/etc/systemd/system/ssh.service.d"
  printf '%s\n' '[Service]' 'ExecStartPre=' \
    'ExecStartPre=/bin/sh -c "ls /etc/ssh/ssh_host_*_key >/dev/null 2>&1 || exec /usr/bin/ssh-keygen -A"' \
    'ExecStartPre=/usr/sbin/sshd -t' \
    >"$1/etc/systemd/system/ssh.service.d/10-host-keys.conf"
fi
"""

_PASSED_ON = re.compile(
    r"Acquire::(https?|ftp|tor|Retries|ForceIP|Check-|Max-|Min-|Allow|By-Hash|Queue|Proxy|Send-URI)[^ ]*", re.IGNORECASE
)


def environment(keyrings: Sequence[str], packages: Sequence[str]) -> dict[str, str]:
    """Return what the hooks need to know: the host's apt options and passwords, keys that the guest needs, packages."""
    keys = [key for key in keyrings if not re.search(r"\s", key)]
    return {
        CONF_VARIABLE: options(),
        AUTH_VARIABLE: passwords(),
        KEYS_VARIABLE: " ".join(sorted(set(keys))),
        PACKAGES_VARIABLE: " ".join(packages),
    }


def options() -> str:
    """Return the host's options about how archives are reached, in apt.conf(5) form: proxies, time-outs, retries."""
    dump = process.run(["apt-config", "dump"]).stdout.decode(errors="replace")
    return "\n".join(line for line in dump.splitlines() if _PASSED_ON.match(line))


def passwords() -> str:
    """Return the host's apt_auth.conf(5) files, as far as this user may read them."""
    paths = [Path("/etc/apt/auth.conf"), *sorted(Path("/etc/apt/auth.conf.d").glob("*.conf"))]
    texts = []
    for path in paths:
        try:
            texts.append(path.read_text(encoding="utf-8", errors="replace").strip())
        except OSError:
            continue
    return "\n".join(filter(None, texts))
