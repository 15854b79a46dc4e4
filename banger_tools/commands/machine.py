"""What the commands share that make a machine: its image, made if it is missing, and bg-boot, run as a program."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, NamedTuple

from banger_tools import cli, console, docs, errors, files, locations, pipeline, precedence

PULLS = ("missing", "always", "never")


class Wanted(NamedTuple):
    """An image by name, the reference that it can be made of, and what is passed on to bg-boot.

    `kernel` tells whether the machine is to have another kernel than the image's.
    """

    image: str
    source: str
    pull: str
    offline: bool
    kernel: bool
    boot: tuple[str, ...]

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments, more: Sequence[str] = ()) -> Wanted:
        """Sort the options; those of the group `@machine` are for bg-boot to check, and `more` is for it, too.

        Raises BadUsage for a --pull of another word, or an --image that is none.
        """
        if arguments["--pull"] not in PULLS:
            raise errors.BadUsage(f"--pull: '{arguments['--pull']}' is none of {', '.join(PULLS)}")
        pull, offline = arguments["--pull"], bool(arguments["--offline"])
        if pull == "always" and offline:
            raise errors.BadUsage("--pull=always and --offline exclude each other")
        image, source = image_and_source(str(precedence.setting("image", arguments["--image"]).value))
        more = [*more, "--offline"] if pull == "never" and not offline else more  # for a kernel that is missing
        kernel = bool(arguments["--kernel-ref"] or arguments["--kernel"])
        return cls(image, source, pull, offline, kernel, (*passed_on(arguments), *more))


def passed_on(arguments: cli.Arguments) -> Iterator[str]:
    """Yield the options of a machine that were given, as words for another command line."""
    for option in docs.group("@machine"):
        given = arguments[option.spelling]
        for value in given if isinstance(given, list) else [given]:
            if value is True:
                yield option.spelling
            elif value not in (None, False):
                yield f"{option.spelling}={value}"


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


def provide(wanted: Wanted) -> None:
    """Make the image if it is missing, or anew if that is asked for; of several that miss it one does the work.

    Raises NoInput if it is missing and cannot or must not be made.
    """
    missing = is_missing(wanted.image)
    if wanted.pull == "never" and missing:
        raise missing
    if wanted.pull == "never" or (wanted.pull == "missing" and missing is None):
        return
    _refuse_unknown(wanted)
    lock = locations.state() / "locks" / f"pull-{wanted.image}.lock"
    with files.locked(lock, what=f"image '{wanted.image}'", passing=True):
        missing = is_missing(wanted.image)
        if missing:
            console.note(f"there is no image '{wanted.image}' yet: making it from {wanted.source}")
        if missing or wanted.pull == "always":
            _pull(wanted, with_kernel=not (missing and wanted.kernel))


def _pull(wanted: Wanted, *, with_kernel: bool) -> None:
    named = [f"--pull={wanted.pull}", f"--name={wanted.image}", *(["--offline"] if wanted.offline else [])]
    named += ["--replace"] if wanted.pull == "always" else []
    named += [] if with_kernel else ["--no-kernel"]
    words = ("image", "pull", *console.passed_on(), *named, "--", wanted.source)
    pipeline.run([pipeline.Command("banger", words)], stdin=subprocess.DEVNULL, timed=False)


def _refuse_unknown(wanted: Wanted) -> None:
    """Raise NoInput unless it is known what to make an image of: a reference says so itself, a catalog of its names."""
    from banger_tools.catalog import lookup
    from banger_tools.store import images

    access = pipeline.catalogs({"--offline": wanted.offline})
    if _is_reference(wanted.source) or any(lookup.named(wanted.source, access)):
        return
    near = lookup.nearest(wanted.source, [*images.listed(), *lookup.names(access)])
    hint = near or "name what to make one of, as in --image=alpine:3.20, or look: banger image list"
    if is_missing(wanted.image) is None:
        raise errors.NoInput(f"no catalog says what the image '{wanted.image}' is made of", hint)
    raise errors.NoInput(f"there is no image '{wanted.image}', here or in a catalog", hint)


def _is_reference(text: str) -> bool:
    return ":" in text or "/" in text


class Booted:
    """A run of bg-boot, which tells of a machine in its manifest as soon as that is there to stay."""

    def __init__(self, wanted: Wanted, printed: IO[bytes]) -> None:
        self._words = (*console.passed_on(), f"--image={wanted.image}", *wanted.boot)
        self._printed = printed

    def start(self) -> str:
        """Boot the image and return the name of the machine."""
        pipeline.run([pipeline.Command("bg-boot", self._words)], self._printed, stdin=subprocess.DEVNULL, timed=False)
        name = self.name()
        assert name is not None
        return name

    def name(self) -> str | None:
        """Return the name of the machine that there is, whatever became of bg-boot; None if there is none."""
        self._printed.seek(0)
        try:
            return str(json.loads(self._printed.read())["vm"]["name"])
        except ValueError:  # it printed nothing
            return None


@contextlib.contextmanager
def booted(wanted: Wanted) -> Iterator[Booted]:
    """Yield what boots a machine and knows of it, so that an interruption leaves none that nobody knows of."""
    with tempfile.TemporaryFile() as printed:
        yield Booted(wanted, printed)
