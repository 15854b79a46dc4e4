"""Several programs at one store: who waits for whom, who wins, and what the others say."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import images, registry, stored, support
from tests.registry import Proxy

SECONDS = 300.0  # for what takes a second or two where nothing else runs
STARTED: list[subprocess.Popen[bytes]] = []


class Shop:
    """A registry of images that holds back the layers of some of them until it is told to let them go."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder = folder
        self.host = ""
        self.layers = {name: self._layer(name) for name in names}
        self.unused = iter(names)
        self.asked: list[str] = []
        self.gates = {name: threading.Event() for name in names}
        for gate in self.gates.values():
            gate.set()

    def _layer(self, name: str) -> bytes:
        return registry.tar_of({"name": name.encode(), "root/.profile": name.encode(), "data": name.encode() * 100_000})

    @contextlib.contextmanager
    def open(self) -> Iterator[Shop]:
        """Serve the images."""
        answers = {}
        for name, layer in self.layers.items():
            place = self.folder / name
            place.mkdir()
            layout = registry.Image(place).of_layer(registry.gzip_of(layer), registry.digest(layer))
            answers.update(registry.of_layout(layout, name))
        serve = registry.static(answers)

        def meddle(request: Proxy) -> bool:
            name = request.path.split("/")[2] if request.path.count("/") > 2 else ""
            if "/blobs/" in request.path and self._is_layer(request.path):
                self.asked.append(name)
                assert self.gates[name].wait(SECONDS)
            return serve(request)

        with registry.faulty("", meddle) as running:
            self.host = running.host
            try:
                yield self
            finally:
                for gate in self.gates.values():
                    gate.set()

    def _is_layer(self, path: str) -> bool:
        blobs = {hashlib.sha256(registry.gzip_of(layer)).hexdigest() for layer in self.layers.values()}
        return path.rpartition(":")[2] in blobs

    def ref(self, name: str) -> str:
        """Return the reference of an image."""
        return f"{self.host}/{name}:v1"

    def hold(self, *names: str) -> None:
        """Hold back the layers of images from now on."""
        for name in names:
            self.gates[name].clear()

    def let_go(self, *names: str) -> None:
        """Let the layers of images go."""
        for name in names:
            self.gates[name].set()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """A shop with images, and the home that all tests of this file use; its store has a kernel."""
    folder = tmp_path_factory.mktemp("shop")
    kernel = folder / "bzImage"
    kernel.write_bytes(stored.bzimage())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BANGER_HOME", str(folder / "home"))
        support.run_ok("banger", "kernel", "import", "--name=mine", f"--kernel={kernel}")
        with Shop(folder, *(f"image{number}" for number in range(12))).open() as running:
            offer(running)
            yield running


def offer(shop: Shop) -> None:
    """Make a catalog of the shop's images, which names the kernel that goes with them, the user's own."""
    config = shop.folder / "home" / "config"
    config.mkdir()
    (config / "config.toml").write_text("[[catalogs]]\nfile = 'catalog.json'\n")
    images = [{"name": name, "source": f"docker://{shop.ref(name)}", "kernel_ref": "mine"} for name in shop.layers]
    (config / "catalog.json").write_text(json.dumps({"schema": "banger-catalog/1", "images": images}))


@pytest.fixture
def state(shop: Shop) -> Iterator[Path]:
    """The store, emptied of images and machines afterwards."""
    shop.asked.clear()
    yield shop.folder / "home" / "state"
    shop.let_go(*shop.gates)
    while STARTED:
        with STARTED.pop() as process:  # those that are left of a test that failed
            process.kill()
    for kind in ("images", "vms"):
        shutil.rmtree(shop.folder / "home" / "state" / kind, ignore_errors=True)


@pytest.fixture
def red(shop: Shop) -> str:
    """An image of the shop that no test has asked for yet."""
    return next(shop.unused)


@pytest.fixture
def blue(shop: Shop) -> str:
    """Another one."""
    return next(shop.unused)


def start(*words: str) -> subprocess.Popen[bytes]:
    """Start banger."""
    argv, pipe = support.argv("banger", *words), subprocess.PIPE
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=support.environment())
    STARTED.append(process)
    return process


CREATE = ("vm", "create", "--no-start", "--vmm=qemu", "--net=none", "--work-disk=64M")


def pull(shop: Shop, name: str, *words: str) -> subprocess.Popen[bytes]:
    """Start to pull an image of the shop."""
    return start("image", "pull", "--kernel-ref=mine", "--size=32M", *words, shop.ref(name))


def until(true: Callable[[], object], *running: subprocess.Popen[bytes]) -> None:
    """Wait for something that these programs do."""
    deadline = time.monotonic() + SECONDS
    while not true():
        assert time.monotonic() < deadline
        for process in running:
            assert process.poll() is None, process.communicate()
        time.sleep(0.02)


