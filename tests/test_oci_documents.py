"""Which image of an index is chosen, and which documents are refused: as containerd's platform matching has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from banger_tools import errors
from banger_tools.manifest import Platform
from banger_tools.oci import digest as digests
from banger_tools.oci import documents, inspect, limits, platforms
from banger_tools.oci.documents import Descriptor, Document
from banger_tools.oci.platforms import IndexPlatform


def entry(text: str | None, number: int = 0, **more: Any) -> Descriptor:
    """Return an index entry for `os/arch[/variant]`; its digest tells it from others."""
    parts = (text or "//").split("/")
    platform = IndexPlatform(parts[1], parts[0], parts[2] if len(parts) > 2 else None) if text is not None else None
    return Descriptor(f"sha256:{number:064x}", 2, documents.OCI_MANIFEST, platform=platform, **more)


def chosen(wanted: str | None, *there: str) -> str:
    entries = [entry(text, number) for number, text in enumerate(there)]
    found = documents.choose(entries, platforms.parse(wanted) if wanted else None, "x")
    assert found.platform is not None
    return platforms.show_index(found.platform)


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64", ["windows/amd64", "linux/amd64"], "linux/amd64"),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v2"),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], "linux/amd64"),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm64/v8", ["linux/arm64"], "linux/arm64"),
        ("linux/arm64/v9", ["linux/arm64/v8"], "linux/arm64/v8"),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm64"], "linux/arm/v6"),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("linux/riscv64", ["linux/riscv64"], "linux/riscv64"),
        ("x86_64", ["linux/amd64"], "linux/amd64"),
    ],
)
def test_the_nearest_variant_that_runs_is_chosen(wanted: str, there: list[str], expected: str) -> None:
    assert chosen(wanted, *there) == expected


@pytest.mark.parametrize(
    ("wanted", "there"),
    [
        ("linux/amd64", ["linux/amd64/v3"]),
        ("linux/amd64", ["linux/386"]),
        ("linux/arm/v6", ["linux/arm/v7"]),
        ("linux/arm64", ["linux/arm64/v9", "linux/arm/v7"]),
        ("linux/s390x", ["linux/amd64", "unknown/unknown"]),
    ],
)
def test_what_cannot_run_there_is_not_chosen(wanted: str, there: list[str]) -> None:
    with pytest.raises(errors.NoInput) as caught:
        chosen(wanted, *there)
    assert there[0] in str(caught.value.hint) and "unknown" not in str(caught.value.hint)


@pytest.mark.parametrize(
    ("machine", "there", "expected"),
    [
        ("x86_64", ["linux/386", "linux/amd64"], "linux/amd64"),
        ("x86_64", ["linux/arm64", "linux/386"], "linux/386"),
        ("aarch64", ["linux/amd64", "linux/arm/v6", "linux/arm/v7"], "linux/arm/v7"),
        ("armv7l", ["linux/arm64", "linux/arm/v6"], "linux/arm/v6"),
        ("armv6l", ["linux/arm/v7", "linux/arm/v5"], "linux/arm/v5"),
        ("ppc64le", ["linux/ppc64le"], "linux/ppc64le"),
    ],
)
def test_a_machine_takes_what_it_can_run(
    machine: str, there: list[str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert chosen(None, *there) == expected


def test_attestations_and_artifacts_are_no_images() -> None:
    attested = entry("linux/amd64", 1, annotations={"vnd.docker.reference.type": "attestation-manifest"})
    other = Descriptor(f"sha256:{2:064x}", 2, "application/spdx+json", platform=IndexPlatform("amd64", "linux"))
    real = entry("linux/amd64", 3)
    assert documents.choose([attested, other, real], Platform("amd64"), "x") is real
    with pytest.raises(errors.NoInput):
        documents.choose([attested, other, entry("unknown/unknown")], Platform("amd64"), "x")


class Store:
    """Documents by digest, as a source has them; counts what is read."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}
        self.reads = 0

    def put(self, value: Any, media_type: str, platform: IndexPlatform | None = None) -> Descriptor:
        data = json.dumps(value).encode()
        found = Descriptor(digests.of(data), len(data), media_type, platform=platform)
        self.data[found.digest] = data
        return found

    def image(self, architecture: str, platform: IndexPlatform | None = None, **config: Any) -> Descriptor:
        fields = {"os": "linux", "architecture": architecture, "rootfs": {"diff_ids": []}, **config}
        described = self.put(fields, documents.OCI_CONFIG)
        value = {"config": {"mediaType": documents.OCI_CONFIG, "digest": described.digest, "size": described.size}}
        return self.put({"schemaVersion": 2, **value, "layers": []}, documents.OCI_MANIFEST, platform)

    def index(self, *entries: Descriptor) -> Descriptor:
        listed = []
        for one in entries:
            shown: dict[str, Any] = {"mediaType": one.media_type, "digest": one.digest, "size": one.size}
            if one.platform is not None:
                shown["platform"] = {"os": one.platform.os, "architecture": one.platform.architecture}
            listed.append(shown)
        return self.put({"schemaVersion": 2, "manifests": listed}, documents.OCI_INDEX)

    def read(self, descriptor: Descriptor) -> bytes:
        self.reads += 1
        return self.data[descriptor.digest]

    def resolve(self, root: Descriptor, wanted: str = "linux/amd64") -> documents.Image:
        document = Document(root, self.data[root.digest])
        return documents.resolve(document, self.read, platforms.parse(wanted), "x")


