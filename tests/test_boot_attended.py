"""bg-boot that stays with its machine: a command in it, its console; and names and ports that others have, too."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from banger_tools import boot, cli, errors
from banger_tools.manuals import manual_of
from banger_tools.store import vms
from tests import support
from tests.boots import delete, processes, said, show, vm_folders

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("home")]


def test_command_runs_in_the_machine_which_is_then_deleted(home: Path) -> None:
    before = vm_folders(home), processes(home)
    script = "cat; id -u; pwd; echo err >&2; exit 42"
    where = ["--user=7:8", "--cwd=/bin"]
    done = support.run("bg-boot", "--image=tiny", "--rm", f"--exec={script}", *where, stdin=b"in\n")
    assert (done.returncode, done.stdout, done.stderr) == (42, b"in\n7\n/bin\n", b"err\n")
    assert (vm_folders(home), processes(home)) == before


def test_command_has_no_input_where_the_manifest_came_from_stdin(home: Path) -> None:
    manifest = (home / "state" / "images" / "tiny" / "image.json").read_bytes()
    done = support.run("bg-boot", "--name=piped", "--exec=cat; echo end", stdin=manifest)
    try:
        assert (done.returncode, done.stdout) == (0, b"end\n"), done.stderr.decode()
        assert show("piped")["state"] == "running"  # without --rm
    finally:
        delete("piped")


def test_console_is_shown_until_the_machine_ends(home: Path) -> None:
    before = vm_folders(home), processes(home)
    done = support.run("bg-boot", "--image=tiny", "--console", "--rm", "--run", "--append=loglevel=7")
    assert done.returncode == 0, done.stderr.decode()
    assert b"Linux version" in done.stdout
    assert b"main ran" in done.stdout
    assert (vm_folders(home), processes(home)) == before


def test_interrupt_leaves_the_console_and_the_machine_running() -> None:
    argv = support.argv("bg-boot", "--image=tiny", "--name=shown", "--console", "--append=loglevel=7")
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=support.environment())
    assert process.stdout is not None
    try:
        while b"Linux version" not in process.stdout.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
        assert process.returncode == 130
        assert show("shown")["state"] == "running"
    finally:
        delete("shown")


def test_manifest_is_there_as_soon_as_the_monitor_runs_if_asked() -> None:
    for name, word in (("free", "--detach"), ("free", "--wait=none")):
        vm = support.manifest_of(support.run_ok("bg-boot", "--image=tiny", f"--name={name}", word))["vm"]
        try:
            assert (vm["state"], vm.get("boot_seconds")) == ("running", None)
        finally:
            delete(name)


def test_own_command_takes_the_place_of_the_images(home: Path) -> None:
    done = support.run("bg-boot", "--image=tiny", "--run", "--command=echo 'other  words'", "--console", "--rm")
    assert done.returncode == 0, done.stderr.decode()
    assert b"other  words" in done.stdout
    assert b"main ran" not in done.stdout


def test_image_without_a_command_cannot_run_it(home: Path, tmp_path: Path) -> None:
    before = vm_folders(home)
    manifest = json.loads((home / "state" / "images" / "tiny" / "image.json").read_text())
    manifest["image"]["config"] = {}
    done = support.run("bg-boot", "--run", stdin=json.dumps(manifest))
    assert (done.returncode, b"--command" in done.stderr) == (65, True), done.stderr
    assert vm_folders(home) == before


def test_generated_name_that_another_takes_meanwhile_is_no_failure(
    home: Path, visited: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The race itself: the name was free when it was made up, and is not when the machine is made."""
    made_up = iter([visited, "second-choice"])
    monkeypatch.setattr("banger_tools.vmm.plan.generated_name", lambda _image: next(made_up))
    monkeypatch.setattr("banger_tools.store.staging.refuse_taken", lambda *_, **__: None)
    try:
        assert boot.main(["--image=tiny", "--no-start"]) == 0
        assert json.loads(capsys.readouterr().out)["vm"]["name"] == "second-choice"
    finally:
        delete("second-choice")
    assert said(visited, "echo alive") == "alive\n"


def test_interrupted_before_it_was_told_of_a_machine_is_none(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = vm_folders(home)

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("banger_tools.stage.print_result", interrupted)
    assert boot.main(["--image=tiny", "--no-start", "--name=untold"]) == 130
    assert vm_folders(home) == before


def test_port_of_a_machine_that_rests_is_warned_of(home: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    support.run_ok("bg-boot", "--image=tiny", "--name=rests", f"--publish={port}:80", "--no-start")
    try:
        done = support.run("bg-boot", "--image=tiny", "--name=wakes", f"--publish={port}:81", "--no-start")
        assert done.returncode == 0
        assert f"port {port} is that of the VM 'rests'" in done.stderr.decode()
    finally:
        delete("rests")
        delete("wakes")


def test_without_any_monitor_it_is_said_what_to_install(home: Path, tmp_path: Path) -> None:
    if Path("/usr/sbin/qemu-system-x86_64").exists():
        support.cannot("QEMU is where programs are looked for in any case")
    before = vm_folders(home)
    for program in ("python3", "dirname", "readlink", "env", "sh"):
        found = subprocess.run(["which", program], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / program).symlink_to(found)
    words = support.argv("bg-boot", "--image=tiny")
    done = subprocess.run(words, capture_output=True, text=True, env={**support.environment(), "PATH": str(tmp_path)})
    assert done.returncode == 69, done.stderr
    assert "apt-get install qemu-system-x86" in done.stderr
    assert "firecracker: " in done.stderr
    assert vm_folders(home) == before


def test_progress_for_machines_tells_the_stages_and_their_times() -> None:
    began = time.monotonic()
    done = support.run("bg-boot", "--image=tiny", "--progress=json", "--exec=exit", "--rm")
    elapsed = time.monotonic() - began
    lines = [json.loads(line) for line in done.stderr.decode().splitlines()]
    ended = {line["what"]: line["seconds"] for line in lines if line["finished"]}
    assert list(ended) == ["image", "kernel", "monitor", "disks", "network", "boot", "agent"]
    assert 0 < sum(ended.values()) < elapsed


def test_limits_are_kept_in_the_record() -> None:
    arguments = ["--image=tiny", "--name=bounded", "--limit-disk=1M", "--limit-iops=200", "--no-start"]
    support.run_ok("bg-boot", *arguments)
    try:
        limits = vms.load("bounded").spec.limits
        assert (limits.disk_bytes, limits.disk_operations, limits.net_bytes) == (1 << 20, 200, None)
    finally:
        delete("bounded")


def test_sshd_that_never_comes_is_an_error_after_a_time_and_the_machine_runs_on(visited: str) -> None:
    arguments = cli.parse(manual_of("boot"), ["--image=tiny", "--wait=ssh", "--timeout=0.5"])
    with pytest.raises(errors.Retry) as caught:
        boot.attend(vms.load(visited), boot.Options.from_arguments(arguments), time.monotonic())
    assert f"sshd in the VM '{visited}'" in caught.value.message
    assert str(vms.folder(visited) / "console.log") in str(caught.value.hint)
    assert said(visited, "echo alive") == "alive\n"
    done = support.run("banger", "vm", "ssh", "--timeout=0.5", visited)
    assert (done.returncode, f"banger vm logs {visited}" in done.stderr.decode()) == (75, True)
