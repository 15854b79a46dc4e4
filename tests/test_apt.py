"""apt: images: the host's sources as apt reads them, and root filesystems made by mmdebstrap for real."""

from __future__ import annotations

import calendar
import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools import errors, manifest
from banger_tools.apt import hooks, mmdebstrap, records, releases, sources
from banger_tools.apt.sources import Source
from banger_tools.oci.cache import Cache
from banger_tools.process import Result
from tests import support

DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian http://other.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
Architectures: amd64

Types: deb-src
URIs: http://mirror.example/debian
Suites: bookworm
Components: main

Enabled: no
Types: deb
URIs: http://disabled.example/
Suites: bookworm
Components: main

Types: deb
URIs: http://inline.example/
Suites: trixie
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 bm90IGEga2V5
 -----END PGP PUBLIC KEY BLOCK-----
"""
LINES = """\
deb http://mirror.example/debian bookworm main # the main one
deb [arch=amd64 signed-by=/k.gpg] https://example.org/debian bookworm-security main contrib
# deb http://commented.example/ bookworm main
deb-src http://mirror.example/debian bookworm main
deb cdrom:[Debian] bookworm main
"""


def test_deb822_sources_are_read_as_apt_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "x.sources"
    path.write_text(DEB822)
    found = sources.read(path)
    key = (("signed-by", "/usr/share/keyrings/debian-archive-keyring.gpg"),)
    assert found[:4] == [
        Source(f"http://{host}/debian", suite, ("main", "contrib"), key)
        for host in ("mirror.example", "other.example")
        for suite in ("bookworm", "bookworm-updates")
    ]
    assert [source.uri for source in found[4:]] == ["http://inline.example/"]
    with pytest.raises(errors.Unavailable, match="inline"):
        sources.choose(found, "trixie", None)


def test_one_line_sources_are_read_as_apt_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "x.list"
    path.write_text(LINES)
    assert [str(source) for source in sources.read(path)] == [
        "deb http://mirror.example/debian bookworm main",
        "deb [signed-by=/k.gpg] https://example.org/debian bookworm-security main contrib",
    ]


def test_the_host_s_own_sources_are_those_that_apt_lists() -> None:
    support.need("apt-get")
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Identifier: Packages"],
        capture_output=True,
        text=True,
        check=True,
        env=support.environment(),
    ).stdout.split("\n")
    ours = {f"{s.uri.rstrip('/')}/ {s.suite} {part}" for s in sources.configured() for part in s.components}
    assert {line for line in listed if line} <= ours


def test_a_suite_takes_its_updates_and_no_other_s() -> None:
    known = [
        Source("http://d/", suite, ("main",)) for suite in ("bookworm", "bookworm-updates", "trixie", "bookwormish")
    ]
    assert [source.suite for source in sources.choose(known, "bookworm", None)] == ["bookworm", "bookworm-updates"]
    assert [source.suite for source in sources.choose(known, "sid", "bookworm")] == ["sid", "sid-updates"]
    with pytest.raises(errors.Unavailable):
        sources.choose(known, "sid", None)


def test_mirror_lists_of_the_host_become_their_first_mirror(tmp_path: Path) -> None:
    (tmp_path / "mirrors").write_text("# ours\nhttp://first.example/debian\thint\nhttp://second.example/debian\n")
    found = list(sources.parse_lines(f"deb mirror+file:{tmp_path}/mirrors bookworm main"))
    assert [source.uri for source in found] == ["http://first.example/debian"]


def test_others_packages_for_the_same_suite_are_left_out() -> None:
    def release(suite: str, origin: str) -> releases.Release:
        return releases.Release(Source("http://x/", suite), origin, 0, "")

    found = [release("bookworm", "Docker"), release("bookworm", "Debian"), release("bookworm-updates", "Debian")]
    kept = releases.of_distribution(found, "bookworm", ["debian"])
    assert [(one.source.suite, one.origin) for one in kept] == [("bookworm", "Debian"), ("bookworm-updates", "Debian")]


def test_a_release_without_a_date_is_refused() -> None:
    source = Source("http://x/", "bookworm")
    assert releases.parse(source, b"Origin: Debian\nDate: Sat, 21 Nov 2026 02:10:46 UTC\n").date == 1795227046
    with pytest.raises(errors.BadInput):
        releases.parse(source, b"Origin: Debian\n")


@pytest.mark.parametrize(
    ("stderr", "kind", "word"),
    [
        (b"E: Unable to locate package nosuch\nE: apt-get failed", errors.NoInput, "nosuch"),
        (b"E: unshare() failed: Operation not permitted", errors.Denied, "namespaces"),
        (b"tar: x: No space left on device\nE: tar failed", errors.IOFailure, "full"),
        (b"I: fine\nE: first reason\nE: consequence", errors.Unavailable, "first reason"),
    ],
)
def test_failures_of_mmdebstrap_are_explained(stderr: bytes, kind: type[errors.BangerError], word: str) -> None:
    error = mmdebstrap.explain(Result(25, b"", stderr))
    assert isinstance(error, kind) and word in error.message


def test_only_options_about_reaching_archives_are_passed_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "apt.conf"
    config.write_text('Acquire::http::Proxy "http://proxy.example:3142";\nAPT::Sandbox::User "root";\n')
    monkeypatch.setenv("APT_CONFIG", str(config))
    passed = hooks.options()
    assert 'Acquire::http::Proxy "http://proxy.example:3142";' in passed
    assert not re.search(r"^(APT|Dir|Acquire::IndexTargets|Acquire::Languages)", passed, re.MULTILINE)


# What follows makes root filesystems for real, from the archive that this host's apt uses.

TINY = "apt:bookworm?packages=hello&variant=essential"
_ENOUGH = 4 << 30


@pytest.fixture(scope="module", autouse=True)
def _work_in_memory() -> Iterator[None]:
    """Let mmdebstrap work in memory where there is enough: dpkg flushes so much that a disk takes thrice as long."""
    shm = Path("/dev/shm")
    with contextlib.ExitStack() as stack:
        if shm.is_dir() and shutil.disk_usage(shm).free > _ENOUGH and os.sysconf("SC_AVPHYS_PAGES") << 12 > _ENOUGH:
            patch = stack.enter_context(pytest.MonkeyPatch.context())
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir=shm))
            os.chmod(folder, 0o1777)
            patch.setenv("TMPDIR", folder)
        yield


def fetch(*words: str | os.PathLike[str], **kwargs: Any) -> dict[str, Any]:
    support.need("mmdebstrap", "apt-get")
    return support.manifest_of(support.run_ok("bg-fetch", *words, timeout=900, **kwargs))


def content(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.extractfile(name)
    assert member is not None
    return member.read()


@pytest.fixture(scope="module")
def debian(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The default root filesystem of packages."""
    home = tmp_path_factory.mktemp("apt-home")
    return {**fetch("apt:bookworm", env={"BANGER_HOME": str(home)}), "home": home}


