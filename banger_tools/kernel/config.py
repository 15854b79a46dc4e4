"""A kernel's configuration: inside of it (CONFIG_IKCONFIG), or the file that packages ship beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from banger_tools import errors, files
from banger_tools.kernel import payload

LIMIT = 4 << 20  # bytes of text
_START = b"IKCFG_ST"  # kernel/configs.c: a gzip stream stands between this and IKCFG_ED
_GZIP = b"\x1f\x8b\x08"
_LINE = re.compile(r"^(?:CONFIG_(\w+)=(.*)|# CONFIG_(\w+) is not set)$", re.MULTILINE)
_ARCHITECTURES = {"X86_64": "amd64", "ARM64": "arm64"}


def beside(kernel: Path) -> Path | None:
    """Return the configuration that packages ship beside a kernel: /boot/config-VERSION of /boot/vmlinuz-VERSION."""
    _, dash, release = kernel.name.partition("-")
    path = kernel.with_name(f"config-{release}")
    return path if dash and path.is_file() else None


def embedded(bare: bytes) -> str | None:
    """Return the configuration inside of an uncompressed kernel, or None if it was built without.

    Raises BadInput if it is corrupt.
    """
    start = bare.find(_START + _GZIP)
    if start < 0:
        return None
    packed = bare[start + len(_START) : start + len(_START) + LIMIT]
    return payload.decompress(packed, limit=LIMIT, what="the kernel's own configuration").decode("utf-8", "replace")


def read(path: Path) -> str:
    """Return the text of a configuration file, which may be compressed as /proc/config.gz is.

    Raises NoInput, Denied, or BadInput if it is none.
    """
    data = files.read_small(path, LIMIT, "a kernel's configuration")
    if payload.compression(data):
        data = payload.decompress(data, limit=LIMIT, what=f"'{path}'")
    text = data.decode("utf-8", "replace")
    if not _LINE.search(text):
        raise errors.BadInput(f"'{path}' is no configuration of a kernel")
    return text


def parse(text: str) -> dict[str, str]:
    """Return each symbol (without CONFIG_) with its value: y, m, n, a number or a text in quotes."""
    return {match[1] or match[3]: match[2] if match[1] else "n" for match in _LINE.finditer(text)}


def architecture(symbols: Mapping[str, str]) -> str | None:
    """Return the architecture that a configuration is for, in the words of OCI; None if it is another."""
    return next((name for symbol, name in _ARCHITECTURES.items() if symbols.get(symbol) == "y"), None)
