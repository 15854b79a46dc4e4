"""bg-mkext4 alone: beside `mkfs.ext4 -d` of the same files in a folder, and a million entries beside 50,000.

Usage: .venv/bin/python bench/ext4.py OPTIONS    (debian as root: GNU tar keeps the owners)
  OPTIONS: [--rounds=N] [debian] [flat] [million]

debian: a root filesystem of about 50,000 entries. flat: 40,000 files in one folder, where mkfs.ext4 takes a minute
and more. million: files of 100 to 300 bytes, a hundred a folder; what counts is the time an entry and the memory.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from banger_tools import tree
from banger_tools.tree import Entry, Header, SourceFile
from bench import inputs, timing

SMALL, LARGE, FLAT = 50_000, 1_000_000, 40_000
DATA = 1 << 20


def fresh(name: str) -> Path:
    folder = inputs.WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def ours(source: Path, *options: str) -> timing.Run:
    image = fresh("ours") / "rootfs.ext4"
    return timing.run(
        [inputs.program("bg-mkext4"), "-q", "--path", "-o", str(image), *options, str(source)],
        stdout=subprocess.DEVNULL,
    )


def mkfs(folder: Path, size: str) -> timing.Run:
    image = fresh("theirs") / "rootfs.ext4"
    argv = ["/sbin/mkfs.ext4", "-q", "-F", "-d", str(folder), str(image), size]
    return timing.run(argv, stdout=subprocess.DEVNULL)


def compare(source: Path, folder: Path, size: str, rounds: int) -> None:
    """Print how long both take for the same files."""
    ways = {"bg-mkext4": lambda: ours(source), "mkfs.ext4 -d": lambda: mkfs(folder, size)}
    print(timing.report(timing.in_turns(ways, rounds), "bg-mkext4"))


def debian(rounds: int) -> None:
    tar = inputs.debian_tar()
    extracted = fresh("extracted")
    subprocess.run(["tar", "-C", extracted, "--xattrs", "--numeric-owner", "-xpf", tar], check=True)
    flat = fresh("flat-tree") / "tree.jsonl"
    subprocess.run([inputs.program("bg-flatten"), "--path", "-o", flat, tar], check=True, stdout=2)
    print(f"a root filesystem of {tar.stat().st_size >> 20} MiB, from its tree\n")
    compare(flat, extracted, "3G", rounds)


def flat(rounds: int) -> None:
    source, extracted = data_file(), fresh("extracted")
    blob = source.read_bytes()
    entries = [Entry("/", "dir"), Entry("/flat", "dir")]
    (extracted / "flat").mkdir()
    for number in range(FLAT):
        entries.append(Entry(f"/flat/file-{number:06}", "file", size=100, data=(0, number)))
        (extracted / f"flat/file-{number:06}").write_bytes(blob[number : number + 100])
    print(f"{FLAT} files in one folder\n")
    compare(written(entries, source, "flat-tree"), extracted, "1G", rounds)


def million(rounds: int) -> None:
    source = data_file()
    trees = {count: written(small_files(count), source, f"tree-{count}") for count in (SMALL, LARGE)}
    ways: dict[str, Callable[[], timing.Run]] = {
        f"{SMALL} entries, for each million": lambda: scaled([ours(trees[SMALL]) for _ in range(3)], LARGE / SMALL),
        f"{LARGE} entries": lambda: ours(trees[LARGE]),
    }
    print(timing.report(timing.in_turns(ways, rounds), next(iter(ways))))


def scaled(runs: Sequence[timing.Run], factor: float) -> timing.Run:
    """Return what one of these runs took in the median, as if it had so many times as much to do."""
    wall, cpu = (statistics.median(values) * factor for values in ([r.wall for r in runs], [r.cpu for r in runs]))
    return timing.Run(wall, cpu, max(run.peak for run in runs))


def small_files(count: int) -> Iterator[Entry]:
    """Yield a tree with so many files, a hundred a folder."""
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


def data_file() -> Path:
    """Return a file that the content of all small files is taken from."""
    path = inputs.WORK / "data"
    path.write_bytes(bytes(range(1, 256)) * (DATA // 255) + bytes(DATA % 255))
    return path


def written(entries: Iterable[Entry], source: Path, name: str) -> Path:
    """Write a tree as it comes: what this process holds in memory would count as the peak of those it starts."""
    path = fresh(name) / "tree.jsonl"
    encoder = msgspec.json.Encoder()
    with open(path, "wb") as file:
        for line in itertools.chain([Header(tree.VERSION, [SourceFile(str(source), size=DATA)], 0, 0)], entries):
            file.write(encoder.encode(line) + b"\n")
    return path


KINDS = {"debian": debian, "flat": flat, "million": million}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("kinds", nargs="*", metavar="KIND", default=list(KINDS))
    options = parser.parse_args()
    inputs.WORK.mkdir(exist_ok=True)
    for kind in options.kinds:
        KINDS[kind](options.rounds)
    for name in ("ours", "theirs", "extracted", "flat-tree", f"tree-{SMALL}", f"tree-{LARGE}"):
        shutil.rmtree(inputs.WORK / name, ignore_errors=True)


if __name__ == "__main__":
    main()
