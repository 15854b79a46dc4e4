"""The life of a machine: stopped, started, killed, changed, deleted; and what becomes of its data."""

from __future__ import annotations

import json
import os
import pty
import socket
import subprocess
from pathlib import Path

from tests import support
from tests.smoke.user import banger, fsck, inside, kill, listed, machines, refused, shown, temporary, until


def doctor(name: str) -> str:
    """Return what doctor says of a machine, nothing if it finds it well."""
    checks = json.loads(support.run("banger", "doctor", "--json").stdout)
    return "".join(
        check["detail"] for check in checks if check["check"] == "machines" and f"'{name}'" in check["detail"]
    )


def test_stop_and_start_keep_what_both_disks_have(machine: str) -> None:
    inside(machine, "echo root >/on-root; echo work >/root/on-work")
    banger("vm", "stop", machine)
    assert listed()[machine]["state"] == "stopped"
    assert fsck(Path(shown(machine)["path"], "work.ext4")) == 0
    banger("vm", "start", machine)
    assert inside(machine, "cat /on-root /root/on-work") == "root\nwork\n"


def test_restart_is_a_new_boot_with_the_same_disks(machine: str) -> None:
    boot = "cat /proc/sys/kernel/random/boot_id"
    before = inside(machine, f"echo kept >/file; {boot}")
    banger("vm", "restart", machine)
    assert inside(machine, "cat /file") == "kept\n"
    assert inside(machine, boot) != before


def test_killed_monitor_is_seen_and_the_machine_starts_again(machine: str) -> None:
    inside(machine, "echo synced >/file; sync")
    kill(machine)
    assert listed()[machine]["state"] != "running"
    assert doctor(machine).startswith(f"the VM '{machine}' ended: ")
    assert "not running" in refused(73, "vm", "exec", machine, "--", "true")
    banger("vm", "start", machine)
    assert inside(machine, "cat /file") == "synced\n"
    assert doctor(machine) == ""


def test_machine_of_before_the_hosts_restart_is_seen_and_starts_again(machine: str) -> None:
    """Another boot id in the record, and a process id that is somebody else's now: our own."""
    kill(machine)
    path = Path(shown(machine)["path"], "vm.json")
    record = json.loads(path.read_text())
    record["process"].update(pid=os.getpid(), boot_id="00000000-0000-0000-0000-000000000000")
    path.write_text(json.dumps(record))
    assert listed()[machine]["state"] != "running"
    assert doctor(machine) == f"the VM '{machine}' ended: the host was restarted since"
    banger("vm", "start", machine)
    assert inside(machine, "echo back") == "back\n"


def test_machine_outlives_the_terminal_that_started_it(machine: str) -> None:
    """The shell that started it gets a SIGHUP since its terminal goes, as when an ssh session breaks."""
    banger("vm", "stop", machine)
    pid, terminal = pty.fork()
    if pid == 0:
        line = f"'{support.BIN}/banger' vm start {machine}; echo it is up; sleep 1000"
        os.execvpe("sh", ["sh", "-c", line], support.environment())
    said = b""
    while b"it is up" not in said:
        said += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert inside(machine, "echo alive") == "alive\n"


def test_kill_ends_a_machine_at_once_and_start_repairs_it(machine: str) -> None:
    inside(machine, "echo synced >/file; sync")
    banger("vm", "kill", machine)
    assert listed()[machine]["state"] != "running"
    banger("vm", "start", machine)
    assert inside(machine, "cat /file") == "synced\n"


def test_monitor_killed_in_the_midst_of_writing_leaves_disks_that_check_clean(machine: str) -> None:
    writer = "mkdir -p /d /root/d; n=0; while :; do n=$((n + 1)); echo $n >/d/$n; echo $n >/root/d/$n; done"
    inside(machine, "echo before >/synced; sync")
    inside(machine, f"({writer}) >/dev/null 2>&1 </dev/null &")
    until(lambda: int(inside(machine, "ls /root/d 2>/dev/null | busybox wc -l")) > 50, "it writes")
    kill(machine)
    folder = Path(shown(machine)["path"])
    disks = [path for path in folder.glob("*.ext4") if path.name != "base.ext4"]
    assert len(disks) == 2
    assert [fsck(disk) for disk in disks] == [0, 0]
    banger("vm", "start", machine)
    assert inside(machine, "cat /synced") == "before\n"