def test_indexes_in_indexes_are_looked_through_to_a_depth() -> None:
    store = Store()
    root = store.image("amd64", IndexPlatform("amd64", "linux"))
    for _ in range(limits.INDEX_DEPTH):
        root = store.index(root)
    assert store.resolve(root).config["architecture"] == "amd64"
    with pytest.raises(errors.BadInput, match="deep"):
        store.resolve(store.index(root))


def test_of_several_indexes_without_a_platform_the_one_that_has_it_is_found() -> None:
    store = Store()
    arm = store.index(store.image("arm64", IndexPlatform("arm64", "linux")))
    amd = store.index(store.image("amd64", IndexPlatform("amd64", "linux")))
    assert store.resolve(store.index(arm, amd)).config["architecture"] == "amd64"
    with pytest.raises(errors.NoInput, match="no image for linux/s390x"):
        store.resolve(store.index(arm, amd), "linux/s390x")


def test_the_search_through_indexes_ends() -> None:
    store = Store()
    wide = [store.index(store.image("arm64", IndexPlatform("arm64", "linux"), n=n)) for n in range(200)]
    with pytest.raises(errors.BadInput, match="more than 32"):
        store.resolve(store.index(*wide))
    assert store.reads <= limits.INDEXES


def test_an_index_that_leads_back_to_itself_ends() -> None:
    store = Store()
    name = f"sha256:{'a' * 64}"
    store.data[name] = json.dumps({"manifests": [{"digest": name, "size": 5}]}).encode()
    with pytest.raises(errors.BadInput, match="deep"):
        store.resolve(Descriptor(name, 5))


def test_what_an_index_says_counts_where_the_configuration_is_vague() -> None:
    store = Store()
    root = store.index(store.image("arm", IndexPlatform("arm", "linux", "v6")))
    assert store.resolve(root, "linux/arm/v7").platform == Platform("arm", "linux", None)
    with pytest.raises(errors.NoInput, match="arm64 was asked"):
        store.resolve(store.image("arm"), "linux/arm64")


DEEP = [(50_000, "is not JSON: .*recursion"), (1_000_000, "more than 100000 values")]


@pytest.mark.parametrize(("opening", "closing"), [(b"[", b"]"), (b'{"a":', b"}")])
@pytest.mark.parametrize(("depth", "wrong"), [(32, "nested more than 32 deep"), *DEEP])
def test_deep_nesting_is_no_crash(depth: int, wrong: str, opening: bytes, closing: bytes) -> None:
    data = b'{"x": ' + opening * depth + b"1" + closing * depth + b"}"
    with pytest.raises(errors.BadInput, match=wrong):
        documents.decode_any(data, "it")


@pytest.mark.parametrize(("depth", "wrong"), DEEP)
def test_deep_nesting_in_what_nobody_reads_of_an_index_is_no_crash(depth: int, wrong: str) -> None:
    data = b'{"manifests": [], "x": ' + b"[" * depth + b"]" * depth + b"}"
    with pytest.raises(errors.BadInput, match=wrong):
        documents.is_index(Document(Descriptor(digests.of(data), len(data)), data), "it")


def test_nesting_that_is_allowed_is_read() -> None:
    assert documents.decode_any(b'{"x": ' + b"[" * 32 + b"]" * 32 + b"}", "it")


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ({"manifests": [], "layers": []}, "both"),
        ({"schemaVersion": 2}, "neither"),
        ({"schemaVersion": 1, "fsLayers": []}, "schema 1"),
        ({"manifests": [], "mediaType": documents.OCI_MANIFEST}, "and is not"),
        ({"layers": [], "config": {}, "mediaType": documents.DOCKER_LIST}, "and is not"),
        ([1], "object"),
    ],
)
def test_a_document_is_an_index_or_a_manifest(value: Any, wrong: str) -> None:
    data = json.dumps(value).encode()
    with pytest.raises(errors.BadInput, match=wrong):
        documents.is_index(Document(Descriptor(digests.of(data), len(data)), data), "it")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value in a document."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, (*path, key))


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a document with the value at a path replaced."""
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=300, deadline=None)
def test_no_document_is_a_bug(data: st.DataObject) -> None:
    store = Store()
    root = store.index(store.image("amd64", IndexPlatform("amd64", "linux"), history=[{"created": "x"}]))
    name = data.draw(st.sampled_from(sorted(store.data)))
    value = json.loads(store.data[name])
    store.data[name] = json.dumps(
        replaced(value, data.draw(st.sampled_from(list(places(value)))), data.draw(JSON))
    ).encode()
    try:
        found = store.resolve(root)
    except errors.BangerError:
        return
    assert found.layers == []
    inspect.describe(found)
