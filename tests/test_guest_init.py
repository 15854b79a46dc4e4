"""The guest program as process 1, in namespaces of its own: what it mounts, runs, reaps, forwards and reports."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from banger_tools.agent import transport
from banger_tools.agent.client import Agent
from tests import guest_lab, namespaced, support
from tests.namespaced import machine, run

pytestmark = pytest.mark.root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root of one static busybox, without /etc, /proc, /dev, /run and /tmp."""
    return namespaced.make_root(tmp_path / "root")


def test_console_is_the_pipe_in_this_laboratory(root: Path) -> None:
    """Without this the other tests could read the console of the host: /dev is the host's devtmpfs."""
    assert "hello of the command" in run(root, "echo hello of the command")


@pytest.mark.parametrize("status", [0, 1, 42, 255])
def test_status_of_the_command_is_reported_before_the_end(root: Path, status: int) -> None:
    said = run(root, f"exit {status}")
    assert f"banger-init: command ended with status {status}\n" in said
    assert said.index("ended with status") < said.index("powering down")


def test_death_by_signal_is_reported_as_such(root: Path) -> None:
    assert "command ended with status 137 (signal 9)" in run(root, "kill -9 $$")


def test_command_that_is_not_there_is_named_and_is_127(root: Path) -> None:
    with machine(root, run=True, argv=["no-such-program"]) as made:
        said = made.end()
    assert "'no-such-program': not found" in said
    assert "command ended with status 127" in said


def test_missing_folders_are_made_and_mounted(root: Path) -> None:
    said = run(root, "cat /proc/mounts; test -c /dev/null && test -w /tmp && test -e /dev/fd/0 && echo all there")
    mounts = {line.split()[1]: line.split()[2] for line in said.splitlines() if line.count(" ") == 5}
    assert mounts["/proc"] == "proc" and mounts["/sys"] == "sysfs" and mounts["/dev"] == "devtmpfs"
    assert mounts["/dev/pts"] == "devpts" and mounts["/dev/shm"] == mounts["/run"] == mounts["/tmp"] == "tmpfs"
    assert "all there" in said


def test_files_that_the_image_has_in_tmp_stay_visible(root: Path) -> None:
    (root / "tmp").mkdir()
    (root / "tmp" / "kept").write_text("here")
    assert "here" in run(root, "cat /tmp/kept")


def test_environment_user_and_folder_are_the_image_s(root: Path) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n")
    (root / "etc" / "group").write_text("app:x:1001:\nextra:x:2002:other,app\nnot:x:2003:apple\n")
    said = run(root, "id; pwd; echo $COLOUR $HOME", user="app", cwd="/made/for/it", env=["COLOUR=blue"])
    assert "uid=1000(app) gid=1001(app) groups=1001(app),2002(extra)" in said
    assert "/made/for/it\nblue /home/app\n" in said


@pytest.mark.parametrize(
    ("user", "expected"), [("7", "uid=7 gid=0"), ("7:8", "uid=7 gid=8"), ("", "uid=0"), ("root", "uid=0")]
)
def test_image_without_passwd_runs_as_the_number_asked_for(root: Path, user: str, expected: str) -> None:
    assert expected in run(root, "id", user=user)


def test_keys_are_added_once_with_what_strict_sshd_wants(root: Path) -> None:
    keys = ["ssh-ed25519 AAAAone me", "ssh-ed25519 AAAAtwo me"]
    (root / "root" / ".ssh").mkdir(mode=0o777)
    (root / "root" / ".ssh" / "authorized_keys").write_text("ssh-ed25519 AAAAone me")
    for _ in range(2):
        said = run(root, "stat -c '%a %u %g' /root/.ssh /root/.ssh/authorized_keys", ssh_keys=keys)
    assert "700 0 0\n600 0 0\n" in said
    assert (root / "root" / ".ssh" / "authorized_keys").read_text().splitlines() == keys


