"""Kernel modules: which a boot needs, in which order, of which kernel; judged by kmod where it is about real ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.kernel import modules
from tests import kernels, machines


def place(root: Path, files: dict[str, bytes], builtin: str = "") -> modules.Folder:
    for name, data in files.items():
        path = root / "kernel" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "modules.builtin").write_text(builtin)
    return modules.Folder(root)


def names(found: list[modules.Module]) -> list[str]:
    return [module.name for module in found]


def test_modules_load_after_what_they_depend_on(tmp_path: Path) -> None:
    files = {
        "a/one.ko": machines.module("two,three"),
        "b/two.ko": machines.module("three"),
        "three.ko": machines.module(),
    }
    assert names(modules.closure(place(tmp_path, files), ["one"])) == ["three", "two", "one"]


def test_dash_and_underscore_name_one_module(tmp_path: Path) -> None:
    files = {"virtio-rng.ko": machines.module("some_thing"), "some-thing.ko": machines.module()}
    assert names(modules.closure(place(tmp_path, files), ["virtio_rng"])) == ["some_thing", "virtio_rng"]


def test_built_in_dependency_is_skipped(tmp_path: Path) -> None:
    folder = place(tmp_path, {"one.ko": machines.module("two")}, "kernel/lib/two.ko\n")
    assert names(modules.closure(folder, ["one", "two"])) == ["one"]


def test_soft_dependency_is_loaded_before_where_it_exists(tmp_path: Path) -> None:
    files = {"one.ko": machines.module(softdep="pre: two absent post: three"), "two.ko": machines.module()}
    files["three.ko"] = machines.module()
    assert names(modules.closure(place(tmp_path, files), ["one"])) == ["two", "one"]


def test_missing_dependency_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(errors.BadInput, match="'one' needs 'two'"):
        modules.closure(place(tmp_path, {"one.ko": machines.module("two")}), ["one"])


def test_circle_of_dependencies_is_refused(tmp_path: Path) -> None:
    files = {"one.ko": machines.module("two"), "two.ko": machines.module("one")}
    with pytest.raises(errors.BadInput, match="depend on each other"):
        modules.closure(place(tmp_path, files), ["one"])


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_compressed_modules_come_out_plain(tmp_path: Path, suffix: str) -> None:
    plain = machines.module()
    pack = kernels.PACKERS[{".xz": "xz", ".gz": "gzip", ".zst": "zstd"}[suffix]]
    assert modules.closure(place(tmp_path, {f"one.ko{suffix}": pack(plain)}), ["one"])[0].data == plain


@pytest.mark.parametrize("suffix", [".xz", ".gz", ".zst"])
def test_corrupt_compressed_module_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(errors.BadInput, match="one"):
        modules.closure(place(tmp_path, {f"one.ko{suffix}": b"\x01\x02\x03"}), ["one"])


def test_copied_closure_gives_the_same_modules(tmp_path: Path) -> None:
    files = {"a/virtio.ko": machines.module("virtio_ring"), "a/virtio_ring.ko": machines.module()}
    files["unneeded.ko"] = machines.module()
    place(tmp_path / "from", files)
    assert modules.copy_closure(tmp_path / "from", tmp_path / "to") == ["virtio_ring", "virtio"]
    assert sorted(modules.Folder(tmp_path / "to").paths) == ["virtio", "virtio_ring"]


def test_endless_compressed_module_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "LIMIT", 1 << 20)
    folder = place(tmp_path, {"one.ko.gz": kernels.PACKERS["gzip"](bytes(2 << 20))})
    with pytest.raises(errors.BadInput, match="more than 1048576 bytes"):
        modules.closure(folder, ["one"])


def test_module_in_updates_wins_over_the_one_that_came_with_the_kernel(tmp_path: Path) -> None:
    place(tmp_path, {"virtio.ko": machines.module()})
    newer = tmp_path / "updates" / "virtio.ko"
    newer.parent.mkdir()
    newer.write_bytes(machines.module())
    assert modules.Folder(tmp_path).paths["virtio"] == newer


def test_files_beside_modules_are_none(tmp_path: Path) -> None:
    folder = place(tmp_path, {"one.ko": machines.module(), "two.ko.debug": b"", "three.koala": b""})
    assert list(folder.paths) == ["one"]


def test_modules_of_another_kernel_are_refused_by_their_vermagic(tmp_path: Path) -> None:
    files = {"virtio.ko": machines.module(), "ext4.ko": machines.module(vermagic="5.10.0-other SMP ")}
    folder = place(tmp_path, files)
    with pytest.raises(errors.BadInput, match=r"ext4\.ko' is for '5\.10\.0-other', the kernel is '6\.1\.0-test'"):
        modules.check_version(folder, "6.1.0-test")
    with pytest.raises(errors.BadInput, match="the kernel is"):
        modules.check_version(folder, "")


def test_modules_tell_the_version_of_a_kernel_that_does_not(tmp_path: Path) -> None:
    folder = place(tmp_path, {"virtio.ko": machines.module()})
    assert modules.check_version(folder, "") == "6.1.0-test"


@pytest.mark.parametrize("above", ["", "modules", "lib/modules", "usr/lib/modules"])
def test_folder_of_modules_is_found_where_builds_put_it(tmp_path: Path, above: str) -> None:
    place(tmp_path / above / "6.1.0-test", {"virtio.ko": machines.module()})
    assert modules.locate(tmp_path, "6.1.0-test") == tmp_path / above / "6.1.0-test"


def test_folder_of_modules_is_itself(tmp_path: Path) -> None:
    place(tmp_path, {"virtio.ko": machines.module()})
    assert modules.locate(tmp_path, "another") == tmp_path


def test_of_several_kernels_modules_those_of_its_release_are_taken(tmp_path: Path) -> None:
    for release in ("6.1.0", "6.2.0"):
        place(tmp_path / "lib" / "modules" / release, {"virtio.ko": machines.module()})
    assert modules.locate(tmp_path, "6.2.0").name == "6.2.0"
    with pytest.raises(errors.BadInput, match=r"several kernels: 6\.1\.0, 6\.2\.0"):
        modules.locate(tmp_path, "6.3.0")


def test_usr_merged_folder_of_modules_is_one(tmp_path: Path) -> None:
    place(tmp_path / "usr" / "lib" / "modules" / "6.1.0", {"virtio.ko": machines.module()})
    (tmp_path / "lib").symlink_to("usr/lib")
    assert modules.locate(tmp_path, "6.1.0").name == "6.1.0"


def test_folder_without_modules_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.NoInput, match="no modules"):
        modules.locate(tmp_path, "6.1.0")
