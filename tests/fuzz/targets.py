"""What is fuzzed: each reader with sound inputs to begin with. A reader returns, or raises one of our errors."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import socket
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import NamedTuple

from banger_tools import errors, layers, manifest, tar, tree
from banger_tools.agent import serial
from banger_tools.agent.client import Agent
from banger_tools.agent.transport import Connection
from banger_tools.catalog import bundle
from banger_tools.kernel import cpio, elf, image, initrd, modules
from banger_tools.oci import http, pull, reference
from banger_tools.oci.cache import Cache
from tests import (
    kernels,
    machines,
    pulls,
    registry,
    test_agent_client,
    test_ext4_image_fuzz,
    test_flatten_fuzz,
    test_tree_fuzz,
)
from tests.fuzz import mutation
from tests.images import debugfs, mke2fs
from tests.stacks import layer, soft

Mutate = Callable[[Random, list[bytes]], bytes]


class Target(NamedTuple):
    """A reader: its sound inputs, made in a folder, what it does with one, and how one is made wrong."""

    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    mutate: Mutate = mutation.mutant


def summed(random: Random, seeds: list[bytes]) -> bytes:
    """Return an archive whose headers mostly have the right checksums, so that what they say is looked at."""
    data = bytearray(mutation.mutant(random, seeds))
    if random.randrange(4):
        test_flatten_fuzz.resum(data)
    return bytes(data)


# Archives and layers


def read_layers(data: bytes, work: Path) -> None:
    paths = [work / "0.tar", work / "1.tar"]
    for path, content in zip(paths, (test_flatten_fuzz.SEEDS[0], data), strict=True):
        path.write_bytes(content)
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(open(path, "rb")) for path in paths]
        members = [
            (path.name, tar.members(file.fileno(), vouched=False)) for path, file in zip(paths, opened, strict=True)
        ]
        entries = layers.merge(members).tree_entries()
    sources = [tree.SourceFile(str(path), size=path.stat().st_size) for path in paths]
    test_flatten_fuzz.assert_sound(tree.Tree(sources, entries), str(work))


def archives(_: Path) -> list[bytes]:
    odd = layer("a/", soft("l", "a"), "l/x", "a/.wh.x", ".wh..wh..opq", "a/b/c/")
    return [*test_flatten_fuzz.SEEDS, odd]


def compressed(_: Path) -> list[bytes]:
    data = layer("a/", "a/b", soft("l", "a"))
    return [pack(data) for name, pack in kernels.PACKERS.items() if name in ("gzip", "xz", "bzip2", "zstd")]


def read_compressed(data: bytes, work: Path) -> None:
    (work / "in").write_bytes(data)
    pull.fetch(reference.Rootfs(work / "in"), "in", Cache(work / "cache"), pull.Wants())


def image_archives(work: Path) -> list[bytes]:
    """Return a small image as an OCI archive and as docker save writes one, in turns with PAX headers."""
    _answers(work)
    layer_tar, config = layer("a/", "a/b"), b'{"architecture": "amd64", "os": "linux", "rootfs": {"diff_ids": []}}'
    saved = json.dumps([{"Config": "config.json", "RepoTags": ["a:v1"], "Layers": ["layer.tar"]}]).encode()
    files = {"manifest.json": saved, "config.json": config, "layer.tar": layer_tar}
    found = []
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT):
        oci, docker = io.BytesIO(), io.BytesIO()
        with tarfile.open(fileobj=oci, mode="w", format=form, pax_headers={"comment": "x"}) as archive:
            archive.add(work / "layout", ".")
        with tarfile.open(fileobj=docker, mode="w", format=form) as archive:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size, info.pax_headers = len(data), {"size": str(len(data)), "mtime": "1.5"}
                archive.addfile(info, io.BytesIO(data))
        found += [oci.getvalue(), docker.getvalue()]
    return found


def read_image_archive(data: bytes, work: Path) -> None:
    (work / "in.tar").write_bytes(data)
    for number, kind in enumerate(("oci-archive", "docker-archive")):
        with contextlib.suppress(errors.BangerError):
            found = reference.parse(f"{kind}:{work}/in.tar")
            pull.fetch(found, "in", Cache(work / f"cache-{number}"), pull.Wants())


# Documents and words


def trees(_: Path) -> list[bytes]:
    return ["".join(f"{json.dumps(line)}\n" for line in [test_tree_fuzz.HEADER, *test_tree_fuzz.ENTRIES]).encode()]


def read_tree(data: bytes, work: Path) -> None:
    (work / "tree.jsonl").write_bytes(data)
    test_tree_fuzz.look(work / "tree.jsonl")


def manifests(_: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted((Path(__file__).parents[1] / "manifests/v1").iterdir())]


def read_manifest(data: bytes, _: Path) -> None:
    found = manifest.loads(data, "it")
    for section, kind in manifest.SECTIONS.items():
        if section in found.raw and section in ("layers", "tree", "rootfs", "published", "vm"):
            found.get(section, kind)
    assert manifest.loads(found.dumps(), "it").raw == found.raw


def references(_: Path) -> list[bytes]:
    words = [
        "debian:bookworm",
        "ghcr.io/a/b@sha256:" + "0" * 64,
        "oci:/x/y:tag",
        "docker-archive:/x.tar:a/b:1",
        "apt:bookworm",
    ]
    return [
        word.encode()
        for word in [*words, "https://h/x.tar.zst?a=b", "[::1]:5000/a:b", "docker-daemon:a/b", "bundle:/x"]
    ]


def read_reference(data: bytes, _: Path) -> None:
    found = reference.parse(data.decode("utf-8", "surrogateescape"))
    assert 1 <= len(reference.friendly_name(found)) <= 63


# Registries


def responses(work: Path) -> list[bytes]:
    found = []
    for kind, data in _answers(work).values():
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nDocker-Content-Digest: {registry.digest(data)}\r\n"
        found.append(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
    found.append(
        b'HTTP/1.1 401 X\r\nWWW-Authenticate: Bearer realm="http://127.0.0.1:1/t"\r\nContent-Length: 0\r\n\r\n'
    )
    found.append(
        b"HTTP/1.1 307 X\r\nLocation: /v2/a/manifests/v1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"
    )
    found.append(b'HTTP/1.1 429 X\r\nRetry-After: 0\r\nContent-Length: 36\r\n\r\n{"errors": [{"code": "TOOMANYREQU"}]}')
    return found


def _answers(work: Path) -> dict[str, tuple[str, bytes]]:
    shutil.rmtree(work / "layout", ignore_errors=True)
    made = registry.Image(work / "layout")
    blob = made.blob(registry.gzip_of(pulls.SMALL), registry.OCI_LAYER + "+gzip")
    return registry.of_layout(made.index(made.manifest([blob], [registry.digest(pulls.SMALL)])), "a")


def read_responses(data: bytes, work: Path) -> None:
    """Answer one request of a pull wrongly; which one, the last byte says."""
    answers, left = _answers(work), [data[-1] % 3 if data else 0]

    def meddle(request: registry.Proxy) -> bool:
        left[0] -= 1
        if left[0] == -1:
            request.raw(data)
            return True
        return registry.static(answers)(request)

    http.FIRST_PAUSE, http.LONGEST_PAUSE = 0.001, 0.01
    with registry.faulty("", meddle) as proxy:
        assert pulls.fetch_here(f"{proxy.host}/a:v1", work, stall=1.0) == [pulls.SMALL]


# Filesystems, kernels, bundles


def filesystems(work: Path) -> list[bytes]:
    found = []
    for number, options in enumerate(test_ext4_image_fuzz.KINDS.values()):
        folder = work / f"in{number}"
        folder.mkdir()
        path = mke2fs(work / "image", *options, "-d", test_ext4_image_fuzz.contents(folder), size="8M")
        debugfs(path, "cd /root", "mknod null c 1 3", write=True)
        found.append(path.read_bytes())
    return found


def damaged(random: Random, seeds: list[bytes]) -> bytes:
    """Return an image with a few words of its structures changed."""
    data = bytearray(random.choice(seeds))
    places = [at for at in range(0, len(data), 4) if data[at : at + 4] not in (b"\0\0\0\0", b"xxxx", b"data")]
    early = [at for at in places if at < 8192]
    for _ in range(random.choice([1, 2, 4])):
        at, width = random.choice(random.choice([places, early])), random.choice([1, 2, 4])
        value = random.choice([*mutation.EDGES, *test_ext4_image_fuzz.NUMBERS, random.getrandbits(32)])
        data[at : at + width] = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
    return bytes(data)


def read_filesystem(data: bytes, work: Path) -> None:
    (work / "victim").write_bytes(data)
    test_ext4_image_fuzz.read_home(work / "victim")
    test_ext4_image_fuzz.map_root(work / "victim", data)


def kernel_files(_: Path) -> list[bytes]:
    plain = kernels.elf(kernels.BANNER + kernels.NAMES + kernels.ikconfig())
    packed = [kernels.bzimage(pack(plain)) for pack in kernels.PACKERS.values()]
    boxed = io.BytesIO()
    cpio.write(boxed, [cpio.folder("lib"), cpio.file("lib/modules/6.1.0-test/a.ko", b"x" * 40)])
    zboot = kernels.zboot(kernels.PACKERS["gzip"](kernels.arm64()), b"gzip")
    archives = [boxed.getvalue(), kernels.PACKERS["gzip"](boxed.getvalue())]
    return [plain, kernels.arm64(), *packed, zboot, *archives, machines.module("a,b", alias="x")]


def read_kernel(data: bytes, work: Path) -> None:
    """Read a file as everything that a kernel's package has; at most one of these it can be."""
    (work / "file.ko").write_bytes(data)
    for read in (
        lambda: image.parse(data),
        lambda: initrd.look(work / "file.ko"),
        lambda: elf.module_info(work / "file.ko", data),
    ):
        with contextlib.suppress(errors.BangerError):
            read()
    with contextlib.suppress(errors.BangerError):
        modules.closure(modules.Folder(work), ["file"])


