"""Attacks on programs that unpack images, each by its public name: refused, or harmless, by the real programs.

In what an attack says, `ETC` stands for a path that is a folder of the image and, at the same place, one of the host: a
program that leaves the root of the image changes the host's, and the test sees it.
"""

from __future__ import annotations

import os
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import support, trees
from tests.stacks import hard, holding, layer, manifest, soft, write_layers

pytestmark = pytest.mark.root

Entry = tuple[str, dict[str, Any]] | str
UP = "../" * 30

INSIDE: list[Entry] = ["ETC/", holding("ETC/passwd", b"inside")]
LINKED = [*INSIDE, soft("localetc", "/ETC")]


class Attack(NamedTuple):
    """What an attack is called, its layers, and either the words it is refused with or what is inside afterwards.

    Of a path, `inside` says its content, `→` and what a symlink says, `=` and another name of the same file, `§` and
    its mode as ls(1) shows it, with the number of a device, or None: there is no such path.
    """

    name: str
    layers: list[list[Entry]]
    refused: str = ""
    inside: dict[str, str | None] = {}  # noqa: RUF012 - never written to


def same(name: str, other: str = "ETC/passwd") -> dict[str, str | None]:
    return {name: f"={other}", other: "inside"}


# Named as in github.com/containerd/containerd, archive/tar_test.go: TestBreakouts, TestApplyTar, TestTarWithXattr.
# containerd takes a name with `..` in it and reads it inside of the root; here and in umoci it is refused.
CONTAINERD = [
    Attack(
        "SymlinkAbsolute",
        [["ETC/", soft("localetc", "/ETC"), holding("/localetc/unbroken", b"x")]],
        inside={"ETC/unbroken": "x", "localetc": "→/ETC"},
    ),
    Attack(
        "SymlinkUpAndOut",
        [["ETC/", "dummy/", soft("localetc", "/dummy/../ETC"), holding("localetc/unbroken", b"x")]],
        inside={"ETC/unbroken": "x"},
    ),
    Attack(
        "SymlinkMultipleAbsolute",
        [
            [
                "ETC/",
                "dummy/",
                soft("/dummy/etc", "/ETC"),
                soft("localetc", "/dummy/etc"),
                holding("/localetc/unbroken", b"x"),
            ]
        ],
        inside={"ETC/unbroken": "x"},
    ),
    Attack(
        "SymlinkMultipleRelative",
        [
            [
                "ETC/",
                "dummy/",
                soft("/dummy/etc", "/ETC"),
                soft("localetc", "./dummy/etc"),
                holding("/localetc/unbroken", b"x"),
            ]
        ],
        inside={"ETC/unbroken": "x"},
    ),
    Attack(
        "SymlinkEmptyFile",
        [["ETC/", holding("ETC/emptied", b"full"), soft("localetc", "/ETC"), "localetc/emptied"]],
        inside={"ETC/emptied": ""},
    ),
    Attack(
        "HardlinkRelative",
        [[*INSIDE, "breakouts/", soft("breakouts/d1", "../../ETC"), hard("breakouts/my", "/breakouts/d1/passwd")]],
        inside=same("breakouts/my"),
    ),
    Attack(
        "HardlinkDownAndOut",
        [[*INSIDE, "b/", "down/", soft("b/d1", "../down/../../ETC"), hard("b/my", "/b/d1/passwd")]],
        inside=same("b/my"),
    ),
    Attack("HardlinkAbsolute", [[*LINKED, hard("my", "/localetc/passwd")]], inside=same("my")),
    Attack(
        "HardlinkRelativeLong",
        [[*INSIDE, soft("localetc", UP + "ETC"), hard("my", "/localetc/passwd")]],
        inside=same("my"),
    ),
    Attack(
        "HardlinkRelativeUpAndOut",
        [[*INSIDE, soft("localetc", f"up/{UP}ETC"), hard("my", "/localetc/passwd")]],
        inside=same("my"),
    ),
    Attack("HardlinkDirectRelative", [[*INSIDE, hard("my", UP + "ETC/passwd")]], "has a '..' component"),
    Attack("HardlinkDirectAbsolute", [[*INSIDE, hard("my", "/ETC/passwd")]], inside=same("my")),
    Attack(
        "SymlinkParentDirectory", [[*INSIDE, soft("..", "/ETC/"), hard("my", "/ETC/passwd")]], "has a '..' component"
    ),
    Attack("SymlinkEmptyFilename", [[*INSIDE, soft("", "/ETC/"), hard("my", "/ETC/passwd")]], "root of the tree"),
    Attack(
        "SymlinkParentRelative",
        [[*INSIDE, soft("localetc/sub/..", "/ETC/"), hard("/localetc/my", "/ETC/passwd")]],
        "has a '..' component",
    ),
    Attack(
        "SymlinkSlashEnded", [[*INSIDE, "localetc/", hard("/localetc/my", "/ETC/passwd")]], inside=same("localetc/my")
    ),
    Attack(
        "SymlinkOverrideDirectory",
        [[*INSIDE, "localetc/"], [soft("localetc", "/ETC"), hard("localetc/my", "ETC/passwd")]],
        inside={"localetc": "→/ETC", **same("ETC/my")},
    ),
    Attack(
        "SymlinkOverrideDirectoryRelative",
        [[*INSIDE, "localetc/"], [soft("localetc", UP + "ETC"), hard("localetc/my", "ETC/passwd")]],
        inside=same("ETC/my"),
    ),
    Attack(
        "DirectoryOverrideSymlink",
        [LINKED, ["localetc/", hard("/localetc/my", "/ETC/passwd")]],
        inside={"ETC/my": None, **same("localetc/my")},
    ),
    Attack(
        "DirectoryOverrideSymlinkAndHardlink",
        [[*LINKED, hard("localetc/my", "ETC/passwd")], ["localetc/", holding("localetc/my", b"another")]],
        inside={"localetc/my": "another", **same("ETC/my")},
    ),
    Attack("WhiteoutRootParent", [INSIDE, [".wh..."]], "names nothing"),
    Attack("WhiteoutParent", [INSIDE, ["ETC/.wh..."]], "names nothing"),
    Attack("WhiteoutRoot", [INSIDE, [".wh.."]], "names nothing"),
    Attack("WhiteoutCurrentDirectory", [INSIDE, ["ETC/.wh.."]], "names nothing"),
    Attack("WhiteoutSymlink", [LINKED, [".wh.localetc"]], inside={"localetc": None, "ETC/passwd": "inside"}),
    Attack("WhiteoutSymlinkPath", [LINKED, ["localetc/.wh.passwd"]], inside={"ETC/passwd": None, "localetc": "→/ETC"}),
    Attack(
        "WhiteoutDirectoryName",
        [INSIDE, [holding(".wh.etc/some", b"x")]],
        inside={"ETC/passwd": "inside", ".wh.etc/some": "x"},
    ),
    Attack(
        "WhiteoutDeadSymlinkParent",
        [[*INSIDE, soft("localetc", "/dne")], ["localetc/.wh.ETC"]],
        inside={"ETC/passwd": "inside"},
    ),
    Attack("WhiteoutRelativePath", [INSIDE, ["dne/../.wh.ETC"]], "has a '..' component"),
    Attack(
        "HardlinkSymlinkBeforeCreateTarget",
        [["ETC/", soft("l", "/ETC/passwd"), hard("dup", "l"), holding("/ETC/passwd", b"after")]],
        inside={"dup": "→/ETC/passwd", "l": "=dup", "ETC/passwd": "after"},
    ),
    Attack("HardlinkSymlinkRelative", [[*INSIDE, soft("l", UP + "ETC/passwd"), hard("my", "/l")]], inside={"my": "=l"}),
    Attack(
        "HardlinkSymlinkAbsolute",
        [[*INSIDE, soft("l", "/ETC/passwd"), hard("my", "/l")]],
        inside={"my": "=l", "l": "→/ETC/passwd"},
    ),
    Attack(
        "HardlinkSymlinkChmod",
        [
            [
                soft("ETC/outside", "/ETC/passwd"),
                hard(
                    "sketchy",
                    "ETC/outside",
                ),
            ]
        ],
        inside={"sketchy": "→/ETC/passwd", "ETC/passwd": None},
    ),
    Attack(
        "DirectoryCreation",
        [["ETC/"], ["ETC/sub", "ETC/sub2/", "ETC/sub2/more", "other/noparent/1"]],
        inside={"ETC/sub2/more": "", "other/noparent/1": ""},
    ),
    Attack("WithXattrsUser", [[("f", {"pax_headers": {"SCHILY.xattr.user.key": "value"}})]], inside={"f": ""}),
    Attack(
        "WithXattrSelinux", [[("f", {"pax_headers": {"SCHILY.xattr.security.selinux": "u:r:t:s0"}})]], inside={"f": ""}
    ),
]


