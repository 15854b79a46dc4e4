"""docs/security.md names the test of each defence."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = TESTS.parent / "docs" / "security.md"


def test_every_test_that_the_page_names_exists() -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE.read_text())
    assert len(named) > 40
    missing = [name for file, name in named if f"def {name}(" not in (TESTS / file).read_text()]
    assert not missing