def test_home_that_others_may_write_to_is_closed_when_keys_are_added(root: Path) -> None:
    (root / "root").chmod(0o777)
    os.chown(root / "root", 7, 7)
    (root / "root" / ".ssh").mkdir()
    os.chown(root / "root" / ".ssh", 7, 7)
    assert "755 0 0\n" in run(root, "stat -c '%a %u %g' /root", ssh_keys=["ssh-ed25519 AAAAone me"])
    assert "700 0 0\n" in run(root, "stat -c '%a %u %g' /root/.ssh")


def test_keys_go_where_a_linked_folder_of_dotfiles_leads(root: Path) -> None:
    (root / "root" / "dotfiles").mkdir()
    (root / "root" / ".ssh").symlink_to("dotfiles")
    run(root, "true", ssh_keys=["ssh-ed25519 AAAAone me"])
    assert (root / "root" / "dotfiles" / "authorized_keys").read_text() == "ssh-ed25519 AAAAone me\n"


NAMES = ["A. U. Thor", 'the "quoted" \\ one', "#; trailing", "ünïcode", "two\nlines"]


@pytest.mark.parametrize("name", NAMES)
def test_git_identity_is_what_git_reads(root: Path, name: str) -> None:
    support.need("git")
    run(root, "true", git={"name": name, "email": "me@host"})
    assert git(root, "user.name") == name
    assert git(root, "user.email") == "me@host"


def git(root: Path, key: str) -> str:
    env = {"HOME": str(root / "root"), "PATH": os.environ["PATH"]}
    done = subprocess.run(["git", "config", "--global", "--includes", "--get", key], env=env, capture_output=True)
    return done.stdout.decode()[:-1]


@pytest.mark.parametrize("before", ["[user]\n\tname = old\n[alias]\n\tlast = log -1", "[alias]\n\tlast = log -1 \\\n"])
def test_git_identity_leaves_what_is_there_and_is_written_once(root: Path, before: str) -> None:
    support.need("git")
    file = root / "root" / ".gitconfig"
    file.write_text(before)
    run(root, "true", git={"name": "First", "email": "first@host"})
    once = file.read_text()
    assert once.startswith(before)
    run(root, "true", git={"name": "Second", "email": "second@host"})
    assert file.read_text() == once
    assert (git(root, "user.name"), git(root, "user.email")) == ("Second", "second@host")
    assert git(root, "alias.last").startswith("log -1")


def test_without_git_identity_nothing_is_written(root: Path) -> None:
    run(root, "true", git=None)
    run(root, "true", git={"name": "no address"})
    assert list((root / "root").iterdir()) == []


def first_boot_script(root: Path, script: str) -> None:
    path = root / "usr" / "local" / "libexec" / "banger-first-boot"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    (root / "usr" / "sbin").mkdir()
    (root / "usr" / "sbin" / "sshd").symlink_to("/bin/busybox")


def test_own_init_of_the_image_finds_the_host_keys_made(root: Path) -> None:
    first_boot_script(root, "case $1 in --keys) sleep 1; echo made >/keys;; --boot) echo done >/booted;; esac")
    (root / "sbin").mkdir()
    init = root / "sbin" / "init"
    init.write_text("#!/bin/sh\ncat /keys; echo pid $$\nuntil [ -e /booted ]; do sleep 0.1; done\n")
    init.chmod(0o755)
    with machine(root) as made:
        said = made.end()
    assert "made\npid 1\n" in said


def test_machine_without_an_init_runs_its_services_and_one_with_a_command_only_that(root: Path) -> None:
    first_boot_script(root, 'echo "called with $1 as $(id -u) in $HOME"')
    with machine(root) as made:
        assert "--keys as 0 in /root" in made.line("called")
        assert "--boot as 0 in /root" in made.line("called")
    assert "called" not in run(root, "sleep 1")


PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n2000:x:7:7::/odd:/bin/sh\n"
GROUP = "app:x:1001:\nextra:x:2002:app\n3000:x:8:\n"


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("app:extra", "uid=1000(app) gid=2002(extra) groups=2002(extra)"),
        ("app:9", "uid=1000(app) gid=9 groups=9"),
        ("1000", "uid=1000(app) gid=1001(app) groups=1001(app),2002(extra)"),
        ("1000:extra", "uid=1000(app) gid=2002(extra) groups=2002(extra)"),
        ("2000:3000", "uid=2000 gid=3000 groups=3000"),  # a number is never a name
    ],
)
def test_user_and_group_are_read_as_container_runtimes_read_them(root: Path, user: str, expected: str) -> None:
    (root / "etc").mkdir()
    (root / "etc" / "passwd").write_text(PASSWD)
    (root / "etc" / "group").write_text(GROUP)
    assert f"{expected}\n" in run(root, "id", user=user)


