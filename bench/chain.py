"""From an OCI layout on disk to a finished ext4 image with the right owners: our stages beside what else does it.

Usage: .venv/bin/python bench/chain.py OPTIONS    (as root)
  OPTIONS: [--rounds=N] [--layers=N] [--compression=gzip|zstd] [--include=PACKAGES] [--stages]

Every run begins with cold caches and an empty cache of ours. Beside us: `umoci unpack` and `mkfs.ext4 -d`, as root;
and the usual way without root: decompress, extract, `mkfs.ext4 -d`, owners by debugfs.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import inputs, timing

STAGES = ("bg-fetch", "bg-flatten", "bg-mkext4", "bg-chown")


def fresh(name: str) -> Path:
    folder = inputs.WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    timing.drop_caches()
    return folder


def ours(layout: Path) -> timing.Run:
    folder = fresh("ours")
    env = {**os.environ, "BANGER_HOME": str(folder / "home")}
    words = [f"{inputs.program('bg-fetch')} oci:{layout}:{inputs.TAG}", *map(inputs.program, STAGES[1:])]
    return timing.run(["sh", "-c", " | ".join(words) + " > made.json"], cwd=folder, env=env)


def ours_one_by_one(layout: Path) -> Iterator[tuple[str, timing.Run]]:
    folder = fresh("ours")
    env = {**os.environ, "BANGER_HOME": str(folder / "home")}
    argument = f"oci:{layout}:{inputs.TAG}"
    for stage in STAGES:
        after = folder / f"{stage}.json"
        with open(after, "wb") as out:
            yield stage, timing.run([inputs.program(stage), argument], cwd=folder, env=env, stdout=out)
        argument = str(after)


def umoci_and_mkfs(layout: Path) -> timing.Run:
    folder = fresh("theirs")
    rootfs = folder / "rootfs"
    words = ["umoci", "raw", "unpack", "--image", f"{layout}:{inputs.TAG}", str(rootfs)]
    unpacked = timing.run(words, stdout=subprocess.DEVNULL)
    return timing.together([unpacked, mkfs(rootfs)])


def mkfs(rootfs: Path) -> timing.Run:
    size = sum(path.lstat().st_size for path in rootfs.rglob("*") if path.is_file())
    megabytes = max(1024, size * 14 // 10 >> 20)
    image = rootfs.with_suffix(".ext4")
    return timing.run(["/sbin/mkfs.ext4", "-q", "-F", "-d", str(rootfs), str(image), f"{megabytes}M"])


def extract_and_debugfs(layout: Path, unpacker: str) -> timing.Run:
    """Do what one does without root: the files belong to nobody in particular until debugfs says whose they are."""
    folder = fresh("theirs")
    rootfs = folder / "rootfs"
    rootfs.mkdir()
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    layers = json.loads(_blob(layout, manifest).read_text())["layers"]
    runs = [
        timing.run(["sh", "-c", f"{unpacker} <{_blob(layout, one['digest'])} | tar -xf - -C {rootfs}"])
        for one in layers
    ]
    runs.append(mkfs(rootfs))
    script = folder / "owners"
    script.write_text("".join(_owner(path, rootfs) for path in [rootfs, *rootfs.rglob("*")]))
    command = f"debugfs -w -f {script} {rootfs.with_suffix('.ext4')} >/dev/null 2>&1"
    return timing.together([*runs, timing.run(["sh", "-c", command])])


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs/sha256" / digest.partition(":")[2]


def _owner(path: Path, rootfs: Path) -> str:
    found = path.lstat()
    name = f'"/{path.relative_to(rootfs)}"'
    fields = {"uid": found.st_uid, "gid": found.st_gid, "mode": f"0{stat.S_IFMT(found.st_mode) | found.st_mode:o}"}
    return "".join(f"sif {name} {field} {value}\n" for field, value in fields.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--compression", choices=("gzip", "zstd"), default="gzip")
    parser.add_argument("--include", default=inputs.LARGE)
    parser.add_argument("--stages", action="store_true", help="time each of our stages as well")
    options = parser.parse_args()
    inputs.WORK.mkdir(exist_ok=True)
    tar = inputs.debian_tar(options.include)
    layout = inputs.oci_layout(tar, options.compression, options.layers)
    print(f"{tar.stat().st_size >> 20} MiB in {options.layers} layers of {options.compression}\n")
    unpacker = {"gzip": "gzip -d", "zstd": "zstd -d"}[options.compression]
    ways = {
        "ours": lambda: ours(layout),
        "umoci unpack, mkfs.ext4 -d": lambda: umoci_and_mkfs(layout),
        "decompress, tar, mkfs.ext4 -d, debugfs": lambda: extract_and_debugfs(layout, unpacker),
    }
    print(timing.report(timing.in_turns(ways, options.rounds), "ours"))
    if options.stages:
        rounds = [dict(ours_one_by_one(layout)) for _ in range(options.rounds)]
        print(timing.report({name: [one[name] for one in rounds] for name in STAGES}, STAGES[0]))
    for name in ("ours", "theirs"):
        shutil.rmtree(inputs.WORK / name, ignore_errors=True)


if __name__ == "__main__":
    main()
