"""The guest program's parsers under sanitizers, fed with what no host ever sends."""

from __future__ import annotations

import json
import random
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools import guest
from banger_tools.agent import serial
from tests import support

ROUNDS = dict.fromkeys("jhfst", 3000) | {"b": 1000, "a": 500, "e": 60, "p": 60}  # the last start processes


def frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">B3xI", kind, len(payload)) + payload


def archives() -> Iterator[bytes]:
    """Yield archives with an entry of every kind."""
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        data = b""
        for kind in (tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.FIFOTYPE):
            entry = tarfile.TarInfo(f"{kind.decode()}/" + "n" * 150)
            entry.type, entry.linkname = kind, f"{tarfile.REGTYPE.decode()}/" + "n" * 150
            entry.size = 700 if kind == tarfile.REGTYPE else 0
            entry.pax_headers = {"SCHILY.xattr.user.x": "value", "mtime": "1.5"}
            data += entry.tobuf(form) + bytes(-(-entry.size // 512) * 512)
        yield data + bytes(1024)


SEEDS: dict[str, list[bytes]] = {
    "j": [
        json.dumps({"schema": "banger-guest/1", "argv": ["a", "é\udcff"], "disks": {"root": "/dev/vda"}}).encode(),
        b'{"a":[1,-2.5e+3,true,false,null,{"b":[[]]}],"env":["A=\\u00e9\\ud83d\\ude00"],"network":{"dns":["1","2"]}}',
        b"[" * 40 + b"]" * 40,
        b'"\\u12',
    ],
    "h": [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /exec HTTP/1.1\r\nContent-Length: 12\r\nConnection: close\r\n\r\n{}",
        b"PUT /files?path=%2Ftmp%20x&y=%zz HTTP/1.1\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n",
        b"GET /files?path=%2 HTTP/1.0\r\n" + b"X: " + b"y" * 9000 + b"\r\n\r\n",
    ],
    "f": [struct.pack(">B3xI", 0, 5) + b"hello" + struct.pack(">B3xI", 4, 1) + b"\x02", b"\0" * 20],
    "s": [serial.hello("0" * 32) + serial.encode(b"~}data") + serial.END, b"~H" + b"0" * 80 + b"~~E~"],
    "t": [
        tarfile.TarInfo("file").tobuf(),
        tarfile.TarInfo("n" * 200).tobuf(tarfile.PAX_FORMAT),
        b"30 mtime=1350244992.023960108\n18 path=some/file\n",
        b"9999999999999999999 path=x\n",
        b"6 a=b\n" * 5,
        b"28 SCHILY.xattr.user.a%3D=v\n" * 2,
    ],
    "b": [
        b'POST /exec HTTP/1.1\r\nContent-Length: 5\r\n\r\n{"a"}GET / HTTP/1.1\r\n\r\n',
        b"PUT /files HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n4\r\n0123\r\n0\r\nT: x\r\n\r\n",
        b"PUT /files HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n7fffffffffffffff\r\nx",
        b"POST / HTTP/1.1\r\nContent-Length: 20000\r\n\r\n" + b"y" * 20_000,
    ],
    "a": list(archives()),
    "e": [
        frame(0, b"hello") + frame(4, b"\x01") + frame(0),
        frame(5, b"\0\x20\0\x40") + frame(0, b"x" * 3000) + frame(4, b"\x02") + frame(9, b"?") + frame(0),
        frame(0, b"y" * 16000) + frame(0, b"z" * 65536) * 5 + frame(4, b"\x0f"),
    ],
    "p": [
        serial.hello("0" * 32) + serial.encode(b"~}data") * 50 + serial.END,
        serial.hello("1" * 32) * 3 + b"}" + serial.hello("2" * 32) + b"~H0123~" + serial.encode(bytes(range(256))),
        serial.hello("3" * 32) + b"~" * 300 + serial.hello("4" * 32) + b"z" * 70_000 + serial.END,
    ],
}


@pytest.fixture(scope="module")
def feeder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The parsers and a program that feeds them, with sanitizers."""
    compiler = shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        support.cannot("not installed: gcc or clang, for the sanitizers")
    sources = [path for path in sorted((guest.FOLDER / "src").glob("*.c")) if path.name != "main.c"]
    target = tmp_path_factory.mktemp("fuzz") / "feeder"
    flags = ["-g", "-O1", "-std=gnu11", "-D_GNU_SOURCE", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [compiler, *flags, "-o", str(target), str(Path(__file__).with_name("guest_fuzz.c")), *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0 and "cannot find" in done.stderr:
        support.cannot("the compiler has no sanitizers")
    assert done.returncode == 0, done.stderr
    return target


def mutated(seed: bytes, chance: random.Random) -> bytes:
    """Return a seed with a few bytes changed, cut, doubled or put in."""
    data = bytearray(seed)
    for _ in range(chance.randint(0, 6)):
        at = chance.randint(0, len(data))
        match chance.randint(0, 4):
            case 0:
                data[at : at + 1] = bytes([chance.randint(0, 255)])
            case 1:
                del data[at : at + chance.randint(1, 20)]
            case 2:
                data[at:at] = data[at : at + chance.randint(1, 200)] * chance.randint(1, 3)
            case 3:
                data[at:at] = chance.choice([b"\0", b"\r\n", b'"', b"\\u", b"~", b"}", b"%", b"9" * 30, b"[", b"\xff"])
            case _:
                del data[at:]
    return bytes(data)


def records(parser: str, chance: random.Random) -> Iterator[bytes]:
    for number in range(ROUNDS[parser]):
        seed = SEEDS[parser][number % len(SEEDS[parser])]
        data = seed if number < len(SEEDS[parser]) else mutated(seed, chance)
        yield parser.encode() + struct.pack("=I", len(data)) + data


@pytest.mark.parametrize("parser", sorted(SEEDS))
def test_parser_keeps_within_its_bounds(feeder: Path, tmp_path: Path, parser: str) -> None:
    data = b"".join(records(parser, random.Random(parser)))
    done = subprocess.run([feeder, tmp_path / "in"], input=data, capture_output=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]
    assert (tmp_path / "in").exists() == (parser == "a")


def test_feeder_notices_a_broken_record(feeder: Path) -> None:
    """The judge itself can say no."""
    assert subprocess.run([feeder], input=b"j\xff\xff\xff\xff", capture_output=True, check=False).returncode == 1
