"""What happens to a machine meanwhile: it goes, its store is moved, signals come while it is undone, time goes by."""

from __future__ import annotations

import signal
import socket
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from msgspec import structs

from banger_tools import boot, cli, errors, files
from banger_tools.commands import vm_kill, vm_list, vm_prune
from banger_tools.doctor import stored
from banger_tools.manifest import Manifest
from banger_tools.manuals import manual_of
from banger_tools.store import vms
from banger_tools.vmm import holder, inside, interface, life, ssh
from banger_tools.vmm import spec as specs

MANUAL = """tool: a tool.

Usage:
  tool [options]

Options:
  @talk
"""
GONE = "gone"


@pytest.fixture
def machine(banger_home: Path, tmp_path: Path) -> specs.Spec:
    """The spec of a machine that was made and not started; its kernel and its disk are nothing."""
    disk, kernel = tmp_path / "disk.ext4", tmp_path / "vmlinux"
    disk.write_bytes(bytes(4096))
    kernel.write_bytes(b"kernel")
    booted, guest = specs.Boot(str(kernel)), specs.Guest()
    spec = specs.Spec("8cf57cc4", "web", "tiny", "amd64", "qemu", 1, 128 << 20, "none", booted, guest)
    life.create(spec, life.Sources(disk, None, None, None), Manifest())
    return spec


def is_locked(name: str) -> bool:
    try:
        with files.locked_folder(vms.folder(name), wait=0, what=name):
            return False
    except errors.Retry:
        return True


def test_undo_of_a_boot_holds_the_machine_and_no_second_signal_breaks_it_off(
    machine: specs.Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = life.delete
    held: list[bool] = []

    def delete(name: str, *, force: bool) -> None:
        held.append(is_locked(name))
        signal.raise_signal(signal.SIGTERM)
        real(name, force=force)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(life, "delete", delete)
    monkeypatch.setattr(life, "create", interrupted)  # the machine is there; it was only not told of
    section = {"name": "tiny", "path": "/", "rootfs": str(vms.folder("web") / "root.ext4")}
    image = Manifest()
    image.raw["published"] = section
    options = boot.Options.from_arguments(cli.parse(manual_of("boot"), ["--name=web"]))
    monkeypatch.setattr("banger_tools.vmm.plan.machine", lambda *_: machine)
    assert cli.run(MANUAL, [], lambda _: boot.boot(image, options) and None) == 143
    assert (held, vms.listed()) == ([True], [])


def test_undo_of_a_start_is_not_broken_off_by_a_second_signal(
    machine: specs.Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = vms.folder("web")
    cleared: list[bool] = []

    def wait_started(*_: object) -> bool:
        assert holder.is_alive(folder)
        raise KeyboardInterrupt

    real = life.kill

    def kill(record: specs.Record) -> None:
        signal.raise_signal(signal.SIGTERM)
        real(record)

    monitor = SimpleNamespace(
        POWER="acpi",
        check=lambda _: None,
        accelerator=lambda _: "tcg",
        clear=lambda _: cleared.append(holder.is_alive(folder)),
        prepare=lambda _: interface.Launch(["sleep", "60"], "none"),
        wait_started=wait_started,
    )
    monkeypatch.setattr(interface, "monitor", lambda _: monitor)
    monkeypatch.setattr(life, "kill", kill)
    assert cli.run(MANUAL, [], lambda _: life.start("web") and None) == 143
    assert (holder.is_alive(folder), vms.load("web").process, cleared[-1]) == (False, None, False)


def test_kill_of_a_machine_that_its_starter_then_removes_has_done_its_work(
    machine: specs.Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = life.end_now

    def end(name: str) -> None:
        real(name)
        life.delete(name, force=False)

    monkeypatch.setattr(life, "end_now", end)
    holder.start(["sleep", "60"], vms.folder("web"))
    assert vm_kill.main(["web"]) == 0
    assert vm_kill.main(["web"]) == errors.NoInput.status


def test_removing_a_machine_that_is_gone_is_no_failure(banger_home: Path) -> None:
    inside.remove(GONE)


def test_machine_that_went_after_it_was_listed_is_left_out(
    machine: specs.Spec, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vms, "listed", lambda: [GONE, "web"])
    assert [row.name for row in vm_list.rows(running_only=False)] == ["web"]
    assert vm_prune.prunable() == ["web"]
    assert [check.result for check in stored.machines()] == ["PASS"]
    assert capsys.readouterr().err == ""


def test_machine_of_a_store_that_was_moved_is_whole(
    machine: specs.Spec, banger_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moved = banger_home.rename(banger_home.parent / "elsewhere")
    monkeypatch.setenv("BANGER_HOME", str(moved))
    kernel = Path(vms.load("web").spec.boot.kernel)
    assert (kernel.parent, kernel.read_bytes()) == (vms.folder("web") / "kernel", b"kernel")
    assert str(banger_home) not in (vms.folder("web") / specs.RECORD).read_text()
    vms.save(vms.load("web"))
    assert [check.result for check in stored.machines()] == ["PASS"]


def test_machine_whose_record_names_another_place_is_told_to_be_made_for_that(machine: specs.Spec) -> None:
    record = vms.folder("web") / specs.RECORD
    record.write_text(record.read_text().replace('"kernel/vmlinux"', '"/nowhere/vms/web/kernel/vmlinux"'))
    (check,) = stored.machines()
    assert (check.result, "was made for '/nowhere/vms/web'" in check.detail) == ("FAIL", True)


def test_agent_and_sshd_share_one_deadline(machine: specs.Spec, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: list[float] = []
    monkeypatch.setattr(ssh, "wait", lambda _, deadline: deadlines.append(deadline))
    words = ["--image=tiny", "--wait=ssh", "--timeout=100"]
    options = boot.Options.from_arguments(cli.parse(manual_of("boot"), words))
    boot.attend(vms.load("web"), options, 1000.0)
    assert deadlines == [1100.0]


def test_look_for_an_sshd_takes_no_longer_than_what_is_left(
    machine: specs.Spec, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = vms.load("web")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        forward = specs.Forward(silent.getsockname()[1], ssh.PORT)
        record = structs.replace(record, spec=structs.replace(record.spec, forwards=[forward]))
        monkeypatch.setattr(holder, "is_alive", lambda _: True)
        began = time.monotonic()
        with pytest.raises(errors.Retry):
            ssh.wait(record, began + 0.2)
    assert time.monotonic() - began < 9  # and not the ten seconds that one attempt may take
