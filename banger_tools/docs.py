"""A tool's manual, read from its module's docstring: fixed headings at column 0, bodies indented.

`--help`, the manual pages, the completions and the checks of the command line all come from this one text.
"""

from __future__ import annotations

import re
from typing import NamedTuple

HEADINGS = (
    *("Usage", "Arguments", "Commands", "Options", "Description", "Words", "JSON", "Environment"),
    *("Examples", "Exit status", "See also"),
)

_HEADING = re.compile(rf"^({'|'.join(HEADINGS)}):[ \t]*$", re.MULTILINE)
_OPTION = re.compile(
    r"^  (?:(-\w)(?: ([A-Z_:.|]+))?, )?(--[a-z0-9-]+)(?:=(\S+))?(?:  +(.*))?$|^  (-\w)(?: ([A-Z_:.|]+))?(?:  +(.*))?$"
)
_COMMAND = re.compile(r"^  ([a-z-]+(?: [a-z-]+)*)  +(\S.*)$")


class Option(NamedTuple):
    """One option: its spellings, the name of its value (None: a flag), what it does."""

    short: str | None
    long: str | None
    value: str | None
    text: str

    @property
    def spelling(self) -> str:
        """Return the name that errors use and docopt keys by."""
        return self.long or self.short or ""


class Manual(NamedTuple):
    """A docstring taken apart: the program's name and one-line purpose, the sections, the options."""

    name: str
    purpose: str
    sections: dict[str, str]
    options: tuple[Option, ...]

    @property
    def synopsis(self) -> tuple[str, ...]:
        """Return the usage patterns, one a line."""
        return tuple(line.strip() for line in self.sections["Usage"].splitlines() if line.strip())


def parse(doc: str) -> Manual:
    """Take a docstring apart; its first line is `name: purpose`."""
    title, _, rest = doc.strip("\n").partition("\n")
    name, _, purpose = title.partition(": ")
    pieces = _HEADING.split("\n" + rest)
    sections = {heading: body.strip("\n") for heading, body in zip(pieces[1::2], pieces[2::2], strict=True)}
    if "Options" in sections:
        sections["Options"] = expand(sections["Options"])
    return Manual(name, purpose.rstrip("."), sections, tuple(_options(sections.get("Options", ""))))


def commands(manual: Manual) -> dict[str, str]:
    """Return the commands of a Commands section and what each does: `  image pull  Make an image.`"""
    lines = manual.sections.get("Commands", "").splitlines()
    return {match[1]: match[2] for line in lines if (match := _COMMAND.match(line))}


def command_module(name: str) -> str:
    """Return the module of a command of the driver by its name: that of `image pull` is commands.image_pull."""
    return f"commands.{re.sub('[ -]', '_', name)}"


def _options(body: str) -> list[Option]:
    found: list[Option] = []
    for line in body.splitlines():
        match = _OPTION.match(line)
        if match:
            short, short_value, long, value, text, only, only_value, only_text = match.groups()
            found.append(Option(short or only, long, value or short_value or only_value, text or only_text or ""))
        elif line.strip() and found:
            found[-1] = found[-1]._replace(text=f"{found[-1].text} {line.strip()}".strip())
    return found


# Options that mean the same in every program; a docstring names the group as `@talk`, `@stage` or `@machine`.
SHARED_OPTIONS = {
    "@machine": """\
  --name=NAME              Name of the VM and its host name; made from the image's if not given.
  --vmm=VMM                Monitor: auto, firecracker or qemu; auto if not given.
  --cpus=N                 Virtual CPUs; half as many as this host has if not given, 1 to 4.
  --memory=SIZE            Memory; an eighth of this host's if not given, 1G to 4G.
  --disk=SIZE              Grow the root disk to this size.
  --work-disk=SIZE         Size of the disk for /root; 1G if the image has a work seed, else none.
  --net=NET                Network: user, tap or none; user if not given. A tap needs CAP_NET_ADMIN.
  --nat                    On a tap, let the VM reach what the host reaches.
  --publish=FORWARD        Forward a port of the host to the guest: [ADDRESS:]PORT:GUESTPORT[/tcp|/udp]; ADDRESS is
                           127.0.0.1 if not given, 0.0.0.0 is every address of the host. Repeatable.
  --env=VAR                NAME=VALUE for the guest's programs; overrides the image's. Repeatable.
  --ssh-key=FILE           File of public keys that may log in as root; one file (bg-inject takes several).
  --git-identity=WHO       Who root's commits are by: 'Name <mail>', or host for what this host's git says.
  --read-only              Keep the root disk as it is; changes live in memory.
  --run                    Run the image's own command, and power off when it ends.
  --kernel-ref=REF         Kernel: its name in the store or in a catalog, apt:PACKAGE, or the URL of a bundle.
  --kernel=FILE            Kernel file, in place of the image's.
  --initrd=FILE            Initrd for --kernel.
  --modules=DIR            Modules for --kernel: an initrd is made of those that it needs.
  --append=WORDS           More words for the kernel's command line.
  --offline                Use only what was fetched before.
  --jail                   Run the monitor in a jail of its own: firecracker only, and as root.
  --limit-disk=SIZE        Bytes each second that every disk reads and writes at most; 10M is 10 MiB.
  --limit-iops=N           Operations each second of every disk at most.
  --limit-net=SIZE         Bytes (not bits) each second that the network carries at most, each way; 10M is 10 MiB.
  --wait=WHAT              Return when this answers: agent, ssh or none (at once); if not given, none with --run, else
                           agent.
  --timeout=SECONDS        How long to wait for that; 120 if not given.
  --keep                   Keep the folder of a VM that does not start, to look at.
""",
    "@stage": """\
  -C DIR, --directory=DIR  Folder of artifacts and temporary files [default: .].
  -o PATH, --output=PATH   Name of the artifact.
  -f, --force              Replace an artifact that exists; one of the same bytes stays as it is.
  --path                   Print the path of the artifact instead of the manifest.
""",
    "@talk": """\
  -q, --quiet              Say nothing but errors.
  -v, --verbose            Say what is done and how long it takes; -vv shows the programs run, too.
  --progress=WHEN          Show progress: auto, always, never or json (see banger(1)) [default: auto].
  -h, --help               Show this help.
  --version                Show the version.
""",
}


def group(name: str) -> tuple[Option, ...]:
    """Return the options of a shared group."""
    return tuple(_options(SHARED_OPTIONS[name]))


def expand(body: str) -> str:
    """Return an Options section with the shared groups in place of their names."""
    lines = [SHARED_OPTIONS.get(line.strip(), line + "\n") for line in body.splitlines()]
    return "".join(lines).rstrip("\n")


def help_text(manual: Manual) -> str:
    """Return what `--help` prints: the whole manual."""
    parts = [f"{manual.name}: {manual.purpose}."]
    parts += [f"{heading}:\n{body}" for heading, body in manual.sections.items()]
    return "\n\n".join(parts) + "\n"


def docopt_text(manual: Manual) -> str:
    """Return the part of a manual that docopt is to see: usage and options, and nothing else to trip over."""
    # docopt takes the first word for the program's name: a name of several ("banger image pull") becomes one.
    patterns = [line.removeprefix(manual.name) for line in manual.synopsis]
    usage = ["program" + pattern.replace("[options]", "[options] [-v]... [--]") for pattern in patterns]
    return "Usage:\n  " + "\n  ".join(usage) + "\n\nOptions:\n" + manual.sections.get("Options", "") + "\n"
