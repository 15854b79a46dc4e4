"""The guest config: what the guest is told, as JSON on a small read-only disk of its own.

The shared image is never edited for one machine; the guest program finds this disk by how it begins.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from banger_tools import guest
from banger_tools.net.attachment import Attachment
from banger_tools.vmm import spec as specs

BLOCK = 4096

# QEMU's own user network, as its guests find it: it has no say in these
_USER_NETWORK = {"address": "10.0.2.15/24", "gateway": "10.0.2.2", "dns": ["10.0.2.3"]}


def build(spec: specs.Spec, network: Attachment | None, *, work_disk: bool, power: str, now: int) -> dict[str, Any]:
    """Return the guest config of a machine; `power` is how its end is told to the monitor, `now` in seconds."""
    disks: dict[str, Any] = {"root": "/dev/vda", "type": "ext4", "read_only": spec.guest.read_only, "grow": True}
    if work_disk:
        disks["work"] = "/dev/vdb"
    config: dict[str, Any] = {
        "schema": guest.CONFIG_SCHEMA,
        "hostname": spec.name,
        "disks": disks,
        "time": now,
        "init": "auto",
        "run": spec.guest.run,
        "argv": spec.guest.argv,
        "env": spec.guest.env,
        "user": spec.guest.user,
        "cwd": spec.guest.cwd or "/",
        "power": power,
        "ssh_keys": spec.guest.ssh_keys,
    }
    if spec.guest.git:
        config["git"] = {"name": spec.guest.git.name, "email": spec.guest.git.email}
    if network:
        config["network"] = {"address": network.address, "gateway": network.gateway, "dns": network.dns}
    elif spec.net == "user":
        config["network"] = _USER_NETWORK
    return config


def encode(config: dict[str, Any]) -> bytes:
    """Return the bytes of the config disk: JSON that begins with the schema, padded with newlines to whole blocks."""
    text = json.dumps(config, ensure_ascii=False).encode("utf-8", "surrogateescape") + b"\n"
    return text + b"\n" * (-len(text) % BLOCK)


def write(spec: specs.Spec, folder: Path, network: Attachment | None, *, power: str, token: str | None = None) -> None:
    """Write the config disk of a machine into its folder, for its next start; `token` is what its agent asks for."""
    config = build(spec, network, work_disk=(folder / specs.WORK_DISK).exists(), power=power, now=int(time.time()))
    if token:
        config["token"] = token
    target = folder / specs.CONFIG_DISK
    temporary = folder / f".{specs.CONFIG_DISK}.tmp"
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(encode(config))
    os.replace(temporary, target)


def process_of(
    image_config: dict[str, Any], env: list[str], *, run: bool, own: list[str] | None = None
) -> dict[str, Any]:
    """Return the fields of `spec.Guest` that an image's own configuration says, its Env overlaid by `env`.

    `own` is a command in place of the image's.
    """
    words = own or [*_texts(image_config.get("Entrypoint")), *_texts(image_config.get("Cmd"))]
    overlaid = {word.partition("=")[0]: word for word in [*_texts(image_config.get("Env")), *env]}
    return {
        "argv": words,
        "env": list(overlaid.values()),
        "user": str(image_config.get("User") or ""),
        "cwd": str(image_config.get("WorkingDir") or "/"),
        "run": run,
    }


def _texts(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else []