@pytest.mark.slow
def test_a_suite_becomes_a_clean_root_filesystem(debian: dict[str, Any]) -> None:
    assert debian["name"] == "debian-bookworm"
    assert debian["image"]["config"]["Env"][0].startswith("PATH=")
    [layer] = debian["layers"]
    with tarfile.open(layer["path"]) as tar:
        names = set(tar.getnames())
        assert content(tar, "./etc/machine-id") == b""
        assert {"./etc/resolv.conf", "./etc/hostname", "./var/lib/systemd/random-seed"}.isdisjoint(names)
        assert not [name for name in names if "ssh_host_" in name or "banger-host" in name]
        assert not [
            name for name in names if re.match(r"\./var/(lib/apt/lists|cache/apt/archives)/[^/]+\.(deb|xz|lz4)", name)
        ]
        assert b"ssh-keygen -A" in content(tar, "./etc/systemd/system/ssh.service.d/10-host-keys.conf")
        status = content(tar, "./var/lib/dpkg/status").decode()
        shadow = content(tar, "./etc/shadow").decode()
        newest = max(member.mtime for member in tar.getmembers())
    for package in ("systemd", "systemd-sysv", "udev", "dbus", "iproute2", "openssh-server"):
        assert f"Package: {package}\nStatus: install ok installed" in status
    created = time.strptime(debian["image"]["created"], "%Y-%m-%dT%H:%M:%SZ")
    assert newest <= calendar.timegm(created)
    days = {line.split(":")[2] for line in shadow.splitlines()}
    assert len(days) == 1 and int(days.pop()) * 86400 <= newest
    assert "root:*:" in shadow


