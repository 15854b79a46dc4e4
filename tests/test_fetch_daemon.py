"""bg-fetch from the stores of podman, and of docker where it is: real engines with a store of the test's own."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from banger_tools import errors
from banger_tools.oci import daemon, reference
from banger_tools.process import Result
from tests import pulls, registry, support

LAYERS = [registry.tar_of({"etc/motd": b"hello\n"}), registry.tar_of({"data": random.Random(5).randbytes(300_000)})]
LARGE = registry.tar_of({"data": random.Random(6).randbytes(1 << 20) * 64})
HAS_DOCKER = os.geteuid() == 0 and all(shutil.which(name, path=support.search_path()) for name in ("docker", "dockerd"))
STAND_IN = "podman-as-docker"  # it speaks the words of docker, whose daemon is much to install for tests
ENGINES = ["podman", STAND_IN, *(["docker"] if HAS_DOCKER else [])]


class Engine(NamedTuple):
    """An engine with the images `localhost/team/app`, of two tags, and `localhost/team/large`."""

    transport: str
    program: str
    env: dict[str, str]


@contextlib.contextmanager
def dockerd(folder: Path) -> Iterator[dict[str, str]]:
    """Run docker's daemon without a network, and yield the environment in which it is asked."""
    socket = f"unix://{folder}/s"
    words = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "--storage-driver=vfs"]
    words += [f"--data-root={folder}/data", f"--exec-root={folder}/run", f"--pidfile={folder}/pid", f"--host={socket}"]
    env = {"DOCKER_HOST": socket}
    with open(folder / "log", "wb") as log:
        worker = subprocess.Popen(words, stdout=log, stderr=log, env=support.environment())
        try:
            deadline = time.monotonic() + 60
            while engine_ends(["docker", "info"], env) != 0:
                if worker.poll() is not None or time.monotonic() > deadline:
                    support.cannot(f"dockerd does not start: {(folder / 'log').read_text()[-300:]}")
                time.sleep(0.2)
            yield env
        finally:
            worker.terminate()
            worker.wait(60)


def engine_ends(words: list[str], env: dict[str, str]) -> int:
    return subprocess.run(words, capture_output=True, env=support.environment(env)).returncode


def podman_store(folder: Path) -> dict[str, str]:
    """Return the environment in which podman keeps everything below a folder."""
    config = folder / "storage.conf"
    config.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n')
    return {"CONTAINERS_STORAGE_CONF": str(config)}


def podman_as_docker(folder: Path) -> dict[str, str]:
    """Return the environment in which podman stands in for docker."""
    (folder / "bin").mkdir()
    (folder / "bin" / "docker").symlink_to(str(shutil.which("podman")))
    return {**podman_store(folder), "PATH": f"{folder}/bin:{support.search_path()}"}


@contextlib.contextmanager
def running(kind: str, folder: Path) -> Iterator[Engine]:
    """Yield an engine of one of the kinds, with an empty store."""
    if kind == "podman":
        yield Engine("podman", "podman", podman_store(folder))
    elif kind == STAND_IN:
        yield Engine("docker-daemon", "docker", podman_as_docker(folder))
    else:
        with dockerd(folder) as env:
            yield Engine("docker-daemon", "docker", env)


@pytest.fixture(scope="module", params=ENGINES)
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    support.need("podman", "skopeo")
    folder = tmp_path_factory.mktemp(request.param)
    with running(request.param, folder) as engine:
        for name, layers in (("app", LAYERS), ("large", [LARGE])):
            (folder / name).mkdir()
            layout = registry.umoci_layout(folder / name, layers)
            archive = folder / f"{name}.tar"
            registry.skopeo("copy", "--quiet", f"oci:{layout}:v1", f"docker-archive:{archive}:localhost/team/{name}:v1")
            for words in (
                ["load", "--input", str(archive)],
                ["tag", f"localhost/team/{name}:v1", f"localhost/team/{name}:latest"],
            ):
                command = [engine.program, *words]
                subprocess.run(command, check=True, capture_output=True, env=support.environment(engine.env))
        yield engine


def refused(status: int, *words: str, env: dict[str, str]) -> str:
    done = support.run("bg-fetch", *words, env=env)
    said = done.stderr.decode()
    assert (done.returncode, done.stdout) == (status, b""), said
    assert "Traceback" not in said
    return said


def test_an_image_of_an_engine_has_the_layers_that_were_loaded(engine: Engine, banger_home: Path) -> None:
    inspect = [engine.program, "image", "inspect", "--format={{.Id}}", "localhost/team/app:v1"]
    identifier = subprocess.run(
        inspect, capture_output=True, text=True, check=True, env=support.environment(engine.env)
    ).stdout.strip()
    for name in ("localhost/team/app:v1", "localhost/team/app", identifier.removeprefix("sha256:")[:12]):
        out = support.run_ok("bg-fetch", f"{engine.transport}:{name}", env=engine.env)
        found: dict[str, Any] = support.manifest_of(out)
        assert [Path(layer["path"]).read_bytes() for layer in found["layers"]] == LAYERS
        assert found["source"]["kind"] == engine.transport
        assert found["source"]["resolved"] == f"{engine.transport}:{name}"
        assert found["source"]["digest"] == f"sha256:{identifier.removeprefix('sha256:')}"
        assert list((banger_home / "cache" / "partial").iterdir()) == []


