"""bg-inject --enable and --disable, judged by systemctl --root on the same files."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import support, trees

VENDOR = {
    "ssh.service": "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\nAlias=sshd.service\n"
    "Also=b.socket gone.service\n",
    "b.socket": "[Install]\nWantedBy=sockets.target\nRequiredBy = x.service y.service\n",
    "getty@.service": "[Install]\nWantedBy=getty.target\nDefaultInstance=tty1\nAlias=autovt@.service\n",
    "plain@.service": "[Install]\nWantedBy=multi-user.target\n",
    "both@.service": "[Install]\nWantedBy=slot@.target multi-user.target\nDefaultInstance=zero\n",
    "slotted@.service": "[Install]\nWantedBy=slot@.target slot@%i.target\n",
    "static.service": "[Service]\nExecStart=/bin/true\n",
    "words.service": "[Install]\n; a comment\nWantedBy=one.target \\\n# inside\n  two.target\nWantedBy=\n"
    "WantedBy=three.target\nAlias=four.target.wants/words.service %p-again.service\n[Service]\nWantedBy=five.target\n",
    "dropped.service": "[Install]\nWantedBy=one.target\n",
    "also-a.service": "[Install]\nAlso=also-b.service\n",
    "also-b.service": "[Install]\nAlso=also-a.service\nWantedBy=one.target\n",
    "taken.service": "[Install]\nAlias=static.service\n",
    "shadowed.service": "[Install]\nWantedBy=wrong.target\n",
    "empty.service": "",
    "my-long-name.service": "[Install]\nWantedBy=%j.target %N.target\n",
    "cross.service": "[Install]\nAlias=cross.socket\n",
    "nested.service": "[Install]\nAlias=some.folder/nested.service\n",
    "hosted.service": "[Install]\nWantedBy=%H.target\n",
    "barred@.service": "[Install]\nWantedBy=one.target\nDefaultInstance=masked\n",
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A root folder as a distribution makes one: units of the vendor, of the administrator, links, masks."""
    support.need("systemctl")
    root = tmp_path_factory.mktemp("units") / "root"
    vendor, config = root / "usr/lib/systemd/system", root / "etc/systemd/system"
    for name, text in VENDOR.items():
        write(vendor / name, text)
    write(vendor / "dropped.service.d/a.conf", "[Install]\nWantedBy=two.target\n")
    write(config / "dropped.service.d/b.conf", "[Install]\nAlias=drops.service\n")
    write(config / "shadowed.service", "[Install]\nWantedBy=right.target\n")
    write(root / "usr/local/lib/systemd/system/local.service", "[Install]\nWantedBy=local.target\n")
    write(config / "plain@special.service", "[Install]\nRequiredBy=special.target\n")
    (vendor / "vendor-alias.service").symlink_to("ssh.service")
    (config / "masked.service").symlink_to("/dev/null")
    (config / "barred@masked.service").symlink_to("/dev/null")
    (config / "one.target.wants").mkdir()
    (root / "lib").symlink_to("usr/lib")
    return root


def image_of(folder: Path, where: Path) -> Path:
    arguments = ["--path", "--size=16M", "-C", where, "-o", where / "image.ext4", folder]
    return Path(support.run_ok("bg-mkext4", *arguments).decode().strip())


