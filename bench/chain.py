"""From an OCI layout on disk to a finished ext4 image with the right owners: our stages beside what else does it.

Every run begins with cold caches and an empty cache of ours. Beside us: `umoci unpack` and `mkfs.ext4 -d`, as root;
and the usual way without root: decompress, extract, `mkfs.ext4 -d`, owners by debugfs. The umoci of Debian 12 reads no
zstd.
"""

from __future__ import annotations

import json
import shlex
from functools import partial
from pathlib import Path

from bench import ext4, inputs, timing
from bench.scale import SMALL, Scale
from bench.timing import Run, Table, Way

STAGES = ("bg-fetch", "bg-flatten", "bg-mkext4", "bg-chown")


def chain(scale: Scale, slug: str, compression: str, layers: int) -> Table:
    """Compare the whole way of an image in so many layers."""
    timing.need_root("owners are extracted, and caches dropped")
    tar = inputs.image_tar(scale)
    layout = inputs.oci_layout(scale, tar, compression, layers)
    by_hand = partial(extract_and_debugfs, scale, layout, compression)
    ways = {
        "ours": Way(partial(ours, scale, layout)),
        f"{compression} -d, tar, mkfs.ext4 -d, debugfs": Way(by_hand, [compression, "mkfs.ext4", "debugfs"]),
    }
    if compression == "gzip":
        ways["umoci unpack, mkfs.ext4 -d"] = Way(partial(umoci_and_mkfs, scale, layout), ["umoci", "mkfs.ext4"])
    count = f"{layers} layers" if layers > 1 else "one layer"
    title = f"{tar.stat().st_size >> 20} MiB in {count} of {compression}, from a layout to an image, caches cold"
    return timing.compare(slug, title, ways, scale.rounds)


def fresh(scale: Scale, name: str) -> Path:
    """Return an empty folder, with cold caches."""
    folder = scale.fresh(name)
    if scale.cold:
        timing.drop_caches()
    return folder


def pipe(layout: Path) -> str:
    """Return our stages as a shell runs them."""
    first = shlex.join([inputs.program("bg-fetch"), "-q", f"oci:{layout}:{inputs.TAG}"])
    return " | ".join([first, *(f"{inputs.program(stage)} -q" for stage in STAGES[1:])])


def ours(scale: Scale, layout: Path) -> Run:
    folder = fresh(scale, "ours")
    return timing.run(["sh", "-c", pipe(layout)], cwd=folder, env=inputs.environment(folder / "home"))


def umoci_and_mkfs(scale: Scale, layout: Path) -> Run:
    rootfs = fresh(scale, "theirs") / "rootfs"
    unpacked = timing.run(["umoci", "raw", "unpack", "--image", f"{layout}:{inputs.TAG}", rootfs])
    return timing.together([unpacked, mkfs(rootfs)])


def mkfs(rootfs: Path) -> Run:
    image = rootfs.with_suffix(".ext4")
    return timing.run(["mkfs.ext4", "-q", "-F", "-d", rootfs, image, f"{ext4.mebibytes(rootfs)}M"])


def extract_and_debugfs(scale: Scale, layout: Path, compression: str) -> Run:
    """Do what one does without root: the files belong to nobody in particular until debugfs says whose they are."""
    folder = fresh(scale, "theirs")
    rootfs, script = folder / "rootfs", folder / "owners"
    rootfs.mkdir()
    manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
    layers = [_blob(layout, one["digest"]) for one in json.loads(_blob(layout, manifest).read_text())["layers"]]
    unpack = f"{compression} -d <%s | tar -xf - -C rootfs"
    runs = [timing.run(["sh", "-c", unpack % shlex.quote(str(blob))], cwd=folder) for blob in layers]
    runs.append(mkfs(rootfs))
    ext4.write_script(rootfs, script)
    runs.append(timing.run(["debugfs", "-w", "-f", script, rootfs.with_suffix(".ext4")]))
    return timing.together(runs)


def _blob(layout: Path, digest: str) -> Path:
    return layout / "blobs/sha256" / digest.partition(":")[2]


def stages(scale: Scale) -> Table:
    """Compare our stages with one another, each run alone on the manifest of the one before."""
    timing.need_root("caches are dropped")
    tar = inputs.image_tar(scale)
    runs: dict[str, list[Run]] = {stage: [] for stage in STAGES}
    for number in range(scale.rounds):
        timing.progress(f"round {number + 1} of {scale.rounds}: {', '.join(STAGES)}")
        for stage, taken in one_by_one(scale, inputs.oci_layout(scale, tar)).items():
            runs[stage].append(taken)
    title = f"{tar.stat().st_size >> 20} MiB in one layer of gzip, stage by stage, caches cold at the start"
    return Table("stages", title, STAGES[0], runs)


def one_by_one(scale: Scale, layout: Path) -> dict[str, Run]:
    """Run the stages once, one after the other."""
    folder, taken = fresh(scale, "ours"), {}
    argument = f"oci:{layout}:{inputs.TAG}"
    for stage in STAGES:
        after = folder / f"{stage}.json"
        argv = [inputs.program(stage), "-q", argument]
        with open(after, "wb") as out:
            taken[stage] = timing.run(argv, cwd=folder, env=inputs.environment(folder / "home"), stdout=out)
        argument = str(after)
    return taken


def at_once(scale: Scale) -> Table:
    """Compare what a build takes of the time of many that run at once, each with a cache of its own."""
    tar = inputs.debian_tar(scale, scale.query and SMALL)  # sixteen of the large image would fill the disk
    layout = inputs.oci_layout(scale, tar)
    ways = {f"{count} at once, for each": Way(partial(builds, scale, layout, count)) for count in scale.builds}
    title = f"builds of {tar.stat().st_size >> 20} MiB in one layer of gzip, at the same time"
    return timing.compare("at-once", title, ways, scale.rounds)


def builds(scale: Scale, layout: Path, count: int) -> Run:
    folder = scale.fresh("ours")
    one = f"mkdir $number && cd $number && export BANGER_HOME=$PWD/home && {pipe(layout)} >/dev/null"
    script = f'for number in {" ".join(map(str, range(count)))}; do ({one}) & all="$all $!"; done\n'
    script += 'for one in $all; do wait "$one" || exit 1; done'
    return timing.each(timing.run(["sh", "-c", script], cwd=folder), count)
