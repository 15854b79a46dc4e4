"""Attacks by words: what images, registries and manifests say stays data wherever it is shown or passed on."""

from __future__ import annotations

import itertools
import json
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from banger_tools import errors
from banger_tools.oci import hosts, reference
from banger_tools.store import names
from banger_tools.vmm import guest_config, kernel_line
from banger_tools.vmm import spec as specs
from tests import forward_proxy, pulls, registry, support
from tests.registry import Proxy

# A title for the terminal's window, colours by C1, a text that runs backwards, a line of its own.
ESCAPES = "\x1b]0;pwned\x07\x9b31m\u202e\r\nX"
CONFIG = {
    "Env": [f"A={ESCAPES}", "init=/bin/sh", "B=1\ninit=/bin/sh", "C=' \" ; reboot"],
    "Cmd": ["/bin/x", ESCAPES, "init=/bin/sh", "a b"],
    "User": f"root\ninit=/bin/sh {ESCAPES}",
    "WorkingDir": "/proc/self/fd/7",  # CVE-2024-21626, runc: a descriptor of the host as the working directory
    "Labels": {ESCAPES: ESCAPES, "init": "/bin/sh"},
}
STAGES = (["bg-flatten"], ["bg-mkext4", "--size=16M"], ["bg-publish", "--no-kernel", "--name=evil"])


def assert_tame(shown: bytes) -> None:
    """Assert that a text cannot drive a terminal: no control characters, and none that change the direction."""
    wild = {char for char in shown.decode() if unicodedata.category(char) in ("Cc", "Cf", "Cs") and char != "\n"}
    assert wild == set()


@pytest.fixture(scope="module")
def evil(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[bytes], dict[str, str]]]:
    """What the stages said of an image full of hostile words, and the environment of the store that has it."""
    folder = tmp_path_factory.mktemp("evil")
    env = {"BANGER_HOME": str(folder / "home")}
    data = registry.tar_of({"bin/x": b"1", f"etc/{ESCAPES}": b"2"})
    image = registry.Image(folder / "layout")
    layer = image.blob(registry.gzip_of(data), registry.OCI_LAYER + "+gzip", annotations={ESCAPES: ESCAPES})
    layout = image.index(image.manifest([layer], [registry.digest(data)], config=CONFIG, author=ESCAPES))
    done = support.run("bg-fetch", "-vv", f"oci:{layout}", env=env)
    said = [done.stderr, done.stdout]
    for program, *words in STAGES:
        done = support.run(program, "-vv", *words, stdin=done.stdout, env=env, cwd=folder)
        said += [done.stderr, done.stdout]
        assert done.returncode == 0, done.stderr
    yield said, env


def test_hostile_words_of_an_image_are_shown_as_text(evil: tuple[list[bytes], dict[str, str]]) -> None:
    said, env = evil
    for words in (["show", "evil"], ["show", "evil", "--json"], ["show", "evil", "--manifest"], ["list"]):
        said.append(support.run_ok("banger", "image", *words, env=env))
    assert b"\\x1b" in said[-4] and b"\\u001b" in said[-2]  # they were there to be shown
    for text in said:
        assert_tame(text)


def test_hostile_words_of_an_image_reach_no_kernel_command_line() -> None:
    """The kernel's line has words of the monitor, of banger and of --append only; the rest goes as JSON by a disk."""
    plain = specs.Spec(
        "id", "web", "x", "amd64", "qemu", 1, 1 << 28, "none", specs.Boot("/k", None, "/i"), specs.Guest()
    )
    spec = structs.replace(plain, guest=specs.Guest(**guest_config.process_of(CONFIG, [], run=True)))
    assert kernel_line.line(spec, "ttyS0", []) == kernel_line.line(plain, "ttyS0", [])
    disk = guest_config.encode(guest_config.build(spec, None, work_disk=False, power="off", now=0))
    config = json.loads(disk)
    assert (config["argv"], config["env"], config["user"]) == (CONFIG["Cmd"], CONFIG["Env"], CONFIG["User"])
    assert disk.rstrip(b"\n").count(b"\n") == 0


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "a/b",
        "..",
        ".",
        "",
        "-rf",
        "a b",
        "a\nb",
        "a;reboot",
        "a,file=/etc/shadow",
        "a\x1b[2J",
        "x" * 64,
        "A",
        "a.tmp",
    ],
)
def test_hostile_name_is_none_of_the_store(name: str) -> None:
    """A name becomes a folder, a word of command lines (options of QEMU among them), a host name, a line of ssh's."""
    for check in (names.check, names.check_vm):
        with pytest.raises(errors.BadUsage, match="is no name for"):
            check(name)


