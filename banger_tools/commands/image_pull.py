"""banger image pull: make a bootable image out of a container image, a tar, Debian packages or a bundle.

Usage:
  banger image pull [options] REF

Arguments:
  REF  What to fetch, as bg-fetch(1) takes it: a name of a catalog, alpine:3.20, ghcr.io/owner/name@sha256:...,
       oci:DIR, docker-archive:FILE, rootfs:FILE, apt:bookworm, bundle:FILE, https://....tar.zst.

Options:
  --name=NAME           Name of the image (else what the source is called, as in debian-bookworm).
  --replace             Take the place of an image of that name.
  --size=SIZE           Size of the root filesystem, as in 4G (else what it needs and a quarter more).
  --platform=OS/ARCH    Platform to choose from an image for several (else this host's).
  --pull=WHEN           When to ask the source what REF is now: always, missing or never (else always; with --offline
                        missing).
  --offline             Use only what was fetched before.
  --kernel-ref=REF      Kernel to go with it: its name in the store or a catalog, apt:PACKAGE, or the URL of a bundle.
  --kernel=FILE         Kernel to go with it, unless the catalog names one: a file.
  --initrd=FILE         Initrd for --kernel.
  --modules=DIR         Modules for --kernel: an initrd is made of those that it needs.
  --no-kernel           Make it without a kernel, and fetch none: what a machine boots is chosen when it is made.
  --keep-work=DIR       Keep each stage's manifest and artifact in DIR, an empty folder or a new one.
  --json                Print the manifest of the image instead of its name.
  @talk

Description:
  Runs bg-fetch, bg-flatten, bg-mkext4, bg-chown, bg-inject, bg-seed and bg-publish as one pipe, in a work folder
  that is removed at the end, and says how long each of them took. The name of the image goes to stdout. A bundle needs
  bg-fetch, bg-seed and bg-publish only.

  Without --name, an entry of a catalog gives its own name. A repository gives its last word and the tag, or latest:
  alpine:3.20 becomes alpine-3.20, ghcr.io/owner/web becomes web-latest. docker-daemon:mine becomes mine, a file or
  folder its name without .tar and the like, apt:bookworm becomes debian-bookworm. A name is 1 to 63 of a-z, 0-9, '.',
  '_' and '-', and begins and ends with a letter or digit; that of a VM has no '.' and no '_'.

  With -v the pipe is shown, ready to be pasted into a shell. DIR of --keep-work gets what each stage printed, as
  1-fetch.json and so on, and what it made: tree.jsonl, rootfs.ext4 as bg-mkext4 made it, rootfs-chown.ext4,
  rootfs-inject.ext4, work-seed.ext4. `banger build --from=STAGE` goes on from any of them.

  A tag or suite is asked for afresh, and only what changed is fetched; --pull=missing takes what it was before. The
  kernel that a catalog names for an image goes with it, unless --kernel-ref names another.

  Files, packages and keys are added by the programs themselves: bg-flatten --layer, apt:SUITE?include=PACKAGE, and
  bg-inject --file and --ssh-key; `banger build` runs the stages before and after.

  Without a work seed, or with one that cannot be made, the image can be booted all the same: that is a warning.

  Pulls of different names do not wait for each other. Of two pulls of one name the first to end wins.

Examples:
  $ banger image pull debian-bookworm
  $ banger image pull --name web --size 8G registry.example.org/team/web:1.4
  $ banger image pull --keep-work work alpine:3.20

Exit status:
  0   done; the image can be booted
  64  the command line is wrong
  73  the name is taken, or DIR is not empty

  Otherwise that of the stage that failed; 65, 66, 69, 75 or 77 if a catalog cannot be read or has nothing for this
  host.

See also:
  banger-image-list(1) banger-vm-run(1) bg-fetch(1) bg-publish(1)
"""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, locations, pipeline

if TYPE_CHECKING:
    from banger_tools.catalog.lookup import Found

STAGES = pipeline.STAGES[: pipeline.STAGES.index("publish") + 1]


