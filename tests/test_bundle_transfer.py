"""Bundles behind URLs: resumed, verified, kept in the cache; with servers that fail in every way."""

from __future__ import annotations

import base64
import filecmp
import hashlib
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import bundles, pulls, support, webserver
from tests.webserver import Handler, Site


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good bundle of a megabyte or so, beside its rootfs.ext4."""
    folder = bundles.parts(tmp_path_factory.mktemp("parts"))
    return bundles.pack(folder, folder / "tiny.tar.zst", "rootfs.ext4", "manifest.json")


@pytest.fixture
def site(bundle: Path) -> Iterator[Site]:
    with webserver.serve() as site:
        site.files["tiny.tar.zst"] = bundle.read_bytes()
        yield site


@pytest.fixture
def here(tmp_path: Path, banger_home: Path) -> Path:
    (tmp_path / "here").mkdir()
    return tmp_path / "here"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def reference(site: Site) -> str:
    """Return the bundle's URL with its digest."""
    return f"{site.url('tiny.tar.zst')}#{digest_of(site.files['tiny.tar.zst'])}"


def fetch(ref: str, here: Path, *words: str, status: int = 0, env: dict[str, str] | None = None) -> str:
    """Fetch a bundle, which must end with `status`; return what was said. After a failure nothing is left."""
    done = support.run("bg-fetch", "-f", "-C", here, *words, ref, env=env)
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert "Traceback" not in said
    if status:
        assert list(here.iterdir()) == []
    return said


def is_right(here: Path, bundle: Path) -> bool:
    return filecmp.cmp(here / "tiny.ext4", bundle.parent / "rootfs.ext4", shallow=False)


def kept(home: Path) -> list[str]:
    """Return the bundles in the cache, and what is left of transfers."""
    cache = home / "cache"
    return sorted(path.name for part in ("bundles/sha256", "partial") for path in (cache / part).glob("*"))


# The cache


def test_second_fetch_is_free(site: Site, here: Path, bundle: Path, banger_home: Path) -> None:
    fetch(reference(site), here)
    assert is_right(here, bundle)
    assert len(site.seen) == 1
    fetch(reference(site), here, "--pull=always")
    fetch(reference(site), here, "--offline")
    assert len(site.seen) == 1
    assert kept(banger_home) == [digest_of(bundle.read_bytes())[7:]]


def test_url_without_a_digest_stays_what_it_was_until_asked_again(site: Site, here: Path, bundle: Path) -> None:
    url = site.url("tiny.tar.zst")
    fetch(url, here)
    said = fetch(url, here)
    assert f"'{url}' is {digest_of(bundle.read_bytes())}, as fetched before" in said
    assert len(site.seen) == 1
    fetch(url, here, "--pull=always")
    assert "if-none-match" in site.seen[-1][1]
    assert len(site.seen) == 2
    site.files["tiny.tar.zst"] = bundle.read_bytes() + bytes.fromhex("502a4d1803000000616263")  # a skippable frame
    assert "as fetched before" in fetch(url, here)
    assert "as fetched before" not in fetch(url, here, "--pull=always")
    assert f"{digest_of(site.files['tiny.tar.zst'])}, as fetched before" in fetch(url, here, "--offline")


def test_damaged_copy_is_noticed_and_fetched_again(site: Site, here: Path, bundle: Path, banger_home: Path) -> None:
    fetch(reference(site), here)
    copy = banger_home / "cache" / "bundles" / "sha256" / digest_of(bundle.read_bytes())[7:]
    copy.write_bytes(copy.read_bytes()[:-1])
    assert "the copy in the cache is damaged" in fetch(reference(site), here)
    assert is_right(here, bundle)
    assert len(site.seen) == 2
    copy.unlink()
    copy.mkdir()
    fetch(reference(site), here)
    assert copy.read_bytes() == bundle.read_bytes()
    (here / "tiny.ext4").unlink()
    copy.write_bytes(b"")
    assert "the copy in the cache is damaged" in fetch(reference(site), here, "--offline", status=69)


def test_nothing_goes_out_offline(site: Site, here: Path) -> None:
    assert "is not in the cache" in fetch(reference(site), here, "--offline", status=69)
    assert "is not in the cache" in fetch(site.url("tiny.tar.zst"), here, "--pull=never", status=69)
    assert site.seen == []


# What is wrong


