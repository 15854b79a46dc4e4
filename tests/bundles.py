"""Bundles for tests: made with GNU tar and zstd of an image that went through the real pipe, and broken ones."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests import machines, support

PIPE = (("bg-flatten",), ("bg-mkext4", "--size=48M"), ("bg-chown",), ("bg-inject",))


def parts(folder: Path) -> Path:
    """Make `rootfs.ext4` and `manifest.json` of a busybox by the stages that a bundle has behind it."""
    root = machines.busybox_root(folder / "root")
    (root / "root" / ".profile").write_text("greeting=hello\n")
    tar = subprocess.run(["tar", "-C", root, "--owner=0", "--group=0", "-c", "."], capture_output=True, check=True)
    text = support.run_ok("bg-fetch", "rootfs:-", stdin=tar.stdout)
    for program, *words in PIPE:
        folder_option = ["-C", str(folder)] if program in ("bg-flatten", "bg-mkext4") else []
        text = support.run_ok(program, *words, *folder_option, stdin=text)
    (folder / "manifest.json").write_bytes(text)
    return folder


def pack(folder: Path, target: Path, *words: str) -> Path:
    """Pack what `words` (of GNU tar, run in a folder) name as a bundle."""
    support.need("zstd")
    tar = subprocess.run(["tar", "-C", folder, "-c", *words], capture_output=True, check=True).stdout
    return compress(tar, target)


def compress(tar: bytes, target: Path) -> Path:
    """Write a tar as .tar.zst."""
    target.write_bytes(subprocess.run(["zstd", "-q", "-c"], input=tar, capture_output=True, check=True).stdout)
    return target


def manifest(folder: Path, **changes: Any) -> dict[str, Any]:
    """Return the manifest of a bundle's parts, changed."""
    return {**json.loads((folder / "manifest.json").read_text()), **changes}
