"""Stacks of layers made for tests, merged by our own code and by umoci."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from banger_tools import errors, layers, tar, tree
from tests import trees


def layer(*entries: tuple[str, dict[str, Any]] | str) -> bytes:
    """Return a layer as a tar; a plain string is an empty file, one that ends in a slash a folder."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in entries:
            name, fields = entry if isinstance(entry, tuple) else (entry, {})
            kind = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            trees.add(archive, name.rstrip("/"), **{"kind": kind, **fields})
    return out.getvalue()


def soft(name: str, target: str) -> tuple[str, dict[str, Any]]:
    return name, {"kind": tarfile.SYMTYPE, "linkname": target, "mode": 0o777}


def hard(name: str, target: str) -> tuple[str, dict[str, Any]]:
    return name, {"kind": tarfile.LNKTYPE, "linkname": target}


def holding(name: str, data: bytes, **fields: Any) -> tuple[str, dict[str, Any]]:
    return name, {"data": data, **fields}


def write_layers(stack: list[bytes], folder: Path) -> list[Path]:
    paths = []
    for number, data in enumerate(stack):
        path = folder / f"layer-{number}.tar"
        path.write_bytes(data)
        paths.append(path)
    return paths


def manifest(paths: list[Path]) -> str:
    """Return the manifest that bg-fetch would print for these layers."""
    described = [
        {
            "diff_id": f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}",
            "path": str(path),
            "tar_size": path.stat().st_size,
        }
        for path in paths
    ]
    return json.dumps({"schema": "banger-manifest/1", "name": "test", "layers": described})


def flatten(stack: list[bytes], folder: Path) -> tree.Tree:
    """Merge layers with our own code."""
    paths = write_layers(stack, folder)
    archives: list[tuple[str, Iterator[tar.Member]]] = []
    opened = [open(path, "rb") for path in paths]
    try:
        archives = [
            (path.name, tar.members(file.fileno(), vouched=False)) for path, file in zip(paths, opened, strict=True)
        ]
        entries = layers.merge(archives).tree_entries()
    finally:
        for file in opened:
            file.close()
    return tree.Tree([tree.SourceFile(str(path)) for path in paths], entries)


def umoci_unpack(stack: list[bytes], folder: Path) -> Path:
    """Make an OCI image of layers and unpack it by umoci, as root."""
    blobs = folder / "oci/blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, media_type: str) -> dict[str, Any]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}

    prefix = "application/vnd.oci.image"
    blobs_of_layers = [put(data, f"{prefix}.layer.v1.tar") for data in stack]
    diff_ids = [blob["digest"] for blob in blobs_of_layers]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    image = {
        "schemaVersion": 2,
        "config": put(json.dumps(config).encode(), f"{prefix}.config.v1+json"),
        "layers": blobs_of_layers,
    }
    top = put(json.dumps(image).encode(), f"{prefix}.manifest.v1+json")
    top["annotations"] = {"org.opencontainers.image.ref.name": "test"}
    (folder / "oci/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "oci/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    done = subprocess.run(
        ["umoci", "raw", "unpack", "--image", f"{folder}/oci:test", f"{folder}/rootfs"], capture_output=True, text=True
    )
    if done.returncode != 0:
        raise UmociRefused(done.stderr)
    return folder / "rootfs"


class UmociRefused(Exception):
    pass


def comparable(seen: dict[bytes, trees.Seen]) -> dict[bytes, trees.Seen]:
    """Leave out what a runtime does not define: the times of folders, which the last change in them sets."""
    return {
        path: one._replace(mtime=(0, 0)) if one.type == "dir" else one for path, one in seen.items() if path != b"/"
    }


def assert_like_umoci(stack: list[bytes]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            reference = comparable(trees.of_folder(umoci_unpack(stack, folder)))
        except UmociRefused as refusal:
            reference = None
            said = str(refusal)
        try:
            ours = comparable(trees.of_tree(flatten(stack, folder)))
        except errors.BadInput as error:
            assert reference is None, f"umoci takes what we refuse: {error}"
            return
        assert reference is not None, f"we take what umoci refuses: {said}"
        assert trees.differences(ours, reference) == []