def device(name: str, kind: bytes, major: int, minor: int) -> Entry:
    return name, {"kind": kind, "devmajor": major, "devminor": minor, "mode": 0o666}


# The collection of Snyk, "Zip Slip", 2018, and the vulnerabilities that others had.
OTHERS = [
    Attack("zip-slip: a path that climbs", [[holding(UP + "ETC/passwd", b"x")]], "has a '..' component"),
    Attack(
        "zip-slip: a path that climbs out of a folder",
        [["good/", holding(f"good/{UP}ETC/passwd", b"x")]],
        "has a '..' component",
    ),
    Attack("zip-slip: an absolute path", [["ETC/", holding("/ETC/passwd", b"x")]], inside={"ETC/passwd": "x"}),
    Attack("zip-slip: slashes and dots", [[holding(f"/.//{UP}ETC/passwd", b"x")]], "has a '..' component"),
    Attack(
        "zip-slip: backslashes; CVE-2021-37701, node-tar",
        [[holding("..\\..\\ETC\\passwd", b"x"), soft("a\\", "/ETC"), holding("a\\/passwd", b"y")]],
        inside={"a\\": "→/ETC", "ETC/passwd": "y"},
    ),
    Attack(
        "CVE-2001-1267, GNU tar: dots behind a folder", [[holding("a/../../ETC/passwd", b"x")]], "has a '..' component"
    ),
    Attack(
        "CVE-2016-6321, GNU tar, 'pointy feather': a prefix that is stripped",
        [[holding("ETC/../passwd", b"x")]],
        "has a '..' component",
    ),
    Attack(
        "CVE-2007-4559, Python's tarfile: a symlink and what is below it",
        [[soft("x", UP), holding("x/ETC/passwd", b"x")]],
        inside={"ETC/passwd": "x"},
    ),
    Attack(
        "CVE-2025-4517, Python's tarfile: symlinks of a length beyond PATH_MAX",
        [
            [
                *(soft("/".join(["d" * 200] * n) + "/l", "d" * 200) for n in range(1, 16)),
                holding("/".join(["d" * 200] * 22) + "/x", b"x"),
            ]
        ],
        "bytes, 4096 at most",
    ),
    Attack(
        "CVE-2025-45582, GNU tar: one archive plants the link that the next one follows",
        [[soft("x", "/ETC")], [holding("x/passwd", b"x")]],
        inside={"ETC/passwd": "x"},
    ),
    Attack(
        "CVE-2014-6407, Docker: links in an image that is pulled",
        [[soft("l", "/ETC/passwd"), hard("h", "l")], [holding("h", b"written")]],
        inside={"h": "written", "l": "→/ETC/passwd", "ETC/passwd": None},
    ),
    Attack(
        "CVE-2014-9356, Docker: a hardlink through an absolute symlink",
        [[soft("l", "/ETC"), hard("h", "l/passwd")]],
        "which is not there",
    ),
    Attack(
        "CVE-2018-20834, node-tar: a hardlink to a file outside, then a file of its name",
        [[hard("h", "/ETC/passwd"), holding("h", b"written")]],
        "which is not there",
    ),
    Attack(
        "CVE-2021-29136, umoci: the root as a symlink",
        [[soft(".", "/ETC"), holding("passwd", b"x")]],
        "root of the tree",
    ),
    Attack(
        "CVE-2021-32803, node-tar: a folder that becomes a link",
        [["d/", soft("d", "/ETC"), holding("d/passwd", b"x")]],
        inside={"d": "→/ETC", "ETC/passwd": "x"},
    ),
    Attack(
        "CVE-2021-37712, node-tar: names that look alike",
        [[soft("caf\u00e9", "/ETC"), "cafe\u0301/", holding("cafe\u0301/passwd", b"x")]],
        inside={"cafe\u0301/passwd": "x", "ETC": None},
    ),
    Attack(
        "CVE-2021-32760, containerd: the mode of what a hardlink's symlink leads to",
        [[soft("l", "/ETC/passwd"), ("h", {"kind": tarfile.LNKTYPE, "linkname": "l", "mode": 0o6777})]],
        inside={"h": "→/ETC/passwd"},
    ),
    Attack("a symlink to oneself", [[soft("l", "l"), holding("l/x", b"x")]], "below a loop of symlinks"),
    Attack(
        "a loop of symlinks over /proc/self",
        [[soft("p", "/proc/self/cwd"), holding("p/x", b"x")]],
        inside={"proc/self/cwd/x": "x"},
    ),
    Attack("a hardlink to a folder", [["d/", hard("h", "d")]], "to the folder"),
    Attack(
        "device nodes of the host's disk and memory",
        [[device("sda", tarfile.BLKTYPE, 8, 0), device("mem", tarfile.CHRTYPE, 1, 1), hard("again", "sda")]],
        inside={"sda": "§brw-rw-rw- 8:0", "again": "=sda", "mem": "§crw-rw-rw- 1:1"},
    ),
    Attack(
        "a file of a set-id mode",
        [[holding("sh", b"#!", mode=0o6755), hard("again", "sh")]],
        inside={"sh": "§-rwsr-sr-x", "again": "#!"},
    ),
    Attack(
        "a fifo that nobody writes to",
        [[("f", {"kind": tarfile.FIFOTYPE}), hard("g", "f")]],
        inside={"f": "§prw-r--r--", "g": "=f"},
    ),
]