def test_wrong_digest_leaves_nothing(site: Site, here: Path, banger_home: Path) -> None:
    wrong = f"{site.url('tiny.tar.zst')}#sha256:{'0' * 64}"
    assert f"the digest must be sha256:{'0' * 64}, and is {reference(site)[-71:]}" in fetch(wrong, here, status=65)
    assert kept(banger_home) == []


def test_what_is_no_bundle_leaves_nothing(site: Site, here: Path, banger_home: Path) -> None:
    site.files["tiny.tar.zst"] = site.files["tiny.tar.zst"][:-5]
    assert "is cut" in fetch(site.url("tiny.tar.zst"), here, status=65)
    assert "is cut" in fetch(reference(site), here, status=65)
    assert kept(banger_home) == []


@pytest.mark.parametrize("difference", [-1, 1])
def test_size_of_the_catalog_is_held(difference: int, site: Site, here: Path, banger_home: Path) -> None:
    data = site.files["tiny.tar.zst"]
    entry = {"name": "it", "url": site.url("tiny.tar.zst"), "sha256": hashlib.sha256(data).hexdigest()}
    write_catalog(banger_home, {**entry, "size": len(data) + difference})
    said = fetch("it", here, status=65)
    assert "must have" in said or "is longer than" in said
    assert kept(banger_home) == []
    write_catalog(banger_home, {**entry, "size": len(data)})
    assert f"'it' is bundle:{site.url('tiny.tar.zst')}, of the catalog" in fetch("it", here)
    assert (here / "it.ext4").exists()


def write_catalog(home: Path, *images: dict[str, Any]) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "catalog.json").write_text(json.dumps({"schema": "banger-catalog/1", "images": images}))
    (home / "config" / "config.toml").write_text("[[catalogs]]\nfile = 'catalog.json'\n")


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [(404, 66, "does not exist"), (403, 77, "does not let us have"), (418, 69, "418"), (503, 75, "answers 503")],
)
def test_refusals_are_named(answer: int, status: int, said: str, here: Path) -> None:
    def refuse(handler: Handler) -> bool:
        handler.answer(answer, b"<html>", **{"Retry-After": "0"})
        return True

    with webserver.serve(refuse) as site:
        assert said in fetch(site.url("x.tar.zst"), here, status=status)


def test_plain_http_is_refused_elsewhere(here: Path) -> None:
    assert "is not encrypted" in fetch("http://bundles.invalid/x.tar.zst", here, status=77)
    said = fetch("http://bundles.invalid/x.tar.zst", here, "--plain-http=bundles.invalid", status=69)
    assert "cannot find the host" in said


def test_no_password_goes_to_the_url_of_a_bundle(site: Site, here: Path, tmp_path: Path) -> None:
    auth = base64.b64encode(b"alice:secret").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {site.host: {"auth": auth}}}))
    fetch(reference(site), here, "--creds=alice:secret", env={"DOCKER_CONFIG": str(tmp_path)})
    assert all("authorization" not in headers for _, headers in site.seen)


def test_redirects_are_followed(site: Site, here: Path, bundle: Path) -> None:
    def redirect(handler: Handler) -> bool:
        handler.answer(302, b"", Location=f"http://{site.host}/tiny.tar.zst")
        return True

    with webserver.serve(redirect) as other:
        fetch(reference(site).replace(site.host, other.host), here)
    assert is_right(here, bundle)


def test_redirect_to_plain_http_is_refused_elsewhere(here: Path) -> None:
    def redirect(handler: Handler) -> bool:
        handler.answer(302, b"", Location="http://bundles.invalid/x.tar.zst")
        return True

    with webserver.serve(redirect) as other:
        assert "'http://bundles.invalid/x.tar.zst' is not encrypted" in fetch(other.url("x.tar.zst"), here, status=77)


# Broken connections


class Cutting:
    """Cuts the first answers after so many bytes each."""

    def __init__(self, *cuts: int) -> None:
        self.cuts = list(cuts)
        self.sent = 0

    def __call__(self, handler: Handler) -> bool:
        data = handler.files[handler.path.lstrip("/")][handler.start() or 0 :]
        cut = self.cuts.pop(0) if self.cuts else len(data)
        self.sent += min(cut, len(data))
        if cut >= len(data):
            return False
        status = 206 if handler.start() is not None else 200
        start, size = handler.start() or 0, len(handler.files[handler.path.lstrip("/")])
        extent = {"Content-Range": f"bytes {start}-{size - 1}/{size}"} if status == 206 else {}
        handler.answer(status, data, sent=cut, **extent)
        return True


