"""Networks made of namespaces: a host with a world outside, and guests at its bridge; all gone afterwards."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests import guest_lab, support

HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
_count = itertools.count()

# In the namespace: a function of taps or of machines with its words as JSON, and what it returns or raises as JSON.
_CALL = """
import json, sys, msgspec
from banger_tools import errors
from banger_tools.net import taps
from banger_tools.net.attachment import Attachment, Owner
from banger_tools.store import vms
from banger_tools.vmm import life
from banger_tools.vmm.spec import Forward
asked = json.loads(sys.argv[1])
try:
    if "detach" in asked:
        answer = taps.detach(msgspec.convert(asked["detach"], Attachment))
    elif "lead" in asked:
        forwards = msgspec.convert(asked["forwards"], list[Forward])
        answer = taps.lead(msgspec.convert(asked["lead"], Attachment), nat=asked["nat"], forwards=forwards)
    elif "settle" in asked:
        answer = life.settle(vms.load(asked["settle"]))
    elif "delete" in asked:
        answer = life.delete(asked["delete"], force=False)
    elif "alive" in asked:
        answer = [tap.name for tap in taps.leftovers(lambda folder: folder in asked["alive"])]
    else:
        owner, forwards = Owner(**asked.pop("owner")), msgspec.convert(asked.pop("forwards"), list[Forward])
        answer = taps.attach(owner, forwards=forwards, **asked)
except errors.BangerError as error:
    answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(msgspec.json.encode(answer).decode())
