"""The home that the scenarios of a file share, and the machine that some of them do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.smoke.user import banger


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the scenarios: they boot."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.boot)


@pytest.fixture(scope="module", autouse=True)
def home(bootable_home: Path) -> Iterator[Path]:
    """A home with an image of busybox that has no init, its work seed, and a kernel."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANGER_HOME", str(bootable_home))
        yield bootable_home


@pytest.fixture(scope="module")
def machine(home: Path, request: pytest.FixtureRequest) -> Iterator[str]:
    """A machine that runs; each file has one of its own."""
    name = request.module.__name__.rpartition("test_")[2].replace("_", "-")
    options = getattr(request.module, "OPTIONS", ())
    assert banger("vm", "create", "--image=tiny", f"--name={name}", *options) == f"{name}\n"
    yield name
    banger("vm", "delete", "--force", name)
