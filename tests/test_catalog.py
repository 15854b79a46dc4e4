"""Catalogs: their format, where they come from, and which entry of a name this host uses."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest

from banger_tools import config, errors
from banger_tools.catalog import entries, lookup, origins
from tests import support, webserver

SHA = "0" * 64


@pytest.fixture(autouse=True)
def _config_is_read_anew() -> None:
    config.load.cache_clear()


def catalog(*images: dict[str, Any], **more: Any) -> bytes:
    return json.dumps({"schema": "banger-catalog/1", "images": images, **more}).encode()


def configure(home: Path, *lines: str) -> None:
    (home / "config").mkdir(exist_ok=True)
    (home / "config" / "config.toml").write_text("\n".join(lines))


def rootfs(path: Path) -> Path:
    """Write a flat tar with one file in it, whose content is the tar's name."""
    with tarfile.open(path, "w") as archive:
        info = tarfile.TarInfo("etc")
        info.size = len(path.name)
        archive.addfile(info, io.BytesIO(path.name.encode()))
    return path


def fetch(*words: str, status: int = 0, **env: str) -> tuple[dict[str, Any], str]:
    """Run bg-fetch, which must end with `status`; return the manifest and what it said."""
    done = support.run("bg-fetch", *words, env=env)
    said = done.stderr.decode()
    assert done.returncode == status, said
    assert "Traceback" not in said
    return (json.loads(done.stdout) if not status else {}), said


# The format