@pytest.fixture(scope="module")
def disabled(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folder and an image of it, where nothing is enabled."""
    return root, image_of(root, tmp_path_factory.mktemp("disabled"))


@pytest.fixture(scope="module")
def enabled(root: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same, where systemctl has enabled most, and somebody else has added links."""
    where = tmp_path_factory.mktemp("enabled")
    copy = where / "root"
    shutil.copytree(root, copy, symlinks=True)
    names = ["ssh", "getty@tty1", "getty@tty3", "plain@a", "plain@b", "words", "dropped", "also-a", "plain@special"]
    systemctl(copy, "enable", *names)
    config = copy / "etc/systemd/system"
    (config / "other.target.wants").mkdir()
    (config / "other.target.wants/ssh.service").symlink_to("../../../../lib/systemd/system/ssh.service")
    (config / "multi-user.target.wants/left.service").symlink_to("/usr/lib/systemd/system/left.service")
    return copy, image_of(copy, where)


def systemctl(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemctl", f"--root={folder}", *arguments], capture_output=True, text=True)


def links(folder: Path) -> dict[str, str]:
    """Return all links below a folder, each with where it leads; empty folders do not count.

    Since version 255 systemd spells its folder /usr/lib, where it was /lib: here these are the same.
    """
    found = {path: str(path.readlink()) for path in walk(folder) if path.is_symlink()}
    return {str(path.relative_to(folder)): re.sub("^/usr/lib/", "/lib/", target) for path, target in found.items()}


def walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from walk(path)


def links_in_image(image: Path, where: Path) -> dict[str, str]:
    where.mkdir()
    subprocess.run(
        ["/sbin/debugfs", "-R", f"rdump /etc/systemd/system {where}", image], capture_output=True, check=True
    )
    return links(where / "system")


def both(pair: tuple[Path, Path], verb: str, names: list[str], where: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Return the links after systemctl and after bg-inject did the same."""
    folder, image = where / "theirs", where / "ours.ext4"
    shutil.copytree(pair[0], folder, symlinks=True)
    systemctl(folder, verb, *names)
    options = [f"--{verb}={name}" for name in names]
    support.run_ok("bg-inject", "--no-agent", *options, "-o", image, pair[1])
    trees.fsck(image)
    again = image.read_bytes()
    support.run_ok("bg-inject", "--no-agent", *options, image)
    assert image.read_bytes() == again, "a second time changed it"
    return links(folder / "etc/systemd/system"), links_in_image(image, where / "dumped")


@pytest.mark.parametrize(
    "names",
    [
        ["ssh"],
        ["b.socket"],
        ["getty@"],
        ["getty@tty3", "getty@tty4.service"],
        ["plain@x", "plain@a@b", "plain@special"],
        ["both@", "both@one"],
        ["slotted@", "slotted@two"],
        ["words"],
        ["dropped", "local", "shadowed"],
        ["also-a"],
        ["vendor-alias"],
        ["static"],
        ["my-long-name"],
    ],
    ids=",".join,
)
def test_enabling_makes_the_links_of_systemctl(disabled: tuple[Path, Path], names: list[str], tmp_path: Path) -> None:
    theirs, ours = both(disabled, "enable", names, tmp_path)
    assert ours == theirs
    assert names == ["static"] or ours != links(disabled[0] / "etc/systemd/system")


@pytest.mark.parametrize(
    "names",
    [
        ["ssh"],
        ["sshd"],
        ["b.socket"],
        ["getty@tty1"],
        ["getty@"],
        ["plain@"],
        ["plain@a", "getty@tty3"],
        ["words"],
        ["drops"],
        ["also-b"],
        ["vendor-alias"],
        ["masked"],
        ["static"],
        ["plain@special"],
    ],
    ids=",".join,
)
def test_disabling_removes_the_links_that_systemctl_does(
    enabled: tuple[Path, Path], names: list[str], tmp_path: Path
) -> None:
    theirs, ours = both(enabled, "disable", names, tmp_path)
    assert ours == theirs
    assert names in (["masked"], ["static"]) or ours != links(enabled[0] / "etc/systemd/system")


def test_links_to_a_unit_that_is_gone_can_be_removed(enabled: tuple[Path, Path], tmp_path: Path) -> None:
    folder, image = tmp_path / "theirs", tmp_path / "ours.ext4"
    shutil.copytree(enabled[0], folder, symlinks=True)
    systemctl(folder, "disable", "left")
    support.run_ok("bg-inject", "--no-agent", "--disable=left", "-o", image, enabled[1])
    trees.fsck(image)
    found = links_in_image(image, tmp_path / "dumped")
    assert found == links(folder / "etc/systemd/system")
    assert "multi-user.target.wants/left.service" not in found


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("--enable=shs", ["'shs.service' is not a unit", "ssh.service"]),
        ("--disable=shs", ["'shs.service' is not a unit", "ssh.service"]),
        ("--enable=masked", ["masked"]),
        ("--enable=empty", ["masked"]),
        ("--enable=plain@", ["is a template", "plain@NAME.service"]),
        ("--enable=taken", ["'/etc/systemd/system/static.service' is there already"]),
        ("--enable=cross", ["cannot have the alias 'cross.socket': it is of another type"]),
        ("--enable=nested", ["cannot have the alias 'some.folder/nested.service'"]),
        ("--enable=barred@", ["'barred@masked.service' is masked"]),
    ],
)
def test_units_that_systemctl_refuses_are_refused(
    disabled: tuple[Path, Path], option: str, words: list[str], tmp_path: Path
) -> None:
    folder, image = tmp_path / "theirs", tmp_path / "ours.ext4"
    shutil.copytree(disabled[0], folder, symlinks=True)
    write(folder / "etc/systemd/system/static.service", "[Service]\n")
    image = image_of(folder, tmp_path)
    verb, name = option.removeprefix("--").split("=")
    before, bytes_before = links(folder), image.read_bytes()
    said = systemctl(folder, verb, name)
    assert "Failed" in said.stderr and links(folder) == before
    done = support.run("bg-inject", "--no-agent", option, image)
    assert done.returncode == 65
    assert all(word in done.stderr.decode() for word in words), done.stderr.decode()
    assert image.read_bytes() == bytes_before


def test_what_only_the_running_machine_knows_is_refused_in_the_name_of_a_link(disabled: tuple[Path, Path]) -> None:
    before = disabled[1].read_bytes()
    done = support.run("bg-inject", "--no-agent", "--enable=hosted", disabled[1])
    assert (done.returncode, disabled[1].read_bytes() == before) == (65, True)
    assert "'hosted.service' has '%H' in its [Install] section" in done.stderr.decode()


def test_alias_that_is_enabled_is_refused_and_its_unit_named(enabled: tuple[Path, Path]) -> None:
    done = support.run("bg-inject", "--no-agent", "--enable=sshd", enabled[1])
    assert done.returncode == 65
    assert "'sshd.service' is an alias" in done.stderr.decode()
    assert "ssh.service" in done.stderr.decode()


def test_static_unit_is_said_to_be_one(disabled: tuple[Path, Path]) -> None:
    before = disabled[1].read_bytes()
    done = support.run("bg-inject", "--no-agent", "--enable=static", disabled[1])
    assert done.returncode == 0
    assert "'static.service' is static" in done.stderr.decode()
    assert disabled[1].read_bytes() == before


@pytest.mark.parametrize("name", ["a/b", "", "two words", "/usr/lib/systemd/system/ssh.service", "a.service@"])
def test_what_is_no_name_of_a_unit_is_a_usage_error(disabled: tuple[Path, Path], name: str) -> None:
    assert support.run("bg-inject", "--no-agent", f"--enable={name}", disabled[1]).returncode == 64


def test_one_unit_cannot_be_both_enabled_and_disabled(disabled: tuple[Path, Path]) -> None:
    done = support.run("bg-inject", "--enable=ssh", "--disable=ssh.service", disabled[1])
    assert done.returncode == 64


def test_unit_that_comes_with_the_same_run_can_be_enabled(disabled: tuple[Path, Path], tmp_path: Path) -> None:
    unit, image = tmp_path / "web.service", tmp_path / "copy.ext4"
    unit.write_text("[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n")
    options = ["--file", f"{unit}:/etc/systemd/system/", "--enable=web", "-o", image]
    support.run_ok("bg-inject", "--no-agent", *options, disabled[1])
    trees.fsck(image)
    found = links_in_image(image, tmp_path / "dumped")
    assert found["multi-user.target.wants/web.service"] == "/etc/systemd/system/web.service"


def test_units_of_the_guest_can_be_disabled(disabled: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "root"
    shutil.copytree(disabled[0], folder, symlinks=True)
    write(folder / "usr/lib/systemd/systemd", "elf")
    image = image_of(folder, tmp_path)
    support.run_ok("bg-inject", image)
    support.run_ok("bg-inject", "--disable=banger-network", image)
    trees.fsck(image)
    found = links_in_image(image, tmp_path / "dumped")
    assert "multi-user.target.wants/banger-network.service" not in found
    assert "multi-user.target.wants/banger-vsock-agent.service" in found
