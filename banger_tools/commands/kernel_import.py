"""banger kernel import: take a kernel that is on this host into the store.

Usage:
  banger kernel import [options]

Options:
  --name=NAME    Name in the store.
  --from=DIR     A folder with what a build leaves, or a kernel's bundle (.tar.zst).
  --kernel=FILE  A kernel file, in place of --from.
  --initrd=FILE  The initrd that goes with --kernel; else one is made of the modules.
  --modules=DIR  The modules that go with --kernel: lib/modules/VERSION, or a folder that holds it.
  -f, --force    Take the place of a kernel of that name.
  --json         Print the kernel as JSON instead of its name: what banger-manifest(5) has under kernel.
  @talk

Description:
  Runs bg-fetch kernel:PATH and bg-publish --kernel as one pipe. The name of the kernel goes to stdout.

  Any kernel for amd64 or arm64 will do: vmlinux, bzImage, Image, Image.gz, an EFI zboot file. In a folder the kernel is
  arch/x86/boot/bzImage (or of arm64), bzImage, Image, vmlinuz or vmlinux; its configuration .config or config-VERSION;
  its modules are where `make modules_install` puts them: lib/modules/VERSION, or in modules; an initrd.img is taken as
  it is. Modules and configuration that are another kernel's are refused. The files have to be readable: on Ubuntu
  /boot/vmlinuz-* is root's alone, so copy it first (`sudo install -m 644 /boot/vmlinuz-... vmlinuz`).

Examples:
  $ make -C linux bzImage modules && make -C linux modules_install INSTALL_MOD_PATH=$PWD/linux
  $ banger kernel import --name mine --from linux
  $ banger kernel import --name host --kernel /boot/vmlinuz-$(uname -r) --modules /lib/modules/$(uname -r)

Exit status:
  0   the kernel is in the store
  64  the command line is wrong
  73  a kernel of that name is there

  Otherwise that of bg-fetch or bg-publish: 65 for what is no kernel, 66 for what is not there.

See also:
  banger-kernel-show(1) banger-kernel-pull(1) bg-fetch(1) bg-publish(1)
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from banger_tools import cli, console, errors, pipeline
from banger_tools.commands import kernel_pull


class Options(NamedTuple):
    """What is imported, under which name, and the options of bg-fetch for it."""

    name: str
    path: str
    with_it: tuple[str, ...]
    force: bool
    as_json: bool

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check the options; raises BadUsage naming the one that is wrong or missing."""
        from banger_tools.store import names

        folder, kernel = arguments["--from"], arguments["--kernel"]
        if not arguments["--name"]:
            raise errors.BadUsage("--name is missing: what is the kernel to be called?")
        if bool(folder) == bool(kernel):
            raise errors.BadUsage(
                "--from and --kernel exclude each other" if folder else "--from or --kernel is missing"
            )
        given = [option for option in ("--initrd", "--modules") if arguments[option]]
        if folder and given:
            raise errors.BadUsage(f"{given[0]} goes with --kernel only")
        with_it = tuple(f"{option}={os.path.abspath(arguments[option])}" for option in given)
        force, as_json = bool(arguments["--force"]), bool(arguments["--json"])
        return cls(names.check(arguments["--name"]), os.path.abspath(folder or kernel), with_it, force, as_json)


def commands(options: Options) -> Iterator[pipeline.Command]:
    """Yield the programs that do it."""
    talk = console.passed_on()
    yield pipeline.Command("bg-fetch", (*talk, *options.with_it, "--", f"kernel:{options.path}"))
    replace = ("--replace",) if options.force else ()
    yield pipeline.Command("bg-publish", (*talk, "--kernel", f"--name={options.name}", *replace))


def work(arguments: cli.Arguments) -> None:
    """Import the kernel and print its name."""
    options = Options.from_arguments(arguments)
    if not options.force:
        _refuse_taken(options.name)
    pipeline.run(list(commands(options)), stdin=subprocess.DEVNULL, timed=False)
    kernel_pull.report(options.name, as_json=options.as_json)


def _refuse_taken(name: str) -> None:
    """Raise CannotCreate if the name is taken: bg-publish would say so after all the work."""
    from banger_tools.store import kernels, staging

    staging.refuse_taken(kernels.root() / name, replace=False, what="kernel")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return cli.run(__doc__ or "", argv, work)
