"""Where bg-inject puts files: symlinked folders, odd names, paths that are refused; judged by debugfs and e2fsck."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests import support, trees


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("paths")
    links = {
        "lib": "usr/lib",
        "abs": "/usr/lib",
        "chain1": "chain2",
        "chain2": "/usr/../chain3/../lib",
        "chain3": "./usr//lib/",
        "loop1": "loop2",
        "loop2": "/loop1",
        "self": "self",
        "dangling": "srv/data",
        "etc/up": "../usr/lib",
        "climbs": "../../outside",
        "late": "usr/../../outside",
        "etc/file-link": "passwd",
        "dev-null": "/etc/passwd",
    }
    with trees.new_tar(where / "content.tar") as out:
        trees.add(out, "usr/lib", tarfile.DIRTYPE, mode=0o751, uid=7)
        trees.add(out, "etc/passwd", data=b"root\n", uid=3, mode=0o600)
        for name, target in links.items():
            trees.add(out, name, tarfile.SYMTYPE, linkname=target)
    arguments = ["--path", "--size=8M", "-C", where, where / "content.tar"]
    return Path(support.run_ok("bg-mkext4", *arguments).decode().strip())


@pytest.fixture
def image(original: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "image.ext4"
    copy.write_bytes(original.read_bytes())
    return copy


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.write_bytes(b"content")
    return path


def ask(image: Path, request: bytes | str) -> bytes:
    return subprocess.run(["/sbin/debugfs", "-R", request, image], capture_output=True).stdout


def put(image: Path, *specs: str, options: tuple[str, ...] = ("--no-agent",)) -> None:
    support.run_ok("bg-inject", *options, *(f"--file={spec}" for spec in specs), image)
    trees.fsck(image)
    digest = hashlib.sha256(image.read_bytes()).digest()
    support.run_ok("bg-inject", *options, *(f"--file={spec}" for spec in specs), image)
    assert hashlib.sha256(image.read_bytes()).digest() == digest, "a second time changed it"


@pytest.mark.parametrize(
    ("asked", "real"),
    [
        ("/lib/x", "/usr/lib/x"),
        ("/abs/new/x", "/usr/lib/new/x"),
        ("/chain1/x", "/usr/lib/x"),
        ("/etc/up/x", "/usr/lib/x"),
        ("/dangling/x", "/srv/data/x"),
        ("/etc/../etc/./x", "/etc/x"),
        ("/lib/../x", "/usr/x"),
        ("/etc/passwd", "/etc/passwd"),
        ("/etc/file-link", "/etc/file-link"),
        ("/x", "/x"),
    ],
)
def test_symlinked_folders_are_followed_inside_the_image(image: Path, source: Path, asked: str, real: str) -> None:
    put(image, f"{source}:{asked}:0640:5:70000")
    assert ask(image, f"cat {real}") == b"content"
    found = ask(image, f"stat {real}").decode()
    assert "Type: regular    Mode:  0640" in found
    assert "User:     5   Group: 70000" in found
    assert b"Mode:  0751" in ask(image, "stat /usr/lib")  # a folder that is there stays as it is
    if real != "/etc/passwd":
        assert ask(image, "cat /etc/passwd") == b"root\n"  # what a symlink leads to, which is replaced, is not written


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("/climbs/x", "leads out of the image"),
        ("/late/x", "leads out of the image"),
        ("/../x", "leads out of the image"),
        ("/loop1/x", "loop of symlinks"),
        ("/self/x", "loop of symlinks"),
        ("/etc/passwd/x", "'/etc/passwd', which is a file"),
        ("/etc/passwd/deep/x", "'/etc/passwd', which is a file"),
        ("/etc/file-link/x", "'/etc/passwd', which is a file"),
        ("/dev-null/x", "'/etc/passwd', which is a file"),
        ("/etc", "is a dir"),
        ("/etc/..", "not an absolute path of a file"),
        ("/etc/.", "not an absolute path of a file"),
        ("/etc/new\nline", "control character"),
        ("/etc/" + "n" * 256, "more than 255 bytes"),
        ("/etc" + "/deep" * 900, "longer than a path can be"),
    ],
)
def test_path_that_cannot_be_is_refused_and_the_image_untouched(
    image: Path, source: Path, asked: str, words: str
) -> None:
    before = image.read_bytes()
    done = support.run("bg-inject", f"--file={source}:/fine/first", f"--file={source}:{asked}", image)
    assert done.returncode == 65
    assert words in done.stderr.decode()
    assert image.read_bytes() == before
    assert support.leftovers(image.parent) == []


@pytest.mark.parametrize(
    "name",
    ['quo"te', "back\\slash", "sp ace", "-dash", "<12>", "#hash", "'", "tab-less", "ümlaut", "n" * 255, "a;b|c`d$(e)"],
)
def test_odd_names_are_written_as_they_are(image: Path, source: Path, name: str) -> None:
    put(image, f"{source}:/etc/{name}", f"{source}:/{name}/{name}")
    out = image.parent / "dumped"
    out.mkdir()
    subprocess.run(["/sbin/debugfs", "-R", f"rdump / {out}", image], capture_output=True, check=True)
    assert (out / "etc" / name).read_bytes() == b"content"
    assert (out / name / name).read_bytes() == b"content"


def test_name_that_is_not_utf_8_is_kept(image: Path, source: Path) -> None:
    name = os.fsdecode(b"\xff\xfe")
    put(image, f"{source}:/etc/{name}")
    assert b"\\xff\\xfe" in ask(image, "ls /etc")


def test_folder_of_the_root_is_made_after_others(image: Path, source: Path) -> None:
    put(image, f"{source}:/etc/first/x", f"{source}:/zzz/x", f"{source}:/new-at-root")
    assert ask(image, "cat /zzz/x") == b"content"
    assert ask(image, "cat /new-at-root") == b"content"


def test_guest_path_that_ends_in_a_slash_is_a_folder_for_the_file(image: Path, source: Path) -> None:
    put(image, f"{source}:/etc/conf.d/")
    assert ask(image, "cat /etc/conf.d/source") == b"content"


def test_host_path_may_have_colons(image: Path, tmp_path: Path) -> None:
    odd = tmp_path / "a:/b:0644"
    odd.parent.mkdir()
    odd.write_bytes(b"odd")
    put(image, f"{odd}:/etc/odd", f"{odd}:/etc/moded:0600")
    assert ask(image, "cat /etc/odd") == b"odd"
    assert b"Mode:  0600" in ask(image, "stat /etc/moded")


def test_content_may_come_through_a_pipe(image: Path) -> None:
    support.run_ok("bg-inject", "--no-agent", "--file=/dev/stdin:/etc/piped", image, stdin=b"p" * 300_000)
    trees.fsck(image)
    assert ask(image, "cat /etc/piped") == b"p" * 300_000


def test_file_with_holes_is_put_in_whole(image: Path, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.seek(900_000)
        file.write(b"middle")
        file.truncate(1_500_000)
    put(image, f"{sparse}:/sparse")
    assert ask(image, "cat /sparse") == sparse.read_bytes()


@pytest.mark.parametrize(
    ("specs", "status", "words"),
    [
        (["{tmp}:/etc/x"], 65, "is a folder"),
        (["{tmp}/none:/etc/x"], 66, "no such file"),
        (["{source}:/etc/x", "{source}:/etc/x"], 64, "put in twice"),
        (["{source}:/a", "{source}:/a/b"], 65, "'/a', which is"),
        (["{source}:etc/x"], 64, "not HOST:GUEST"),
        (["{source}"], 64, "not HOST:GUEST"),
        ([":/etc/x"], 64, "not HOST:GUEST"),
        (["{source}:/etc/x:888"], 64, "not HOST:GUEST"),
        (["{source}:/etc/x:0644:1"], 64, "not HOST:GUEST"),
        (["{source}:/etc/x:0644:-1:0"], 64, "not HOST:GUEST"),
        (["{source}:/etc/x:0644:0:4294967295"], 64, "out of range"),
        (["{source}:/etc/x:0644:4294967295:0"], 64, "out of range"),
    ],
)
def test_wrong_files_are_refused_and_the_image_untouched(
    image: Path, source: Path, tmp_path: Path, specs: list[str], status: int, words: str
) -> None:
    before = image.read_bytes()
    options = [f"--file={spec.format(tmp=tmp_path, source=source)}" for spec in specs]
    done = support.run("bg-inject", *options, image)
    assert done.returncode == status, done.stderr.decode()
    assert words in done.stderr.decode()
    assert image.read_bytes() == before


def test_file_comes_over_what_is_put_in_otherwise(image: Path, source: Path) -> None:
    put(image, f"{source}:/usr/local/libexec/banger-first-boot:0700", options=("--hostname=web",))
    assert ask(image, "cat /usr/local/libexec/banger-first-boot") == b"content"
    assert ask(image, "cat /etc/hostname") == b"web\n"


@pytest.mark.parametrize("name", ["-web", "web-", "a..b", "a b", "", "x" * 65, "web.", "ä", "a/b"])
def test_what_is_no_host_name_is_refused(image: Path, name: str) -> None:
    assert support.run("bg-inject", f"--hostname={name}", image).returncode == 64


def test_image_in_a_folder_with_an_odd_name_is_edited(image: Path, source: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'o"d d'
    folder.mkdir()
    image.rename(folder / "image")
    put(folder / "image", f"{source}:/etc/x")
    assert ask(folder / "image", "cat /etc/x") == b"content"