@pytest.mark.parametrize("cut", [0, 1, 5000, 262_144, -1])
def test_a_cut_connection_is_gone_on_with(cut: int, bundle: Path, here: Path) -> None:
    data = bundle.read_bytes()
    cutting = Cutting(cut if cut >= 0 else len(data) - 1)
    with webserver.serve(cutting) as site:
        site.files["tiny.tar.zst"] = data
        fetch(reference(site), here)
    assert is_right(here, bundle)
    assert cutting.sent == len(data)


def test_without_a_digest_a_bundle_that_changes_meanwhile_is_noticed(bundle: Path, here: Path) -> None:
    data = bundle.read_bytes()

    def change(handler: Handler) -> bool:
        handler.files["tiny.tar.zst"] = data + b"x"
        handler.answer(200, data, sent=400_000, ETag='"one"')
        return True

    with webserver.serve(lambda handler: len(handler.seen) == 1 and change(handler)) as site:
        site.files["tiny.tar.zst"] = data
        assert "changed while it was fetched" in fetch(site.url("tiny.tar.zst"), here, status=75)
        fetch(f"{site.url('tiny.tar.zst')}#{digest_of(data)}", here, status=65)


def test_servers_that_garble_ranges_are_put_up_with(bundle: Path, here: Path) -> None:
    data = bundle.read_bytes()

    def garble(handler: Handler) -> bool:
        start = handler.start()
        if start is None:
            if len(handler.seen) == 1:
                handler.answer(200, data, sent=300_000)
            return len(handler.seen) == 1
        extent = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.answer(206, data[:-start][::-1], **{"Content-Range": extent})
        return True

    with webserver.serve(garble) as site:
        site.files["tiny.tar.zst"] = data
        assert "fetching all of it anew" in fetch(reference(site), here)
    assert is_right(here, bundle)


def test_killed_transfers_go_on_where_they_stopped(bundle: Path, here: Path, banger_home: Path) -> None:
    """Each run asks for just what is not on the disk yet, and the last one is right."""
    data = bundle.read_bytes()
    starts: list[int] = []
    held = [0]

    def stall(handler: Handler) -> bool:
        start = handler.start() or 0
        starts.append(start)
        if len(starts) > 4:
            return False
        extent = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        handler.answer(206 if start else 200, data[start:], sent=100_000, **extent)
        handler.close_connection = False  # the client waits for more until it is killed
        return True

    with webserver.serve(stall) as site:
        site.files["tiny.tar.zst"] = data
        command = [support.BIN / "bg-fetch", "-f", "-C", here, reference(site)]
        for _ in range(4):
            process = subprocess.Popen(command, env=support.environment(), stdout=subprocess.DEVNULL)
            pulls.wait_for_bytes(process, banger_home)
            process.kill()
            process.wait()
            held.append(pulls.partial_bytes(banger_home))
        fetch(reference(site), here)
    assert is_right(here, bundle)
    assert starts == held == sorted(set(held))
    assert not [name for name in kept(banger_home) if name.startswith("sha256-")]


def test_many_processes_fetch_it_once(bundle: Path, here: Path) -> None:
    counted = Cutting()
    with webserver.serve(counted) as site:
        site.files["tiny.tar.zst"] = bundle.read_bytes()
        command = [support.BIN / "bg-fetch", "--path", reference(site)]
        folders = [here / str(number) for number in range(6)]
        for folder in folders:
            folder.mkdir()
        processes = [subprocess.Popen([*command, "-C", folder], env=support.environment()) for folder in folders]
        assert [process.wait(120) for process in processes] == [0] * len(processes)
    assert all(is_right(folder, bundle) for folder in folders)
    assert counted.sent == len(bundle.read_bytes())


def test_an_interruption_leaves_only_what_can_be_resumed(bundle: Path, here: Path, banger_home: Path) -> None:
    def stall(handler: Handler) -> bool:
        handler.answer(200, bundle.read_bytes(), sent=500_000)
        handler.close_connection = True
        time.sleep(60 if len(handler.seen) == 1 else 0)
        return True

    with webserver.serve(stall) as site:
        site.files["tiny.tar.zst"] = bundle.read_bytes()
        command = [support.BIN / "bg-fetch", "-C", here, reference(site)]
        process = subprocess.Popen(command, env=support.environment(), stderr=subprocess.PIPE)
        partial = banger_home / "cache" / "partial"
        while process.poll() is None and not any(path.stat().st_size for path in partial.glob("sha256-*")):
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 143
    assert list(here.iterdir()) == []
    (left,) = partial.iterdir()
    assert bundle.read_bytes().startswith(left.read_bytes())
