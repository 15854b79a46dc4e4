"""What --exclude leaves out, judged by rsync; and what becomes of links to it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from banger_tools import globs, tree
from tests import support, trees

LETTERS = "abc.["


@pytest.fixture(scope="module")
def forest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose names are all the short ones that one can make of a few letters."""
    root = tmp_path_factory.mktemp("forest")
    names = [a + b for a in LETTERS for b in ["", *LETTERS] if a + b not in (".", "..")]
    for one in names:
        (root / "dir" / one).mkdir(parents=True)
        (root / one).touch()
        for two in names[::3]:
            (root / "dir" / one / two).touch()
        (root / "dir" / one / "deep").mkdir()
        (root / "dir" / one / "deep" / one).touch()
    return root


def kept_by_rsync(root: Path, patterns: list[str]) -> set[str]:
    arguments = [f"--exclude={pattern}" for pattern in patterns]
    with tempfile.TemporaryDirectory() as empty:
        command = ["rsync", "-an", "--out-format=%n", *arguments, f"{root}/", f"{empty}/"]
        done = subprocess.run(["rsync", "-8", *command[1:]], capture_output=True, text=True, check=True)
    return {line.rstrip("/") for line in done.stdout.splitlines()} - {"."}


def kept_by_us(root: Path, patterns: list[str]) -> set[str]:
    excluded = globs.matcher(patterns)
    kept: set[str] = set()
    for folder, folders, files in os.walk(root):
        prefix = os.path.relpath(folder, root)
        prefix = "" if prefix == "." else prefix + "/"
        folders[:] = [name for name in folders if not excluded(os.fsencode(f"/{prefix}{name}"), True)]
        kept |= {prefix + name for name in folders}
        kept |= {prefix + name for name in files if not excluded(os.fsencode(f"/{prefix}{name}"), False)}
    return kept


def well_formed(pattern: str) -> bool:
    """Leave out what rsync gives a meaning that nobody else does: three stars."""
    return bool(pattern.strip("/")) and "//" not in pattern and "***" not in pattern


pieces = st.sampled_from(
    [*LETTERS.replace("[", ""), "*", "?", "**", "/", "[ab]", "[!a]", "[^.]", "[a-b]", "\\[", "dir", "deep"]
)
patterns = st.lists(pieces, min_size=1, max_size=6).map("".join).filter(well_formed)


@given(st.lists(patterns, min_size=1, max_size=3))
@example(["dir/"])
@example(["a/"])
@example(["/dir/a"])
@example(["dir/a"])
@example(["dir/**/a"])
@example(["/dir/*/a"])
@example(["/**"])
@example(["**/a"])
@example(["/**/a"])
@example(["a/**"])
@example(["**/**/a/"])
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_patterns_mean_what_they_mean_to_rsync(forest: Path, found: list[str]) -> None:
    support.need("rsync")
    assert kept_by_us(forest, found) == kept_by_rsync(forest, found)


def paths(where: Path, source: Path, *options: str) -> list[str]:
    support.run_ok("bg-flatten", "-f", "-C", where, *options, source)
    return [entry.path for entry in tree.read(where / "tree.jsonl").entries]


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_hardlink_keeps_its_content_when_its_first_name_is_excluded(tmp_path: Path, form: str) -> None:
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "docs/first").write_text("content")
    (root / "later").hardlink_to(root / "docs/first")
    source = root
    if form == "tar":
        source = tmp_path / "in.tar"
        subprocess.run(["tar", "-C", root, "--sort=name", "-cf", source, "."], check=True)
    support.run_ok("bg-flatten", "-C", tmp_path, "--exclude=/docs", source)
    found = tree.read(tmp_path / "tree.jsonl")
    assert [(entry.path, entry.type) for entry in found.entries] == [("/", "dir"), ("/later", "file")]
    assert trees.content(found.entries[1], found) == b"content"


def test_excluded_in_the_merged_tree_whatever_layer_it_came_from(tmp_path: Path) -> None:
    for name in ("low", "high"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / f"{name}.pyc").touch()
        (tmp_path / name / "sub" / f"{name}.py").touch()
    options = [f"--layer={tmp_path}/high", "--exclude=*.pyc"]
    assert paths(tmp_path, tmp_path / "low", *options) == ["/", "/sub", "/sub/high.py", "/sub/low.py"]


def test_options_that_shaped_the_tree_are_in_the_history(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    out = support.run_ok("bg-flatten", "-C", tmp_path, "--exclude=a", "--exclude=b/", tmp_path / "in")
    assert support.manifest_of(out)["history"][-1]["options"] == {"exclude": ["a", "b/"]}


def test_question_mark_is_one_character_of_any_length(tmp_path: Path) -> None:
    root = tmp_path / "in"
    root.mkdir()
    for name in ("é", "éé", "x"):
        (root / name).touch()
    with open(os.fsencode(root) + b"/\xff", "wb"):
        assert paths(tmp_path, root, "--exclude=?") == ["/", "/éé"]


@pytest.mark.parametrize("pattern", ["", "/", "//", "[z-a]"])
def test_pattern_that_can_match_nothing_is_a_usage_error(tmp_path: Path, pattern: str) -> None:
    done = support.run("bg-flatten", "-C", tmp_path, f"--exclude={pattern}", tmp_path)
    assert done.returncode == 64
    assert b"--exclude" in done.stderr


def test_layers_are_put_on_top_in_their_order(tmp_path: Path) -> None:
    for number in range(3):
        with trees.new_tar(tmp_path / f"{number}.tar") as out:
            trees.add(out, "who", data=b"%d" % number)
            trees.add(out, f"from-{number}")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/.wh.from-1").touch()
    (tmp_path / "top/who").write_text("top")
    layers = [f"--layer={tmp_path}/{name}" for name in ("1.tar", "2.tar", "top")]
    assert paths(tmp_path, tmp_path / "0.tar", *layers) == ["/", "/from-0", "/from-2", "/who"]
    found = tree.read(tmp_path / "tree.jsonl")
    assert trees.content(found.entries[3], found) == b"top"
    assert paths(tmp_path, tmp_path / "0.tar", *layers[::-1]) == ["/", "/from-0", "/from-1", "/from-2", "/who"]


def test_layers_are_put_on_a_tree_whose_data_stays_where_it_is(tmp_path: Path) -> None:
    with trees.new_tar(tmp_path / "in.tar") as out:
        trees.add(out, "a", data=b"from the tar")
        trees.add(out, "b", data=b"replaced")
    (tmp_path / "top").mkdir()
    (tmp_path / "top/b").write_text("from the folder")
    paths(tmp_path, tmp_path / "in.tar", f"--layer={tmp_path}/top")
    (tmp_path / "tree.jsonl").rename(tmp_path / "first.jsonl")
    with trees.new_tar(tmp_path / "last.tar") as out:
        trees.add(out, "c", data=b"from the last")
    assert paths(tmp_path, tmp_path / "first.jsonl", f"--layer={tmp_path}/last.tar") == ["/", "/a", "/b", "/c"]
    found = tree.read(tmp_path / "tree.jsonl")
    assert [trees.content(e, found) for e in found.entries[1:]] == [
        b"from the tar",
        b"from the folder",
        b"from the last",
    ]
    support.run_ok("bg-mkext4", "-C", tmp_path, tmp_path / "tree.jsonl")


def test_layer_that_is_no_tar_and_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("text")
    done = support.run("bg-flatten", "-C", tmp_path, f"--layer={tmp_path}/text", tmp_path)
    assert done.returncode == 65
    assert support.run("bg-flatten", "-C", tmp_path, f"--layer={tmp_path}/none", tmp_path).returncode == 66
