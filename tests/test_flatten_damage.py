"""Archives whose headers are damaged or lie, each in one way: refused with what is wrong and where."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import Any

import pytest

from banger_tools import flatten

END = bytes(1024)


def header(name: str = "file", **fields: Any) -> bytes:
    """Return the header of a member."""
    info = tarfile.TarInfo(name)
    for key, value in fields.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def patched(place: int, data: bytes, **fields: Any) -> bytes:
    """Return a header with other bytes at a place, and a checksum that is right for them."""
    raw = bytearray(header(**fields))
    raw[place : place + len(data)] = data
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def pax(kind: bytes = tarfile.XHDTYPE, **records: str) -> bytes:
    """Return a header that says more of the next member, and its records."""
    body = b""
    for key, value in records.items():
        record = b" " + key.replace("_", ".").encode() + b"=" + value.encode() + b"\n"
        length = len(record) + len(str(len(record) + 2))
        body += str(length).encode() + record
    return header("pax", type=kind, size=len(body)) + padded(body)


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def sparse(*pairs: tuple[int, int], real: int, more: bool = False) -> bytes:
    """Return the header of an old GNU sparse file with 512 bytes of data: its map, if there is more of it, its size."""
    area = b"".join(b"%011o\0" % number for pair in pairs for number in pair).ljust(96, b"\0")
    return patched(386, area + bytes([more]) + b"%011o\0" % real, type=tarfile.GNUTYPE_SPARSE, size=512)


DAMAGED = {
    "type that nobody knows": (header(type=b"?") + END, "unknown entry type b'?' at byte 0"),
    "number that is none": (patched(108, b"zz") + END, "is not a number"),
    "file that cannot be so large": (patched(124, b"\x80" + b"\0" * 3 + b"\x7f" * 8) + END, "is out of range"),
    "file that goes beyond the end": (header(size=5000) + b"x" * 512, "cut"),
    "end without a marker": (header(), "is cut at byte 512: no end marker"),
    "end inside of an entry": (pax(path="x") + END, "ends at byte 1024, inside an entry"),
    "end inside of a header of more": (header("pax", type=tarfile.XHDTYPE, size=600) + b"x" * 100, "cut"),
    "records that are none": (
        header("pax", type=tarfile.XHDTYPE, size=20) + padded(b"x" * 20) + END,
        "corrupt PAX header",
    ),
    "size that is no number": (pax(size="0x10") + header() + END, "b'0x10' in the extension header"),
    "time that is none": (pax(mtime="now") + header() + END, "is not a time"),
    "name with a NUL": (pax(path="a\0b") + header() + END, "a NUL byte in the name"),
    "xattr that does not decode": (
        pax(LIBARCHIVE_xattr_user="!") + header() + END,
        "corrupt xattr in the extension header",
    ),
    "ACL that is none": (pax(SCHILY_acl_access="nobody") + header() + END, "the ACL of the entry at byte"),
    "map of holes that is cut": (sparse((0, 512), real=512, more=True), "the sparse map of the entry at byte 0 is cut"),
    "map of holes in disorder": (
        sparse((1024, 256), (0, 256), real=2048) + bytes(512) + END,
        "the sparse map of the entry at byte 0 is not in order",
    ),
    "map of holes that leaves data": (sparse((0, 64), real=512) + bytes(512) + END, "leaves 448 bytes of data unused"),
    "map of holes without numbers": (
        pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="9", GNU_sparse_name="x")
        + header(size=512)
        + padded(b"9\n1\n")
        + END,
        "the sparse map of the entry at byte",
    ),
    "map of holes that ends with an offset": (
        pax(GNU_sparse_size="512", GNU_sparse_offset="0") + header() + END,
        "an offset has no length",
    ),
    "map of more holes than may be": (
        pax(GNU_sparse_size="512", GNU_sparse_map="0,0," * (1 << 20)) + header() + END,
        "the sparse map of the entry at byte",
    ),
    "map of more holes than may be in data": (
        pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="9", GNU_sparse_name="x")
        + header(size=512)
        + padded(b"1048577\n0\n")
        + END,
        "is cut or too large",
    ),
    "name of a sparse file with a NUL": (
        pax(GNU_sparse_major="1", GNU_sparse_minor="0", GNU_sparse_realsize="0", GNU_sparse_name="a\0b")
        + header(size=512)
        + padded(b"0\n")
        + END,
        "a NUL byte in the name",
    ),
    "name of a sparse file with a NUL, of one that is none": (
        pax(GNU_sparse_name="a\0b") + header() + END,
        "a NUL byte in the name",
    ),
    "link with a NUL": (pax(linkpath="a\0b") + header(type=tarfile.SYMTYPE) + END, "a NUL byte in the link"),
    "time that no clock has": (patched(136, b"\x80" + b"\x7f" * 11) + END, "is out of range"),
    "time before any clock": (patched(136, b"\xff\x80" + b"\0" * 10) + END, "is out of range"),
    "time of twenty digits": (pax(mtime="9" * 20) + header() + END, "is not a time"),
    "device of a negative number": (
        patched(329, b"-000001\0", type=tarfile.CHRTYPE) + END,
        "device -1:0 of the entry at byte 0 is out of range",
    ),
    "records of more than a megabyte": (
        pax(comment="x" * 600_000, also="x" * 600_000) + header() + END,
        "the extension header at byte 0 is too large",
    ),
    "records of more than a megabyte in several headers": (
        pax(comment="x" * 600_000) * 3 + header() + END,
        "are too large together",
    ),
    "records for all that are too large": (
        pax(tarfile.XGLTYPE, SCHILY_xattr_user_x="x" * 10_000) + header() + END,
        "more than 8192 bytes",
    ),
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_damaged_header_is_refused_with_its_place(
    kind: str, tmp_path: Path, banger_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    data, said = DAMAGED[kind]
    (tmp_path / "layer.tar").write_bytes(data)
    assert flatten.main(["-C", str(tmp_path), str(tmp_path / "layer.tar")]) == 65
    out, err = capfd.readouterr()
    assert (out, said in err) == ("", True), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "layer.tar"]


def test_acl_whose_mask_has_no_empty_name_is_the_same_acl(tmp_path: Path, banger_home: Path) -> None:
    """star and Solaris write 'mask:r--', others 'mask::r--'."""
    found = []
    for number, mask in enumerate(("mask:r--,other:---", "mask::r--,other::---")):
        layer = pax(SCHILY_acl_access=f"user::rw-,user:5:r--,group::r--,{mask}") + header(mode=0o640) + END
        (tmp_path / "layer.tar").write_bytes(layer)
        assert flatten.main(["-o", str(tmp_path / f"tree{number}"), str(tmp_path / "layer.tar")]) == 0
        found.append((tmp_path / f"tree{number}").read_text().splitlines()[1:])
    assert found[0] == found[1]
    assert "system.posix_acl_access" in found[0][-1]
