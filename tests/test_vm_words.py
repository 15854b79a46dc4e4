"""The words of the commands that lead machines, where they could be taken for something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from banger_tools import boot, cli, errors
from banger_tools.manuals import manual_of
from banger_tools.store import vms
from banger_tools.vmm import spec as specs
from tests import support, webserver
from tests.test_inject import KEY
from tests.test_vmm import SPEC


@pytest.mark.parametrize("command", ["stop", "start", "kill", "delete", "restart"])
def test_several_names_may_follow_two_dashes(banger_home: Path, command: str) -> None:
    done = support.run("banger", "vm", command, "--", "one", "other")
    assert done.returncode == errors.NoInput.status, done.stderr
    assert b"'one'" in done.stderr and b"'other'" in done.stderr


@pytest.mark.parametrize("words", [["--exec=", "--console"], ["--exec=", "--detach"], ["--image=", "file"]])
def test_options_that_exclude_each_other_do_so_with_empty_values_too(words: list[str]) -> None:
    arguments = cli.parse(manual_of("boot"), words)
    with pytest.raises(errors.BadUsage, match="exclude each other"):
        boot.Options.from_arguments(arguments)


@pytest.mark.parametrize(("words", "asked"), [(["--offline"], 0), ([], 1)])
def test_catalogs_are_not_asked_offline_and_a_missing_image_is_not_said_to_be_found(
    banger_home: Path, words: list[str], asked: int
) -> None:
    (banger_home / "config").mkdir()
    with webserver.serve() as site:
        site.files["catalog.json"] = json.dumps({"schema": "banger-catalog/1", "images": []}).encode()
        (banger_home / "config" / "config.toml").write_text(f"[[catalogs]]\nurl = '{site.url('catalog.json')}'\n")
        done = support.run("banger", "-v", "vm", "create", "--image=nowhere", *words)
        assert len(site.seen) == asked, done.stderr
    assert b"found" not in done.stderr


def test_record_of_another_machine_is_not_taken_for_that_of_this_one(banger_home: Path) -> None:
    vms.folder("web").mkdir(parents=True)
    vms.save(specs.Record(specs.SCHEMA, SPEC))
    vms.folder("web").rename(vms.folder("copy"))
    done = support.run("banger", "vm", "show", "copy")
    assert (done.returncode, done.stdout) == (65, b""), done.stderr
    assert b"its record is that of 'web'" in done.stderr


def test_record_of_a_later_schema_is_refused_with_both_named(banger_home: Path) -> None:
    vms.folder("web").mkdir(parents=True)
    vms.save(specs.Record("banger-vm/9", SPEC))
    done = support.run("banger", "vm", "show", "web")
    assert (done.returncode, done.stdout) == (65, b""), done.stderr
    assert f"the schema 'banger-vm/9', and we read '{specs.SCHEMA}'" in done.stderr.decode()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no public key"),
        ("# who may come in\n", "no public key"),
        ("hello world\n", "line 1 of .* is not a public key"),
        (f"{KEY} me\nnobody <me@host>\n", "line 2 of .* is not a public key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "is a private key"),
    ],
)
def test_file_that_holds_no_public_key_is_refused(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "key").write_text(text)
    with pytest.raises(errors.BadInput, match=said):
        specs.read_ssh_key(tmp_path / "key")