@pytest.mark.parametrize("name", ["../../escaped", "/etc/escaped", "a\nb", "..", ESCAPES])
def test_hostile_name_in_a_manifest_names_no_file_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "work" / "deep").mkdir(parents=True)
    text = json.loads(support.run_ok("bg-flatten", "-C", tmp_path, tmp_path / "in"))
    before = sorted(tmp_path.rglob("*"))
    done = support.run("bg-mkext4", "-C", tmp_path / "work/deep", stdin=json.dumps({**text, "name": name}))
    made = set(tmp_path.rglob("*")) - set(before)
    assert all(path.parent == tmp_path / "work/deep" and path.name.isprintable() for path in made)
    assert done.returncode in (0, 65) and bool(made) == (done.returncode == 0)
    assert_tame(done.stderr)


DIGEST = registry.digest(b"")
CONFUSED = {
    "a path": "sha256:../../../../../../etc/passwd",
    "an algorithm that is a path": f"../x:{DIGEST[7:]}",
    "upper case": DIGEST.upper().replace("SHA", "sha"),
    "the length of another algorithm": f"sha512:{DIGEST[7:]}",
    "an algorithm that is broken": "md5:d41d8cd98f00b204e9800998ecf8427e",
    "a truncated one": DIGEST[:-2],
    "two in one": f"{DIGEST}:{DIGEST}",
    "digits of another script": "sha256:" + "\u0660" * 64,
    "a newline behind it": f"{DIGEST}\n",
    "nothing": "",
}


@pytest.mark.parametrize("digest", CONFUSED.values(), ids=CONFUSED.keys())
@pytest.mark.parametrize("where", ["layer", "config", "diff_id"])
def test_digest_that_is_none_is_refused_before_it_names_a_file(where: str, digest: str, tmp_path: Path) -> None:
    """Digest confusion: what is checked, what names the file in the cache, and what is asked for, are one thing."""
    image = registry.Image(tmp_path / "layout")
    layer = image.blob(registry.gzip_of(pulls.SMALL), registry.OCI_LAYER + "+gzip")
    entry = image.manifest([layer], [digest if where == "diff_id" else registry.digest(pulls.SMALL)])
    if where != "diff_id":
        value = json.loads((tmp_path / "layout/blobs/sha256" / entry["digest"][7:]).read_text())
        described: dict[str, Any] = value["layers"][0] if where == "layer" else value["config"]
        described["digest"] = digest
        entry = image.document(value, registry.OCI_MANIFEST)
    layout = image.index(entry)
    with pytest.raises(errors.BadInput, match=r"digest|diff_id"):
        pulls.fetch_here(f"oci:{layout}", tmp_path / "home")
    assert not [path for path in (tmp_path / "home").rglob("*") if path.is_file() and "layers" in path.parts]


def test_manifest_of_another_image_under_a_digest_is_refused(tmp_path: Path) -> None:
    """A registry that answers a request for a digest with something else that is sound in itself."""
    image = registry.Image(tmp_path / "layout")
    layer = image.blob(registry.gzip_of(pulls.SMALL), registry.OCI_LAYER + "+gzip")
    answers = registry.of_layout(image.index(image.manifest([layer], [registry.digest(pulls.SMALL)])), "a")
    other = registry.digest(b"another image")
    answers[f"/v2/a/manifests/{other}"] = answers["/v2/a/manifests/v1"]
    with registry.faulty("", registry.static(answers)) as proxy, pytest.raises(errors.BadInput, match="digest"):
        pulls.fetch_here(f"{proxy.host}/a@{other}", tmp_path / "home")


@pytest.mark.parametrize(
    "text",
    [
        "h.example/a\r\nX: y",
        "h.example/a?x=y",
        "h.example/a#b",
        "h.example/../a",
        "h.example/a%0d%0aX",
        "h.example@x/a b",
    ],
)
def test_reference_cannot_change_the_request(text: str) -> None:
    with pytest.raises(errors.BadUsage):
        reference.parse(text)


# Where requests go