def filled(value: Any, etc: str) -> Any:
    """Put the path in the place of ETC, everywhere in a value."""
    match value:
        case str():
            return value.replace("ETC", etc)
        case tuple() | list():
            return type(value)(filled(one, etc) for one in value)
        case dict():
            return {filled(key, etc): filled(one, etc) for key, one in value.items()}
    return value


def seen(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what is known of all that is in a folder; the time of change tells of every touch."""
    return {str(path): _facts(path) for path in [folder, *folder.rglob("*")]}


def _facts(path: Path) -> tuple[int, ...]:
    info = path.lstat()
    return (info.st_ino, info.st_mode, info.st_nlink, info.st_uid, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


@pytest.fixture
def work(tmp_path: Path) -> Iterator[Path]:
    """A folder for outputs, beside a folder with a canary that stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "passwd").write_text("of the host")
    (outside / "passwd").chmod(0o400)
    place = tmp_path / "work"
    place.mkdir()
    before = seen(outside)
    yield place
    assert seen(outside) == before
    assert {path.name for path in tmp_path.iterdir()} == {"outside", "work"}


def shown_mode(info: os.stat_result) -> str:
    """Return a mode as ls(1) shows it, and the number of a device."""
    number = f" {os.major(info.st_rdev)}:{os.minor(info.st_rdev)}" if info.st_rdev else ""
    return stat.filemode(info.st_mode) + number