def only_versions(folder: Path) -> dict[str, str]:
    """Return an environment whose mmdebstrap tells its version, which shapes what is made, and makes nothing."""
    program = folder / "mmdebstrap"
    real = shutil.which("mmdebstrap", path=support.search_path())
    program.write_text(
        f'#!/bin/sh\n[ "$*" != --version ] || exec {real} --version\necho "E: it was run: $*" >&2\nexit 1\n'
    )
    program.chmod(0o755)
    return {"PATH": f"{folder}:{support.search_path()}"}


@pytest.mark.slow
def test_a_second_fetch_is_free_and_needs_no_network(debian: dict[str, Any], tmp_path: Path) -> None:
    env = {"BANGER_HOME": str(debian["home"]), **only_versions(tmp_path)}
    for option in ("--offline", "--pull=always"):
        assert fetch("apt:bookworm", option, env=env)["layers"] == debian["layers"]
    done = support.run("bg-fetch", "apt:bookworm?include=hello", "--offline", env=env)
    assert done.returncode == 69 and b"cache" in done.stderr
    done = support.run("bg-fetch", "apt:bookworm?include=hello", env=env)
    assert done.returncode == 69 and b"it was run" in done.stderr  # so it would have been noticed above


@pytest.mark.slow
def test_an_ordinary_user_gets_the_same_bytes(debian: dict[str, Any], user: support.OrdinaryUser) -> None:
    support.need("newuidmap")
    done = user.run("bg-fetch", "apt:bookworm", env={"BANGER_HOME": str(user.home / "apt-home")}, timeout=900)
    assert done.returncode == 0, done.stderr.decode()
    assert support.manifest_of(done.stdout)["layers"][0]["diff_id"] == debian["layers"][0]["diff_id"]


@pytest.mark.slow
def test_packages_can_take_the_place_of_the_default_ones(banger_home: Path) -> None:
    with tarfile.open(fetch(TINY)["layers"][0]["path"]) as tar:
        assert "./usr/bin/hello" in tar.getnames()
        status = content(tar, "./var/lib/dpkg/status").decode()
    assert "Package: hello\n" in status
    assert "Package: systemd\n" not in status


@pytest.mark.slow
def test_what_the_archives_do_not_have_is_said(banger_home: Path) -> None:
    support.need("mmdebstrap", "apt-get")
    done = support.run("bg-fetch", "apt:bookworm?packages=no-such-package&variant=essential", timeout=600)
    assert (done.returncode, done.stdout) == (66, b"")
    assert b"no-such-package" in done.stderr
    done = support.run("bg-fetch", "apt:nosuchsuite", timeout=600)
    assert done.returncode in (66, 69) and b"nosuchsuite" in done.stderr
    assert list((banger_home / "cache" / "partial").iterdir()) == []


@pytest.mark.slow
def test_a_misspelt_package_is_noticed_before_any_is_unpacked() -> None:
    support.need("mmdebstrap", "apt-get")
    packages = ("hello", "no-such-package")
    order = mmdebstrap.Order("bookworm", "essential", packages, "amd64", (), 0)
    done = subprocess.run(
        [*order.command(), "--extract-hook=echo unpacked >&2"],
        capture_output=True,
        env=support.environment(hooks.environment((), packages)),
    )
    assert done.returncode != 0 and b"running --setup-hook" in done.stderr and b"unpacked" not in done.stderr
    error = mmdebstrap.explain(Result(done.returncode, b"", done.stderr))
    assert error.status == 66 and "'no-such-package'" in error.message


