"""The build backend: setuptools, after the guest program was compiled into the source tree.

pip and build call these functions by name (PEP 517, PEP 660). A wheel and an editable install need the
program; a source distribution carries only its C sources.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from setuptools import build_meta
from setuptools.build_meta import (
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

Settings = dict[str, object] | None


def build_guest() -> None:
    """Compile the guest program for every architecture, unless that was done since its sources changed."""
    root = Path(__file__).resolve().parent.parent
    # pip's isolated environment hands its packages to child processes by PYTHONPATH.
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-P", "-m", "banger_tools.guest.build"], env=environment, check=True)


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """Build the wheel, guest program included."""
    build_guest()
    return str(build_meta.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """Build what makes pip run the programs from this source tree."""
    build_guest()
    return str(build_meta.build_editable(wheel_directory, config_settings, metadata_directory))