def assert_inside(root: Path, wanted: dict[str, str | None]) -> None:
    """Judge what was unpacked by lstat(2), readlink(2) and read(2) alone."""
    for name, what in wanted.items():
        path = root / name
        if what is None:
            assert not os.path.lexists(path)
        elif what.startswith("→"):
            assert os.readlink(path) == what[1:]
        elif what.startswith("§"):
            assert shown_mode(path.lstat()) == what[1:]
        elif what.startswith("="):
            assert path.lstat().st_ino == (root / what[1:]).lstat().st_ino
        else:
            assert path.read_text() == what and not path.is_symlink()


@pytest.mark.parametrize("attack", [*CONTAINERD, *OTHERS], ids=lambda attack: attack.name)
def test_known_attack_is_refused_by_name_or_stays_inside(attack: Attack, work: Path) -> None:
    etc = str(work.parent / "outside")[1:]
    paths = write_layers([layer(*filled(entries, etc)) for entries in attack.layers], work)
    text = manifest(paths)
    done = support.run("bg-flatten", "-C", work, f"--dir={work}/out", stdin=text)
    said = done.stderr.decode()
    if attack.refused:
        assert (done.returncode, done.stdout) == (65, b""), said
        assert attack.refused in said and "layers[" in said and "Traceback" not in said
        assert sorted(work.iterdir()) == paths
        return
    assert done.returncode == 0, said
    assert_inside(work / "out", filled(attack.inside, etc))
    support.run_ok("bg-mkext4", "-o", work / "image", stdin=done.stdout)
    assert_image_is_like(work / "out", work / "image", work / "mounted")


