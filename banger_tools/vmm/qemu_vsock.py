"""A guest's vsock address on hosts whose kernel has vhost-vsock, found out by trying one.

The kernel tells whether an address is taken by refusing it (linux/vhost.h). Between our trial and QEMU's start another
program could take it: addresses come from machines' ids, so that two want the same one once in four thousand million.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import socket
import struct
from pathlib import Path

DEVICE = Path("/dev/vhost-vsock")
VHOST_SET_OWNER = 0xAF01
VHOST_VSOCK_SET_GUEST_CID = 0x4008AF60
_FIRST, _END = 3, 0xFFFFFFFF  # below: the host and what is reserved; the end itself stands for any address
_TRIES = 8


def free_cid(machine: str) -> int | None:
    """Return an address for the machine of an id that no other one has, or None if vhost-vsock cannot be used."""
    if not hasattr(socket, "AF_VSOCK"):
        return None
    try:
        socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
        return next((cid for attempt in range(_TRIES) if _is_free(cid := candidate(machine, attempt))), None)
    except OSError:  # no such device, no right to open it, or a kernel that has only its name
        return None


def candidate(machine: str, attempt: int) -> int:
    """Return the address that a machine asks for at an attempt."""
    digest = hashlib.sha256(f"{machine} {attempt}".encode()).digest()
    return _FIRST + int.from_bytes(digest[:8], "big") % (_END - _FIRST)


def _is_free(cid: int) -> bool:
    """Tell whether the kernel gives an address, and give it back; raises OSError if it gives none at all."""
    descriptor = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(descriptor, VHOST_SET_OWNER)
        fcntl.ioctl(descriptor, VHOST_VSOCK_SET_GUEST_CID, struct.pack("=Q", cid))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return False
        raise
    finally:
        os.close(descriptor)
    return True