"""

# Opens a tap as a monitor does (TUNSETIFF; IFF_TAP and IFF_NO_PI) until its stdin ends.
OPEN = """
import fcntl, os, struct, sys
tap = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", sys.argv[1].encode(), 0x1002))
print("open", flush=True)
sys.stdin.read()
"""


class Namespace:
    """A network namespace, by its name."""

    def __init__(self, kind: str) -> None:
        self.name = f"bt-{os.getpid()}-{next(_count)}-{kind}"

    def argv(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
        """Run a program in it; `settings` are those of subprocess.run."""
        settings = {"env": support.environment(), "timeout": 120, **settings}
        done = subprocess.run(self.argv(*words), capture_output=True, text=True, **settings)
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr)
        return done

    def ip(self, *commands: str) -> None:
        """Run commands of ip(8)."""
        self.run("ip", "-batch", "-", input="".join(f"{command}\n" for command in commands))

    def links(self) -> dict[str, dict[str, Any]]:
        return {raw["ifname"]: raw for raw in json.loads(self.run("ip", "-j", "-d", "addr").stdout)}

    def state(self) -> tuple[str, ...]:
        """Return all that a machine could have changed: links, addresses, routes, rules, sysctls."""
        shown = ("ip -4 -o addr", "ip -4 route show table all", "nft list ruleset", "sysctl net.ipv4.ip_forward")
        return (" ".join(self.links()), *(self.run(*words.split()).stdout for words in shown))

    def serves(self, port: int, *, bind: str = "0.0.0.0", udp: bool = False) -> subprocess.Popen[bytes]:
        """Have somebody listen who answers with the address of who asks."""
        kind = "UDP4-RECVFROM" if udp else "TCP4-LISTEN"
        # what was asked is read first: or socat may fail to pass it on to a shell that is done, and pass on nothing
        answer = f"SYSTEM:{'read question; ' if udp else ''}echo $SOCAT_PEERADDR"
        words = ["socat", f"{kind}:{port},bind={bind},reuseaddr,fork", answer]
        server = subprocess.Popen(self.argv(*words), env=support.environment())
        assert guest_lab.until(lambda: f":{port} " in self.run("ss", "-Hlntu").stdout)
        return server

    def echoes(self, port: int) -> subprocess.Popen[bytes]:
        """Have somebody listen who sends back what is sent."""
        server = subprocess.Popen(self.argv("socat", f"TCP4-LISTEN:{port},fork", "PIPE"), env=support.environment())
        assert guest_lab.until(lambda: f":{port} " in self.run("ss", "-Hlntu").stdout)
        return server

    def asks(self, address: str, port: int, *, udp: bool = False, seconds: int = 30) -> str:
        """Return what a server answers; nothing if it does not, or is not to be reached."""
        kind = "UDP4" if udp else "TCP4"
        words = [
            "socat",
            "-t",
            str(seconds),
            "-T",
            str(seconds),
            "-",
            f"{kind}:{address}:{port},connect-timeout={seconds}",
        ]
        if not udp:
            return self.run(*words, check=False).stdout.strip()
        asking = subprocess.Popen(
            self.argv(*words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert asking.stdin and asking.stdout
        asking.stdin.write("x\n")
        asking.stdin.flush()
        try:
            return asking.stdout.readline().strip()
        finally:
            asking.kill()
            asking.communicate()


class Host(Namespace):
    """A namespace in which taps are made."""

    def program(self, **asked: Any) -> list[str]:
        return [sys.executable, "-c", _CALL, json.dumps(asked)]

    def environment(self, **more: str) -> dict[str, str]:
        return {**support.environment(), "PYTHONPATH": str(support.ROOT), **more}

    def call(self, *before: str, env: dict[str, str] | None = None, **asked: Any) -> Any:
        done = self.run(*before, *self.program(**asked), env=self.environment(**(env or {})))
        return {**answer, "said": done.stderr} if isinstance(answer := json.loads(done.stdout), dict) else answer

    def attach(
        self, folder: str | Path, *before: str, env: dict[str, str] | None = None, **asked: Any
    ) -> dict[str, Any]:
        """Return the attachment of a machine, or the error."""
        got = self.call(*before, env=env, **_wanted(folder, **asked))
        assert isinstance(got, dict)
        return got

    def detach(self, attached: dict[str, Any]) -> Any:
        return self.call(detach=_attachment(attached))

    def lead(self, attached: dict[str, Any], *, nat: bool, forwards: Sequence[dict[str, Any]] = ()) -> Any:
        return self.call(lead=_attachment(attached), nat=nat, forwards=forwards)

    @contextlib.contextmanager
    def opened(self, tap: str, *before: str) -> Iterator[None]:
        """Have a program hold a tap open."""
        argv = self.argv(*before, sys.executable, "-c", OPEN, tap)
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
            assert holder.stdout and holder.stdout.readline() == b"open\n"
            yield

    def at_once(self, asked: Sequence[dict[str, Any]]) -> list[Any]:
        """Call in as many processes at once, and return the answers."""
        workers = [
            subprocess.Popen(self.argv(*self.program(**one)), env=self.environment(), stdout=subprocess.PIPE)
            for one in asked
        ]
        return [json.loads(worker.communicate(timeout=300)[0]) for worker in workers]


def _attachment(answer: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in answer.items() if key != "said"}


def _wanted(folder: str | Path, **asked: Any) -> dict[str, Any]:
    owner = {"folder": str(folder)}
    return {"owner": owner, "wish": None, "nat": False, "forwards": [], **asked}


wanted = _wanted


def forward(host_port: int, guest_port: int, **more: str) -> dict[str, Any]:
    return {"host_port": host_port, "guest_port": guest_port, **more}


@contextlib.contextmanager
def made(namespace: Namespace) -> Iterator[None]:
    """Make a namespace, whose loopback is up, and remove it with all programs in it."""
    support.need_root()
    support.need("ip", "nft", "socat", "ss")
    subprocess.run(["ip", "netns", "add", namespace.name], check=True, env=support.environment())
    try:
        namespace.ip("link set lo up")
        yield
    finally:
        listed = subprocess.run(["ip", "netns", "pids", namespace.name], capture_output=True, env=support.environment())
        for pid in listed.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        subprocess.run(["ip", "netns", "del", namespace.name], check=True, env=support.environment())


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """A host that is alone, forwards nothing, and has rules of its own."""
    one = Host("host")
    with made(one):
        one.run("sysctl", "-qw", "net.ipv4.ip_forward=0")
        rules = "table inet theirs {\n chain input { type filter hook input priority 0; policy accept;\n }\n}\n"
        one.run("nft", "-f", "-", input=rules)
        yield one


@contextlib.contextmanager
def world(one: Host) -> Iterator[Namespace]:
    """What is outside of a host, and knows no way to its machines."""
    outside = Namespace("outside")
    with made(outside):
        one.ip(
            f"link add up0 type veth peer name eth0 netns {outside.name}",
            f"addr add {HOST}/24 dev up0",
            "link set up0 up",
            f"route add default via {OUTSIDE}",
        )
        outside.ip(f"addr add {OUTSIDE}/24 dev eth0", "link set eth0 up")
        yield outside


@contextlib.contextmanager
def guest(one: Host, attached: dict[str, Any]) -> Iterator[Namespace]:
    """A guest at the bridge, in the place of a machine at its tap."""
    inside = Namespace("guest")
    with made(inside):
        port = f"port{inside.name.split('-')[2]}"
        one.ip(
            f"link add {port} type veth peer name eth0 address {attached['mac']} netns {inside.name}",
            f"link set {port} master banger up",
        )
        inside.ip(
            f"addr add {attached['address']} dev eth0",
            "link set eth0 up",
            f"route add default via {attached['gateway']}",
        )
        yield inside
        one.ip(f"link del {port}")
