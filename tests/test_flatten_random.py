"""Random stacks of layers, with everything odd that a layer may hold: our tree is what umoci unpacks as root."""

from __future__ import annotations

import tarfile
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests import folders, support
from tests.stacks import assert_like_umoci, layer

Entry = tuple[str, dict[str, Any]]

# prefixes of one another, names that look like markers but are none, and spellings of one path
names = st.sampled_from(["a", "b", "ab", "a.b", "..f", ".x", ".wh", "wh.a", "é", "n\n"])
paths = st.lists(names, min_size=1, max_size=4).map("/".join)
spellings = st.sampled_from(["{}", "{}", "{}", "./{}", "/{}", ".//{}"])
targets = st.sampled_from(["a", "/b", "../ab", "/a/b", "../../..", "a/b/..", ".", "/", "./b", "nowhere", "a/", "é"])
times = st.sampled_from(["0", "1", "1600000000.5", "-1.5", "-0.25", "4000000000", "1.000000001"])
owners = st.sampled_from([0, 1000, 3_000_000, 4_294_967_294])
modes = st.sampled_from([0o644, 0o600, 0o755, 0o4711, 0o2755, 0o1777, 0o000, 0o444])
acl = folders.ACL.decode("utf-8", "surrogateescape")
xattrs = st.sampled_from(
    [
        {},
        {},
        {},
        {"SCHILY.xattr.user.one": "1"},
        {"SCHILY.xattr.trusted.two": "2", "SCHILY.xattr.user.one": "é"},
        {"SCHILY.xattr.security.capability": folders.CAPABILITY.decode("utf-8", "surrogateescape")},
        {"SCHILY.xattr.system.posix_acl_access": acl},
    ]
)
TYPES = {
    "dir": tarfile.DIRTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
    "soft": tarfile.SYMTYPE,
    "hard": tarfile.LNKTYPE,
}
kinds = st.sampled_from(["file"] * 4 + ["dir"] * 4 + ["soft"] * 3 + ["hard"] * 3 + ["sparse", "char", "block", "fifo"])
markers = st.sampled_from([tarfile.REGTYPE] * 3 + [tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE])


@st.composite
def contents(draw: st.DrawFn) -> Entry:
    """An entry that is content: a file, a folder, a link, a device."""
    path, kind = draw(spellings).format(draw(paths)), draw(kinds)
    records = {"mtime": draw(times)}
    fields: dict[str, Any] = {"uid": draw(owners), "gid": draw(owners), "mode": draw(modes), "pax_headers": records}
    if kind in ("soft", "hard"):
        fields |= {"kind": TYPES[kind], "linkname": draw(targets if kind == "soft" else paths)}
    elif kind == "sparse":
        return "GNUSparseFile.0/x", fields | sparse(path, records)
    elif kind == "file":
        fields["data"] = draw(st.binary(max_size=5))
    else:
        fields |= {"kind": TYPES[kind], "devmajor": draw(st.sampled_from([0, 1, 259])), "devminor": 70_000}
    if kind == "dir":
        fields["mode"] &= ~0o2000  # folders that are only implied would take it over from the disk umoci works on
    extra = draw(xattrs)
    if kind == "dir" or kind == "file":
        records |= extra
    return path, fields


def sparse(path: str, records: dict[str, str]) -> dict[str, Any]:
    """Return what makes an entry a GNU sparse file, version 1.0: 5,000 bytes with four in the middle."""
    about = {"major": "1", "minor": "0", "name": path, "realsize": "5000"}
    records |= {f"GNU.sparse.{key}": value for key, value in about.items()}
    return {"data": b"2\n4096\n4\n5000\n0\n".ljust(512, b"\0") + b"data"}


@st.composite
def whiteouts(draw: st.DrawFn) -> Entry:
    """A marker of any type: of a name, of all of a folder, or of the bookkeeping of AUFS."""
    folder, _, name = draw(paths).rpartition("/")
    marker = draw(st.sampled_from([f".wh.{name}"] * 4 + [".wh..wh..opq"] * 3 + [".wh..wh.plnk"]))
    kind = draw(markers)
    fields = {"kind": kind, "linkname": draw(paths) if kind in (tarfile.LNKTYPE, tarfile.SYMTYPE) else ""}
    return draw(spellings).format(f"{folder}/{marker}" if folder else marker), fields


entries = st.one_of(contents(), contents(), whiteouts())
layers = st.lists(entries, max_size=7).map(lambda found: layer(*found))


@pytest.mark.root
@given(st.lists(layers, min_size=1, max_size=5))
@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_stacks_merge_as_umoci_unpacks_them(stack: list[bytes]) -> None:
    support.need("umoci")
    assert_like_umoci(stack)