def test_a_host_without_mmdebstrap_is_told_the_package(banger_home: Path, tmp_path: Path) -> None:
    python = subprocess.run(
        ["sh", "-c", "command -v python3"], capture_output=True, text=True, check=True
    ).stdout.strip()
    for name, target in (("python3", python), ("readlink", "/usr/bin/readlink"), ("sh", "/bin/sh")):
        (tmp_path / name).symlink_to(target)
    if any(Path(folder, "mmdebstrap").exists() for folder in ("/usr/local/sbin", "/usr/sbin", "/sbin")):
        support.cannot("mmdebstrap stands where it is always found")
    launcher = support.argv("bg-fetch", "apt:bookworm")
    env = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(launcher, capture_output=True, env=env)
    assert done.returncode == 69
    assert b"apt-get install mmdebstrap" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_build_leaves_no_process_and_no_file(number: int, banger_home: Path) -> None:
    support.need("mmdebstrap", "apt-get")
    argv = support.argv("bg-fetch", TINY)
    with tempfile.TemporaryDirectory(
        dir=os.environ.get("TMPDIR")
    ) as work:  # not tmp_path: the users of a namespace must get through
        os.chmod(work, 0o755)
        for pause in (1.0, 4.0, 8.0):
            env = support.environment({"TMPDIR": work})
            worker = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
            time.sleep(pause)
            worker.send_signal(number)
            status = worker.wait(60)
            assert status == 128 + number or (status == 0 and pause > 4)
            assert os.listdir(work) == []
            assert work not in Path("/proc/mounts").read_text()
            assert list((banger_home / "cache" / "partial").iterdir()) == []
            inside = subprocess.run(["pgrep", "-f", work], capture_output=True, env=support.environment())
            assert inside.stdout == b""


@pytest.mark.slow
def test_a_killed_build_is_cleared_away_when_the_last_of_its_programs_has_ended(
    banger_home: Path, tmp_path: Path
) -> None:
    support.need("mmdebstrap", "apt-get")
    partial = banger_home / "cache" / "partial"
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as work:
        os.chmod(work, 0o755)
        env = support.environment({"TMPDIR": work})
        worker = subprocess.Popen(support.argv("bg-fetch", TINY), stdout=subprocess.DEVNULL, env=env)
        while not list(Path(work).glob("banger-apt-*/mmdebstrap.*/var")):
            assert worker.poll() is None
            time.sleep(0.1)
        worker.kill()
        worker.wait()
        [note] = partial.glob("workspace-*")
        [workspace] = Path(work).iterdir()
        support.run_ok("banger", "cache", "prune", "--keep=0")
        assert workspace.is_dir() and note.exists()  # mmdebstrap still works there
        (workspace / "stays").write_bytes(b"what a build may leave")
        assert subprocess.run(["flock", "--timeout=120", note, "true"]).returncode == 0
        assert workspace.is_dir()
        support.run_ok("banger", "cache", "prune", "--keep=0")
        assert not workspace.exists() and not note.exists()
        support.run_ok("bg-fetch", f"rootfs:{_small_tar(tmp_path)}")  # it is alone, and clears the rest
        assert list(partial.iterdir()) == []


def _small_tar(folder: Path) -> Path:
    path = folder / "small.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("empty"))
    return path


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "folder", "symlink", "other"])
def test_a_damaged_record_of_a_build_is_as_good_as_none(damage: str, tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.prepare()
    temporary = cache.partial / "x"
    temporary.write_bytes(bytes(1024))
    diff_id = "sha256:" + hashlib.sha256(bytes(1024)).hexdigest()
    layer = manifest.Layer(diff_id, str(cache.keep_layer(temporary, diff_id)), 1024)
    record = records.Record("state", 1_700_000_000, "debian-bookworm", "apt:bookworm", layer)
    records.store(cache, "key", record)
    assert records.load(cache, "key", thorough=False) == record
    path = tmp_path / "apt" / "key.json"
    whole = path.read_bytes()
    for position in range(0, len(whole.rstrip()), 7) if damage in ("cut", "flip") else [0]:
        _damage(path, damage, position)
        assert records.load(cache, "key", thorough=False) in (None, record)
        if damage != "flip" or whole[position : position + 1].isalnum():
            assert records.load(cache, "key", thorough=False) is None
        records.store(cache, "key", record)
        assert path.read_bytes() == whole


def _damage(path: Path, damage: str, position: int) -> None:
    data = path.read_bytes()
    match damage:
        case "cut":
            path.write_bytes(data[:position])
        case "flip":
            path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        case "empty":
            path.write_bytes(b"")
        case "other":
            path.write_bytes(b'{"digest": 1, "record": []}')
        case _:
            path.unlink()
            if damage == "folder":
                (path / "inside").mkdir(parents=True)
            else:
                path.symlink_to("nowhere")