class Options(NamedTuple):
    """What was asked: the source, the stages that it needs, what is passed on to them, and what stays behind."""

    source: str
    stages: tuple[str, ...]
    passed_on: dict[str, Any]
    keep_work: Path | None
    as_json: bool

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Sort the options; their values are for the stages to check.

        Raises CannotCreate if the folder of --keep-work has something in it, or the name is taken: bg-publish would
        say so, too, after all the work.
        """
        keep = Path(arguments["--keep-work"]) if arguments["--keep-work"] else None
        if keep and keep.exists() and (not keep.is_dir() or any(keep.iterdir())):
            raise errors.CannotCreate(f"--keep-work: '{keep}' is not an empty folder")
        asked = {**arguments, "--pull": arguments["--pull"] or (None if arguments["--offline"] else "always")}
        found = pipeline.look_up(arguments["REF"], asked)
        name = arguments["--name"] or _derived_name(found)
        if name:
            _refuse_taken(name, replace=bool(arguments["--replace"]))
        # The artifacts are of no further use, unless they are to be kept.
        passed_on = {**asked, **_kernel(arguments, found), "--move": keep is None, "--optional": True}
        stages = pipeline.stages_for(STAGES, found)
        return cls(arguments["REF"], stages, passed_on, keep, bool(arguments["--json"]))


def _kernel(arguments: cli.Arguments, found: Found) -> dict[str, str | None]:
    """Return what bg-publish is told of the kernel: none, else --kernel-ref, else what the catalog names, else files.

    Raises BadUsage for options that exclude each other.
    """
    files_given = [option for option in ("--kernel", "--initrd", "--modules") if arguments[option]]
    ways = [option for option in ("--no-kernel", "--kernel-ref", *files_given[:1]) if arguments[option]]
    if len(ways) > 1:
        raise errors.BadUsage(f"{ways[0]} and {ways[1]} exclude each other")
    if arguments["--no-kernel"]:
        return {"--kernel-ref": None}
    if files_given and not arguments["--kernel"]:
        raise errors.BadUsage(f"{files_given[0]} goes with --kernel only")
    ref = arguments["--kernel-ref"] or (found.entry and found.entry.kernel_ref)
    if ref and files_given:
        console.warning(f"the kernel of the catalog goes with the image, '{ref}', and not '{arguments['--kernel']}'")
        return {"--kernel-ref": ref, "--initrd": None, "--modules": None}
    return {"--kernel-ref": ref, "--kernel-file": arguments["--kernel"]}


def _derived_name(found: Found) -> str | None:
    """Return the name that bg-publish will give to the image; None if only what is fetched can say that."""
    from banger_tools.oci import reference
    from banger_tools.store import names

    return None if isinstance(found.ref, reference.Apt) and not found.entry else names.derived(found.name)


def _refuse_taken(name: str, *, replace: bool) -> None:
    from banger_tools.store import images, names, staging

    staging.refuse_taken(images.root() / names.check(name), replace=replace, what=images.WHAT)


@contextlib.contextmanager
def work_folder(keep: Path | None) -> Iterator[Path]:
    """Give the folder for the artifacts: the one to keep, or one beside the store, gone afterwards.

    On the store's own filesystem the finished disks can be moved or cloned instead of copied.
    """
    if keep:
        keep.mkdir(parents=True, exist_ok=True)
        yield keep
        return
    parent = locations.state() / "work"
    parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with files.temporary_folder(parent / "pull") as folder:
        yield folder


def pull(options: Options) -> dict[str, Any]:
    """Run the whole pipe and return the manifest of the published image."""
    with work_folder(options.keep_work) as folder:
        settings = pipeline.Settings.from_arguments(options.passed_on, folder, options.stages)
        settings = settings._replace(keeps_each=options.keep_work is not None)
        commands = pipeline.stages(options.stages, options.source, settings)
        if options.keep_work:
            commands = pipeline.with_manifests(commands, folder)
        published = json.loads(
            pipeline.run(commands, shown=None if options.keep_work else _pasteable(commands, folder))
        )
    assert isinstance(published, dict)
    return published


def _nearest(source: str, arguments: cli.Arguments) -> str | None:
    """Return a hint at the names of catalogs that are near to what was taken for a registry's; None without."""
    from banger_tools.catalog import lookup
    from banger_tools.oci import reference

    access = pipeline.catalogs({**arguments, "--pull": None})
    if not reference.may_be_catalog_name(source) or any(lookup.named(source, access)):
        return None
    return lookup.nearest(source, lookup.names(access))


def _pasteable(commands: Sequence[pipeline.Command], folder: Path) -> str:
    """Return the pipe as it can be run again: with a work folder that is there then."""
    ours = shlex.quote(f"--directory={folder}")
    return "work=$(mktemp -d) && " + pipeline.text(commands).replace(ours, '--directory="$work"')


def work(arguments: cli.Arguments) -> None:
    """Pull the image and print its name or its manifest."""
    options = Options.from_arguments(arguments)
    try:
        manifest = pull(options)
    except pipeline.Failed as error:
        error.hint = _nearest(options.source, arguments)
        raise
    name = str(manifest["published"]["name"])
    sys.stdout.write(json.dumps(manifest, indent=2) + "\n" if options.as_json else name + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
