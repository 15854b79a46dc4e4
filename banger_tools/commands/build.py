"""banger build: run any part of the pipe and keep what it makes.

Usage:
  banger build [options] [INPUT]

Arguments:
  INPUT  What the first stage is to read: a REF for fetch, a manifest or an artifact for the others. Without
         it the first stage reads a manifest from stdin.

Options:
  --from=STAGE              First stage: fetch, flatten, mkext4, chown, inject, seed, publish or boot
                            [default: fetch].
  --to=STAGE                Last stage: fetch, flatten, mkext4, chown, inject, seed, publish or boot
                            [default: publish].
  -C DIR, --directory=DIR   Folder of artifacts and temporary files [default: .].
  -f, --force               Replace artifacts that exist.
  --name=NAME               Name of the published image (else what the source is called).
  --size=SIZE               Size of the root filesystem, as in 4G (else what it needs and a quarter more).
  --platform=OS/ARCH        Platform to choose from an image for several (else this host's).
  --pull=WHEN               When to ask the source what REF is: missing, always or never (else missing, and not
                            always as with banger-image-pull(1)).
  --offline                 Use only what was fetched before.
  --kernel-ref=REF          Kernel to go with the image, as bg-publish(1) takes it.
  --keep-manifests          Keep each stage's manifest in DIR, as 1-fetch.json and so on.
  @talk

Description:
  All stages are started at once and joined by pipes, just as a shell would do; -v shows the pipe. The
  manifest of the last stage goes to stdout. The artifacts stay in DIR.

  A bundle is a finished image: for it the stages flatten, mkext4, chown and inject are left out.

Examples:
  $ banger build --to seed -C work docker.io/library/alpine:3.20 > seed.json
  $ banger build --from publish --name alpine seed.json

Exit status:
  0   done
  64  the command line is wrong
  73  an artifact exists already, or the name is taken

  Otherwise that of the stage that failed.

See also:
  banger(1) banger-image-pull(1) bg-fetch(1) bg-publish(1)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from banger_tools import cli, errors, pipeline


class Options(NamedTuple):
    """What was asked: the stages, and what is passed on to them."""

    source: str | None
    stages: tuple[str, ...]
    settings: pipeline.Settings
    keep_manifests: bool

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check the options.

        Raises BadUsage for an unknown stage or stages in the wrong order, NoInput if DIR does not exist.
        """
        stages = stage_range(arguments["--from"], arguments["--to"])
        if not Path(arguments["--directory"]).is_dir():
            directory = arguments["--directory"]
            raise errors.NoInput(f"'{directory}' is not a folder", f"mkdir -p '{directory}'")
        if stages[0] == "fetch" and arguments["INPUT"] is None:
            raise errors.BadUsage("missing argument: INPUT", "name what to fetch, as in: banger build apt:bookworm")
        passed_on = dict(arguments)
        if stages[0] == "fetch":
            found = pipeline.look_up(arguments["INPUT"], arguments)
            stages = pipeline.stages_for(stages, found)
            if found.entry and "publish" in stages:
                passed_on["--kernel-ref"] = arguments["--kernel-ref"] or found.entry.kernel_ref
        settings = pipeline.Settings.from_arguments(passed_on, Path(arguments["--directory"]), stages)
        return cls(arguments["INPUT"], stages, settings, bool(arguments["--keep-manifests"]))


def stage_range(first: str, last: str) -> tuple[str, ...]:
    """Return the stages from one to another, both included.

    Raises BadUsage naming the option that is wrong.
    """
    for option, name in (("--from", first), ("--to", last)):
        if name not in pipeline.STAGES:
            raise errors.BadUsage(f"{option}: '{name}' is none of {', '.join(pipeline.STAGES)}")
    begin, end = pipeline.STAGES.index(first), pipeline.STAGES.index(last)
    if begin > end:
        raise errors.BadUsage(f"--from {first} comes after --to {last}", f"the order is: {', '.join(pipeline.STAGES)}")
    return pipeline.STAGES[begin : end + 1]


def work(arguments: cli.Arguments) -> None:
    """Run the stages and print the last manifest."""
    options = Options.from_arguments(arguments)
    commands = pipeline.stages(options.stages, options.source, options.settings)
    if options.keep_manifests:
        commands = pipeline.with_manifests(commands, options.settings.directory)
    sys.stdout.buffer.write(pipeline.run(commands))
    sys.stdout.buffer.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
