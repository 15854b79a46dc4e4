"""What the benchmarks read: a Debian root filesystem of the host's own packages; layouts and trees of it, or made up.

What takes long to make is kept in the work folder.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import msgspec
import zstandard

from banger_tools import tree
from banger_tools.tree import Entry, Header, SourceFile
from bench import timing
from bench.scale import Scale

ROOT = Path(__file__).resolve().parent.parent
TAG = "bench"
DATA = 1 << 20
MADE = 300  # files of an image that is made of nothing
_KIND = "application/vnd.oci.image"


def program(name: str) -> str:
    """Return the launcher of one of our programs."""
    return str(ROOT / "bin" / name)


def environment(home: Path) -> Mapping[str, str]:
    """Return the environment of our programs, with cache and store in a folder."""
    return {**os.environ, "BANGER_HOME": str(home)}


def image_tar(scale: Scale) -> Path:
    """Return the plain tar of the root filesystem that most comparisons read."""
    return debian_tar(scale, scale.query)


def debian_tar(scale: Scale, query: str | None) -> Path:
    """Return the plain tar of a Debian root filesystem of these packages, or of what is made here if None."""
    if query is None:
        return made_tar(scale)
    reference = f"apt:bookworm?{query}"
    done = subprocess.run(
        [program("bg-fetch"), reference],
        env=environment(scale.work / "input-home"),
        check=True,
        stdout=subprocess.PIPE,
    )
    return Path(json.loads(done.stdout)["layers"][0]["path"])


def made_tar(scale: Scale) -> Path:
    """Return the tar of a few hundred small files."""
    path = scale.work / "made.tar"
    if not path.exists():
        flat = written(scale, small_files(MADE), "made")
        as_tar(flat, path)
    return path


def tree_of(scale: Scale, tar: Path) -> Path:
    """Return the tree of a tar."""
    path = scale.fresh("tree") / "tree.jsonl"
    subprocess.run([program("bg-flatten"), "-q", "--path", "-o", path, tar], check=True, stdout=subprocess.DEVNULL)
    return path


def extracted(scale: Scale, tar: Path, name: str = "extracted") -> Path:
    """Return a folder with what a tar holds; owners are kept where root extracts."""
    folder = scale.fresh(name)
    argv: timing.Words = ["tar", "-C", folder, "--xattrs", "--numeric-owner", "-xpf", tar]
    subprocess.run(argv, check=True)
    return folder


def as_tar(source: Path, target: Path) -> None:
    """Write a tree as a tar."""
    with open(f"{target}.new", "wb") as out:
        subprocess.run([program("bg-flatten"), "-q", "--tar=-", source], check=True, stdout=out)
    os.rename(out.name, target)


def small_files(count: int) -> Iterator[Entry]:
    """Yield a tree with so many files of 100 to 300 bytes, a hundred a folder."""
    yield Entry("/", "dir")
    for number in range(count):
        top, folder = f"/d{number // 10_000:04}", f"/d{number // 10_000:04}/s{number // 100 % 100:02}"
        if number % 10_000 == 0:
            yield Entry(top, "dir")
        if number % 100 == 0:
            yield Entry(folder, "dir")
        yield Entry(
            f"{folder}/file-{number:07}.txt",
            "file",
            uid=number % 1000,
            mtime=(1_600_000_000 + number, number),
            size=100 + number % 200,
            data=(0, number * 37 % (DATA - 400)),
        )


def flat_folder(count: int) -> Iterator[Entry]:
    """Yield a tree with so many files of 100 bytes in one folder."""
    yield Entry("/", "dir")
    yield Entry("/flat", "dir")
    for number in range(count):
        yield Entry(f"/flat/file-{number:06}", "file", size=100, data=(0, number % (DATA - 100)))


def large_files(mebibytes: int) -> Iterator[Entry]:
    """Yield a tree with so many files of a mebibyte each, no block of which is zero."""
    yield Entry("/", "dir")
    for number in range(mebibytes):
        yield Entry(f"/file-{number:05}", "file", size=DATA, data=(0, 0))


def written(scale: Scale, entries: Iterable[Entry], name: str) -> Path:
    """Write a tree, as it comes."""
    path = scale.fresh(f"tree-{name}") / "tree.jsonl"
    source = _data_file(scale)
    encoder = msgspec.json.Encoder()
    with open(path, "wb") as file:
        for line in itertools.chain([Header(tree.VERSION, [SourceFile(str(source), size=DATA)], 0, 0)], entries):
            file.write(encoder.encode(line) + b"\n")
    return path


def _data_file(scale: Scale) -> Path:
    """Return a file that the content of all made files is taken from."""
    path = scale.work / "content"
    if not path.exists():
        path.write_bytes(random.Random(0).randbytes(DATA))
    return path


def busybox_tar(scale: Scale) -> Path:
    """Return the tar of a root with a static busybox and nothing else."""
    found = shutil.which("busybox")
    if found is None:
        raise timing.Missing("not installed: busybox-static")
    path = scale.work / "busybox.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(found, "busybox")
    return path


def oci_layout(scale: Scale, tar: Path, compression: str = "gzip", layers: int = 1) -> Path:
    """Return an OCI layout with the content of a tar in so many layers, as registries serve it."""
    folder = scale.work / f"oci-{tar.name[:12]}-{compression}-{layers}"
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
