"""Our programs beside others on this machine, in turns: medians, spread, ratios, memory.

Inputs are made of the host's own Debian packages the first time, and kept in bench/.work; of the runs nothing is
kept. Some comparisons need root, as the other programs do. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, NoReturn

from banger_tools import errors, files
from bench import boot, chain, ext4, flatten, growth, machine, plot, publish, pull, report, seed, start, timing
from bench.scale import SCALES, WORK, Scale
from bench.timing import Table

LAYERS = 12


class Comparison(NamedTuple):
    """A line of the catalogue: what is compared, and the function that does it."""

    title: str
    make: Callable[[Scale], Table]


CATALOGUE: Mapping[str, Comparison] = {
    "pull": Comparison(
        "bg-fetch from a registry, beside skopeo and umoci", partial(pull.pull, slug="pull", compression="gzip")
    ),
    "pull-zstd": Comparison("the same of zstd", partial(pull.pull, slug="pull-zstd", compression="zstd")),
    "flatten": Comparison("bg-flatten of layers, beside tar and umoci unpack", flatten.flatten),
    "ext4": Comparison("bg-mkext4, beside mkfs.ext4 -d, fakeroot, genext2fs and virt-make-fs", ext4.ext4),
    "owners": Comparison("bg-chown, beside debugfs", ext4.owners),
    "chain": Comparison(
        "an OCI layout to an image with owners, beside umoci, tar and e2fsprogs",
        partial(chain.chain, slug="chain", compression="gzip", layers=1),
    ),
    "chain-zstd": Comparison("the same of zstd", partial(chain.chain, slug="chain-zstd", compression="zstd", layers=1)),
    "chain-layers": Comparison(
        f"the same of {LAYERS} layers", partial(chain.chain, slug="chain-layers", compression="gzip", layers=LAYERS)
    ),
    "stages": Comparison("our stages of that way, one by one", chain.stages),
    "at-once": Comparison("builds at the same time, and what each takes", chain.at_once),
    "flat": Comparison("bg-mkext4 of one large folder, beside mkfs.ext4 -d", growth.flat),
    "million": Comparison("bg-flatten and bg-mkext4 up to a million entries", growth.million),
    "bytes": Comparison("bg-flatten and bg-mkext4 of ever more bytes", growth.data),
    "seed": Comparison("bg-seed, beside debugfs and mount", seed.seed),
    "publish": Comparison("bg-publish, beside cp and sync", publish.publish),
    "publish-reflink": Comparison("the same where files share blocks", publish.publish_reflink),
    "start": Comparison("start-up of each program, beside a bare interpreter", start.start),
    "boot": Comparison("bg-boot of one static program, beside QEMU by hand", boot.boot),
    "boot-debian": Comparison("the same of Debian with systemd", boot.boot_debian),
}
SLOW = ("pull-zstd", "chain-zstd", "chain-layers", "boot-debian")  # not in a quick run, unless named


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line; end with status 2 if it is wrong."""
    parser = argparse.ArgumentParser("python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("names", nargs="*", metavar="NAME", help="comparisons to make; all of them if none is named")
    parser.add_argument("--list", action="store_true", help="list the comparisons")
    scales = parser.add_mutually_exclusive_group()
    scales.add_argument("--quick", action="store_const", dest="scale", const="quick", help="be done in two minutes")
    scales.add_argument("--tiny", action="store_const", dest="scale", const="tiny", help="show that all of it works")
    parser.add_argument("--rounds", type=int, metavar="N", help="how often each way runs")
    parser.add_argument("--packages", metavar="LIST", help="Debian packages of the image, separated by commas")
    parser.add_argument("--work", type=Path, metavar="DIR", default=WORK, help="where inputs and runs are")
    for kind, what in (("markdown", "all tables"), ("json", "every run"), ("plot", "an SVG of what grows")):
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"write {what} there")
    parser.set_defaults(scale="full")
    options = parser.parse_args(argv)
    if unknown := sorted(set(options.names) - set(CATALOGUE)):
        parser.error(f"no such comparison: {', '.join(unknown)}; --list lists them")
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds is 1 at least")
    return options


def chosen(options: argparse.Namespace) -> list[str]:
    """Return the names of the comparisons to make, in the catalogue's order."""
    unnamed = [name for name in CATALOGUE if options.scale == "full" or name not in SLOW]
    return [name for name in CATALOGUE if name in (options.names or unnamed)]


def scaled(options: argparse.Namespace) -> Scale:
    """Return how much is to be measured."""
    scale = SCALES[options.scale]._replace(work=options.work.resolve())
    if options.rounds is not None:
        scale = scale._replace(rounds=options.rounds)
    if options.packages is not None:
        scale = scale._replace(query=f"include={options.packages}")
    return scale


def made(name: str, scale: Scale) -> Table:
    """Make a comparison, or say in its place why there is none."""
    comparison = CATALOGUE[name]
    timing.progress(f"{name}: {comparison.title}")
    try:
        return comparison.make(scale)
    except timing.Missing as error:
        return Table(name, comparison.title, "", {}, notes=[f"all of it: {error}"])
    except (timing.Failed, subprocess.CalledProcessError, OSError) as error:
        return Table(name, comparison.title, "", {}, failures=[f"all of it: {error}"])
    finally:
        scale.clear()


def save(options: argparse.Namespace, head: report.Head, tables: Sequence[Table]) -> None:
    """Write what is known so far, so that an interrupted run leaves what it found."""
    if options.markdown:
        options.markdown.write_text("\n".join([report.heading(head), *map(report.markdown, tables)]))
    if options.json:
        options.json.write_text(json.dumps(report.as_json(head, tables), indent=1, ensure_ascii=False) + "\n")
    if options.plot and any(table.points for table in tables):
        options.plot.write_text(plot.svg(tables))


def terminate(*_: object) -> NoReturn:
    """End at a signal, once, after what is mounted or serves was undone."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.exit(143)


def measure(options: argparse.Namespace, scale: Scale) -> list[Table]:
    """Make the comparisons, and print each as soon as it is there."""
    machine.warn_of_load()
    measured = {"scale": options.scale, "rounds": str(scale.rounds)}
    head = {"measured": measured, "versions": machine.versions(), "machine": machine.describe(scale.work)}
    print(report.heading(head), flush=True)
    tables: list[Table] = []
    for name in chosen(options):
        tables.append(made(name, scale))
        print(report.markdown(tables[-1]), flush=True)
        save(options, head, tables)
    return tables


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line asks; return 1 if a comparison failed, 75 if another run uses the work folder."""
    options = arguments(argv)
    if options.list:
        print("\n".join(f"{name:16} {one.title}" for name, one in CATALOGUE.items()))
        return 0
    signal.signal(signal.SIGTERM, terminate)
    timing.prepare()
    scale = scaled(options)
    scale.work.mkdir(parents=True, exist_ok=True)
    try:
        with files.locked_folder(scale.work, wait=0, what=f"'{scale.work}'"):
            tables = measure(options, scale)
    except errors.Retry as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return error.status
    return 1 if any(table.failures for table in tables) else 0


if __name__ == "__main__":
    sys.exit(main())
