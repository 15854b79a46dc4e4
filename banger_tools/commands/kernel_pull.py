"""banger kernel pull: fetch a kernel and keep it in the store.

Usage:
  banger kernel pull [options] REF

Arguments:
  REF  A name of a catalog, apt:PACKAGE, or https://....tar.zst[#DIGEST].

Options:
  --name=NAME  Name in the store (else the catalog's; or that of the package or the bundle, as in cloud-amd64).
  -f, --force  Fetch it anew, and take the place of a kernel of that name.
  --offline    Use only what was fetched before.
  --json       Print the kernel as JSON instead of its name: what banger-manifest(5) has under kernel.
  @talk

Description:
  Runs bg-fetch kernel:REF and bg-publish --kernel as one pipe. The name of the kernel goes to stdout. apt:PACKAGE is a
  package of this host's own package manager, by its own configuration and signatures; nothing is installed.

  A kernel that is here already from the same source is left as it is; one from another source is in the way unless
  --force is given. Images and machines keep the copies that they have. Of two pulls of one name the first does the
  work.

Examples:
  $ banger kernel pull cloud-amd64
  $ banger kernel pull apt:linux-image-amd64 --name generic
  $ banger kernel pull https://example.org/guest-6.12.tar.zst#sha256:HEX

Exit status:
  0   the kernel is in the store
  64  the command line is wrong
  65  a kernel of that name is here and broken
  66  no catalog has the name
  69  no entry of the name can be used on this host
  73  a kernel of another source has the name
  77  a kernel of that name is here and may not be read

  Otherwise that of bg-fetch or bg-publish.

See also:
  banger-kernel-catalog(1) banger-kernel-import(1) bg-fetch(1) bg-publish(1)
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import cli, console, errors, files, locations, pipeline

if TYPE_CHECKING:
    from banger_tools.kernel.sources import Source


class Options(NamedTuple):
    """What was asked, where it comes from, and what it will be called."""

    requested: str
    source: Source
    name: str
    force: bool
    offline: bool
    as_json: bool

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Find out what REF stands for.

        Raises BadUsage, or what reading the catalogs raises.
        """
        from banger_tools.kernel import sources
        from banger_tools.store import names

        requested, given = arguments["REF"], arguments["--name"]
        source = sources.parse(requested)
        if isinstance(source, sources.Files):
            raise errors.BadUsage(f"'{requested}' is a path", f"banger kernel import --name NAME --from {requested}")
        name = given or (sources.name_of(source) if source else requested)
        switches = (bool(arguments[option]) for option in ("--force", "--offline", "--json"))
        return cls(requested, source or _looked_up(requested, arguments), names.check(name), *switches)


def _looked_up(name: str, arguments: cli.Arguments) -> Source:
    from banger_tools.catalog import kernels

    found = kernels.find(name, pipeline.catalogs(arguments))
    if found is None:
        raise errors.NoInput(f"no catalog has the kernel '{name}'", "banger kernel catalog lists them all")
    return found.source


def is_here(options: Options) -> bool:
    """Tell whether the kernel is in the store; any trouble with the one that is there is raised."""
    from banger_tools.store import kernels, records

    try:
        stored = kernels.find(options.name)
    except records.Missing:
        return False
    kernels.refuse_another(stored, options.source)
    return True


def pull(options: Options) -> None:
    """Fetch the kernel and keep it; of several that ask for it one does the work."""
    if not options.force and is_here(options):
        console.note(f"the kernel '{options.name}' is here already; --force fetches it anew")
        return
    lock = locations.state() / "locks" / f"pull-kernel-{options.name}"
    with files.locked(lock, what=f"the kernel '{options.name}'", passing=True):
        if options.force or not is_here(options):
            pipeline.run(list(commands(options)), stdin=subprocess.DEVNULL, timed=False)


def commands(options: Options) -> Iterator[pipeline.Command]:
    """Yield the programs that do it."""
    talk = console.passed_on()
    when = "--offline" if options.offline else "--pull=always"
    yield pipeline.Command("bg-fetch", (*talk, when, "--", f"kernel:{options.requested}"))
    replace = ("--replace",) if options.force else ()
    yield pipeline.Command("bg-publish", (*talk, "--kernel", f"--name={options.name}", *replace))


def report(name: str, *, as_json: bool) -> None:
    """Print the name of a kernel of the store, or all that a manifest says of it."""
    import msgspec

    from banger_tools.kernel import record
    from banger_tools.store import kernels

    described: dict[str, Any] = msgspec.to_builtins(record.described(kernels.root() / name, name))
    sys.stdout.write(json.dumps(described, indent=2) + "\n" if as_json else name + "\n")


def work(arguments: cli.Arguments) -> None:
    """Pull the kernel and print its name."""
    options = Options.from_arguments(arguments)
    pull(options)
    report(options.name, as_json=options.as_json)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
