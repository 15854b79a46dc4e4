"""`make coverage` can be believed: what runs in another process is seen, and what nothing runs is not left out."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

from tests import support

SHELL = "import subprocess, sys; subprocess.run(sys.argv[1], shell=True, check=True, stdout=subprocess.DEVNULL)"


def test_programs_and_their_forks_are_followed_and_modules_that_did_not_run_are_counted(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.mkdir()
    (content / "file").write_bytes(os.urandom(100_000))
    (tmp_path / "shell.py").write_text(SHELL)
    flatten, mkext4 = (shlex.quote(str(support.BIN / name)) for name in ("bg-flatten", "bg-mkext4"))
    cover(tmp_path, "run", tmp_path / "shell.py", f"cd '{tmp_path}' && {flatten} content | {mkext4}")
    cover(tmp_path, "combine", "--quiet")
    cover(tmp_path, "json", "--quiet", "-o", tmp_path / "report.json")
    files = json.loads((tmp_path / "report.json").read_text())["files"]
    ran = {name for name, module in files.items() if module["summary"]["covered_lines"]}
    assert {"banger_tools/flatten.py", "banger_tools/mkext4.py"} < ran
    copying = files["banger_tools/ext4/copier.py"]["functions"]["_copy_large"]  # in a child that ends by _exit
    assert copying["summary"]["covered_lines"]
    assert "banger_tools/seed.py" in files.keys() - ran


def cover(folder: Path, command: str, *words: str | Path) -> None:
    """Run coverage as the Makefile does, with data of its own even if it is at work itself."""
    env = {key: value for key, value in support.environment().items() if not key.startswith("COVERAGE_")}
    argv = [sys.executable, "-P", "-m", "coverage", command, f"--data-file={folder / 'data'}", *words]
    done = subprocess.run(argv, cwd=support.ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
