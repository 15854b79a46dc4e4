"""What the tests of stored kernels share: small kernels with modules, packed as bundles, and what the store holds."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

from tests import bundles, kernels, machines, support
from tests.webserver import Site

RELEASE = kernels.RELEASE
BLK = f"modules/lib/modules/{RELEASE}/kernel/drivers/block/virtio_blk.ko"
Member = tuple[str, bytes, dict[str, Any]]


def bzimage(mark: bytes = b"") -> bytes:
    """Return a small bzImage that has drivers built in; `mark` tells it from others."""
    return kernels.bzimage(kernels.PACKERS["xz"](kernels.elf(kernels.BANNER + kernels.NAMES + mark)))


def members(mark: bytes = b"") -> list[Member]:
    """Return the files of a bundle: a kernel and one module."""
    return [("vmlinux", bzimage(mark), {}), (BLK, machines.module(), {})]


def tar(*found: Member, form: int = tarfile.GNU_FORMAT) -> bytes:
    """Return a tar with these members: name, content, and other fields of their headers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data, fields in found:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def packed(folder: Path, data: bytes) -> bytes:
    """Return a tar compressed by zstd."""
    support.need("zstd")
    return bundles.compress(data, folder / "packed.tar.zst").read_bytes()


def offer(site: Site, name: str, data: bytes, **changes: Any) -> dict[str, Any]:
    """Put a bundle on a server, and return its entry for a catalog."""
    site.files[f"{name}.tar.zst"] = data
    about = {"url": site.url(f"{name}.tar.zst"), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    return {"name": name, "arch": "amd64", **about, **changes}


def configure(home: Path, *entries: dict[str, Any]) -> None:
    """Make a catalog of these kernels the user's own."""
    (home / "config").mkdir(parents=True, exist_ok=True)
    (home / "config" / "config.toml").write_text("[[catalogs]]\nfile = 'catalog.json'\n")
    catalog = {"schema": "banger-catalog/1", "kernels": list(entries)}
    (home / "config" / "catalog.json").write_text(json.dumps(catalog))


def folder(home: Path, name: str) -> Path:
    return home / "state" / "kernels" / name


def record(home: Path, name: str) -> dict[str, Any]:
    found = json.loads((folder(home, name) / "kernel.json").read_text())
    assert isinstance(found, dict)
    return found


def names(home: Path) -> list[str]:
    """Return all that stands where the kernels are, unfinished ones, too."""
    place = home / "state" / "kernels"
    return sorted(path.name for path in place.iterdir()) if place.exists() else []


def data_requests(site: Site) -> list[str]:
    """Return the ranges that a server was asked for, '' for all of a bundle."""
    return [headers.get("range", "") for path, headers in site.seen if path.endswith(".tar.zst")]
