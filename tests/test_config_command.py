"""banger config, and whose word counts: an option, the environment, config.toml, this host, what is built in."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools import boot, cli, config, docs, errors, precedence
from tests.support import OrdinaryUser, run, run_ok
from tests.test_inject import KEY

TEXT = """
[vm_defaults]
cpus = 3
disk = "8G"
vmm = "qemu"
timeout = 90.5
ssh-key = "me.pub"
[registries."reg.example:5000"]
mirrors = ["mirror.example"]
[[catalogs]]
file = "mine.json"
[network]
bridge = "banger-2"
"""


@pytest.fixture
def home(banger_home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home with a config.toml and no variables of ours."""
    for key in precedence.KEYS:
        monkeypatch.delenv(precedence.variable(key), raising=False)
    (banger_home / "config").mkdir()
    (banger_home / "config" / "config.toml").write_text(TEXT)
    config.load.cache_clear()
    yield banger_home
    config.load.cache_clear()


def shown(**env: str) -> dict[str, tuple[Any, str]]:
    rows = json.loads(run_ok("banger", "config", "--json", env=env))
    assert len({row["key"] for row in rows}) == len(rows)
    return {row["key"]: (row["value"], row["from"]) for row in rows}


def options(*words: str) -> boot.Options:
    return boot.Options.from_arguments(cli.parse(docs.parse(boot.__doc__ or ""), words))


def test_every_value_is_shown_with_where_it_comes_from(home: Path) -> None:
    found = shown(BANGER_VMM="auto", BANGER_NET="")
    assert found["folders.cache"] == (str(home / "cache"), "BANGER_HOME")
    assert found["vm_defaults.cpus"] == ("3", "config.toml")
    assert found["vm_defaults.timeout"] == ("90.5", "config.toml")
    assert found["vm_defaults.ssh-key"] == (str(home / "config" / "me.pub"), "config.toml")
    assert found["vm_defaults.vmm"] == ("auto", "BANGER_VMM")
    assert found["vm_defaults.net"] == ("user", "built in")  # an empty variable says nothing
    assert found["vm_defaults.memory"][1] == "this host"
    assert found['registries."reg.example:5000".mirrors'] == (["mirror.example"], "config.toml")
    assert found["catalogs[0].file"] == (str(home / "config" / "mine.json"), "config.toml")
    assert found["network.bridge"] == ("banger-2", "config.toml")
    assert found["network.subnet"] == ("172.16.0.0/16", "built in")
    assert not {"vm_defaults.work-disk", "network.gateway"} & set(found)


def test_table_has_the_same_rows(home: Path) -> None:
    lines = run_ok("banger", "config").decode().splitlines()
    assert lines[0].split() == ["KEY", "VALUE", "FROM"]
    assert [line.split()[0] for line in lines[1:]] == list(shown())


def test_without_a_file_all_is_built_in_or_of_this_host(banger_home: Path) -> None:
    assert {origin for _, origin in shown().values()} == {"BANGER_HOME", "built in", "this host"}


def test_folders_of_xdg_are_named(tmp_path: Path) -> None:
    found = shown(BANGER_HOME="", XDG_CACHE_HOME=str(tmp_path), XDG_STATE_HOME="relative")
    assert found["folders.cache"] == (str(tmp_path / "banger"), "XDG_CACHE_HOME")
    assert found["folders.state"][1] == "built in"


def test_defaults_are_of_the_hosts_processors_and_memory(banger_home: Path) -> None:
    found = shown()
    processors = len(os.sched_getaffinity(0))
    assert found["vm_defaults.cpus"] == (str(min(4, max(1, processors // 2))), "this host")
    total = next(int(line.split()[1]) >> 10 for line in Path("/proc/meminfo").read_text().splitlines())
    memory = int(found["vm_defaults.memory"][0].removesuffix("M"))
    assert memory <= total // 2
    assert 1024 <= memory <= 4096 or total < 2048


@pytest.mark.parametrize(
    ("processors", "gibibytes", "cpus", "memory"),
    [(1, 1, "1", "512M"), (2, 8, "1", "1024M"), (6, 24, "3", "2048M"), (128, 512, "4", "4096M")],
)
def test_share_of_a_host(
    processors: int, gibibytes: int, cpus: str, memory: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "config" / "config.toml").unlink()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
    monkeypatch.setattr(os, "sysconf", {"SC_PHYS_PAGES": gibibytes << 18, "SC_PAGE_SIZE": 4096}.__getitem__)
    assert (precedence.setting("cpus").value, precedence.setting("memory").value) == (cpus, memory)


def test_option_comes_before_variable_before_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "config" / "me.pub").write_text(f"{KEY}\n")
    assert options().cpus == 3
    assert options().ssh_keys == [KEY]
    monkeypatch.setenv("BANGER_CPUS", "2")
    assert options().cpus == 2
    assert options("--cpus=1").cpus == 1


def test_size_of_a_disk_that_nobody_asked_for_is_the_least(home: Path, tmp_path: Path) -> None:
    (home / "config" / "me.pub").write_text(f"{KEY}\n")
    large = tmp_path / "large"
    large.touch()
    os.truncate(large, 9 << 30)
    for room, size in ((options().disk, 9 << 30), (options("--disk=4G").disk, 4 << 30)):
        assert room is not None
        assert room.over(large) == size


@pytest.mark.parametrize("key", precedence.KEYS)
def test_every_key_is_an_option_of_machines(key: str) -> None:
    group = [option.spelling for option in docs.group("@machine")]
    assert precedence.option(key) in [*group, "--image"]


def test_wrong_value_is_blamed_on_who_gave_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.BadUsage, match=r"^--memory: '1 apple' is not a size"):
        options("--memory=1 apple")
    monkeypatch.setenv("BANGER_MEMORY", "8K")
    with pytest.raises(errors.BadUsage, match=r"^BANGER_MEMORY: '8K' is less than 64M"):
        options()
    monkeypatch.delenv("BANGER_MEMORY")
    (home / "config" / "config.toml").write_text("[vm_defaults]\nmemory = '1K'\n")
    config.load.cache_clear()
    with pytest.raises(errors.BadInput, match=r"config.toml': vm_defaults.memory: '1K' is less than 64M"):
        options()


def test_wrong_key_is_told_with_the_file_and_the_nearest_one(home: Path) -> None:
    (home / "config" / "config.toml").write_text("[vm_defaults]\nmemmory = '1G'\n")
    done = run("banger", "config")
    assert (done.returncode, done.stdout) == (65, b"")
    assert done.stderr.decode().splitlines() == [
        f"banger config: error: '{home}/config/config.toml': vm_defaults.memmory: there is no such key",
        "banger config: hint: did you mean 'memory'?",
    ]


def test_file_that_may_not_be_read_is_no_missing_one(home: Path, user: OrdinaryUser) -> None:
    theirs = user.home / "config"
    theirs.mkdir()
    (theirs / "config.toml").write_text("[network]\n")
    (theirs / "config.toml").chmod(0)
    done = user.run("banger", "config", env={"BANGER_HOME": str(user.home)})
    assert done.returncode == 77
    assert f"cannot read '{theirs}/config.toml': permission denied" in done.stderr.decode()
