"""bg-boot when a machine cannot start, or may not: what is said, and that nothing of it stays."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests import support
from tests.boots import NO_END, delete, processes, said, show, vm_folders

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]


def test_machine_that_cannot_boot_is_undone_and_its_last_words_shown(home: Path) -> None:
    before = vm_folders(home), processes(home)
    done = support.run("bg-boot", "--image=tiny", "--name=broken", "--append=rdinit=/nothing root=/dev/nothing")
    assert done.returncode == 69, done.stderr
    assert b"the VM 'broken' ended while it booted" in done.stderr
    assert b"Kernel panic" in done.stderr
    assert done.stdout == b""
    assert (vm_folders(home), processes(home)) == before


def test_monitor_that_does_not_start_is_undone_and_its_words_shown(home: Path, tmp_path: Path) -> None:
    real = shutil.which("qemu-system-x86_64", path=support.search_path())
    fake = tmp_path / "qemu-system-x86_64"
    fake.write_text(f"""#!/bin/sh
        case $* in *--version*) exec {real} "$@" ;; esac
        echo "qemu: cannot set up guest memory" >&2
        exit 1""")
    fake.chmod(0o755)
    before = vm_folders(home), processes(home)
    path = {"PATH": f"{tmp_path}:{support.search_path()}"}
    done = support.run("bg-boot", "--image=tiny", "--name=broken", env=path)
    assert done.returncode == 69, done.stderr
    assert b"cannot set up guest memory" in done.stderr
    assert (vm_folders(home), processes(home)) == before


def test_kernel_that_is_none_is_refused_before_anything_is_made(home: Path, tmp_path: Path) -> None:
    broken = tmp_path / "kernel"
    broken.write_bytes(b"no kernel at all")
    before = vm_folders(home)
    done = support.run("bg-boot", "--image=tiny", "--name=broken", f"--kernel={broken}")
    assert done.returncode == 65, done.stderr
    assert str(broken).encode() in done.stderr
    assert vm_folders(home) == before


def test_agent_that_does_not_answer_in_time_ends_the_attempt(home: Path) -> None:
    before = vm_folders(home), processes(home)
    done = support.run("bg-boot", "--image=tiny", "--name=slow", "--timeout=0.3", f"--append={NO_END}")
    assert done.returncode == 75, done.stderr
    assert b"did not answer within" in done.stderr
    assert (vm_folders(home), processes(home)) == before


def test_failed_machine_is_kept_to_look_at_if_asked(home: Path) -> None:
    done = support.run("bg-boot", "--image=tiny", "--name=corpse", "--timeout=0.3", "--keep", f"--append={NO_END}")
    assert done.returncode == 75
    try:
        assert show("corpse")["state"] == "stopped"
        assert str(home / "state" / "vms" / "corpse") in done.stderr.decode()
    finally:
        delete("corpse")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted_boot_leaves_nothing(home: Path, number: int, status: int) -> None:
    before = vm_folders(home), processes(home)
    argv = support.argv("bg-boot", "-v", "--image=tiny", "--name=stopped", f"--append={NO_END}")
    for moment in range(10):
        seconds = moment**2 / 50  # from the making of the disks to the kernel's boot
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=support.environment())
        wait_for_more(home, before[0])
        time.sleep(seconds)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == status, stderr.decode()
        assert (vm_folders(home), processes(home)) == before


def wait_for_more(home: Path, before: list[str]) -> None:
    """Wait until a boot has begun to make something."""
    deadline = time.monotonic() + 30
    while vm_folders(home) == before and time.monotonic() < deadline:
        time.sleep(0.002)


def test_of_two_machines_of_one_name_one_wins(home: Path) -> None:
    argv = support.argv("bg-boot", "--image=tiny", "--name=race")
    running = [
        subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=support.environment())
        for _ in range(3)
    ]
    for process in running:
        process.communicate(timeout=200)
    try:
        assert sorted(process.returncode for process in running) == [0, 73, 73]
        assert said("race", "echo alive") == "alive\n"
    finally:
        delete("race")


WRONG = [
    ["--cpus=0"],
    ["--cpus=two"],
    ["--memory=0"],
    ["--memory=900T"],
    ["--disk=x"],
    ["--work-disk=0"],
    ["--net=tap0"],
    ["--vmm=xen"],
    ["--publish=80"],
    ["--publish=1:1", "--net=none"],
    ["--env=A"],
    ["--wait=sshd"],
    ["--wait=none", "--exec=true"],
    ["--wait=agent", "--detach"],
    ["--timeout=0"],
    ["--timeout=soon"],
    ["--name=Not_Good"],
    ["--initrd=/dev/null"],
    ["--user=root"],
    ["--cwd=/"],
    ["--command=true"],
    ["--command=", "--run"],
    ["--command='", "--run"],
    ["--rm"],
    ["--rm", "--keep", "--console"],
    ["--exec=true", "--console"],
    ["--no-start", "--exec=true"],
    ["--path", "--exec=true"],
    ["--jail", "--vmm=qemu"],
    ["--net=user", "--vmm=firecracker"],
    ["--limit-iops=0"],
    ["--limit-disk=fast"],
    ["--limit-net=0"],
    ["--publish=8080:1", "--publish=0.0.0.0:8080:2"],
    ["--nat"],
    ["--unknown"],
    ["--kernel=/dev/null", "--kernel-ref=x"],
]


@pytest.mark.parametrize("words", WRONG, ids=" ".join)
def test_wrong_value_is_refused_by_name_before_anything_is_made(home: Path, words: list[str]) -> None:
    before = vm_folders(home)
    done = support.run("bg-boot", "--image=tiny", *words)
    assert done.returncode == 64, done.stderr
    assert words[0].split("=")[0].encode() in done.stderr
    assert vm_folders(home) == before


def test_missing_image_kernel_and_machine_are_said_to_be_missing() -> None:
    for words in (
        ["bg-boot", "--image=nosuch"],
        ["bg-boot", "--image=tiny", "--kernel-ref=nosuch"],
        ["banger", "vm", "stop", "nosuch"],
        ["banger", "vm", "exec", "nosuch"],
    ):
        done = support.run(*words)
        assert done.returncode == 66, (words, done.stderr)
        assert b"'nosuch'" in done.stderr
