"""A pull from a registry on loopback: bg-fetch beside `skopeo copy` to an OCI layout, alone and with `umoci unpack`.

skopeo neither decompresses nor checks diff_ids; with --dest-decompress it does the first, and with `umoci unpack`
behind it both are done, and files are written. The umoci of Debian 12 reads no zstd.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench import inputs, timing
from bench.scale import Scale
from bench.timing import Run, Table, Way

LAYERS = 6


def pull(scale: Scale, slug: str, compression: str) -> Table:
    """Compare pulls of the image in six layers."""
    if shutil.which("docker-registry") is None:
        raise timing.Missing("not installed: docker-registry")
    tar = inputs.image_tar(scale)
    layout = inputs.oci_layout(scale, tar, compression, LAYERS)
    packed = sum(path.stat().st_size for path in (layout / "blobs/sha256").iterdir())
    title = (
        f"{packed >> 20} MiB in {LAYERS} layers of {compression}, {tar.stat().st_size >> 20} MiB plain, from loopback"
    )
    with registry(scale, layout) as image:
        ways = {
            "skopeo copy": Way(partial(skopeo, scale, image), ["skopeo"]),
            "bg-fetch": Way(partial(ours, scale, image)),
            "skopeo copy --dest-decompress": Way(partial(skopeo_decompressing, scale, image), ["skopeo"]),
        }
        if compression == "gzip":
            ways["skopeo copy, umoci unpack"] = Way(partial(skopeo_and_umoci, scale, image), ["skopeo", "umoci"])
        return timing.compare(slug, title, ways, scale.rounds)


@contextmanager
def registry(scale: Scale, layout: Path) -> Iterator[str]:
    """Run a docker-registry that holds the image of a layout; yield the image's reference."""
    folder, address = scale.fresh("registry"), f"127.0.0.1:{_free_port()}"
    config, image = folder / "config.yml", f"{address}/bench/image:v1"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{address}'}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", config], stderr=subprocess.DEVNULL)
    try:
        _wait(server, address)
        source = f"oci:{layout}:{inputs.TAG}"
        argv = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, f"docker://{image}"]
        subprocess.run(argv, check=True)
        yield image
    finally:
        server.terminate()
        server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(server: subprocess.Popen[bytes], address: str) -> None:
    deadline = time.monotonic() + 60
    while server.poll() is None and time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://{address}/v2/").close()
            return
        except OSError:
            time.sleep(0.05)
    raise timing.Missing(f"docker-registry does not answer at {address}")


def ours(scale: Scale, image: str) -> Run:
    env = inputs.environment(scale.fresh("pulled"))
    return timing.run([inputs.program("bg-fetch"), "-q", image], env=env)


def skopeo(scale: Scale, image: str) -> Run:
    target = f"oci:{scale.fresh('copied')}:v1"
    return timing.run(["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{image}", target])


def skopeo_decompressing(scale: Scale, image: str) -> Run:
    argv = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-decompress", f"docker://{image}"]
    return timing.run([*argv, f"dir:{scale.fresh('copied')}"])


def skopeo_and_umoci(scale: Scale, image: str) -> Run:
    copied, rootfs = skopeo(scale, image), scale.fresh("unpacked") / "rootfs"
    argv: timing.Words = ["umoci", "raw", "unpack", "--image", f"{scale.work}/runs/copied:v1", rootfs]
    return timing.together([copied, timing.run(argv)])
