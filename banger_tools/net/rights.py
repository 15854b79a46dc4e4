"""Whether taps can be made here at all."""

from __future__ import annotations

import fcntl
import os
import re
from pathlib import Path

from banger_tools import errors, process
from banger_tools.net.links import USER_NETWORK

TUN = Path("/dev/net/tun")
NAMESPACE = "/proc/self/ns/net"
_CAP_NET_ADMIN = 12  # capabilities(7)
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)


def check() -> None:
    """Raise the error that says why this host gives us no taps.

    Denied without the right, Unavailable without iproute2, nftables or the kernel's tun device.
    """
    if not may_administer():
        raise errors.Denied("a tap network needs the right to administer the network (CAP_NET_ADMIN)", USER_NETWORK)
    for program in ("ip", "nft"):
        process.find(program)
    try:
        os.close(os.open(TUN, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        raise errors.Denied(f"a tap network needs access to '{TUN}'", USER_NETWORK) from error
    except OSError as error:
        raise errors.Unavailable(
            f"a tap network needs '{TUN}': {errors.reason(error)}", f"modprobe tun, or {USER_NETWORK}"
        ) from error


def may_administer() -> bool:
    """Tell whether we may administer the network that we are in.

    A user namespace gives all rights, but over a network of its own only: the kernel does not tell the owner of one
    that belongs to somebody above.
    """
    status = Path("/proc/self/status").read_text()
    match = re.search(r"^CapEff:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(match and int(match[1], 16) >> _CAP_NET_ADMIN & 1) and _is_ours()


def _is_ours() -> bool:
    descriptor = os.open(NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.ioctl(descriptor, _NS_GET_USERNS))
    except PermissionError:
        return False
    finally:
        os.close(descriptor)
    return True
