"""What the tests of pulls share: an image of two layers in a real registry, bg-fetch as a program and as a function."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from banger_tools.oci import pull, reference
from banger_tools.oci.cache import Cache
from banger_tools.oci.http import Settings
from tests import registry, support
from tests.registry import Proxy

SMALL = registry.tar_of({"etc/motd": b"hello\n"})
LARGE = registry.tar_of({"data": random.Random(11).randbytes(2_000_000)})


class Server(NamedTuple):
    """A registry with one image `team/app:v1` of two layers, and the layout that it was pushed from."""

    host: str
    root: Path
    layout: Path

    @property
    def ref(self) -> str:
        return f"{self.host}/team/app:v1"


@contextlib.contextmanager
def served(folder: Path) -> Iterator[Server]:
    """Run a registry that has the image."""
    layout = registry.umoci_layout(folder, [SMALL, LARGE])
    with registry.serve(folder) as running:
        registry.push(layout, "v1", f"{running.host}/team/app:v1")
        yield Server(running.host, running.root, layout)


def fetch(*words: str | os.PathLike[str], **kwargs: Any) -> dict[str, Any]:
    """Run bg-fetch, which must succeed, and return its manifest."""
    return support.manifest_of(support.run_ok("bg-fetch", *words, **kwargs))


def refused(status: int, *words: str | os.PathLike[str], **kwargs: Any) -> str:
    """Run bg-fetch, which must end with a status and print nothing; return what it says."""
    done = support.run("bg-fetch", *words, **kwargs)
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert not done.stdout and "Traceback" not in said
    return said


def fetch_here(ref: str, home: Path, *, thorough: bool = False, **settings: Any) -> list[bytes]:
    """Fetch in this process into the cache of a home, and return the layers' tars."""
    settings.setdefault("plain_http", (ref.partition("/")[0],))
    wants = pull.Wants(settings=Settings(**settings), thorough=thorough)
    fetched = pull.fetch(reference.parse(ref), ref, Cache(home / "cache"), wants)
    return [Path(layer.path).read_bytes() for layer in fetched.layers]


def right(found: dict[str, Any]) -> bool:
    """Tell whether a manifest's layers are those that umoci was given."""
    return [Path(layer["path"]).read_bytes() for layer in found["layers"]] == [SMALL, LARGE]


def partial_bytes(home: Path) -> int:
    """Return the bytes of unfinished transfers."""
    return sum(path.stat().st_size for path in (home / "cache" / "partial").iterdir())


def wait_for_bytes(worker: subprocess.Popen[bytes], home: Path) -> None:
    """Wait until a bg-fetch that was just started adds bytes to an unfinished transfer."""

    def there() -> int:
        with contextlib.suppress(FileNotFoundError):  # what is finished gets another name
            return partial_bytes(home)
        return 0

    before = there()
    while worker.poll() is None and there() <= before:
        time.sleep(0.005)


def first_times(times: int) -> Callable[[str], bool]:
    """Return what tells whether a path is asked for no more than so many times yet."""
    counts: dict[str, int] = {}

    def is_early(path: str) -> bool:
        counts[path] = counts.get(path, 0) + 1
        return counts[path] <= times

    return is_early


def docker_config(folder: Path, host: str, **more: Any) -> dict[str, str]:
    """Write a config.json in which alice has logged in to a host, and return the environment in which it is found."""
    folder.mkdir()
    auth = base64.b64encode(b"alice:secret").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}, **more}))
    return {"DOCKER_CONFIG": str(folder), "REGISTRY_AUTH_FILE": "", "XDG_RUNTIME_DIR": "", "HOME": str(folder)}


def configured(home: Path, **hosts: str) -> None:
    """Write a config.toml that says something of some hosts."""
    (home / "config").mkdir(exist_ok=True)
    text = "".join(f'[registries."{host}"]\n{lines}\n' for host, lines in hosts.items())
    (home / "config" / "config.toml").write_text(text)


def slow_blobs(served: list[int], pieces: int = 40, pause: float = 0.01) -> registry.Handler:
    """Return a meddler that sends layers in pieces, and counts the bytes of each request in a number of its own."""

    def meddle(request: Proxy) -> bool:
        if not request.is_blob:
            return False
        status, headers, body = request.fetch()
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {headers[name]}" for name in ("Content-Range", "Content-Type") if name in headers]
        mine = len(served)
        served.append(0)
        step = max(1, len(body) // pieces)
        try:
            request.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode())
            for start in range(0, len(body), step):
                served[mine] += len(body[start : start + step])
                request.wfile.write(body[start : start + step])
                request.wfile.flush()
                time.sleep(pause)
        except OSError:
            request.close_connection = True
        return True

    return meddle
