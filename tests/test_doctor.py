"""banger doctor: each condition is made real, and the check of it is the one that tells, with what mends it."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests import firecracker_lab, machines, support, webserver

Found = dict[str, list[dict[str, str]]]

ALL = {
    *("python", "packages", "guest", "e2fsprogs", "qemu", "firecracker", "kvm", "vsock", "tap", "ssh", "mmdebstrap"),
    *("config", "store", "cache", "reflink", "images", "kernels", "machines", "leftovers"),
    *("default image", "default kernel"),
}


def by_name(done: subprocess.CompletedProcess[bytes]) -> Found:
    """Return the checks by name; the status must be 1 if and only if one failed."""
    assert done.returncode in (0, 1), done.stderr.decode()
    found: Found = {}
    for check in json.loads(done.stdout):
        found.setdefault(check["check"], []).append(check)
    failed = any(check["result"] == "FAIL" for checks in found.values() for check in checks)
    assert done.returncode == int(failed)
    return found


def doctor(*words: str, env: Mapping[str, str] | None = None) -> Found:
    return by_name(support.run("banger", "doctor", "--json", *words, env=env))


def only(found: Found, name: str) -> tuple[str, str, str]:
    """Return result, detail and hint of a check that told one thing."""
    (check,) = found[name]
    return check["result"], check["detail"], check["hint"] or ""


def without(script: str, *programs: str) -> Found:
    """Run doctor in a mount namespace that a script changed, after which these programs are not there."""
    support.need("unshare", "mount")
    paths = [path for name in programs if (path := shutil.which(name, path=support.search_path()))]
    hidden = [f"mount --bind /dev/null '{os.path.realpath(path)}'" for path in paths]
    steps = " && ".join([*hidden, script, 'exec "$@"'])
    words = ["--mount", "sh", "-c", steps, "sh", *support.argv("banger", "doctor", "--json")]
    return by_name(support.run("unshare", *words))


def test_machine_that_runs_the_tests_has_no_failure_and_every_check_is_told(banger_home: Path) -> None:
    found = doctor()
    assert set(found) >= ALL
    assert {check["result"] for checks in found.values() for check in checks} <= {"PASS", "WARN"}
    assert only(found, "python")[:2] == ("PASS", f"{sys.version.split()[0]}, {support.ROOT}/.venv/bin/python")


def test_people_read_the_same_as_programs(banger_home: Path) -> None:
    told = support.run("banger", "doctor").stdout.decode()
    checks = [check for found in doctor().values() for check in found]
    for check in checks:
        detail = re.escape(check["detail"][-40:] if "free" in check["detail"] else check["detail"])  # others write, too
        assert re.search(rf"^{check['result']}  {check['check']} .*{detail}$", told, re.MULTILINE), check
    assert told.count("hint: ") == sum(bool(check["hint"]) for check in checks)


# Networks


def in_network(script: str) -> Found:
    """Run doctor in a network of its own, which a script changed."""
    support.need_root()
    support.need("unshare", "ip")
    steps = f'{script} && exec "$@"'
    return by_name(
        support.run("unshare", "--net", "sh", "-c", steps, "sh", *support.argv("banger", "doctor", "--json"))
    )


@pytest.mark.root
def test_subnet_that_the_host_has_already_is_told(banger_home: Path) -> None:
    link = "ip link add other type bridge && ip link set other up"
    result, detail, _ = only(in_network(f"{link} && ip address add 172.16.9.1/24 dev other"), "tap")
    assert result == "WARN" and "'172.16.9.0/24' by 'other'" in detail
    assert only(in_network(f"{link} && ip address add 10.9.9.1/24 dev other"), "tap")[0] == "PASS"


@pytest.mark.root
def test_bridge_that_has_lost_its_rules_is_told(banger_home: Path) -> None:
    steps = ["link add banger type bridge", "address add 172.16.0.1/16 dev banger", "link set banger up alias"]
    bridge = " && ".join(f"ip {step}" for step in steps) + " 'banger bridge'"
    result, detail, hint = only(in_network(bridge), "tap")
    assert result == "WARN" and "'banger' has lost its table" in detail and "restart" in hint
    assert only(in_network(f"{bridge} && nft add table inet banger"), "tap")[0] == "WARN"  # not ours


@pytest.mark.root
def test_tap_of_a_machine_that_is_gone_is_told(banger_home: Path) -> None:
    tap = 'ip tuntap add dev bg-ac100005 mode tap && ip link set bg-ac100005 alias "banger vm /no/such/vm"'
    result, detail, hint = only(in_network(tap), "leftovers")
    assert (result, hint) == ("WARN", "banger prune") and "bg-ac100005" in detail


# Programs


@pytest.mark.root
@pytest.mark.parametrize(
    ("program", "check", "result", "cost", "mend"),
    [
        ("resize2fs", "e2fsprogs", "FAIL", "not installed", "apt-get install e2fsprogs"),
        ("qemu-system-x86_64", "qemu", "FAIL", "no machine can run", "apt-get install qemu-system-x86"),
        ("qemu-img", "qemu", "WARN", "cannot be an overlay", "apt-get install qemu-utils"),
        ("ssh", "ssh", "WARN", "banger vm exec only", "apt-get install openssh-client"),
        ("mmdebstrap", "mmdebstrap", "WARN", "apt: images cannot be made", "apt-get install mmdebstrap"),
        ("apt-cache", "default kernel", "WARN", "need --kernel-ref", "banger kernel import --from FOLDER"),
    ],
)
def test_program_that_is_missing_is_told_with_its_cost_and_package(
    banger_home: Path, program: str, check: str, result: str, cost: str, mend: str
) -> None:
    support.need(program)
    told = only(without("true", program), check)
    assert told[0] == result
    assert program in told[1]
    assert cost in told[1]
    assert told[2] == mend


@pytest.mark.root
def test_default_image_comes_from_a_registry_where_packages_cannot_be_used(banger_home: Path) -> None:
    found = without("true", "mmdebstrap")
    assert "docker://debian:bookworm" in only(found, "default image")[1]
    assert only(found, "default image")[0] == "PASS"


@pytest.mark.parametrize(
    ("program", "said", "check", "result"),
    [
        ("mke2fs", "echo 'mke2fs 1.42.13 (17-May-2015)' >&2", "e2fsprogs", "FAIL"),
        ("firecracker", "echo Firecracker v1.4.1", "firecracker", "WARN"),
    ],
)
def test_program_that_is_too_old_is_told(
    banger_home: Path, tmp_path: Path, program: str, said: str, check: str, result: str
) -> None:
    (tmp_path / program).write_text(f"#!/bin/sh\n{said}\n")
    (tmp_path / program).chmod(0o755)
    told = only(doctor(env={"PATH": f"{tmp_path}:{support.search_path()}"}), check)
    assert told[0] == result
    assert re.match(r"1\.4\S+ is (too old|older than 1\.5)", told[1])


@pytest.mark.firecracker
def test_release_of_firecracker_passes_with_its_jailer(banger_home: Path, pytestconfig: pytest.Config) -> None:
    folder = firecracker_lab.programs(Path(pytestconfig.cache.mkdir("firecracker-1.12.1")))
    found = doctor(env={"PATH": f"{folder}:{support.search_path()}"})
    assert only(found, "firecracker")[0] == "PASS"
    assert only(found, "firecracker")[1].startswith("1.12.1")
    assert only(found, "jailer")[0] == "PASS"


def test_python_without_the_packages_is_told_which_and_no_more(banger_home: Path) -> None:
    docopt = support.ROOT / ".venv" / "docopt-0.6.2"
    if not docopt.is_dir():
        support.cannot(f"docopt 0.6.2 is not in '{docopt}': make test puts it there")
    env = support.environment({"PYTHONPATH": f"{support.ROOT}:{docopt}"})
    argv = [sys.executable, "-S", "-P", "-m", "banger_tools.banger", "doctor", "--json"]
    done = subprocess.run(argv, capture_output=True, env=env, check=False)
    found = by_name(done)
    assert only(found, "packages")[:2] == (
        "FAIL",
        "missing: zstandard, elftools, tqdm, isal, crc32c, msgspec, urllib3, lz4",
    )
    assert [name for name, checks in found.items() if checks[0]["result"] == "FAIL"] == ["packages"]


# Devices


@pytest.mark.root
def test_host_without_virtualisation_is_told_what_that_costs(banger_home: Path, tmp_path: Path) -> None:
    bare = f"mount -t tmpfs dev '{tmp_path}' && touch '{tmp_path}/null' && mount --bind /dev/null '{tmp_path}/null'"
    found = without(f"{bare} && mount --rbind '{tmp_path}' /dev")
    assert only(found, "kvm")[0] == "WARN"
    assert "no /dev/kvm: machines run emulated" in only(found, "kvm")[1]
    assert only(found, "vsock") == ("PASS", only(found, "vsock")[1], "")
    assert "virtio-serial" in only(found, "vsock")[1]


@pytest.mark.root
def test_user_without_rights_is_told_how_to_get_them(user: support.OrdinaryUser, tmp_path: Path) -> None:
    (tmp_path / "kvm").touch(mode=0o600)
    (tmp_path / "subuid").touch(mode=0o644)
    if not Path("/dev/kvm").exists():
        support.cannot("there is no /dev/kvm to be shut")
    steps = f"mount --bind {tmp_path}/kvm /dev/kvm && mount --bind {tmp_path}/subuid /etc/subuid"
    words = ["--mount", "sh", "-c", f'{steps} && exec "$@"', "sh", *user.argv("banger", "doctor", "--json")]
    argv = ["unshare", *words]
    found = by_name(subprocess.run(argv, capture_output=True, env=user.environment(), cwd=user.home, check=False))
    assert only(found, "kvm")[0] == only(found, "mmdebstrap")[0] == only(found, "tap")[0] == "WARN"
    assert only(found, "kvm")[2] == f"sudo usermod -aG kvm {user.name}"
    assert f"/etc/subuid has no range for '{user.name}'" in only(found, "mmdebstrap")[1]
    assert only(found, "mmdebstrap")[2].startswith("sudo usermod --add-subuids ")
    assert "--net tap cannot be used" in only(found, "tap")[1]


# Places


@pytest.mark.root
def test_disk_without_room_fails(small_disk: Path) -> None:
    found = doctor(env={"BANGER_HOME": str(small_disk)})
    for name in ("store", "cache"):
        assert only(found, name)[0] == "FAIL"
        assert "no image can be made" in only(found, name)[1]
        assert "BANGER_HOME" in only(found, name)[2]


@pytest.mark.root
def test_folder_that_may_not_be_written_fails(
    user: support.OrdinaryUser, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = user.home.parent / "of-root"
    folder.mkdir(mode=0o755, exist_ok=True)
    found = by_name(user.run("banger", "doctor", "--json", env={"BANGER_HOME": str(folder)}))
    for name in ("store", "cache"):
        assert only(found, name) == ("FAIL", f"'{folder}' may not be written", "set BANGER_HOME to a folder of yours")


@pytest.mark.root
def test_store_that_may_not_be_read_fails_without_a_bug(user: support.OrdinaryUser) -> None:
    folder = user.home.parent / "shut"
    (folder / "state" / "images").mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    done = user.run("banger", "doctor", "--json", env={"BANGER_HOME": str(folder)})
    found = by_name(done)
    assert {only(found, name)[0] for name in ("store", "cache", "images", "machines")} == {"FAIL"}
    assert "permission denied" in only(found, "images")[1]


def test_settings_that_are_wrong_fail(banger_home: Path) -> None:
    (banger_home / "config").mkdir()
    (banger_home / "config" / "config.toml").write_text("[[catalogs]]\nfiel = 'x'\n")
    told = only(doctor(), "config")
    assert told[0] == "FAIL"
    assert str(banger_home / "config" / "config.toml") in told[1]


# The store


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    return machines.mke2fs(tmp_path / "disk.ext4")


def publish(disk: Path, name: str, **sections: object) -> Path:
    """Publish an image, and return its folder."""
    printed = support.run_ok("bg-publish", "--no-kernel", f"--name={name}", stdin=machines.manifest(disk, **sections))
    return Path(support.manifest_of(printed)["published"]["path"])


def test_broken_image_is_named_and_the_others_are_counted(banger_home: Path, disk: Path) -> None:
    for name in ("whole", "beheaded", "emptied"):
        publish(disk, name)
    images = banger_home / "state" / "images"
    (images / "beheaded" / "rootfs.ext4").unlink()
    (images / "emptied" / "image.json").write_text("")
    told = doctor()["images"]
    assert [check["result"] for check in told] == ["FAIL", "FAIL", "PASS"]
    assert told[0]["detail"] == "the image 'beheaded' is broken: its 'rootfs.ext4' is missing"
    assert str(images / "beheaded") in told[0]["hint"]
    assert "emptied" in told[1]["detail"]
    assert told[2]["detail"] == "1 image"


def test_broken_kernel_and_machine_are_named(banger_home: Path) -> None:
    for place, record in (("kernels/torn", "kernel.json"), ("vms/torn", "vm.json")):
        folder = banger_home / "state" / place
        folder.mkdir(parents=True)
        (folder / record).write_text('{"schema": ')
    found = doctor()
    assert only(found, "kernels")[0] == only(found, "machines")[0] == "FAIL"
    assert "the kernel 'torn' is broken" in only(found, "kernels")[1]
    assert only(found, "kernels")[2].startswith("banger kernel delete torn")
    assert "the VM 'torn' is broken" in only(found, "machines")[1]


def test_image_without_a_work_seed_is_told_to_have_an_empty_home(banger_home: Path, disk: Path, tmp_path: Path) -> None:
    seed = machines.mke2fs(tmp_path / "seed.ext4", size="8M")
    section = {"path": str(seed), "size": seed.stat().st_size, "uuid": "", "home": "/root", "entries": 1}
    folder = publish(disk, "seeded", work_seed=section)
    assert only(doctor(), "work seeds")[:2] == ("PASS", "every image has one")
    publish(disk, "bare", work_seed=None, work_seed_reason="the image has no /root")
    assert only(doctor(), "work seeds")[:2] == (
        "PASS",
        "the guest's /root will be empty, as the image's: 'bare': the image has no /root",
    )
    (folder / "work-seed.ext4").unlink()
    told = only(doctor(), "work seeds")
    assert told[:2] == ("WARN", "the guest's /root will be empty: 'seeded': its 'work-seed.ext4' is missing")
    assert "banger image pull --replace --name=seeded" in told[2]


def test_what_a_dead_program_left_is_told_and_what_a_living_one_makes_is_not(banger_home: Path) -> None:
    images = banger_home / "state" / "images"
    dead, living = images / "a.staging-0123", images / "b.staging-4567"
    for folder in (dead, living):
        folder.mkdir(parents=True)
    descriptor = os.open(living, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        told = only(doctor(), "leftovers")
    finally:
        os.close(descriptor)
    assert told[0] == "WARN"
    assert str(dead) in told[1]
    assert str(living) not in told[1]
    dead.rmdir()
    living.rmdir()
    assert only(doctor(), "leftovers")[:2] == ("PASS", "none")


def test_default_image_is_found_here_or_said_to_be_made(banger_home: Path, disk: Path) -> None:
    default = "debian-bookworm"
    assert f"{default} if not given" in support.run("banger", "vm", "run", "--help").stdout.decode()
    assert only(doctor(), "default image")[1].startswith("not here yet; banger vm run makes it of ")
    publish(disk, default)
    assert only(doctor(), "default image")[:2] == ("PASS", f"'{default}' is here")


# Catalogs


def test_catalogs_are_asked_with_online_only_and_nothing_of_them_is_kept(banger_home: Path) -> None:
    with webserver.serve() as site:
        site.files["good.json"] = json.dumps({"schema": "banger-catalog/1", "images": []}).encode()
        urls = [site.url("good.json"), site.url("none.json")]
        (banger_home / "config").mkdir()
        text = "".join(f"[[catalogs]]\nurl = '{url}'\n" for url in urls)
        (banger_home / "config" / "config.toml").write_text(text)
        assert "catalogs" not in doctor()
        assert site.seen == []
        good, bad = doctor("--online")["catalogs"]
    assert (good["result"], good["detail"]) == ("PASS", f"'{urls[0]}': 0 images, 0 kernels")
    assert bad["result"] == "WARN"
    assert urls[1] in bad["detail"]
    assert not (banger_home / "cache").exists()


# It changes nothing


def snapshot(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return what stat(2) tells of all below a folder, but when it was read last."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        told = (status.st_ino, status.st_mode, status.st_uid, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        found[str(path.relative_to(folder))] = told
    return found


def test_doctor_changes_nothing_but_the_note_on_kvm(home: Path) -> None:
    doctor()  # which notes the answer of KVM, if there is a kernel to try it with
    (home / "state" / "images" / "x.staging-0").mkdir(exist_ok=True)
    try:
        before = snapshot(home)
        assert only(doctor(), "leftovers")[0] == "WARN"
        assert snapshot(home) == before
    finally:
        (home / "state" / "images" / "x.staging-0").rmdir()


def test_doctor_of_an_ordinary_user_leaves_at_most_the_note_on_kvm(user: support.OrdinaryUser) -> None:
    before = snapshot(user.home)
    by_name(user.run("banger", "doctor", "--json"))
    note = {".cache", ".cache/banger", *(f".cache/banger/kvm.{name}" for name in ("json", "lock"))}
    left = set(snapshot(user.home)) - set(before)
    assert left <= note
    if not left:
        assert snapshot(user.home) == before
