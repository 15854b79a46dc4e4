"""What a kernel has: by its configuration, its modules or its own text; and where it boots by that."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from banger_tools import errors
from banger_tools.kernel import bootable, config, features, image, understood
from banger_tools.kernel.features import State
from tests import kernels, machines

MODULAR = kernels.CONFIG.replace("VIRTIO_BLK=y", "VIRTIO_BLK=m").replace("OVERLAY_FS=y", "OVERLAY_FS=m")


def kernel(text: bytes = kernels.NAMES, own: str | None = None) -> image.Image:
    return image.parse(kernels.elf(kernels.BANNER + text + (kernels.ikconfig(own) if own is not None else b"")))


def folder(root: Path, *names: str, builtin: tuple[str, ...] = ()) -> Path:
    """Make a folder of modules."""
    for name in names:
        path = root / "kernel" / f"{name}.ko"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(machines.module())
    root.mkdir(exist_ok=True)
    (root / "modules.builtin").write_text("".join(f"kernel/drivers/{name}.ko\n" for name in builtin))
    return root


def test_own_configuration_tells_what_is_built_in() -> None:
    about = understood.understand(kernel(own=kernels.CONFIG))
    assert about.evidence == understood.OWN_CONFIG
    assert about.features["ext4"] is State.BUILTIN
    assert about.features["virtio_mmio on the command line"] is State.MISSING


def test_own_configuration_counts_before_the_file(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(kernels.CONFIG.replace("CONFIG_EXT4_FS=y", "# CONFIG_EXT4_FS is not set"))
    about = understood.understand(kernel(own=kernels.CONFIG), config_file=path)
    assert about.features["ext4"] is State.BUILTIN


@pytest.mark.parametrize("packed", [False, True])
def test_configuration_file_tells_what_is_built_in(tmp_path: Path, packed: bool) -> None:
    path = tmp_path / "config.gz"
    path.write_bytes(gzip.compress(kernels.CONFIG.encode()) if packed else kernels.CONFIG.encode())
    about = understood.understand(kernel(), config_file=path)
    assert (about.evidence, about.features["virtio_blk"]) == (understood.CONFIG_FILE, State.BUILTIN)


def test_symbol_that_a_configuration_does_not_speak_of_is_missing() -> None:
    about = understood.understand(kernel(own=kernels.CONFIG.replace("CONFIG_OVERLAY_FS=y\n", "")))
    assert about.features["overlay"] is State.MISSING


def test_module_that_is_not_with_the_kernel_is_told_apart(tmp_path: Path) -> None:
    here = folder(tmp_path / "modules", "virtio_blk")
    about = understood.understand(kernel(own=MODULAR), modules_folder=here)
    assert about.features["virtio_blk"] is State.MODULE
    assert about.features["overlay"] is State.ABSENT
    assert understood.understand(kernel(own=MODULAR)).features["virtio_blk"] is State.ABSENT


def test_lists_of_modules_tell_where_there_is_no_configuration(tmp_path: Path) -> None:
    here = folder(tmp_path / "modules", "virtio_blk", builtin=("fs/ext4", "virtio-pci"))
    about = understood.understand(kernel(), modules_folder=here)
    assert about.evidence == understood.MODULES
    found = {name: about.features[name] for name in ("ext4", "virtio_pci", "virtio_blk", "overlay", "devtmpfs")}
    assert found == {
        "ext4": State.BUILTIN,
        "virtio_pci": State.BUILTIN,
        "virtio_blk": State.MODULE,
        "overlay": State.MISSING,
        "devtmpfs": State.UNKNOWN,
    }


def test_kernel_without_even_the_name_of_a_driver_has_it_not_built_in() -> None:
    about = understood.understand(kernel(b"ext4\0overlay\0"))
    assert about.evidence == understood.TEXT
    assert about.features["virtio_blk"] is State.MISSING
    assert about.features["ext4"] is State.UNKNOWN


def test_configuration_of_another_architecture_is_refused() -> None:
    with pytest.raises(errors.BadInput, match="not for amd64"):
        understood.understand(kernel(own=kernels.CONFIG.replace("X86_64", "ARM64")))


def test_configuration_of_another_kernel_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(kernels.CONFIG)
    with pytest.raises(errors.BadInput, match="'virtio_blk'"):
        understood.understand(kernel(b"ext4\0"), config_file=path)


def test_damaged_own_configuration_is_refused() -> None:
    damaged = kernels.ikconfig()[:60] + b"\xff" * 200
    with pytest.raises(errors.BadInput, match="own configuration is corrupt"):
        understood.understand(kernel(kernels.NAMES + damaged))


def test_configuration_that_unpacks_without_end_is_refused() -> None:
    with pytest.raises(errors.BadInput, match="unpacks to more"):
        understood.understand(kernel(own="#" * (config.LIMIT + 1)))


@pytest.mark.parametrize("text", [b"", b"Host *\n", b"\xff\xfe", b"CONFIG\n"])
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "config"
    path.write_bytes(text)
    with pytest.raises(errors.BadInput, match="no configuration"):
        understood.understand(kernel(), config_file=path)


def test_configuration_beside_a_kernel_is_that_of_its_release(tmp_path: Path) -> None:
    for name in ("vmlinuz-6.1.0", "config-6.1.0", "config-6.2.0", "vmlinuz-6.3.0", "vmlinuz", "config"):
        (tmp_path / name).touch()
    assert config.beside(tmp_path / "vmlinuz-6.1.0") == tmp_path / "config-6.1.0"
    assert config.beside(tmp_path / "vmlinuz-6.3.0") is None
    assert config.beside(tmp_path / "vmlinuz") is None


def test_modules_of_another_kernel_are_refused(tmp_path: Path) -> None:
    other = image.parse(kernels.elf(kernels.BANNER.replace(b"6.1.0-test", b"6.9.9-test") + kernels.NAMES))
    with pytest.raises(errors.BadInput, match=r"'6\.1\.0-test', the kernel is '6\.9\.9-test'"):
        understood.understand(other, modules_folder=folder(tmp_path / "modules", "ext4"))


def test_record_gives_the_same_features() -> None:
    states = understood.understand(kernel(own=MODULAR)).features
    assert features.from_record(json.loads(json.dumps(features.record(states)))) == states


def test_record_of_other_words_is_unknown() -> None:
    assert set(features.from_record({"ext4": "perhaps", "nonsense": "built in"}).values()) == {State.UNKNOWN}


# Where it boots -------------------------------------------------------------

ALL = dict.fromkeys(features.FEATURES, State.BUILTIN)


def states(**changed: State) -> bootable.Kernel:
    return bootable.Kernel("amd64", {**ALL, **changed}, True)


def lacks(kernel: bootable.Kernel, machine: str, **wants: bool) -> tuple[str, ...]:
    return bootable.verdict(kernel, machine, bootable.Wants(**wants)).lacks


def test_kernel_with_everything_built_in_boots_everywhere_without_an_initrd() -> None:
    assert bootable.verdicts(states()) == [(name, (), ()) for name in ("qemu", "microvm", "firecracker")]


def test_each_machine_needs_its_own_transport_and_channel() -> None:
    pci = states(virtio_mmio=State.MISSING, vsock=State.MISSING)
    assert [found.lacks for found in bootable.verdicts(pci)] == [(), ("virtio_mmio",), ("virtio_mmio", "vsock")]
    mmio = states(virtio_pci=State.MISSING, virtio_console=State.ABSENT)
    assert lacks(mmio, "qemu") == ("virtio_pci", "virtio_console")
    assert lacks(mmio, "firecracker") == ()


def test_what_is_not_wanted_is_not_needed() -> None:
    bare = states(virtio_net=State.MISSING, virtio_console=State.MISSING, overlay=State.MISSING)
    assert lacks(bare, "qemu", agent=False, network=False) == ()
    assert lacks(bare, "qemu", read_only=True) == ("virtio_console", "virtio_net", "overlay")


def test_modules_need_an_initrd_and_a_kernel_that_takes_one() -> None:
    modular = states(virtio_blk=State.MODULE)
    assert bootable.verdict(modular, "qemu") == ("qemu", (), ("virtio_blk",))
    assert lacks(states(virtio_blk=State.MODULE, initrd=State.MISSING), "qemu") == ("initrd",)
    assert lacks(states(initrd=State.MISSING), "qemu") == ()


def test_mmio_devices_must_be_found() -> None:
    blind = {"ACPI": State.MISSING, "virtio_mmio on the command line": State.MISSING}
    assert "ACPI" in lacks(states(**blind), "firecracker")[0]
    assert lacks(states(ACPI=State.MISSING), "firecracker") == ()
    assert lacks(states(ACPI=State.MISSING, virtio_mmio=State.MODULE), "firecracker")
    assert lacks(bootable.Kernel("arm64", {**ALL, **blind}, True), "firecracker") == ()


def test_kernel_that_qemu_cannot_start_is_one_for_firecracker() -> None:
    assert lacks(bootable.Kernel("amd64", ALL, False), "qemu") == (bootable.DIRECT,)
    assert lacks(bootable.Kernel("amd64", ALL, False), "firecracker") == ()


def test_arm64_has_no_microvm() -> None:
    assert [found.machine for found in bootable.verdicts(bootable.Kernel("arm64", ALL, True))] == [
        "qemu",
        "firecracker",
    ]


def test_refusal_names_what_is_lacking() -> None:
    poor = states(ext4=State.MISSING, virtio_blk=State.ABSENT)
    with pytest.raises(errors.BadInput, match="lacks virtio_blk and ext4") as caught:
        bootable.require(poor, "the kernel 'k'", "qemu", bootable.ALL, initrd=True)
    assert "--modules" in str(caught.value.hint)


def test_kernel_that_lacks_a_network_only_is_said_to_boot_without_one() -> None:
    with pytest.raises(errors.BadInput, match="lacks virtio_net") as caught:
        bootable.require(states(virtio_net=State.MISSING), "the kernel 'k'", "qemu", bootable.ALL, initrd=True)
    assert "--net none" in str(caught.value.hint)


def test_refusal_names_the_modules_that_want_an_initrd() -> None:
    modular = states(ext4=State.MODULE)
    with pytest.raises(errors.BadInput, match=r"needs an initrd .* ext4"):
        bootable.require(modular, "the kernel 'k'", "qemu", bootable.ALL, initrd=False)
    bootable.require(modular, "the kernel 'k'", "qemu", bootable.ALL, initrd=True)


def test_unknown_is_not_refused() -> None:
    unknown = bootable.Kernel("amd64", dict.fromkeys(features.FEATURES, State.UNKNOWN), True)
    bootable.require(unknown, "the kernel 'k'", "firecracker", bootable.ALL, initrd=False)
