"""References: Docker's normalisation, every transport, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from banger_tools import errors
from banger_tools.oci import reference
from banger_tools.oci.reference import Apt, Bundle, Daemon, DockerArchive, Layout, Registry, Rootfs

DIGEST = "sha256:" + "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", "docker.io/library/debian:latest"),
        ("debian:bookworm", "docker.io/library/debian:bookworm"),
        ("docker://debian", "docker.io/library/debian:latest"),
        ("docker.io/debian", "docker.io/library/debian:latest"),
        ("index.docker.io/library/debian", "docker.io/library/debian:latest"),
        ("bitnami/redis", "docker.io/bitnami/redis:latest"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("ghcr.io/a/b", "ghcr.io/a/b:latest"),
        ("[::1]:5000/a", "[::1]:5000/a:latest"),
        ("MYHOST/a", "MYHOST/a:latest"),
        (f"a/b@{DIGEST}", f"docker.io/a/b@{DIGEST}"),
        (f"a/b:t@{DIGEST}", f"docker.io/a/b:t@{DIGEST}"),
        ("a__b/c-d.e:T_1.x-y", "docker.io/a__b/c-d.e:T_1.x-y"),
    ],
)
def test_registry_references_read_as_docker_reads_them(text: str, expected: str) -> None:
    assert str(reference.parse(text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("oci:dir", Layout(Path("dir"))),
        ("oci:dir:v1", Layout(Path("dir"), "v1")),
        ("oci:dir:docker.io/library/x:v1", Layout(Path("dir"), "docker.io/library/x:v1")),
        (f"oci:dir@{DIGEST}", Layout(Path("dir"), None, DIGEST)),
        ("oci-archive:a.tar:v1", Layout(Path("a.tar"), "v1", None, True)),
        ("docker-archive:a.tar", DockerArchive(Path("a.tar"))),
        ("docker-archive:a.tar:x:1", DockerArchive(Path("a.tar"), "docker.io/library/x:1")),
        ("docker-daemon:web:1", Daemon("docker", "web:1")),
        ("podman:localhost/web", Daemon("podman", "localhost/web")),
        ("bundle:a#b.tar.zst", Bundle("a#b.tar.zst")),
        ("bundle:https://x.org/a.tar.zst", Bundle("https://x.org/a.tar.zst")),
        ("https://x.org/a.tar.zst?sig=1", Bundle("https://x.org/a.tar.zst?sig=1")),
        (f"https://x.org/a.tar.zst#{DIGEST}", Bundle("https://x.org/a.tar.zst", DIGEST)),
        ("rootfs:-", Rootfs(Path("-"))),
        ("apt:bookworm", Apt("bookworm")),
        ("apt:sid?include=g++,git&variant=essential", Apt("sid", ("g++", "git"), None, "essential")),
        ("apt:sid?packages=", Apt("sid", (), (), "minbase")),
    ],
)
def test_transports_are_taken_apart(text: str, expected: reference.Reference) -> None:
    assert reference.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("", "empty"),
        ("Debian", "lower case"),
        ("a b", "is not a repository"),
        (" a", "spaces"),
        ("debian:", "is not a tag"),
        ("a//b", "is not a repository"),
        ("debian@sha256:12", "64 hex"),
        ("debian@md5:" + "0" * 32, "not known"),
        ("./image.tar", "path"),
        ("https://x/y", "only bundles"),
        ("ftp://x/y", "not a transport"),
        ("https:///a.tar.zst", "not the URL"),
        ("https://[/a.tar.zst", "not the URL"),
        ("https://[1.2.3.4]/a.tar.zst", "not the URL"),
        ("https://x:y/a.tar.zst", "not the URL"),
        ("https://x:65536/a.tar.zst", "not the URL"),
        ("[1.2.3.4]/a", "not a host"),
        ("[::zz]:5000/a", "not a host"),
        ("localhost:65536/a", "not a host"),
        ("bundle:ftp://x/a.tar.zst", "not the URL"),
        ("https://me:secret@x/a.tar.zst", "password"),
        ("https://x/a.tar.zst#sha256:12", "64 hex"),
        ("docker-daemon:--help", "name"),
        ("podman:", "nothing follows"),
        ("oci:", "nothing follows"),
        ("docker://", "'docker://' is not a reference: nothing follows"),
        ("apt:Book worm", "is not a suite"),
        ("apt:bookworm?variant=huge", "no variant"),
        ("apt:bookworm?include=--force", "not a package"),
        ("apt:bookworm?colour=red", "not known"),
        ("apt:bookworm?include=a1&include=b1", "twice"),
        ("a" * 300, "longer"),
        ("-/x", "is not"),
    ],
)
def test_wrong_references_say_what_is_wrong(text: str, wrong: str) -> None:
    with pytest.raises(errors.BadUsage) as caught:
        reference.parse(text)
    assert wrong in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("debian:bookworm", "debian-bookworm"),
        ("docker.io/library/debian:bookworm", "debian-bookworm"),
        (f"ghcr.io/a/tool@{DIGEST}", "tool-0123456789ab"),
        ("oci:/x/img:V1", "img-v1"),
        ("oci:/x/img:ghcr.io/a/b:V1", "img-b-v1"),
        ("docker-archive:/x/web.tar.gz", "web"),
        ("docker-archive:/x/y.tar:a/web:2", "web-2"),
        ("docker-daemon:a/web:2", "web-2"),
        ("https://x.org/d/debian-12.tar.zst?sig=1", "debian-12"),
        ("rootfs:/x/My Root.tar.xz", "my-root"),
        ("rootfs:-", "rootfs"),
    ],
)
def test_friendly_names(text: str, name: str) -> None:
    ref = Rootfs(Path(text[7:])) if text.startswith("rootfs:") else reference.parse(text)
    assert reference.friendly_name(ref) == name


@given(st.text(max_size=60))
def test_any_text_is_a_reference_or_refused_and_what_is_printed_parses_back(text: str) -> None:
    try:
        ref = reference.parse(text)
    except errors.BadUsage:
        return
    if isinstance(ref, Registry | Apt):
        assert reference.parse(str(ref)) == ref
    name = reference.friendly_name(ref)
    assert 1 <= len(name) <= 63
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
    assert name[0] not in "-._" and name[-1] not in "-._"


@given(
    st.from_regex(r"[a-z0-9]{1,8}([._-][a-z0-9]{1,5}){0,2}", fullmatch=True),
    st.from_regex(r"[A-Za-z0-9_][\w.-]{0,20}", fullmatch=True),
)
def test_every_well_formed_name_and_tag_is_accepted(name: str, tag: str) -> None:
    if not tag.isascii():
        return
    ref = reference.parse(f"registry.example:5000/{name}:{tag}")
    assert ref == Registry("registry.example:5000", name, tag)
