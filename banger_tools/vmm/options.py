"""What is asked of a new machine: the options of bg-boot, each with its value checked, and those that go together."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import errors, sizes

if TYPE_CHECKING:
    from banger_tools.precedence import Setting
    from banger_tools.vmm.spec import Forward, GitIdentity, Limits


class Process(NamedTuple):
    """What the guest is to run: the machine's own command, or one beside it once the agent answers."""

    run: bool
    command: list[str] | None
    execute: str | None
    user: str | None
    cwd: str | None

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Process:
        """Check what is to be run; raises BadUsage."""
        import shlex

        run, execute, words = bool(arguments["--run"]), arguments["--exec"], arguments["--command"]
        if words is not None and not run:
            raise errors.BadUsage("--command goes with --run only")
        for option in ("--user", "--cwd"):
            if arguments[option] is not None and not run and execute is None:
                raise errors.BadUsage(f"{option} goes with --run or --exec only")
        try:
            command = None if words is None else shlex.split(words)
        except ValueError as error:
            raise errors.BadUsage(f"--command: {str(error).lower()}: {words}") from error
        if command == []:
            raise errors.BadUsage("--command: there is no word in it")
        return cls(run, command, execute, arguments["--user"], arguments["--cwd"])


class Room(NamedTuple):
    """The size of a disk in bytes: just that if it was asked for, else at the least."""

    size: int
    exact: bool

    @classmethod
    def from_setting(cls, setting: Setting) -> Room | None:
        """Return what a setting says; raises BadUsage, or BadInput for what config.toml says."""
        size = _settled(setting, lambda text: sizes.parse(text, f"--{setting.key}"))
        return None if size is None else cls(size, setting.is_asked)

    def over(self, disk: Path) -> int:
        """Return the size that a copy of a disk is to have."""
        return self.size if self.exact else max(self.size, disk.stat().st_size)


class Options(NamedTuple):
    """What shapes a new VM, checked; sizes in bytes. `wait` is what to wait for: agent, ssh or none."""

    input: str | None
    image: str | None
    name: str | None
    vmm: str
    cpus: int
    memory: int
    disk: Room | None
    work_disk: Room | None
    net: str
    nat: bool
    forwards: list[Forward]
    env: list[str]
    ssh_keys: list[str]
    git: GitIdentity | None
    read_only: bool
    process: Process
    kernel_ref: str | None
    kernel: Path | None
    initrd: Path | None
    modules: Path | None
    append: str
    offline: bool
    jail: bool
    limits: Limits
    wait: str
    timeout: float
    keep: bool
    console: bool
    remove: bool
    starts: bool
    path_only: bool

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Options:
        """Check the options of a new VM; raises BadUsage naming the one that is wrong."""
        from banger_tools import precedence
        from banger_tools.store import names
        from banger_tools.vmm import choose, git_identity
        from banger_tools.vmm import spec as specs

        settings = precedence.settings(arguments)
        _refuse_together(arguments, str(settings["net"].value))
        return cls(
            arguments["INPUT"],
            _checked(arguments["--image"], lambda name: names.check(name, "--image")),
            _checked(arguments["--name"], names.check_vm),
            _settled(settings["vmm"], lambda word: _one_of("--vmm", word, choose.WORDS)),
            _settled(settings["cpus"], specs.parse_cpus),
            _settled(settings["memory"], specs.parse_memory),
            Room.from_setting(settings["disk"]),
            Room.from_setting(settings["work-disk"]),
            _settled(settings["net"], lambda word: _one_of("--net", word, specs.NETWORKS)),
            bool(arguments["--nat"]),
            specs.parse_forwards(arguments["--publish"]),
            specs.parse_environment(arguments["--env"]),
            _settled(settings["ssh-key"], lambda path: specs.read_ssh_key(Path(path))) or [],
            _settled(settings["git-identity"], git_identity.parse),
            bool(arguments["--read-only"]),
            Process.from_arguments(arguments),
            arguments["--kernel-ref"],
            _checked(arguments["--kernel"], existing),
            _checked(arguments["--initrd"], existing),
            _checked(arguments["--modules"], Path),
            arguments["--append"] or "",
            bool(arguments["--offline"]),
            bool(arguments["--jail"]),
            specs.parse_limits(arguments["--limit-disk"], arguments["--limit-iops"], arguments["--limit-net"]),
            _awaited(arguments),
            _settled(settings["timeout"], specs.parse_timeout),
            bool(arguments["--keep"]),
            bool(arguments["--console"]),
            bool(arguments["--rm"]),
            not arguments["--no-start"],
            bool(arguments["--path"]),
        )


def _checked(text: str | None, check: Any) -> Any:
    return None if text is None else check(text)


def _settled(setting: Setting, check: Any) -> Any:
    """Return the checked value of a setting; an error names who gave it."""
    with setting.blamed():
        return _checked(setting.value, check)


def _one_of(option: str, word: str, words: Sequence[str]) -> str:
    if word not in words:
        raise errors.BadUsage(f"{option}: '{word}' is none of {', '.join(words)}")
    return word


def existing(text: str) -> Path:
    """Return the absolute path of a file that can be read; raises NoInput, Denied."""
    path = Path(os.path.abspath(text))
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise errors.os_error(error, f"cannot read '{text}'") from error


EXCLUSIVE = (
    ("--image", "INPUT"),
    ("--kernel-ref", "--kernel"),
    ("--wait", "--detach"),
    ("--exec", "--console"),
    ("--exec", "--detach"),
    ("--console", "--detach"),
    ("--no-start", "--exec"),
    ("--no-start", "--console"),
    ("--no-start", "--wait"),
    ("--path", "--exec"),
    ("--path", "--console"),
    ("--rm", "--keep"),
)
NEEDS = (  # an option, and those of which it needs one
    ("--initrd", ("--kernel",)),
    ("--modules", ("--kernel",)),
    ("--rm", ("--exec", "--console")),
)


def _refuse_together(arguments: dict[str, Any], net: str) -> None:
    """Refuse options that contradict each other; one that was given an empty value was given."""
    given = {name for name, value in arguments.items() if value is not None and value is not False}
    for one, other in EXCLUSIVE:
        if given.issuperset((one, other)):
            raise errors.BadUsage(f"{one} and {other} exclude each other")
    for option, needed in NEEDS:
        if option in given and given.isdisjoint(needed):
            raise errors.BadUsage(f"{option} goes with {' or '.join(needed)} only")
    if arguments["--publish"] and net == "none":
        raise errors.BadUsage("--publish needs a network, and --net is none")
    if arguments["--nat"] and net != "tap":
        raise errors.BadUsage("--nat goes with --net tap only")


def _awaited(arguments: dict[str, Any]) -> str:
    """Return what to wait for: what was asked, else the agent, unless the VM may be done before that answers."""
    asked = arguments["--wait"]
    if asked is not None:
        _one_of("--wait", asked, ("agent", "ssh", "none"))
        if arguments["--exec"] is not None and asked == "none":
            raise errors.BadUsage("--exec needs the agent, and --wait is none")
        return str(asked)
    if arguments["--exec"] is not None:
        return "agent"
    at_once = ("--run", "--console", "--detach", "--no-start")
    return "none" if any(arguments[name] for name in at_once) else "agent"
