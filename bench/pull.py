"""A pull from a registry on loopback: bg-fetch beside `skopeo copy` to an OCI layout, alone and with `umoci unpack`.

Usage: .venv/bin/python bench/pull.py OPTIONS    (as root, for umoci)
  OPTIONS: [--rounds=N] [--layers=N] [--compression=gzip|zstd] [--include=PACKAGES]

skopeo neither decompresses nor checks diff_ids; with --dest-decompress it does the first, and with `umoci unpack`
behind it both are done, and files are written.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bench import inputs, timing

ADDRESS = "127.0.0.1:5077"
NAME = f"{ADDRESS}/bench/image:v1"


@contextmanager
def registry(layout: Path) -> Iterator[None]:
    """Run a docker-registry that holds the image of a layout."""
    folder = inputs.WORK / "registry"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = folder / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {folder}/data}}}}\nhttp: {{addr: '{ADDRESS}'}}\n"
    )
    server = subprocess.Popen(["docker-registry", "serve", config], stderr=subprocess.DEVNULL)
    try:
        _wait(server)
        source = f"oci:{layout}:{inputs.TAG}"
        subprocess.run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", source, f"docker://{NAME}"], check=True)
        yield
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(server: subprocess.Popen[bytes]) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise SystemExit(f"docker-registry ended: is {ADDRESS} taken?")
        try:
            urllib.request.urlopen(f"http://{ADDRESS}/v2/").close()
            return
        except OSError:
            time.sleep(0.05)
    raise SystemExit("docker-registry does not answer")


def fresh(name: str) -> Path:
    folder = inputs.WORK / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder


def ours() -> timing.Run:
    env = {**os.environ, "BANGER_HOME": str(fresh("pulled"))}
    return timing.run([inputs.program("bg-fetch"), NAME], env=env, stdout=subprocess.DEVNULL)


def skopeo() -> timing.Run:
    target = f"oci:{fresh('copied')}:v1"
    return timing.run(["skopeo", "copy", "--quiet", "--src-tls-verify=false", f"docker://{NAME}", target])


def skopeo_decompressing() -> timing.Run:
    words = ["skopeo", "copy", "--quiet", "--src-tls-verify=false", "--dest-decompress"]
    return timing.run([*words, f"docker://{NAME}", f"dir:{fresh('copied')}"])


def skopeo_and_umoci() -> timing.Run:
    copied = skopeo()
    words = ["umoci", "raw", "unpack", "--image", f"{inputs.WORK}/copied:v1", str(fresh("unpacked") / "rootfs")]
    return timing.together([copied, timing.run(words, stdout=subprocess.DEVNULL)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--compression", choices=("gzip", "zstd"), default="gzip")
    parser.add_argument("--include", default=inputs.LARGE)
    options = parser.parse_args()
    inputs.WORK.mkdir(exist_ok=True)
    tar = inputs.debian_tar(options.include)
    layout = inputs.oci_layout(tar, options.compression, options.layers)
    packed = sum(path.stat().st_size for path in (layout / "blobs/sha256").iterdir())
    plain = tar.stat().st_size >> 20
    print(f"{packed >> 20} MiB in {options.layers} layers of {options.compression}, {plain} MiB plain\n")
    ways = {
        "skopeo copy": skopeo,
        "bg-fetch": ours,
        "skopeo copy --dest-decompress": skopeo_decompressing,
        "skopeo copy + umoci unpack": skopeo_and_umoci,
    }
    with registry(layout):
        print(timing.report(timing.in_turns(ways, options.rounds), "skopeo copy"))
    for name in ("pulled", "copied", "unpacked"):
        shutil.rmtree(inputs.WORK / name, ignore_errors=True)


if __name__ == "__main__":
    main()
