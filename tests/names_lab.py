"""A network of its own in which names mean what a hostile owner of a domain says: `python -m tests.names_lab FOLDER`.

To be run by `unshare --net --mount`. Requests are lines of JSON on stdin: how the user is led astray (`road`), by what
`url`, and options of bg-fetch. The answers are lines of JSON, too: how bg-fetch ended, and what those heard who listen
on this machine. What a name stands for is asked of a real server of names, on 127.0.0.1.
"""

from __future__ import annotations

import collections
import contextlib
import ipaddress
import json
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests import pulls, registry, support
from tests.registry import Proxy

ELSEWHERE, METADATA = "203.0.113.5", "169.254.169.254"
PORT = 8080  # of this machine's services, which nobody elsewhere may reach
NAMES = {
    "registry.example": [ELSEWHERE],
    "elsewhere.example": [ELSEWHERE],
    "inward.example": ["127.0.0.1"],
    "six.example": ["::1"],
    "metadata.example": [METADATA],
    "both.example": ["127.0.0.1", ELSEWHERE],
}
REBINDING = "rebinding.example"  # is elsewhere until it was asked for once
_A, _AAAA = 1, 28


class Resolver:
    """A name server (RFC 1035) for NAMES."""

    def __init__(self) -> None:
        self._asked: collections.Counter[str] = collections.Counter()
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            question, client = self._socket.recvfrom(512)
            self._socket.sendto(self._answer(question), client)

    def _answer(self, question: bytes) -> bytes:
        name, end = _name(question, 12)
        (kind,) = struct.unpack_from(">H", question, end)
        found = [ipaddress.ip_address(text) for text in self._addresses(name, kind)]
        wanted = [address.packed for address in found if address.version == (4 if kind == _A else 6)]
        head = question[:2] + struct.pack(">HHHHH", 0x8180 if found else 0x8183, 1, len(wanted), 0, 0)
        records = (struct.pack(">HHHIH", 0xC00C, kind, 1, 0, len(packed)) + packed for packed in wanted)
        return head + question[12 : end + 4] + b"".join(records)

    def _addresses(self, name: str, kind: int) -> list[str]:
        if name != REBINDING:
            return NAMES.get(name, [])
        self._asked[name] += kind == _A
        return [ELSEWHERE] if self._asked[name] <= 1 else ["127.0.0.1"]


def _name(message: bytes, at: int) -> tuple[str, int]:
    labels = []
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode())
        at += 1 + length
    return ".".join(labels), at + 1


class Victim:
    """Listens on addresses of this machine, and keeps every byte that comes."""

    def __init__(self) -> None:
        self.heard = bytearray()
        for address in ("127.0.0.1", "::1", METADATA):
            listener = socket.create_server(
                (address, PORT), family=socket.AF_INET6 if ":" in address else socket.AF_INET
            )
            threading.Thread(target=self._serve, args=(listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        while True:
            connection = listener.accept()[0]
            with connection, contextlib.suppress(OSError):
                self.heard += connection.recv(65536)
                connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def network(folder: Path) -> None:
    """Set up what is to be reached, and whom to ask for names."""
    for words in (
        "link set lo up",
        f"addr add {ELSEWHERE}/32 dev lo",
        f"addr add {METADATA}/32 dev lo",
        "route add default dev lo",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    for name, text in (("resolv.conf", "nameserver 127.0.0.1\n"), ("nsswitch.conf", "hosts: dns\n")):
        (folder / name).write_text(text)
        subprocess.run(["mount", "--bind", folder / name, Path("/etc", name).resolve()], check=True)


def attacker(asked: dict[str, Any], answers: dict[str, tuple[str, bytes]]) -> registry.Handler:
    """Return a registry that leads its clients to a URL by a road; under another name of its own it is honest."""
    honest = registry.static(answers)
    road, url, path = asked["road"], asked["url"], "/blobs/" if asked["road"] == "redirect of a layer" else ""

    def answer(request: Proxy) -> bool:
        if request.headers["Host"] != asked["ref"].partition("/")[0].lower():
            return honest(request)
        if road == "token server" and "authorization" not in request.headers:
            request.answer(401, {"WWW-Authenticate": f'Bearer realm="{url}token"'}, b"")
        elif road.startswith("redirect") and path in request.path:
            request.answer(307, {"Location": url + request.path[1:]}, b"")
        else:
            honest(request)
        return True

    return answer


def served(asked: dict[str, Any], folder: Path) -> Callable[[Proxy], bool]:
    """Return what the host elsewhere is: a registry, or one who has a catalog."""
    if asked["road"] == "catalog":
        entry = {"name": "app", "url": asked["url"] + "app.tar.zst", "sha256": "0" * 64, "size": 1000}
        other = {"name": "other", "source": "docker://127.0.0.1:8080/a"}
        catalog = {"schema": "banger-catalog/1", "images": [entry, other], "kernels": [{**entry, "arch": "amd64"}]}
        return registry.static({"/catalog.json": ("application/json", json.dumps(catalog).encode())})
    image = registry.Image(folder / "layout")
    urls = {"urls": [asked["url"] + "layer"]} if asked["road"] == "foreign layer" else {}
    layer = image.blob(registry.gzip_of(pulls.SMALL), registry.OCI_LAYER + "+gzip", **urls)
    layout = image.index(image.manifest([layer], [registry.digest(pulls.SMALL)]))
    token = {"/token": ("application/json", b'{"token": "x"}')}
    return attacker(asked, {**registry.of_layout(layout, "a"), **token})


def answer(asked: dict[str, Any], victim: Victim, folder: Path) -> dict[str, Any]:
    """Run bg-fetch against an attacker."""
    victim.heard.clear()
    (folder / "config").mkdir()
    config = 'registries."registry.example".plain-http = true\n'
    if asked["road"] == "catalog":
        config += '[[catalogs]]\nurl = "http://registry.example/catalog.json"\n'
    (folder / "config" / "config.toml").write_text(config)
    with registry.faulty("", served(asked, folder), address=asked.get("address", ELSEWHERE), port=80):
        env = {"BANGER_HOME": str(folder)}
        done = support.run("bg-fetch", *asked.get("options", []), asked["ref"], env=env, timeout=120)
    return {"status": done.returncode, "said": done.stderr.decode(), "heard": victim.heard.decode("latin-1")}


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        network(Path(made))
        Resolver()
        victim = Victim()
        for line in sys.stdin:
            with tempfile.TemporaryDirectory() as folder:
                print(json.dumps(answer(json.loads(line), victim, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
