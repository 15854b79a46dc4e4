"""The manifest: typed where it is known, untouched where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger_tools import errors, manifest
from tests.support import ROOT, run

FROZEN = sorted((ROOT / "tests" / "manifests").glob("v*/*.json"))
DIGEST = "sha256:" + "0" * 64
TREE: dict[str, Any] = {"path": "/t", "digest": DIGEST, "size": 1, "entries": 1, "bytes": 1}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


def loads(**sections: Any) -> manifest.Manifest:
    return manifest.loads(json.dumps({"schema": manifest.SCHEMA, **sections}), "stdin")


def refusal(**sections: Any) -> str:
    with pytest.raises(errors.BadInput) as raised:
        loads(**sections)
    return raised.value.message


@pytest.mark.parametrize("path", FROZEN, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_frozen_manifests_of_old_versions_are_still_read_and_written_as_they_were(path: Path) -> None:
    text = path.read_text()
    assert manifest.loads(text, path.name).dumps() == text


@given(st.dictionaries(st.text().map(lambda key: f"x-{key}"), json_values, max_size=5))
def test_unknown_keys_pass_through_untouched(extra: dict[str, Any]) -> None:
    again = json.loads(loads(tree={**TREE, "x-new": extra}, **extra).dumps())
    assert again == {"schema": manifest.SCHEMA, "tree": {**TREE, "x-new": extra}, **extra}


def test_schema_comes_first_and_all_else_is_sorted() -> None:
    text = loads(zebra=1, name="n", apple={"b": 1, "a": [{"d": 1, "c": 2}]}).dumps()
    assert list(json.loads(text)) == ["schema", "apple", "name", "zebra"]
    assert list(json.loads(text)["apple"]["a"][0]) == ["c", "d"]


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"tree": {**TREE, "path": 7}}, "manifest: tree.path: expected str, got int"),
        ({"tree": {**TREE, "size": -1}}, "manifest: tree.size: expected int >= 0"),
        ({"tree": {**TREE, "digest": "md5:1"}}, "must be sha256:<64 hex> or sha512:<128 hex>"),
        ({"layers": [{"diff_id": DIGEST}]}, "manifest: layers[0]: object missing required field path"),
        ({"layers": {}}, "manifest: layers: expected array, got object"),
        ({"ownership": {"changed": "\ud800", "checked": 1}}, "manifest: ownership: '\\ud800' is no text"),
    ],
)
def test_errors_name_the_exact_place(sections: dict[str, Any], message: str) -> None:
    assert message in refusal(**sections)


def test_name_and_history_of_another_type_are_refused_when_they_are_needed() -> None:
    with pytest.raises(errors.BadInput, match="manifest: name: must be a string"):
        _ = loads(name=7).name
    with pytest.raises(errors.BadInput, match="manifest: history: must be an array"):
        loads(history={}).record("bg-x", {})


def test_more_than_a_manifest_may_have_is_refused() -> None:
    done = run("bg-seed", stdin=b"{" + b" " * manifest.LIMIT)
    assert done.returncode == 65
    assert b"stdin is too large for a manifest" in done.stderr


def test_missing_section_names_its_maker() -> None:
    with pytest.raises(errors.BadInput, match="no 'tree' section") as raised:
        loads().get("tree", manifest.Tree)
    assert raised.value.hint == "run bg-flatten before this tool"


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"', "{}", '{"schema": NaN}', '{"name": "x"}', "\x00"])
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(errors.BadInput, match="stdin is not a manifest"):
        manifest.loads(text, "stdin")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(errors.BadInput):
        manifest.loads(b"\xff\xfe{\x00", "stdin")


def test_other_schema_is_refused_naming_both() -> None:
    with pytest.raises(errors.BadInput) as raised:
        manifest.loads('{"schema": "banger-manifest/2"}', "'x.json'")
    message = "'x.json' has the schema 'banger-manifest/2', and this program reads 'banger-manifest/1'"
    assert raised.value.message == message


def test_history_grows_by_one_line() -> None:
    made = loads(history=[{"tool": "earlier"}])
    made.record("bg-toy", {"size": 1})
    assert [line["tool"] for line in made.raw["history"]] == ["earlier", "bg-toy"]
    assert made.raw["history"][1]["options"] == {"size": 1}


def test_sections_come_back_as_they_were_put() -> None:
    for section in (manifest.Tree("/t", DIGEST, 1, 2, 3), manifest.Rootfs("/r", 1, "u", "l", 2, 3)):
        name = type(section).__name__.lower()
        made = manifest.Manifest()
        made.put(name, section)
        assert manifest.loads(made.dumps(), "x").get(name, type(section)) == section


def test_null_section_is_not_there() -> None:
    made = loads(work_seed=None)
    assert not made.has("work_seed")
    assert json.loads(made.dumps())["work_seed"] is None


def test_process_and_architecture_of_the_image() -> None:
    made = loads(image={"architecture": "arm64", "config": {"Env": ["A=1"]}})
    assert (made.architecture, made.process) == ("arm64", {"Env": ["A=1"]})
    assert loads(image={"config": None}).process == {}
    with pytest.raises(errors.BadInput, match=r"manifest: image\.config: must be an object"):
        _ = loads(image={"config": []}).process