def bundles(work: Path) -> list[bytes]:
    disk = machines.mke2fs(work / "rootfs.ext4", None, "1M", "-O", "^has_journal")
    (work / "manifest.json").write_text(machines.manifest(disk, source={"requested": "x", "kind": "oci"}))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("manifest.json", "rootfs.ext4"):
            archive.add(work / name, name)
    return [buffer.getvalue()]


def read_bundle(data: bytes, work: Path) -> None:
    zstd = subprocess.run(["zstd", "-q", "-c", "-1"], input=data, capture_output=True, check=True).stdout
    (work / "b.tar.zst").write_bytes(zstd)
    found = reference.parse(f"bundle:{work}/b.tar.zst")
    assert isinstance(found, reference.Bundle)
    bundle.fetch(found, None, pull.Wants(), Cache(work / "cache"), work / "image")


def wrong_bundle(random: Random, seeds: list[bytes]) -> bytes:
    """Return a bundle's tar with changes near its headers and its manifest; what is within the image matters less."""
    whole = random.choice(seeds)
    return summed(random, [whole[:8192]]) + (whole[8192:] if random.randrange(8) else b"")


# Agents


def answers_of_agents(_: Path) -> list[bytes]:
    found = [test_agent_client.body(text.encode()) for _, text in test_agent_client.ODD]
    found += [lie for lie in test_agent_client.LIES.values() if len(lie) < 5000]
    found.append(test_agent_client.body(b'{"name": "banger-agent", "ready": true, "uptime": 1.5}'))
    found.append(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    frames = b"\x01\0\0\0\0\0\0\3abc\x02\0\0\0\0\0\0\1x\x06\0\0\0\0\0\0\4\0\0\0\1" + test_agent_client.EXIT_0
    found.append(test_agent_client.SWITCH + frames)
    found.append(serial.FLAG + b"A" + b"0" * 32 + serial.FLAG + serial.encode(frames) + serial.END)
    return found


@contextlib.contextmanager
def guest(data: bytes) -> Iterator[Agent]:
    """Give a client of an agent that says just this, whatever it is asked, and hangs up."""
    kept = []

    def connect(_deadline: float) -> Connection:
        ours, theirs = socket.socketpair()
        kept.append(theirs)
        theirs.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            theirs.send(data)
        theirs.shutdown(socket.SHUT_WR)
        return Connection(ours)

    try:
        yield Agent(connect)
    finally:
        for stream in kept:
            stream.close()


def read_agent(data: bytes, _: Path) -> None:
    with guest(data) as agent, open(os.devnull, "wb") as nowhere:
        questions: list[Callable[[], object]] = [agent.health, agent.stats, agent.ports, agent.sync]
        questions.append(lambda: list(agent.get_files("/x")))
        fd = nowhere.fileno()
        questions.append(lambda: agent.exec(["x"], stdin_fd=None, stdout_fd=fd, stderr_fd=fd))
        for ask in questions:
            with contextlib.suppress(errors.BangerError):
                ask()
    decoder = serial.Decoder("0" * 32)
    for start in range(0, len(data), 7):
        decoder.feed(data[start : start + 7])


TARGETS = {
    "layers": Target(archives, read_layers, summed),
    "compressed": Target(compressed, read_compressed),
    "archive": Target(image_archives, read_image_archive, summed),
    "tree": Target(trees, read_tree),
    "manifest": Target(manifests, read_manifest),
    "reference": Target(references, read_reference),
    "registry": Target(responses, read_responses),
    "ext4": Target(filesystems, read_filesystem, damaged),
    "kernel": Target(kernel_files, read_kernel),
    "bundle": Target(bundles, read_bundle, wrong_bundle),
    "agent": Target(answers_of_agents, read_agent),
}