NEAR = [
    "169.254.169.254",
    "127.0.0.1:1",
    "localhost:1",
    "localhost.",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "127.1",
    "0",
    "[fe80::1]",
]
NEAR += ["2130706433", "0x7f.1", "0177.0.0.1", "[::]", "x.localhost", "user@127.0.0.1", "[fe80::1%25eth0]"]
NEAR += ["100.100.100.200", "[fd00:ec2::254]", "metadata.localhost."]


@pytest.mark.parametrize("host", NEAR)
def test_this_machine_is_known_in_every_spelling(host: str) -> None:
    assert hosts.is_near(hosts.of_url(f"http://{host}/latest/meta-data"))


@pytest.mark.parametrize("host", ["a.example", "10.0.0.1", "192.168.1.1:5000", "[2001:db8::1]", "127.0.0.1.example"])
def test_other_hosts_are_elsewhere(host: str) -> None:
    assert not hosts.is_near(hosts.of_url(f"https://{host}/x"))


ROADS = ["redirect of a manifest", "redirect of a layer", "token server", "foreign layer"]


@pytest.mark.parametrize("road", ROADS)
def test_registry_cannot_send_us_to_this_machine(road: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Server-side request forgery: a host that is not this machine makes us ask what listens on it."""
    with registry.faulty("", registry.static({})) as victim:
        image = registry.Image(tmp_path / "layout")
        inward = f"http://{victim.host}/shutdown"
        urls = {"urls": [inward]} if road == "foreign layer" else {}
        layer = image.blob(registry.gzip_of(pulls.SMALL), registry.OCI_LAYER + "+gzip", **urls)
        answers = registry.of_layout(image.index(image.manifest([layer], [registry.digest(pulls.SMALL)])), "a")
        with registry.faulty("", attacker(road, inward, answers)) as proxy:
            name, _, port = proxy.host.rpartition(":")
            with forward_proxy.running({"registry.example": (name, int(port))}) as way:
                monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{way.port}")
                monkeypatch.setenv("no_proxy", "")
                if road == "foreign layer":  # the registry has it, too
                    assert pulls.fetch_here("registry.example/a:v1", tmp_path / "home") == [pulls.SMALL]
                else:
                    with pytest.raises(errors.Denied, match=r"'registry\.example' leads to"):
                        pulls.fetch_here("registry.example/a:v1", tmp_path / "home")
        assert victim.seen == []


def attacker(road: str, inward: str, answers: dict[str, tuple[str, bytes]]) -> registry.Handler:
    """Return a registry that sends its clients elsewhere by one of the roads."""
    honest = registry.static(answers)

    def answer(request: Proxy) -> bool:
        if road == "token server":
            request.answer(401, {"WWW-Authenticate": f'Bearer realm="{inward}"'}, b"")
        elif road == "redirect of a manifest" or (road == "redirect of a layer" and "/blobs/" in request.path):
            request.answer(307, {"Location": inward}, b"")
        else:
            honest(request)
        return True

    return answer


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "unix:/run/x.sock", "gopher://x/", "data:,x", "javascript:1", "//\x1b[2J"]
)
def test_redirect_to_what_is_no_http_is_refused(target: str, tmp_path: Path) -> None:
    def meddle(request: Proxy) -> bool:
        request.answer(302, {"Location": target}, b"")
        return True

    with registry.faulty("", meddle) as proxy, pytest.raises(errors.BadInput, match="redirects to"):
        pulls.fetch_here(f"{proxy.host}/a:v1", tmp_path / "home")


@pytest.mark.parametrize("token", ["a\r\nX-Evil: 1", "\u2028", "\x00"])
def test_token_cannot_add_a_header(token: str, tmp_path: Path) -> None:
    asked = itertools.count()

    def meddle(request: Proxy) -> bool:
        if request.path.startswith("/token"):
            request.answer(200, {}, json.dumps({"token": token}).encode())
        else:
            next(asked)
            request.answer(401, {"WWW-Authenticate": f'Bearer realm="http://{request.headers["Host"]}/token"'}, b"")
        return True

    with registry.faulty("", meddle) as proxy, pytest.raises(errors.Unavailable, match="gave no token"):
        pulls.fetch_here(f"{proxy.host}/a:v1", tmp_path / "home")
    assert not [headers for _, headers in proxy.seen if "x-evil" in headers]
    assert next(asked) == 1
