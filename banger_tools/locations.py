"""Where things live: the XDG folders of banger, or everything below BANGER_HOME when that is set."""

from __future__ import annotations

import os
from pathlib import Path


def _folder(variable: str, default: str, part: str) -> Path:
    home = os.environ.get("BANGER_HOME")
    if home:
        return Path(os.path.abspath(home)) / part
    base = os.environ.get(variable, "")
    if not os.path.isabs(base):  # the XDG specification: a relative path is to be ignored
        base = os.path.expanduser(default)
    return Path(base) / "banger"


def cache() -> Path:
    """Return the folder of what can be fetched or made again: blobs, layers, built kernels' archives."""
    return _folder("XDG_CACHE_HOME", "~/.cache", "cache")


def state() -> Path:
    """Return the folder of the store: images, kernels, vms."""
    return _folder("XDG_STATE_HOME", "~/.local/state", "state")


def config() -> Path:
    """Return the folder that holds config.toml."""
    return _folder("XDG_CONFIG_HOME", "~/.config", "config")
