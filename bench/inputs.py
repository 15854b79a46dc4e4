"""What the benchmarks read, made once of the host's own Debian packages and kept in bench/.work."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import zstandard

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(__file__).resolve().parent / ".work"
LARGE = "build-essential,git,vim,python3-dev,cmake,golang-src,linux-headers-amd64"  # 850 MB, 50,000 entries or so
TAG = "bench"
_KIND = "application/vnd.oci.image"


def program(name: str) -> str:
    """Return the launcher of one of our programs."""
    return str(ROOT / "bin" / name)


def debian_tar(include: str = LARGE) -> Path:
    """Return the plain tar of a Debian root filesystem with these packages more."""
    reference = f"apt:bookworm?include={include}" if include else "apt:bookworm"
    env = {**os.environ, "BANGER_HOME": str(WORK / "input-home")}
    out = subprocess.run([program("bg-fetch"), reference], env=env, check=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(out)["layers"][0]["path"])


def oci_layout(tar: Path, compression: str = "gzip", layers: int = 1) -> Path:
    """Return an OCI layout with the content of a tar in so many layers, as registries serve it."""
    folder = WORK / f"oci-{tar.name[:12]}-{compression}-{layers}"
    if (folder / "index.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    described, diff_ids = [], []
    for part in _parts(tar, layers, folder):
        diff_ids.append(f"sha256:{_sha256(part)}")
        packed = folder / "packed"
        _pack(part, packed, compression)
        described.append(_place(packed, blobs, f"{_KIND}.layer.v1.tar+{compression}"))
        if part != tar:
            part.unlink()
    config: dict[str, Any] = {"architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": diff_ids}
    manifest = {"schemaVersion": 2, "layers": described, "config": _put(config, blobs, f"{_KIND}.config.v1+json")}
    manifest["mediaType"] = f"{_KIND}.manifest.v1+json"
    top = _put(manifest, blobs, f"{_KIND}.manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": TAG}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return folder


def _parts(tar: Path, count: int, folder: Path) -> Iterator[Path]:
    """Yield the tar itself, or tars of about equal size that hold its entries in order."""
    if count == 1:
        yield tar
        return
    limit = tar.stat().st_size // count + 1
    with tarfile.open(tar) as source:
        members = iter(source)
        member = next(members, None)
        for number in range(count):
            path = folder / f"part{number}"
            with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as target:
                while member is not None and (number == count - 1 or target.offset < limit):
                    target.addfile(member, source.extractfile(member) if member.isreg() else None)
                    member = next(members, None)
            yield path


def _pack(source: Path, target: Path, compression: str) -> None:
    with open(source, "rb") as plain, open(target, "wb") as packed:
        if compression == "zstd":
            zstandard.ZstdCompressor(level=3, threads=2).copy_stream(plain, packed)
        else:
            _gzip(plain, packed)


def _gzip(plain: IO[bytes], packed: IO[bytes]) -> None:
    with gzip.GzipFile("", "wb", 6, packed, mtime=0) as file:
        shutil.copyfileobj(plain, file, 1 << 20)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(path: Path, blobs: Path, media_type: str) -> dict[str, Any]:
    digest, size = _sha256(path), path.stat().st_size
    path.rename(blobs / digest)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def _put(value: dict[str, Any], blobs: Path, media_type: str) -> dict[str, Any]:
    path = blobs / "new"
    path.write_text(json.dumps(value))
    return _place(path, blobs, media_type)