def test_user_may_work_in_a_folder_that_only_root_may_enter(root: Path) -> None:
    assert "/root\n" in run(root, "pwd", user="7", cwd="/root")


def test_command_has_an_environment_and_no_input_as_in_a_container(root: Path) -> None:
    said = run(root, "cat && env", hostname="web", env=["TERM=dumb"])
    path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    lines = said.splitlines()
    assert {path, "HOME=/", "HOSTNAME=web", "TERM=dumb"} <= set(lines)
    assert not [line for line in lines if line.startswith("BANGER")]


def add_card(ip: list[str]) -> None:
    """Make a network interface of whichever kind this kernel has."""
    kinds = (["link", "add", "eth0", "type", "dummy"], ["tuntap", "add", "eth0", "mode", "tap"])
    if all(subprocess.run([*ip, *words], capture_output=True, check=False).returncode for words in kinds):
        support.cannot("this kernel has neither dummy nor tap interfaces")


def test_address_and_route_are_set_on_the_card(root: Path) -> None:
    support.need("ip", "nsenter")
    network = {"address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": []}
    with machine(root, network=network) as made:
        inside = ["nsenter", "-t", str(made.pid()), "-n", "ip"]
        add_card(inside)

        def routes() -> bytes:
            return subprocess.run([*inside, "route"], capture_output=True, check=True).stdout

        assert guest_lab.until(lambda: b"default via 10.0.2.2 dev eth0" in routes())
        shown = subprocess.run([*inside, "-4", "addr"], capture_output=True, check=True).stdout
    assert b"inet 10.0.2.15/24" in shown and b"inet 127.0.0.1/8" in shown


def test_config_of_wrong_types_is_complained_about_and_the_rest_used(root: Path) -> None:
    said = run(root, "echo up", hostname=7, env="A=B", ssh_keys=[1], init="other", unknown={"a": 1}, time="now")
    for key in ("hostname", "env", "ssh_keys", "init", "time"):
        assert f"guest config: '{key}' is ignored" in said
    assert "unknown" not in said and "up\n" in said


def test_config_with_secrets_is_for_root_only(root: Path) -> None:
    said = run(
        root,
        "stat -c '%a %u' /run/banger/config.json /run/banger/network.env; cat /run/banger/network.env",
        network={"address": "10.0.2.15/24", "dns": ["it's"]},
    )
    assert "600 0\n644 0\n" in said
    assert "BANGER_ADDRESS='10.0.2.15/24'" in said and "BANGER_DNS='it'\\''s'" in said


def test_orphans_are_reaped(root: Path) -> None:
    script = "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done; sleep 1; cat /proc/*/stat | grep -c ' Z ' ; echo counted"
    assert "0\ncounted" in run(root, script)