def test_set_changes_processors_memory_and_disks_of_a_stopped_machine(machine: str) -> None:
    banger("vm", "stop", machine)
    banger("vm", "set", "--cpus=2", "--memory=400M", "--disk=200M", "--work-disk=2G", machine)
    banger("vm", "start", machine)
    assert (shown(machine)["cpus"], shown(machine)["memory"]) == (2, 400 << 20)
    said = inside(machine, "busybox nproc; df -m / | busybox tail -n 1; df -m /root | busybox tail -n 1").splitlines()
    assert said[0] == "2"
    assert int(said[1].split()[1]) > 150
    assert int(said[2].split()[1]) > 1800


def test_taken_name_is_refused_and_its_machine_unharmed(machine: str, home: Path) -> None:
    before = machines(home)
    assert "exists already" in refused(73, "vm", "create", "--image=tiny", f"--name={machine}")
    assert inside(machine, "echo unharmed") == "unharmed\n"
    assert machines(home) == before


def test_taken_port_is_refused_before_anything_is_made(home: Path) -> None:
    before = machines(home)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in refused(73, "vm", "create", "--image=tiny", f"--publish={port}:80")
    assert machines(home) == before


def test_running_machine_is_deleted_by_force_only(home: Path) -> None:
    with temporary("stays") as name:
        assert "running" in refused(73, "vm", "delete", name)
        assert inside(name, "echo unharmed") == "unharmed\n"
        banger("vm", "delete", "--force", name)
        assert name not in machines(home)
        refused(66, "vm", "show", name)


def test_prune_removes_what_does_not_run_and_nothing_else(machine: str, home: Path) -> None:
    with temporary("done-with") as name:
        banger("vm", "stop", name)
        left = home / "state" / "vms" / "dead.staging-0123"
        left.mkdir()
        banger("vm", "prune", "--force")
        assert machines(home) == [machine]
    assert inside(machine, "echo unharmed") == "unharmed\n"


def test_several_machines_are_led_by_one_command(machine: str) -> None:
    with temporary("second") as name:
        banger("vm", "stop", machine, name)
        states = listed()
        assert (states[machine]["state"], states[name]["state"]) == ("stopped", "stopped")
        assert "no-such" in refused(66, "vm", "start", machine, "no-such", name)
        assert [inside(each, "echo up") for each in (machine, name)] == ["up\n", "up\n"]


def test_guest_that_powers_itself_off_is_seen_to_have_ended(machine: str) -> None:
    support.run("banger", "vm", "exec", machine, "--", "busybox", "poweroff")
    until(lambda: listed()[machine]["state"] != "running", "it is off")
    banger("vm", "start", machine)
    assert inside(machine, "echo back") == "back\n"


def test_machine_made_and_not_started_is_started_later(home: Path) -> None:
    with temporary("later", "--no-start") as name:
        assert shown(name)["state"] == "stopped"
        banger("vm", "start", name)
        assert inside(name, "hostname") == f"{name}\n"


def test_doctor_says_what_machines_run_on(machine: str) -> None:
    checks = json.loads(support.run("banger", "doctor", "--json").stdout)
    (kvm,) = (check for check in checks if check["check"] == "kvm")
    assert (kvm["result"] == "PASS") == (shown(machine)["accelerator"] == "kvm"), kvm


def test_disks_of_a_machine_take_no_more_room_than_they_hold(machine: str) -> None:
    folder = Path(shown(machine)["path"])
    used = subprocess.run(["du", "-sk", folder], capture_output=True, check=True, text=True).stdout.split()[0]
    assert int(used) < 200 << 10  # of disks of several gigabytes
