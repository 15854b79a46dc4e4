"""What a pull shows while it runs: bars on a terminal, JSON lines for machines; and what it takes of memory."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from banger_tools import errors
from tests import pulls, registry, support
from tests.pulls import LARGE, SMALL, Server, fetch, fetch_here, slow_blobs

MEMORY = 150 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with pulls.served(tmp_path_factory.mktemp("registry")) as running:
        other = registry.umoci_layout(tmp_path_factory.mktemp("other"), [LARGE])
        registry.push(other, "v1", f"{running.host}/team/large:v1")
        yield running


def on_terminal(*words: str) -> str:
    """Run bg-fetch with its stderr on a terminal, and return what it shows there."""
    control, terminal = pty.openpty()
    termios.tcsetwinsize(terminal, (24, 110))
    env = support.environment({"TERM": "xterm"})
    worker = subprocess.Popen(
        support.argv("bg-fetch", *words), stdout=subprocess.DEVNULL, stderr=terminal, stdin=subprocess.DEVNULL, env=env
    )
    os.close(terminal)
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error, EIO
        while data := os.read(control, 65536):
            shown += data
    os.close(control)
    assert worker.wait() == 0, shown.decode()
    return shown.decode()


def progress_of(*words: str) -> list[dict[str, Any]]:
    done = support.run("bg-fetch", "--progress=json", *words)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stderr.decode().splitlines() if line.startswith("{")]


def test_a_terminal_shows_a_bar_for_each_layer_and_one_for_all(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, slow_blobs([], 30, 0.05)) as proxy:
        shown = on_terminal(f"{proxy.host}/team/app:v1")
    assert "layer 2 of 2" in shown and "all layers" in shown
    assert re.search(r"all layers: +\d+%.*\d.*B/s\]", shown), "a rate"
    assert "are here already" not in shown


def test_what_is_here_already_is_said(server: Server, banger_home: Path) -> None:
    fetch(f"{server.host}/team/large:v1")
    shown = on_terminal(server.ref)
    assert re.search(r"1 of 2 layers are here already, \d+ of 1\.9M to fetch", shown)
    quiet = on_terminal(server.ref, "-q")
    assert quiet == ""


def test_machines_are_told_of_each_layer(server: Server, banger_home: Path) -> None:
    with registry.faulty(server.host, slow_blobs([], 20, 0.05)) as proxy:
        lines = progress_of(f"{proxy.host}/team/app:v1")
    found = fetch(server.ref)
    for layer in found["layers"]:
        mine = [line for line in lines if line.get("digest") == layer["digest"]]
        assert [line["done"] for line in mine] == sorted(line["done"] for line in mine)
        last = mine[-1]
        assert (last["done"], last["total"], last["finished"], last["cached"]) == (
            layer["size"],
            layer["size"],
            True,
            False,
        )
    total = [line for line in lines if line["what"] == "all layers"]
    assert len(total) > 3 and total[-1]["done"] == total[-1]["total"] == sum(one["size"] for one in found["layers"])


def test_machines_are_told_what_is_cached(server: Server, banger_home: Path) -> None:
    large = fetch(f"{server.host}/team/large:v1")["layers"][0]
    lines = progress_of(server.ref)
    cached = {line["digest"]: line["done"] for line in lines if line.get("cached")}
    assert cached == {large["digest"]: large["size"]}


def test_what_was_in_vain_is_not_counted(server: Server, banger_home: Path) -> None:
    layer = fetch(f"{server.host}/team/large:v1")["layers"][0]
    registry.remove_cache(banger_home)
    partial = banger_home / "cache" / "partial" / layer["digest"].replace(":", "-")
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * (layer["size"] // 2))
    lines = progress_of(f"{server.host}/team/large:v1")
    assert {line["what"]: line["done"] for line in lines if line["finished"]} == {
        f"layer 1 of 1 ({layer['digest'][7:19]})": layer["size"],
        "all layers": layer["size"],
    }


# A child counts what its parent had before exec, so that the parent must be small.
_PEAK = """
import resource, subprocess, sys
status = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(status, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss << 10)
"""


def peak(*words: str) -> tuple[int, int]:
    """Run bg-fetch, and return its status and the most memory that it had, in bytes."""
    argv = [sys.executable, "-S", "-c", _PEAK, *support.argv("bg-fetch", *words)]
    done = subprocess.run(argv, capture_output=True, env=support.environment(), check=True)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    status, memory = map(int, done.stdout.split())
    return status, memory


def answers_with(folder: Path, *, layers: list[bytes], **config: Any) -> dict[str, tuple[str, bytes]]:
    image = registry.Image(folder / "layout")
    blobs = [image.blob(registry.gzip_of(data), registry.OCI_LAYER + "+gzip") for data in layers]
    return registry.of_layout(image.index(image.manifest(blobs, list(map(registry.digest, layers)), **config)), "a")


def test_memory_is_bounded_with_layers_that_grow_much(tmp_path: Path, banger_home: Path) -> None:
    layers = [registry.tar_of({f"zeros{number}": bytes((60 + number) << 20)}) for number in range(5)]
    with registry.faulty("", registry.static(answers_with(tmp_path, layers=layers))) as proxy:
        status, memory = peak(f"{proxy.host}/a:v1")
    assert status == 0 and memory < MEMORY, f"{memory >> 20} MiB"


def test_memory_is_bounded_with_as_many_layers_as_there_may_be(tmp_path: Path, banger_home: Path) -> None:
    layers = [registry.tar_of({f"file{number}": b"x" * 5000}) for number in range(512)]
    answers = answers_with(tmp_path, layers=layers)
    with registry.faulty("", registry.static(answers)) as proxy:
        status, memory = peak(f"{proxy.host}/a:v1")
    assert status == 0 and memory < MEMORY, f"{memory >> 20} MiB"


def filled(piece: bytes, count: int) -> bytes:
    """Return the beginning of an object with a list in it that has many values."""
    return b'{"junk": [' + piece * count + b"0], "


def with_document(folder: Path, where: str, start: bytes) -> dict[str, tuple[str, bytes]]:
    """Return the answers of a registry with one image, one of whose documents begins as given."""
    answers = answers_with(folder, layers=[SMALL])
    text = answers["/v2/a/manifests/v1"][1]
    if where == "config":
        manifest = json.loads(text)
        config = start + answers[f"/v2/a/blobs/{manifest['config']['digest']}"][1][1:]
        manifest["config"].update(digest=registry.digest(config), size=len(config))
        answers[f"/v2/a/blobs/{registry.digest(config)}"] = ("application/octet-stream", config)
        text = json.dumps(manifest).encode()
    else:
        text = start + (text if where == "manifest" else b'{"manifests": []}')[1:]
    answers["/v2/a/manifests/v1"] = answers[f"/v2/a/manifests/{registry.digest(text)}"] = ("", text)
    return answers


PIECES = {"lists": b"[],", "objects": b'{"":0},', "strings": b'"\xc4\x80a",', "numbers": b"0.5,"}


@pytest.mark.parametrize("piece", PIECES.values(), ids=list(PIECES))
@pytest.mark.parametrize("where", ["manifest", "config", "index"])
def test_documents_of_too_many_values_are_refused(tmp_path: Path, where: str, piece: bytes) -> None:
    answers = with_document(tmp_path, where, filled(piece, 4_000_000 // len(piece)))
    with registry.faulty("", registry.static(answers)) as proxy:
        with pytest.raises(errors.BadInput, match="values"):
            fetch_here(f"{proxy.host}/a:v1", tmp_path)


@pytest.mark.parametrize(
    "start",
    [
        filled(b'{"":0},', 48_000),
        filled(b'"' + b"x" * 38 + b'",', 95_000),
        b'{"x": ' + b"[" * 25 + b"0," * 99_000 + b"0" + b"]" * 25 + b", ",
        b'{"x": "' + b"x" * 4_000_000 + b'", ',
    ],
    ids=["objects", "strings", "nested", "one string"],
)
def test_memory_is_bounded_with_documents_as_large_as_they_may_be(
    tmp_path: Path, banger_home: Path, start: bytes
) -> None:
    with registry.faulty("", registry.static(with_document(tmp_path, "config", start))) as proxy:
        status, memory = peak(f"{proxy.host}/a:v1")
    assert status == 0 and memory < MEMORY, f"{memory >> 20} MiB"


def test_a_configuration_nested_without_sense_is_refused(tmp_path: Path) -> None:
    answers = with_document(tmp_path, "config", b'{"x": ' + b"[" * 500 + b"0," * 90_000 + b"0" + b"]" * 500 + b", ")
    with registry.faulty("", registry.static(answers)) as proxy:
        with pytest.raises(errors.BadInput, match="nested"):
            fetch_here(f"{proxy.host}/a:v1", tmp_path)
