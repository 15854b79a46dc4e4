"""banger vm run: boot an image and run a command or a shell in it.

Usage:
  banger vm run [options] [--publish=FORWARD]... [--env=VAR]... [COMMAND]...

Arguments:
  COMMAND  A program of the image and its arguments; options of ours come before it, or before a `--`. A shell
           if there is none.

Options:
  --image=IMAGE       Image of the store or of a catalog by name, or what to make one of, as in alpine:3.20
                      [default: debian-bookworm].
  --name=NAME         Name of the machine and its host name (else the image's and four digits).
  --rm                Delete the machine when the command has ended.
  --pull=WHEN         Make an image that is missing: missing or never [default: missing].
  --cpus=N            Virtual CPUs.
  --memory=SIZE       Memory, as in 512M.
  --disk=SIZE         Grow the root disk to this size.
  --work-disk=SIZE    Size of the disk for /root.
  --net=NET           Network: user, tap or none.
  --publish=FORWARD   Lead a port of this host to the machine: [ADDRESS:]PORT:GUESTPORT. Repeatable.
  --env=VAR           NAME=VALUE for the command. Repeatable.
  --git-identity=WHO  Who root's commits are by: 'Name <mail>', or host for what this host's git says.
  --user=USER         User of the image to run the command as.
  --cwd=FOLDER        Folder of the image to run the command in.
  --kernel-ref=REF    Kernel: its name in the store or in a catalog, apt:PACKAGE, or the URL of a bundle.
  --vmm=VMM           Monitor: auto, firecracker or qemu.
  --timeout=SECONDS   How long to wait for the machine.
  @talk

Description:
  Boots the image with bg-boot(1) and runs the command through the guest's agent: stdin, stdout and stderr are
  the command's, each for itself, and so is the exit status. The command gets a terminal if stdin and stdout are
  terminals.

  An image that is not in the store is made first, as `banger image pull` does, once if several ask for it.
  Nothing but its absence starts that: one that is broken or may not be read is an error.

  Without --rm the machine runs on; `banger vm exec`, `stop` and `delete` lead it.

Examples:
  $ banger vm run --rm -- cat /etc/os-release
  $ tar c src | banger vm run --rm --image build -- sh -c 'tar x && make -C src'
  $ banger vm run --name web --publish 8080:80 --image nginx

Exit status:
  0   the command ended with 0
  64  the command line is wrong
  66  there is no such image, and it was not to be made

  Otherwise the command's own status, 128 and the signal's number if a signal ended it; or that of the program that
  failed before.

See also:
  banger(1) banger-image-pull(1) bg-boot(1)
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from banger_tools import cli, console, errors, files, locations, pipeline

FOR_BOOT = (
    "--name",
    "--cpus",
    "--memory",
    "--disk",
    "--work-disk",
    "--net",
    "--publish",
    "--git-identity",
    "--kernel-ref",
    "--vmm",
    "--timeout",
)


class Options(NamedTuple):
    """What was asked: the image by name, the reference that it can be made of, and what is passed on to bg-boot."""

    image: str
    source: str
    may_pull: bool
    remove: bool
    boot: tuple[str, ...]
    command: tuple[str, ...]
    env: list[str]
    user: str | None
    cwd: str | None

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Sort the options; those passed on are for bg-boot to check.

        Raises BadUsage for a --pull of another word.
        """
        from banger_tools.vmm import spec as specs

        if arguments["--pull"] not in ("missing", "never"):
            raise errors.BadUsage(f"--pull: '{arguments['--pull']}' is none of missing, never")
        image, source = image_and_source(arguments["--image"])
        return cls(
            image,
            source,
            arguments["--pull"] == "missing",
            bool(arguments["--rm"]),
            tuple(passed_on(arguments, FOR_BOOT)),
            tuple(arguments["COMMAND"]),
            specs.parse_environment(arguments["--env"]),
            arguments["--user"],
            arguments["--cwd"],
        )


def passed_on(arguments: cli.Arguments, names: Sequence[str]) -> Iterator[str]:
    """Yield the options that were given, as words for another command line."""
    for name in names:
        given = arguments[name]
        for value in given if isinstance(given, list) else [given]:
            if value is not None:
                yield f"{name}={value}"


def image_and_source(text: str) -> tuple[str, str]:
    """Return the name of an image and what it can be made of, from either; the name is what bg-fetch would give it.

    Raises BadUsage for a reference that is none.
    """
    from banger_tools.catalog import lookup
    from banger_tools.oci import reference

    if not _is_reference(text):
        return text, text
    return lookup.name_of(text) or reference.friendly_name(reference.parse(text)), text


def is_missing(name: str) -> errors.NoInput | None:
    """Return why an image cannot be booted if that is its absence; any other trouble with it is raised."""
    from banger_tools.store import images, records

    try:
        images.find(name, "--image")
    except records.Missing as error:
        return error
    return None


def provide(options: Options) -> None:
    """Make the image if it is missing; of several that ask for it one does the work.

    Raises NoInput if it is missing and cannot or must not be made.
    """
    missing = is_missing(options.image)
    if missing is None:
        return
    if not options.may_pull or not _can_be_made(options.source):
        raise missing
    lock = locations.state() / "locks" / f"pull-{options.image}.lock"
    with files.locked(lock, what=f"image '{options.image}'"):
        if is_missing(options.image):
            console.note(f"there is no image '{options.image}' yet: making it from {options.source}")
            named = ("--pull=missing", f"--name={options.image}")
            words = ("image", "pull", *console.passed_on(), *named, "--", options.source)
            pipeline.run([pipeline.Command("banger", words)], stdin=subprocess.DEVNULL, timed=False)


def _can_be_made(source: str) -> bool:
    """Tell whether it is known what to make an image of: a reference says so by itself, a name must be a catalog's."""
    from banger_tools.catalog import lookup

    return _is_reference(source) or any(lookup.named(source, pipeline.catalogs({})))


def _is_reference(text: str) -> bool:
    return ":" in text or "/" in text


def boot(options: Options) -> str:
    """Boot the image and return the name of the machine."""
    words = (*console.passed_on(), f"--image={options.image}", *options.boot)
    printed = pipeline.run([pipeline.Command("bg-boot", words)], stdin=subprocess.DEVNULL, timed=False)
    manifest: dict[str, Any] = json.loads(printed)
    return str(manifest["vm"]["name"])


def delete(name: str) -> None:
    """Delete a machine that runs; there is nothing on its disks to be saved."""
    from banger_tools.vmm import life

    with life.held(name):
        life.delete(name, force=True)


def work(arguments: cli.Arguments) -> int:
    """Boot, run the command, clean up, and return the command's status."""
    from banger_tools.vmm import inside

    options = Options.from_arguments(arguments)
    provide(options)
    name = boot(options)
    try:
        status = inside.execute(name, options.command, options.env, user=options.user, cwd=options.cwd)
    finally:
        if options.remove:
            delete(name)
    if not options.remove:
        console.note(f"'{name}' runs on: banger vm exec {name}, banger vm stop {name}, banger vm delete {name}")
    return status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work, nested=True)


if __name__ == "__main__":
    raise SystemExit(main())