def test_what_an_engine_does_not_have_is_said_in_its_words(engine: Engine, banger_home: Path) -> None:
    said = refused(66, f"{engine.transport}:localhost/no/such:thing", env=engine.env)
    assert f"'{engine.transport}:localhost/no/such:thing' is not there" in said and f"{engine.program} image ls" in said
    ref = f"{engine.transport}:localhost/team/app:v1"
    assert "arm64" in refused(66, ref, "--platform=linux/arm64", env=engine.env)
    assert "--max-image" in refused(65, f"{engine.transport}:localhost/team/large", "--max-image=1M", env=engine.env)
    assert list((banger_home / "cache" / "partial").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_save_leaves_nothing_behind(engine: Engine, number: int, banger_home: Path) -> None:
    partial = banger_home / "cache" / "partial"
    words = support.argv("bg-fetch", f"{engine.transport}:localhost/team/large")
    worker = subprocess.Popen(words, stdout=subprocess.PIPE, env=support.environment(engine.env))
    pulls.wait_for_bytes(worker, banger_home)
    worker.send_signal(number)
    worker.communicate(timeout=60)
    assert worker.returncode == 128 + number
    assert list(partial.iterdir()) == []
    saving = ["pgrep", "--parent", str(os.getpid()), "--full", "image|save"]
    assert subprocess.run(saving, capture_output=True, env=support.environment()).stdout == b""


def test_a_full_disk_while_an_engine_saves_is_said(engine: Engine, small_disk: Path) -> None:
    env = {**engine.env, "BANGER_HOME": str(small_disk / "home")}
    assert "no space left" in refused(74, f"{engine.transport}:localhost/team/large", env=env)
    assert list((small_disk / "home" / "cache" / "partial").iterdir()) == []


def test_an_engine_that_cannot_be_reached_is_unavailable(engine: Engine, banger_home: Path) -> None:
    nowhere = dict.fromkeys(("DOCKER_HOST", "CONTAINER_HOST"), "unix:///nonexistent/socket")
    said = refused(69, f"{engine.transport}:x", env={**engine.env, **nowhere})
    assert f"'{engine.program}' cannot give '{engine.transport}:x': " in said and "onnect" in said


@contextlib.contextmanager
def listening(engine: Engine, folder: Path) -> Iterator[Path]:
    """Yield the socket that an engine listens on; podman does so only if asked."""
    if "DOCKER_HOST" in engine.env:
        yield Path(engine.env["DOCKER_HOST"].removeprefix("unix://"))
        return
    path = folder / "socket"
    words = ["podman", "system", "service", "--time=0", f"unix://{path}"]
    worker = subprocess.Popen(words, env=support.environment(engine.env))
    try:
        while not path.exists():
            assert worker.poll() is None
            time.sleep(0.05)
        yield path
    finally:
        worker.terminate()
        worker.wait(30)


@pytest.mark.root
def test_an_engine_that_refuses_a_user_says_so(engine: Engine, user: support.OrdinaryUser, tmp_path: Path) -> None:
    with listening(engine, tmp_path) as path:
        for folder in path.parents[:-2]:
            folder.chmod(folder.stat().st_mode | 0o711)
        os.chown(path, 0, 0)
        path.chmod(0o600)
        env = {
            "DOCKER_HOST": f"unix://{path}",
            "CONTAINER_HOST": f"unix://{path}",
            "PATH": engine.env.get("PATH", support.search_path()),
        }
        done = user.run("bg-fetch", f"{engine.transport}:localhost/team/app", env=env)
        assert done.returncode == 77 and b"permission denied" in done.stderr, done.stderr.decode()


@pytest.mark.parametrize(
    ("engine_name", "said", "error"),
    [
        ("docker", "[]\nError: No such image: nope\n", errors.NoInput),  # 20.10
        ("docker", "Error response from daemon: No such image: nope:latest\n", errors.NoInput),  # 28
        (
            "docker",
            "Cannot connect to the Docker daemon at unix:///x. Is the docker daemon running?",
            errors.Unavailable,
        ),
        (
            "docker",
            "WARNING: Error loading config file: open /x/config.json: permission denied\n"
            "Error response from daemon: No such image: nope\n",
            errors.NoInput,
        ),
        (
            "docker",
            "permission denied while trying to connect to the Docker daemon socket at unix:///x: dial unix /x: "
            "connect: permission denied\n",
            errors.Denied,
        ),
        ("podman", 'time="2024-01-01" level=error msg="x"\nError: nope: image not known\n', errors.NoInput),
        ("podman", "Error: unable to connect to Podman socket: dial unix /x: no such file\n", errors.Unavailable),
        ("podman", "", errors.Unavailable),
    ],
)
def test_how_engines_say_what_is_wrong(engine_name: str, said: str, error: type[errors.BangerError]) -> None:
    found = daemon.explain(reference.Daemon(engine_name, "nope"), Result(1, b"", said.encode()))
    assert type(found) is error
    last = said.strip().rpartition("\n")[2].removeprefix("Error: ").removeprefix("Error response from daemon: ")
    assert found.message.endswith(f": {last}" if last else ": status 1")


@pytest.mark.parametrize(("name", "package"), [("docker", "docker.io"), ("podman", "podman")])
def test_an_engine_that_is_not_installed_is_named_with_its_package(
    name: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("banger_tools.process.search_path", lambda: str(tmp_path))
    with pytest.raises(errors.Unavailable, match=f"'{name}' is not installed") as caught:
        with daemon.opened(reference.Daemon(name, "x"), tmp_path, 1 << 30):
            pass
    assert caught.value.hint == f"apt-get install {package}"
