#!/usr/bin/env python3
"""From an OCI layout on disk to a finished ext4 image: our stages beside `umoci unpack` and `mkfs.ext4 -d`, in turn.

Usage: bench/chain.py [--rounds=N] [--include=PACKAGES]    (as root: umoci unpacks as root)

The input is made of the host's Debian packages, once, in bench/.work: `--include` makes it larger, for example
--include=build-essential,git,vim,python3-dev,texlive-base. Every round runs each way once, with an empty cache of
ours, and the table gives medians and their ratio.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = Path(__file__).resolve().parent / ".work"
STAGES = ("bg-fetch", "bg-flatten", "bg-mkext4", "bg-chown")


def program(name: str) -> str:
    return str(ROOT / "bin" / name)


def debian_layer(include: str) -> Path:
    """Return the plain tar of a Debian root filesystem, made once."""
    reference = f"apt:bookworm?include={include}" if include else "apt:bookworm"
    env = {**os.environ, "BANGER_HOME": str(WORK / "input-home")}
    out = subprocess.run([program("bg-fetch"), reference], env=env, check=True, stdout=subprocess.PIPE).stdout
    return Path(json.loads(out)["layers"][0]["path"])


def oci_layout(layer: Path) -> Path:
    """Return an OCI layout with one gzip layer, as registries serve it."""
    folder = WORK / f"oci-{layer.name[:12]}"
    if (folder / "index.json").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)
    packed = folder / "layer.gz"
    with open(layer, "rb") as source, gzip.GzipFile(packed, "wb", 6, mtime=0) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    kind = "application/vnd.oci.image"
    blob = place(packed, blobs, f"{kind}.layer.v1.tar+gzip")
    config = {"architecture": "amd64", "os": "linux", "config": {}}
    config["rootfs"] = {"type": "layers", "diff_ids": [f"sha256:{layer.name}"]}
    manifest = {"schemaVersion": 2, "layers": [blob], "config": put(config, blobs, f"{kind}.config.v1+json")}
    top = put(manifest, blobs, f"{kind}.manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "bench"}
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return folder


def place(path: Path, blobs: Path, media_type: str) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    size = path.stat().st_size
    path.rename(blobs / digest)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": size}


def put(value: dict[str, Any], blobs: Path, media_type: str) -> dict[str, Any]:
    path = blobs / "new"
    path.write_text(json.dumps(value))
    return place(path, blobs, media_type)


def timed(argv: list[str], **options: Any) -> float:
    start = time.monotonic()
    subprocess.run(argv, check=True, **options)
    return time.monotonic() - start


def fresh(name: str) -> Path:
    folder = WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["sync"], check=True)
    return folder


def ours_in_one_pipe(layout: Path) -> dict[str, float]:
    folder = fresh("ours")
    env = {**os.environ, "BANGER_HOME": str(folder / "home")}
    words = [f"{program('bg-fetch')} oci:{layout}:bench", *(program(stage) for stage in STAGES[1:])]
    return {"ours, in one pipe": timed(["sh", "-c", " | ".join(words) + " > made.json"], cwd=folder, env=env)}


def ours_one_by_one(layout: Path) -> dict[str, float]:
    folder = fresh("ours")
    env = {**os.environ, "BANGER_HOME": str(folder / "home")}
    times = {}
    before = None
    for stage in STAGES:
        argument = f"oci:{layout}:bench" if before is None else str(before)
        after = folder / f"{stage}.json"
        with open(after, "wb") as out:
            times[stage] = timed([program(stage), argument], cwd=folder, env=env, stdout=out)
        before = after
    return times


def umoci_and_mkfs(layout: Path) -> dict[str, float]:
    folder = fresh("umoci")
    unpack = timed(
        ["umoci", "raw", "unpack", "--image", f"{layout}:bench", str(folder / "rootfs")], stdout=subprocess.DEVNULL
    )
    size = sum(path.lstat().st_size for path in (folder / "rootfs").rglob("*") if path.is_file())
    megabytes = max(1024, size * 14 // 10 >> 20)
    argv = ["/sbin/mkfs.ext4", "-q", "-F", "-d", str(folder / "rootfs"), str(folder / "rootfs.ext4"), f"{megabytes}M"]
    return {"umoci unpack": unpack, "mkfs.ext4 -d": timed(argv)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--include", default="")
    options = parser.parse_args()
    WORK.mkdir(exist_ok=True)
    layer = debian_layer(options.include)
    layout = oci_layout(layer)
    rounds: dict[str, list[float]] = {}
    for _ in range(options.rounds):
        for way in (ours_in_one_pipe, umoci_and_mkfs, ours_one_by_one):
            for name, seconds in way(layout).items():
                rounds.setdefault(name, []).append(seconds)
    report(layer, rounds)
    for name in ("ours", "umoci"):
        shutil.rmtree(WORK / name, ignore_errors=True)


def report(layer: Path, rounds: dict[str, list[float]]) -> None:
    print(f"a layer of {layer.stat().st_size >> 20} MiB, {len(next(iter(rounds.values())))} rounds\n")
    print("| what | median s | min | max |\n|---|--:|--:|--:|")
    for name, seconds in rounds.items():
        print(f"| {name} | {statistics.median(seconds):.2f} | {min(seconds):.2f} | {max(seconds):.2f} |")
    theirs = [a + b for a, b in zip(rounds["umoci unpack"], rounds["mkfs.ext4 -d"], strict=True)]
    ratios = [b / a for a, b in zip(rounds["ours, in one pipe"], theirs, strict=True)]
    print(f"\numoci unpack + mkfs.ext4 -d take {statistics.median(ratios):.1f} times as long as our pipe")


if __name__ == "__main__":
    main()
