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

ROUNDS = 3000

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
    for number in range(ROUNDS):
        seed = SEEDS[parser][number % len(SEEDS[parser])]
        data = seed if number < len(SEEDS[parser]) else mutated(seed, chance)
        yield parser.encode() + struct.pack("=I", len(data)) + data


@pytest.mark.parametrize("parser", sorted(SEEDS))
def test_parser_keeps_within_its_bounds(feeder: Path, parser: str) -> None:
    data = b"".join(records(parser, random.Random(parser)))
    done = subprocess.run([feeder], input=data, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-3000:]


def test_feeder_notices_a_broken_record(feeder: Path) -> None:
    """The judge itself can say no."""
    assert subprocess.run([feeder], input=b"j\xff\xff\xff\xff", capture_output=True, check=False).returncode == 1
