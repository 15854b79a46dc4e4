"""Names of strangers that lead to this machine: found out where we connect, and not where the name is read."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import support

pytestmark = pytest.mark.root

Lab = Callable[..., dict[str, Any]]
ROADS = ["redirect of a manifest", "redirect of a layer", "token server"]
NEAR = ["inward.example", "six.example", "metadata.example", "both.example"]
URLS = [*(f"http://{host}:8080/" for host in NEAR), "https://inward.example:8080/"]
REF = "registry.example/a:v1"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A network of names of which some lead to this machine; what is asked for is fetched there."""
    support.need_root()
    support.need("unshare", "ip")
    words = ["unshare", "--net", "--mount", "--kill-child", "--fork", sys.executable, "-P", "-m", "tests.names_lab"]
    env = {**support.environment(), "PYTHONPATH": str(support.ROOT)}
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env) as running:
        assert running.stdin and running.stdout

        def ask(road: str, url: str, ref: str = REF, **more: Any) -> dict[str, Any]:
            assert running.stdin and running.stdout
            running.stdin.write(json.dumps({"road": road, "url": url, "ref": ref, **more}) + "\n")
            running.stdin.flush()
            answer: dict[str, Any] = json.loads(running.stdout.readline())
            return answer

        yield ask
        running.stdin.close()


def assert_denied(found: dict[str, Any], url: str) -> None:
    assert found["status"] == 77, found["said"]
    assert f"'registry.example' leads to '{url}" in found["said"] and "this machine" in found["said"]
    assert found["heard"] == ""


@pytest.mark.parametrize("road", [*ROADS, "foreign layer"])
def test_name_elsewhere_may_be_led_to(road: str, lab: Lab) -> None:
    """So what follows is refused for where it leads, and for nothing else."""
    found = lab(road, "http://elsewhere.example/")
    assert found["status"] == 0, found["said"]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("road", ROADS)
def test_name_that_leads_to_this_machine_is_not_asked(road: str, url: str, lab: Lab) -> None:
    """Neither in the clear nor by TLS, whose first message holds words of the attacker's, too."""
    assert_denied(lab(road, url), url)


@pytest.mark.parametrize("host", NEAR)
def test_foreign_layer_on_this_machine_is_passed_over(host: str, lab: Lab) -> None:
    found = lab("foreign layer", f"http://{host}:8080/", options=["-v"])
    assert (found["status"], found["heard"]) == (0, ""), found["said"]  # the registry has it, too
    assert f"'registry.example' leads to 'http://{host}:8080/layer'" in found["said"]


def test_name_that_meant_another_host_before_is_looked_at_again(lab: Lab) -> None:
    """DNS rebinding: harmless when it is first asked for, and this machine when it counts."""
    assert lab("redirect of a layer", "http://rebinding.example/")["status"] == 0
    assert_denied(lab("redirect of a layer", "http://rebinding.example:8080/"), "http://rebinding.example:8080/")


@pytest.mark.parametrize("ref", ["app", "kernel:app"])
@pytest.mark.parametrize("host", ["inward.example", "metadata.example", "127.0.0.1"])
def test_catalog_cannot_send_us_to_this_machine(ref: str, host: str, lab: Lab) -> None:
    scheme = "http" if host == "127.0.0.1" else "https"  # in the clear no bundle comes from elsewhere anyway
    assert_denied(lab("catalog", f"{scheme}://{host}:8080/", ref), f"{scheme}://{host}:8080/app.tar.zst")


def test_catalog_names_no_registry_of_this_machine(lab: Lab) -> None:
    found = lab("catalog", "https://elsewhere.example/", "other")
    assert found["status"] == 69 and "may not name what is on this machine" in found["said"]
    assert found["heard"] == ""


@pytest.mark.parametrize("host", ["inward.example", "Inward.Example"])
def test_host_that_the_user_named_may_be_this_machine_by_any_name(host: str, lab: Lab) -> None:
    """And so may those that it leads to, as a registry behind a tunnel does."""
    options = ["--plain-http=inward.example"]
    for road in ROADS:
        found = lab(road, "http://both.example/", f"{host}/a:v1", address="127.0.0.1", options=options)
        assert found["status"] == 0, found["said"]


def test_host_that_the_user_allows_may_be_led_to(lab: Lab) -> None:
    found = lab("redirect of a layer", "http://inward.example:8080/", options=["--plain-http=inward.example:8080"])
    assert found["heard"].startswith("GET /v2/a/blobs/sha256:")
