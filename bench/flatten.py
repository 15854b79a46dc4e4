"""The layers of an image as one tree: bg-flatten beside what extracts them, GNU tar and `umoci unpack`.

bg-flatten writes a list of what is in the tree, and with --dir the files as well. GNU tar knows no whiteouts, and
umoci decompresses first. The layers of bg-flatten and GNU tar are plain tars, as bg-fetch leaves them.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from bench import inputs, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way

LAYERS = 6


def flatten(scale: Scale) -> Table:
    """Compare the merge of six layers."""
    timing.need_root("files that are extracted belong to others")
    layout = inputs.oci_layout(scale, inputs.image_tar(scale), "gzip", LAYERS)
    fetched = _fetched(scale, layout)
    layers = [Path(layer["path"]) for layer in json.loads(fetched.read_text())["layers"]]
    ways = {
        "bg-flatten": Way(partial(ours, scale, fetched)),
        "bg-flatten --verify": Way(partial(ours, scale, fetched, "--verify")),
        "bg-flatten --tar": Way(partial(ours, scale, fetched, "--tar=merged.tar")),
        "bg-flatten --dir": Way(partial(ours, scale, fetched, "--dir=rootfs")),
        "tar -x, layer by layer": Way(partial(gnu_tar, scale, layers)),
        "umoci unpack, with gunzip": Way(partial(umoci, scale, layout), ["umoci"]),
    }
    size = sum(layer.stat().st_size for layer in layers) >> 20
    return timing.compare("flatten", f"{size} MiB in {LAYERS} layers, as one tree", ways, scale.rounds)


def _fetched(scale: Scale, layout: Path) -> Path:
    home, path = scale.fresh("fetched"), scale.work / "runs/fetched.json"
    argv = [inputs.program("bg-fetch"), "-q", f"oci:{layout}:{inputs.TAG}"]
    with open(path, "wb") as out:
        subprocess.run(argv, env=inputs.environment(home), check=True, stdout=out)
    return path


def ours(scale: Scale, manifest: Path, *options: str) -> Run:
    folder = scale.fresh("flattened")
    env = inputs.environment(scale.work / "runs/fetched")
    return timing.run([inputs.program("bg-flatten"), "-q", *options, manifest], cwd=folder, env=env)


def gnu_tar(scale: Scale, layers: Sequence[Path]) -> Run:
    folder = scale.fresh("flattened")
    return timing.together([timing.run(_extract(layer, folder)) for layer in layers])


def _extract(layer: Path, folder: Path) -> timing.Words:
    return ["tar", "-C", folder, "--xattrs", "--numeric-owner", "-xpf", layer]


def umoci(scale: Scale, layout: Path) -> Run:
    argv: timing.Words = [
        "umoci",
        "raw",
        "unpack",
        "--image",
        f"{layout}:{inputs.TAG}",
        scale.fresh("flattened") / "rootfs",
    ]
    return timing.run(argv)