@pytest.mark.parametrize("name", ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM"])
def test_signals_to_process_one_reach_the_command(root: Path, name: str) -> None:
    script = f"trap 'echo got {name}; exit 7' {name}; echo ready; while :; do sleep 0.1; done"
    with machine(root, run=True, argv=["/bin/sh", "-c", script]) as made:
        made.line("ready")
        os.kill(made.pid(), getattr(signal, f"SIG{name}"))
        said = made.end()
    assert f"got {name}" in said and "command ended with status 7" in said


@pytest.mark.slow
def test_command_that_does_not_heed_the_end_is_killed_and_reported(root: Path) -> None:
    with machine(root, run=True, argv=["/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 1; done"]) as made:
        made.line("ready")
        os.kill(made.pid(), signal.SIGTERM)
        assert "command ended with status 137 (signal 9)" in made.end()


def test_machine_without_a_command_ends_on_a_signal_at_once(root: Path) -> None:
    """Two seconds are for those who do not heed it; a busy host may take them as well, but not every time."""
    assert any(seconds_to_end(root) < 2 for _ in range(5))


def seconds_to_end(root: Path) -> float:
    """Start a machine without a command, and return how long it goes on after a signal."""
    hosts = root / "etc" / "hosts"
    hosts.unlink(missing_ok=True)
    with machine(root, init="banger") as made:
        pid = made.pid()
        assert guest_lab.until(hosts.exists)
        time.sleep(0.5)
        os.kill(pid, signal.SIGTERM)
        began = time.monotonic()
        assert "powering down" in made.end()
    return time.monotonic() - began


def test_own_init_of_the_image_gets_process_one(root: Path) -> None:
    (root / "sbin").mkdir()
    (root / "sbin" / "init").write_text("#!/bin/sh\necho own init is $$\nexec /bin/busybox sleep 60\n")
    (root / "sbin" / "init").chmod(0o755)
    with machine(root) as made:
        assert made.line("own init") == "own init is 1\n"


def test_command_that_is_to_run_comes_before_an_init_that_is_only_there(root: Path) -> None:
    namespaced.program(root, "/sbin/init", "#!/bin/sh\necho own init is $$\nexec /bin/busybox sleep 60\n")
    assert "command ended with status 3\n" in run(root, "exit 3")


def test_command_that_is_the_image_s_own_init_gets_process_one(root: Path) -> None:
    namespaced.program(root, "/usr/sbin/init", "#!/bin/sh\necho own init is $$\nexec /bin/busybox sleep 60\n")
    (root / "sbin").symlink_to("usr/sbin")
    with machine(root, run=True, argv=["/usr/sbin/init"]) as made:
        assert made.line("own init") == "own init is 1\n"


def test_init_that_does_not_start_leaves_the_agent(root: Path) -> None:
    namespaced.program(root, "/lib/systemd/systemd", "#!/no/such/loader\n")
    unit = root / "etc" / "systemd" / "system" / "banger-vsock-agent.service"
    unit.parent.mkdir(parents=True)
    unit.touch()
    with machine(root) as made:
        assert "cannot execute '/lib/systemd/systemd'" in made.line("cannot execute")
        assert guest_lab.until(lambda: len(agents(made.pid())) == 1)


def test_init_that_is_a_dangling_link_or_not_executable_is_none(root: Path) -> None:
    (root / "sbin").mkdir()
    (root / "sbin" / "init").symlink_to("/lib/systemd/systemd")
    (root / "etc").mkdir()
    (root / "etc" / "init").write_text("no program")
    assert "command ran" in run(root, "echo command ran")


def test_image_told_to_have_an_init_and_lacking_it_ends_with_a_message(root: Path) -> None:
    with machine(root, init="image") as made:
        assert "fatal: the image has no init" in made.end()


def test_agent_runs_below_and_comes_back_when_it_dies(root: Path, tmp_path: Path) -> None:
    with machine(root) as made:
        pid = made.pid()
        assert guest_lab.until(lambda: len(agents(pid)) == 1)
        first = agents(pid)[0]
        os.kill(first, signal.SIGKILL)
        assert guest_lab.until(lambda: agents(pid) not in ([], [first]))


def agents(pid: int) -> list[int]:
    """Return the host's numbers of the agents below process 1."""
    found = []
    for keeper in _children(pid):
        found += [child for child in _children(keeper) if _name(child) == "banger-agent"]
    return found


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text().strip()
    return ""


def test_program_refuses_to_be_init_of_a_running_system() -> None:
    done = subprocess.run([guest_lab.program(), "init"], capture_output=True, check=False)
    assert done.returncode == 1 and b"process 1 only" in done.stderr


def test_agent_of_a_test_cannot_end_the_machine(tmp_path: Path) -> None:
    with guest_lab.listening(tmp_path) as path:
        agent = Agent(transport.unix(path))
        with pytest.raises(Exception, match="--system"):
            agent.shutdown("now")
        with pytest.raises(Exception, match="--system"):
            agent.set_time(0)
