"""Machines by the real Firecracker, made and led by our own commands on a host that our own pipeline made."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import firecracker_host, firecracker_lab, webserver
from tests.firecracker_host import HOME, Host

pytestmark = [pytest.mark.boot, pytest.mark.firecracker, pytest.mark.slow]

VM = "--image=tiny --memory=128M --timeout=600 -q"
SERVER = "10.0.2.2"  # what QEMU's user network calls the machine of the tests


@pytest.fixture(scope="module")
def host(pytestconfig: pytest.Config, bootable_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    """A host with Firecracker, a kernel and an image."""
    assert pytestconfig.cache
    binaries = firecracker_lab.programs(pytestconfig.cache.mkdir("firecracker-1.12.1"))
    kernel = firecracker_lab.kernel(bootable_home, tmp_path_factory.mktemp("kernel"))
    guest = firecracker_lab.inner_image(tmp_path_factory.mktemp("inner"), kernel)
    disk = firecracker_host.disk(tmp_path_factory.mktemp("host"), kernel, binaries, guest)
    with firecracker_lab.outer_machine(tmp_path_factory.mktemp("vm"), kernel, disk) as outer:
        made = Host(outer)
        made.sh(firecracker_host.SETUP)
        yield made


@pytest.fixture(scope="module")
def jailed(host: Host) -> str:
    """A guest in a jail, on a tap that leads into the world."""
    host.sh(f"bg-boot {VM} --name=jailed --vmm=firecracker --jail --net=tap --nat --publish=8080:80 > /dev/null")
    return "jailed"


@pytest.fixture(scope="module")
def alone(host: Host, jailed: str) -> str:
    """A guest beside that one, on a tap that leads nowhere; Firecracker is what is found for it."""
    host.sh(f"bg-boot {VM} --name=alone --net=tap --limit-disk=100M --limit-net=100M > /dev/null")
    return "alone"


def test_run_boots_a_guest_for_a_command_and_ends_with_its_status(host: Host) -> None:
    words = ["--pull=never", "--rm", "--vmm=firecracker", "--net=none", "--name=short"]
    script = ["/bin/sh", "-c", "cat; echo no >&2; hostname; exit 7"]
    done = host.run("banger", "vm", "run", *VM.split(), *words, "--", *script, stdin=b"yes\n")
    assert done == (7, b"yes\nshort\n", b"no\n")
    assert host.sh(f"ls {HOME}/state/vms") == ""


def test_auto_finds_out_by_trying_that_firecracker_runs_here(host: Host, alone: str) -> None:
    tried = json.loads(host.sh(f"cat {HOME}/cache/kvm-firecracker.json"))
    assert [answer["usable"] for answer in tried["answers"].values()] == [True]
    record = host.record(alone)
    assert (record["spec"]["vmm"], record["process"]["machine"]) == ("firecracker", "firecracker")
    assert host.sh(f"cat /proc/{record['process']['pid']}/comm") == "firecracker\n"


def test_two_guests_at_once_have_their_own_vsock_and_address(host: Host, jailed: str, alone: str) -> None:
    said = [host.inside(name, "hostname; busybox ip -4 -o addr show eth0") for name in (jailed, alone)]
    for name, text in zip((jailed, alone), said, strict=True):
        assert text.startswith(f"{name}\n") and f" {host.record(name)['address']} " in text
    assert host.record(jailed)["address"] != host.record(alone)["address"]


def test_guest_on_a_tap_reaches_the_world_by_nat_alone(host: Host, jailed: str, alone: str) -> None:
    with webserver.serve() as site:
        site.files["hello"] = b"from the world\n"
        fetch = f"busybox timeout 60 busybox wget -qO - http://{SERVER}:{site.host.rpartition(':')[2]}/hello"
        assert host.inside(jailed, fetch) == "from the world\n"
        assert host.inside(alone, f"{fetch} || echo cannot") == "cannot\n"
        assert len(site.seen) == 1
    gateway = host.record(alone)["process"]["network"]["gateway"]
    assert "1 packets received" in host.inside(alone, f"busybox ping -c 1 -w 60 {gateway}")


def test_published_port_of_the_host_leads_into_the_guest(host: Host, jailed: str) -> None:
    host.inside(jailed, "mkdir -p /www; echo served > /www/file; busybox httpd -p 80 -h /www")
    get = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8080/file', timeout=300).read().decode())"
    assert host.sh(f'python3 -c "{get}"').strip() == "served"


def test_jail_has_a_user_a_cgroup_and_a_root_of_its_own(host: Host, jailed: str) -> None:
    record = host.record(jailed)
    pid, machine = record["process"]["pid"], record["spec"]["id"]
    status = dict(line.split(":", 1) for line in host.sh(f"cat /proc/{pid}/status").splitlines())
    assert {*status["Uid"].split(), *status["Gid"].split()} == {"1900000000"}
    assert (status["CapEff"].strip(), status["Seccomp"].strip()) == ("0" * 16, "2")
    assert "/etc" not in host.sh(f"cd /proc/{pid}/root; ls -d /proc/{pid}/root/*")
    group = host.sh(f"cat /proc/{pid}/cgroup").strip().removeprefix("0::")
    assert group == f"/banger-{machine}/{machine}"
    assert int(host.sh(f"cat /sys/fs/cgroup{group}/memory.max")) == (128 + 64) << 20
    assert int(host.sh(f"cat /sys/fs/cgroup{group}/pids.max")) == 9


def test_jailed_machine_that_is_stopped_leaves_nothing_and_starts_again_with_its_data(host: Host, jailed: str) -> None:
    host.inside(jailed, "echo kept > /kept")
    machine = host.record(jailed)["spec"]["id"]
    host.sh(f"banger vm stop -q {jailed}")
    assert host.sh(f"find {HOME}/state/vms/{jailed} /run/banger/jails '(' -uid +0 -o -name jail ')'") == ""
    assert host.sh(f"find {HOME}/state/vms/{jailed} -type s; find /sys/fs/cgroup -name 'banger-*'") == ""
    assert machine not in host.sh("cat /proc/mounts")
    host.sh(f"e2fsck -fn {HOME}/state/vms/{jailed}/root.ext4")
    host.sh(f"banger vm start -q --timeout=600 {jailed}")
    assert host.inside(jailed, "cat /kept") == "kept\n"


def test_ctrl_alt_del_ends_a_guest_whose_agent_is_not_asked(host: Host, alone: str) -> None:
    host.sh(f"""python3 - <<'END'
import sys
sys.path.insert(0, "{firecracker_host.CHECKOUT}")
from banger_tools.store import vms
from banger_tools.vmm import firecracker, holder
record = vms.load("{alone}")
assert firecracker.status(record) == "running"
firecracker.press_power(record)
assert holder.wait_gone(vms.folder("{alone}"), 300)
assert firecracker.status(record) == "unknown"
END""")


def test_killed_and_deleted_machines_leave_nothing(host: Host, jailed: str, alone: str) -> None:
    threads = [threading.Thread(target=host.sh, args=(f"banger vm delete -qf {name}",)) for name in (jailed, alone)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert host.sh(f"ls {HOME}/state/vms /run/banger/jails; find /sys/fs/cgroup -name 'banger-*'").split() == [
        f"{HOME}/state/vms:",
        "/run/banger/jails:",
    ]
    assert host.sh("nft list ruleset") == ""
    assert "bg-" not in host.sh("ip -br link") and "banger" not in host.sh("ip -br link")
    assert host.sh("for f in /proc/[0-9]*/comm; do cat $f; done | grep -c firecracker || true") == "0\n"
