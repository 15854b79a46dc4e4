"""A kernel file with its modules and its configuration, put together: what it is, and what it has."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from banger_tools import errors
from banger_tools.kernel import config, features, image, initrd, modules

OWN_CONFIG = "its own configuration"
CONFIG_FILE = "the configuration beside it"
MODULES = "the list of its modules"
TEXT = "its own text"


class Understood(NamedTuple):
    """A kernel: what its file is, its version, what it has, and what tells that (`evidence`)."""

    image: image.Image
    version: str
    evidence: str
    features: dict[str, features.State]


def understand(
    kernel: image.Image, *, modules_folder: Path | None = None, config_file: Path | None = None
) -> Understood:
    """Put together what a kernel, its lib/modules/VERSION folder and its configuration file say.

    The configuration inside of the kernel counts before the file. Raises BadInput if modules or configuration are
    of another kernel, or cannot be read as what they are.
    """
    folder = modules.Folder(modules_folder) if modules_folder is not None else None
    version = kernel.version
    if folder is not None:
        version = modules.check_version(folder, kernel.version)
    return Understood(kernel, version, *_features(kernel, folder, config_file))


def _features(
    kernel: image.Image, folder: modules.Folder | None, config_file: Path | None
) -> tuple[str, dict[str, features.State]]:
    own = config.embedded(kernel.bare)
    if own is not None:
        return OWN_CONFIG, _by_config(kernel, own, folder)
    if config_file is not None:
        return CONFIG_FILE, _by_config(kernel, config.read(config_file), folder)
    if folder is not None:
        return MODULES, features.by_modules(folder, kernel.bare)
    return TEXT, features.by_text(kernel.bare)


def _by_config(kernel: image.Image, text: str, folder: modules.Folder | None) -> dict[str, features.State]:
    symbols = config.parse(text)
    if config.architecture(symbols) not in (kernel.architecture, None):
        raise errors.BadInput(f"the configuration is not for {kernel.architecture}, which the kernel is for")
    states = features.by_config(symbols, folder)
    features.check_config(states, kernel.bare)
    return states


def with_initrd(about: Understood, path: Path) -> Understood:
    """Return the same kernel with an initrd that others made: what was missing may be a module in there.

    Raises BadInput if the initrd is none, or its modules are of other kernels only.
    """
    held = initrd.look(path)
    if about.version and held.versions and about.version not in held.versions:
        there = ", ".join(sorted(held.versions))
        raise errors.BadInput(f"the initrd '{path}' is for '{there}', the kernel is '{about.version}'")
    found = {name for name, feature in features.FEATURES.items() if feature.module in held.modules}
    lacking = {name for name in found if about.features[name].is_lacking}
    return about._replace(features={**about.features, **dict.fromkeys(lacking, features.State.MODULE)})