def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Return the status of a program, when it has ended, and what it said."""
    said = process.communicate(timeout=SECONDS)[1]
    return process.returncode, said.decode()


def listed(state: Path, kind: str = "images") -> list[str]:
    return sorted(path.name for path in state.glob(f"{kind}/*"))


def name_in(state: Path, image: str) -> str:
    """Return which image of the shop stands under a name, as its disk and its work seed say with one voice."""
    folder = state / "images" / image
    found = images.debugfs(folder / "rootfs.ext4", "cat /name").splitlines()[-1]
    assert images.debugfs(folder / "work-seed.ext4", "cat /.profile").splitlines()[-1] == found
    return found


def test_pull_does_not_wait_for_the_pull_of_another_name(shop: Shop, state: Path, red: str, blue: str) -> None:
    """With one lock round the whole pull the second would wait for the first, and the first waits for us."""
    shop.hold(red)
    first = pull(shop, red, "--name=first")
    until(lambda: shop.asked == [red], first)
    second = pull(shop, blue, "--name=second")
    assert ended(second)[0] == 0
    assert first.poll() is None and listed(state) == ["second"]
    shop.let_go(red)
    assert ended(first)[0] == 0
    assert (name_in(state, "first"), name_in(state, "second")) == (red, blue)


def test_machine_of_another_image_does_not_wait_for_an_image_that_is_pulled_for_a_machine(
    shop: Shop, state: Path, red: str, blue: str
) -> None:
    support.need("qemu-system-x86_64")
    assert ended(pull(shop, blue, "--name=ready"))[0] == 0
    shop.hold(red)
    first = start(*CREATE, "--name=first", f"--image={red}")
    until(lambda: red in shop.asked, first)
    assert ended(start(*CREATE, "--name=second", "--image=ready"))[0] == 0
    assert first.poll() is None and listed(state, "vms") == ["second"]
    shop.let_go(red)
    assert ended(first)[0] == 0


def test_of_two_pulls_of_one_name_one_wins_and_the_other_says_so(shop: Shop, state: Path, red: str, blue: str) -> None:
    shop.hold(red, blue)
    running = {name: pull(shop, name, "--name=shared") for name in (red, blue)}
    until(lambda: sorted(shop.asked) == sorted((red, blue)), *running.values())  # both have seen that the name is free
    shop.let_go(red, blue)
    found = {name: ended(process) for name, process in running.items()}
    assert sorted(status for status, _ in found.values()) == [0, 73], found
    winner, loser = sorted(found, key=lambda name: found[name][0])
    assert "the image 'shared' exists already" in found[loser][1]
    assert (listed(state), name_in(state, "shared")) == (["shared"], winner)
    assert not list((state / "work").iterdir())


def test_pull_of_a_name_that_is_taken_meanwhile_keeps_what_is_there(
    shop: Shop, state: Path, red: str, blue: str
) -> None:
    shop.hold(red)
    late = pull(shop, red, "--name=shared")
    until(lambda: shop.asked == [red], late)
    assert ended(pull(shop, blue, "--name=shared"))[0] == 0
    before = os.stat(state / "images" / "shared")
    shop.let_go(red)
    assert ended(late)[0] == 73
    assert name_in(state, "shared") == blue
    assert os.stat(state / "images" / "shared").st_ino == before.st_ino


def has_open(process: subprocess.Popen[bytes], path: Path) -> bool:
    """Tell whether a program has a file open, as one that waits for its lock."""
    with contextlib.suppress(OSError):
        return any(os.readlink(entry) == str(path) for entry in Path(f"/proc/{process.pid}/fd").iterdir())
    return False


def test_two_machines_of_one_missing_image_pull_it_once(shop: Shop, state: Path, red: str) -> None:
    support.need("qemu-system-x86_64")
    shop.hold(red)
    running = [start(*CREATE, f"--name=vm{number}", f"--image={red}") for number in range(2)]
    lock = state / "locks" / f"pull-{red}.lock"
    until(lambda: shop.asked and all(has_open(process, lock) for process in running), *running)
    shop.let_go(red)
    found = [ended(process) for process in running]
    assert [status for status, _ in found] == [0, 0], found
    assert sorted(said.count("making it from") for _, said in found) == [0, 1], found
    assert shop.asked == [red]
    assert (listed(state), listed(state, "vms")) == ([red], ["vm0", "vm1"])


def test_of_a_machine_made_while_its_image_is_deleted_there_is_all_or_nothing(
    shop: Shop, state: Path, red: str
) -> None:
    support.need("qemu-system-x86_64")
    assert ended(pull(shop, red, "--name=kept"))[0] == 0
    image = state / "images" / "kept"
    disks = {name: hashlib.sha256((image / name).read_bytes()).digest() for name in ("rootfs.ext4", "work-seed.ext4")}
    for number in range(4):
        support.run_ok("bg-publish", "--replace", "--name=gone", "--kernel-ref=mine", stdin=again(image))
        making = start(*CREATE, f"--name=vm{number}", "--image=gone", "--pull=never")
        time.sleep(0.25 * number)  # a different moment each time; whichever it is, the outcome is one of the two
        deleting = start("image", "delete", "gone")
        made, deleted = ended(making), ended(deleting)
        assert made[0] in (0, 66) and deleted[0] in (0, 73), (made, deleted)
        assert made[0] == 0 or deleted[0] == 0, (made, deleted)
        assert (f"vm{number}" in listed(state, "vms")) == (made[0] == 0)
        assert ("gone" in listed(state)) == (deleted[0] == 73)
        if made[0] == 0:
            assert _disks_of(state / "vms" / f"vm{number}") == disks


def again(image: Path) -> str:
    """Return a manifest to publish the disks of an image once more."""
    record = json.loads((image / "image.json").read_text())
    disk, seed = (
        {"path": str(image / name), "size": (image / name).stat().st_size} for name in ("rootfs.ext4", "work-seed.ext4")
    )
    record["rootfs"].update(disk)
    record["work_seed"].update(seed)
    return json.dumps(record)


def _disks_of(machine: Path) -> dict[str, bytes]:
    return {
        name: hashlib.sha256((machine / disk).read_bytes()).digest()
        for name, disk in (("rootfs.ext4", "root.ext4"), ("work-seed.ext4", "work.ext4"))
    }