def test_an_entry_may_have_keys_that_nobody_knows_yet() -> None:
    data = catalog({"name": "a", "source": "apt:bookworm", "boots": "fast"}, machines=[{"name": "m"}])
    assert entries.parse(data, "x").images == (entries.Entry("a", source="apt:bookworm"),)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "x is not a catalog"),
        (b"[" * 100_000, "x is not a catalog"),
        (b"[]", "no 'schema' key"),
        (b'{"schema": "banger-catalog/2"}', "'banger-catalog/2', and this program reads 'banger-catalog/1'"),
        (catalog({"source": "apt:a"}), "images[0]: object missing required field name"),
        (catalog({"name": "a", "source": 1}), "images[0].source: expected str | null, got int"),
        (catalog({"name": "a", "source": "apt:a"}, {"name": "A", "source": "apt:a"}), "images[1].name: 'A' is no name"),
        (catalog({"name": "a"}), "images[0]: needs either 'url' or 'source'"),
        (catalog({"name": "a", "source": "apt:a", "url": "https://e.org/a.tar.zst"}), "images[0]: needs either"),
        (catalog({"name": "a", "url": "https://e.org/a.tar.zst"}), "images[0]: a bundle needs 'sha256', too"),
        (catalog({"name": "a", "url": "https://e.org/a.tar.zst", "sha256": SHA}), "a bundle needs 'size', too"),
        (catalog({"name": "a", "url": "https://e.org/a", "sha256": SHA, "size": 1}), "images[0].url: "),
        (catalog({"name": "a", "url": "rootfs:/x", "sha256": SHA, "size": 1}), "images[0].url: "),
        (catalog({"name": "a", "url": "u", "sha256": "0" * 63}), "images[0].sha256: must be 64 hexadecimal digits"),
        (catalog({"name": "a", "url": "u", "sha256": SHA, "size": 0}), "images[0].size: "),
        (catalog({"name": "a", "source": "alpine"}), "write docker://alpine"),
        (catalog({"name": "a", "source": "apt:???"}), "images[0].source: "),
    ],
)
def test_errors_name_the_place(data: bytes, said: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        entries.parse(data, "x")
    assert said in caught.value.message


def test_the_catalog_that_comes_with_banger_knows_the_default_image_twice() -> None:
    named = [entry for entry in origins.embedded().images if entry.name == "debian-bookworm"]
    assert [str(entries.reference_of(entry)) for entry in named] == [
        "apt:bookworm",
        "docker.io/library/debian:bookworm",
    ]


# Which entry


def test_catalogs_are_asked_in_their_order_and_files_stand_beside_them(banger_home: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    rootfs(own / "first.tar")
    (own / "1.json").write_bytes(catalog({"name": "mine", "source": "rootfs:first.tar"}))
    (own / "2.json").write_bytes(catalog({"name": "mine", "source": "rootfs:second.tar"}))
    configure(banger_home, f"[[catalogs]]\nfile = '{own}/1.json'", f"[[catalogs]]\nfile = '{own}/2.json'")
    manifest, said = fetch("mine")
    assert manifest["name"] == "mine"
    assert manifest["source"]["requested"] == "mine"
    assert manifest["source"]["kind"] == "rootfs"
    assert manifest["source"]["resolved"] == f"rootfs:{own}/first.tar"
    assert f"'mine' is rootfs:first.tar, of the catalog '{own}/1.json'" in said


def test_what_this_host_cannot_use_is_passed_over(banger_home: Path, tmp_path: Path) -> None:
    rootfs(tmp_path / "here.tar")
    images = [
        {"name": "it", "arch": "s390x", "source": "rootfs:here.tar"},
        {"name": "it", "source": "oci:gone"},
        {"name": "it", "source": "apt:no-such-suite"},
        {"name": "it", "source": "rootfs:here.tar", "description": "the one"},
    ]
    (tmp_path / "c.json").write_bytes(catalog(*images))
    configure(banger_home, f"[[catalogs]]\nfile = '{tmp_path}/c.json'")
    assert fetch("it")[0]["source"]["resolved"] == f"rootfs:{tmp_path}/here.tar"
    (tmp_path / "c.json").write_bytes(catalog(*images[:3]))
    said = fetch("it", status=69)[1]
    assert "no entry of 'it' can be used here" in said
    assert "it is for s390x, and amd64 is needed" in said
    assert f"'{tmp_path}/gone' does not exist" in said
    assert "apt:no-such-suite" in said
    assert fetch("it", "--platform=linux/s390x")[0]["image"]["architecture"] == "s390x"


def test_a_name_that_no_catalog_has_is_a_repository(banger_home: Path) -> None:
    access = origins.Access(banger_home)
    found = lookup.find("nginx", access)
    assert (found.name, found.entry) == ("nginx-latest", None)
    assert str(found.ref) == "docker.io/library/nginx:latest"
    assert str(lookup.find("alpine", access).ref) == "docker.io/library/alpine:latest"
    assert lookup.find("alpine:latest", access).entry is None


def test_packages_are_preferred_where_they_can_be_had(banger_home: Path, tmp_path: Path) -> None:
    support.need("mmdebstrap", "apt-config")
    sources = tmp_path / "sources.list"
    apt = tmp_path / "apt.conf"
    apt.write_text(f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/nowhere";\n')
    sources.write_text("deb http://deb.example/debian bookworm main\n")

    def kind(**env: str) -> str:
        script = (
            "from banger_tools.catalog import lookup, origins; from pathlib import Path; "
            f"print(lookup.find('debian-bookworm', origins.Access(Path({str(tmp_path)!r}))).ref.kind)"
        )
        return support.run_ok(str(support.ROOT / ".venv" / "bin" / "python"), "-c", script, env=env).decode().strip()

    root = {"APT_CONFIG": str(apt), "PYTHONPATH": str(support.ROOT)}
    assert kind(**root) == "apt"
    empty = tmp_path / "bin"
    empty.mkdir()
    assert kind(**{**root, "PATH": str(empty)}) == "registry"


# Catalogs behind URLs


def test_a_catalog_behind_a_url_is_asked_once_a_day(banger_home: Path) -> None:
    with webserver.serve() as site:
        site.files["c.json"] = catalog({"name": "far", "source": "docker://localhost:1/far"})
        configure(banger_home, f"[[catalogs]]\nurl = '{site.url('c.json')}'")
        access = origins.Access(banger_home / "cache")
        read = next(origins.all_origins(access)).read
        for _ in range(3):
            assert [entry.name for entry in read().images] == ["far"]
        assert len(site.seen) == 1
        (copy,) = (banger_home / "cache" / "catalogs").iterdir()
        os.utime(copy, (time.time() - 90_000,) * 2)
        read()
        assert "if-none-match" in site.seen[-1][1]
        assert time.time() - copy.stat().st_mtime < 60  # it was said to hold still
        site.files["c.json"] = catalog({"name": "new", "source": "docker://localhost:1/far"})
        assert [entry.name for entry in read().images] == ["far"]
        always = next(origins.all_origins(access._replace(pull="always"))).read
        assert [entry.name for entry in always().images] == ["new"]


def test_an_old_copy_serves_where_the_url_does_not(banger_home: Path) -> None:
    with webserver.serve() as site:
        site.files["c.json"] = catalog({"name": "far", "source": "apt:no-such-suite"})
        configure(banger_home, f"[[catalogs]]\nurl = '{site.url('c.json')}'")
        assert "apt:no-such-suite" in fetch("far", status=69)[1]
        (listed,) = json.loads(support.run_ok("banger", "cache", "list", "--json"))["entries"]
        assert (listed["kind"], listed["name"], len(listed["files"])) == ("catalog", site.url("c.json"), 1)
        site.files["c.json"] = b"not any more"
        said = fetch("far", "--pull=always", status=69)[1]
        assert "and an older copy is used: " in said and "is not a catalog" in said
        requests = len(site.seen)
        (copy,) = (banger_home / "cache" / "catalogs").iterdir()
        os.utime(copy, (0, 0))
        assert "older copy" not in fetch("far", "--offline", status=69)[1]
        assert len(site.seen) == requests
    assert "older copy" in fetch("far", status=69)[1]
    copy.write_bytes(copy.read_bytes()[:-9])
    said = fetch("far", status=69)[1]
    assert f"the catalog '{site.url('c.json')}' cannot be read: cannot connect" in said


def test_an_unreachable_catalog_is_in_nobodys_way_who_found_it_earlier(banger_home: Path, tmp_path: Path) -> None:
    rootfs(tmp_path / "r.tar")
    (tmp_path / "c.json").write_bytes(catalog({"name": "near", "source": "rootfs:r.tar"}))
    gone = "[[catalogs]]\nurl = 'http://127.0.0.1:1/c.json'"
    configure(banger_home, f"[[catalogs]]\nfile = '{tmp_path}/c.json'", gone)
    assert fetch("near")[0]["name"] == "near"
    assert "the catalog 'http://127.0.0.1:1/c.json' cannot be read" in fetch("debian-bookworm", status=69)[1]
    assert fetch(f"rootfs:{tmp_path}/r.tar")[0]["name"] == "r"


def test_a_catalog_of_others_may_not_name_our_files(banger_home: Path, tmp_path: Path) -> None:
    rootfs(tmp_path / "secret.tar")
    with webserver.serve() as site:
        site.files["c.json"] = catalog({"name": "far", "source": f"rootfs:{tmp_path}/secret.tar"})
        configure(banger_home, f"[[catalogs]]\nurl = '{site.url('c.json')}'")
        assert "may not name what is on this machine" in fetch("far", status=69)[1]


@pytest.mark.parametrize("url", ["http://catalogs.invalid/c.json", "http://CATALOGS.invalid:80/c.json"])
def test_plain_http_is_for_this_machine_or_hosts_that_are_allowed(banger_home: Path, url: str) -> None:
    configure(banger_home, f"[[catalogs]]\nurl = '{url}'")
    assert "is not encrypted" in fetch("far", status=77)[1]
    configure(
        banger_home,
        f"[[catalogs]]\nurl = '{url}'",
        "[registries.'catalogs.invalid']\nplain-http = true",
    )
    assert "cannot find the host" in fetch("far", status=69)[1]


def test_catalog_that_plain_http_elsewhere_is_to_give_is_refused(banger_home: Path) -> None:
    def redirect(handler: webserver.Handler) -> bool:
        handler.answer(302, b"", Location="http://catalogs.invalid/c.json")
        return True

    with webserver.serve(redirect) as site:
        configure(banger_home, f"[[catalogs]]\nurl = '{site.url('c.json')}'")
        assert "'http://catalogs.invalid/c.json' is not encrypted" in fetch("far", status=77)[1]


@pytest.mark.parametrize("status", [401, 404, 500])
def test_a_catalog_that_is_refused_is_named(status: int, banger_home: Path) -> None:
    def refuse(handler: webserver.Handler) -> bool:
        handler.answer(status, b"no", **{"Retry-After": "0"})
        return True

    with webserver.serve(refuse) as site:
        configure(banger_home, f"[[catalogs]]\nurl = '{site.url('c.json')}'")
        said = fetch("far", status={401: 77, 404: 66, 500: 75}[status])[1]
    assert f"the catalog '{site.url('c.json')}' cannot be read: " in said
    assert len(site.seen) == (1 if status < 500 else 6)