def assert_image_is_like(folder: Path, image: Path, where: Path) -> None:
    """Let e2fsck and the kernel judge that the image holds just what the folder does."""
    trees.fsck(image)
    with trees.mounted(image, where) as root:
        found = trees.of_folder(root, ignore=frozenset([b"/lost+found"]))
        assert trees.differences(found, trees.of_folder(folder)) == []


def test_table_has_all_cases_of_containerd() -> None:
    assert len({attack.name for attack in CONTAINERD}) == 36


def test_canary_notices_a_program_that_follows_links(tmp_path: Path) -> None:
    """Python's own tarfile, told to trust the archive, does what our programs do not."""
    (tmp_path / "outside").mkdir()
    before = seen(tmp_path / "outside")
    attack = next(one for one in OTHERS if "CVE-2007-4559" in one.name)
    entries = filled(attack.layers[0], str(tmp_path / "outside")[1:])
    (tmp_path / "in.tar").write_bytes(layer(*entries))
    with tarfile.open(tmp_path / "in.tar") as archive:
        trusting: dict[str, Any] = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
        archive.extractall(tmp_path / "out", **trusting)
    assert seen(tmp_path / "outside") != before


def test_archive_within_an_archive_is_data(work: Path) -> None:
    """CVE-2025-62518, async-tar, "TARmageddon": a size that only the PAX header states, over headers of other files."""
    inner = layer(holding("smuggled", b"x"))[:1024]
    outer = tarfile.TarInfo("outer")
    outer.pax_headers = {"size": str(len(inner))}
    (work / "in.tar").write_bytes(outer.tobuf(tarfile.PAX_FORMAT) + inner + bytes(1024))
    listed = subprocess.run(["tar", "-tf", work / "in.tar"], capture_output=True, check=True).stdout
    support.run_ok("bg-flatten", "-C", work, f"--dir={work}/out", work / "in.tar")
    assert [path.name for path in (work / "out").iterdir()] == listed.decode().split() == ["outer"]
    assert (work / "out/outer").read_bytes() == inner
