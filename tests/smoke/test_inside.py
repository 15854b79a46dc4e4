"""What is done with a machine that runs: `banger vm exec`, `cp`, `logs`, `stats`, `ports`, `health`, `list`, `show`."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
from pathlib import Path

from tests import logins, support
from tests.smoke.user import banger, inside, listed, refused, shown, until

PORT = logins.free_port()
OPTIONS = (f"--publish={PORT}:80",)


def test_work_seed_brought_its_dotfiles_home(machine: str) -> None:
    script = "cat /root/.profile; busybox stat -c %u:%g /root; busybox grep -c ' /root ext4 ' /proc/mounts"
    assert inside(machine, script) == "greeting=hello\n0:0\n1\n"


def test_command_gets_environment_user_and_folder(machine: str) -> None:
    words = ("--env=COLOUR=blue sky", "--user=12:34", "--cwd=/bin")
    script = 'echo "$COLOUR $FROM_IMAGE"; id -u; id -g; busybox pwd'
    assert banger("vm", "exec", *words, machine, "--", "sh", "-c", script).splitlines() == [
        "blue sky yes",
        "12",
        "34",
        "/bin",
    ]


def test_command_that_a_signal_ends_has_the_status_that_shells_give(machine: str) -> None:
    banger("vm", "exec", machine, "--", "sh", "-c", "kill -9 $$", status=137)


def test_ten_commands_at_once_are_answered(machine: str) -> None:
    argv = support.argv("banger", "vm", "exec", machine, "--", "sh", "-c", "sleep 1; echo $0")
    running = [
        subprocess.Popen(
            [*argv, str(number)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, env=support.environment()
        )
        for number in range(10)
    ]
    assert [process.communicate(timeout=300)[0] for process in running] == [b"%d\n" % number for number in range(10)]


def test_folder_is_copied_in_and_out_again(machine: str, tmp_path: Path) -> None:
    source = tmp_path / "site"
    (source / "deep").mkdir(parents=True)
    (source / "deep" / "naïve name").write_text("content\n")
    (source / "run").write_text("#!/bin/sh\n")
    (source / "run").chmod(0o755)
    banger("vm", "cp", str(source), f"{machine}:/srv")
    assert inside(machine, "cat '/srv/deep/naïve name'; busybox stat -c %a /srv/run") == "content\n755\n"
    banger("vm", "cp", f"{machine}:/srv", str(tmp_path / "back"))
    assert subprocess.run(["diff", "-r", source, tmp_path / "back"], check=False).returncode == 0
    assert (tmp_path / "back" / "run").stat().st_mode & 0o777 == 0o755


def test_single_files_are_copied_both_ways(machine: str, tmp_path: Path) -> None:
    (tmp_path / "here").write_bytes(bytes(range(256)) * 4096)
    banger("vm", "cp", str(tmp_path / "here"), f"{machine}:/there")
    banger("vm", "cp", f"{machine}:/there", str(tmp_path / "again"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "here").read_bytes()
    assert "/nothing" in refused(66, "vm", "cp", f"{machine}:/nothing", str(tmp_path))


def test_published_port_leads_to_a_server_in_the_guest(machine: str) -> None:
    page = "HTTP/1.0 200 OK\\r\\n\\r\\nit works\\n"
    inside(machine, f"(while :; do busybox printf '{page}' | busybox nc -l -p 80; done) >/dev/null 2>&1 </dev/null &")

    def answers() -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", PORT), 30) as client:
            return any(b"it works" in line for line in client.makefile("rb"))
        return False  # the server is not there yet

    until(answers, "the page is served")
    ports = json.loads(banger("vm", "ports", "--json", machine))
    assert str(PORT) in json.dumps(ports), ports


def test_logs_show_what_the_guest_wrote_to_its_console(machine: str) -> None:
    inside(machine, "echo 'a word to the console' >/dev/console")
    until(lambda: "a word to the console" in banger("vm", "logs", machine), "the console has it")
    assert banger("vm", "logs", "--lines=1", machine).count("\n") <= 1


def test_logs_are_followed_while_they_are_written(machine: str) -> None:
    argv = support.argv("banger", "vm", "logs", "--follow", machine)
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, env=support.environment()) as process:
        inside(machine, "echo followed >/dev/console")
        assert process.stdout is not None
        assert any(b"followed" in line for line in process.stdout)
        process.terminate()


def test_stats_tell_what_the_machine_takes(machine: str) -> None:
    told = json.dumps(json.loads(banger("vm", "stats", "--json", machine)))
    assert f'"{machine}"' in told
    assert machine in banger("vm", "stats", machine)


def test_health_is_a_yes_of_a_machine_that_runs(machine: str) -> None:
    assert machine in banger("vm", "health", machine)


def test_list_has_the_machine_with_its_image_and_state(machine: str) -> None:
    row = listed()[machine]
    assert (row["image"], row["state"]) == ("tiny", "running")
    assert machine in banger("vm", "list")
    assert machine in banger("vm", "list", "--names").splitlines()


def test_show_is_the_manifest_that_other_programs_read(machine: str) -> None:
    vm = shown(machine)
    assert (vm["name"], vm["state"], vm["publish"]) == (machine, "running", [f"127.0.0.1:{PORT}:80/tcp"])
    assert Path(vm["path"]).stat().st_mode & 0o077 == 0
