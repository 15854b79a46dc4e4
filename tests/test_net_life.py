"""What machines on taps leave behind, and what is known of their networks before they are made."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from banger_tools.store import vms
from banger_tools.vmm import spec as specs
from tests import netlab
from tests.netlab import Host

SPEC = specs.Spec(
    "id",
    "web",
    "tiny",
    "amd64",
    "qemu",
    1,
    256 << 20,
    "tap",
    specs.Boot("/k/vmlinux"),
    specs.Guest(),
)


@pytest.fixture
def host() -> Iterator[Host]:
    with netlab.host() as one:
        yield one


@pytest.fixture
def stored(banger_home: Path) -> Path:
    """The folder of a machine of the store that does not run."""
    folder = vms.folder("web")
    folder.mkdir(parents=True)
    vms.save(specs.Record(specs.SCHEMA, SPEC))
    return folder


@pytest.mark.root
def test_tap_whose_machines_starter_was_killed_is_taken_away(host: Host, stored: Path) -> None:
    before = host.state()
    host.attach(stored, nat=True)
    (stored / "qmp.sock").touch()
    other = host.attach("/")
    host.call(settle="web")
    assert host.links().keys() == {"lo", "banger", other["tap"]}
    assert not (stored / "qmp.sock").exists()
    host.detach(other)
    assert host.state() == before


@pytest.mark.root
def test_tap_of_a_machine_whose_record_is_broken_goes_with_it(host: Host, stored: Path) -> None:
    before = host.state()
    host.attach(stored, nat=True)
    (stored / specs.RECORD).write_text("{")
    host.call(delete="web")
    assert (host.state(), stored.exists()) == (before, False)
