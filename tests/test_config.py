"""config.toml: what may stand in it, and errors that name the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from banger_tools import config, errors

WHERE = Path("/home/me/.config/banger/config.toml")


def test_files_are_relative_to_the_configuration() -> None:
    text = b"""
        [registries."reg.example:5000"]
        mirrors = ["m.example/hub"]
        plain-http = true
        ca-file = "ca.pem"
        cert-file = "/etc/me.pem"
        [[catalogs]]
        file = "mine.json"
        [[catalogs]]
        url = "https://example.org/c.json"
    """
    found = config.parse(text, WHERE)
    one = found.registries["reg.example:5000"]
    assert one == config.Registry(("m.example/hub",), True, str(WHERE.parent / "ca.pem"), "/etc/me.pem")
    assert [c.file or c.url for c in found.catalogs] == [str(WHERE.parent / "mine.json"), "https://example.org/c.json"]


def test_the_network_of_machines_is_settled_here() -> None:
    text = b"""
        [network]
        subnet = "10.9.0.0/24"
        bridge = "banger-9"
        gateway = "10.9.0.254"
        dns = ["192.0.2.53"]
    """
    found = config.parse(text, WHERE).network
    assert found == config.Network("10.9.0.0/24", "banger-9", "10.9.0.254", ("192.0.2.53",))


def test_an_empty_file_is_the_defaults() -> None:
    assert config.parse(b"", WHERE) == config.Config()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (b"x", "is not TOML"),
        (b"\xff", "is not TOML"),
        (b"registry = {}", "unknown field registry"),
        (b"[registries.fine]\n[registries.'a:5']\nmirror = []", 'registries."a:5": object contains unknown field'),
        (b"registries = 5", "registries: expected"),
        (b"[registries.a]\nmirrors = [1]", 'registries."a".mirrors[0]'),
        (b"[registries.a]\nplain-http = 'yes'", "plain-http"),
        (b"[[catalogs]]", "catalogs[0]: needs"),
        (b"[[catalogs]]\nfile = 'a'\nurl = 'b'", "catalogs[0]: needs"),
        (b"[network]\nsubnets = 'x'", "network: object contains unknown field"),
        (b"[network]\nsubnet = '10.0.0.0'", "network.subnet: '10.0.0.0/32' is not between /8 and /29"),
        (b"[network]\nsubnet = '10.0.0.1/16'", "network.subnet: '10.0.0.1/16' is no IPv4 network"),
        (b"[network]\nsubnet = 'fd00::/64'", "network.subnet: 'fd00::/64' is no IPv4 network"),
        (b"[network]\nsubnet = '10.0.0.0/30'", "network.subnet: '10.0.0.0/30' is not between"),
        (b"[network]\nbridge = 'br0'", "network.bridge: 'br0' is not 'banger'"),
        (b"[network]\nbridge = 'banger/../../all'", "network.bridge"),
        (b"[network]\nbridge = 'banger-is-too-long'", "network.bridge"),
        (b"[network]\ngateway = '172.17.0.1'", "network.gateway: '172.17.0.1' is no host's address in '172.16.0.0/16'"),
        (b"[network]\ngateway = '172.16.255.255'", "network.gateway"),
        (b"[network]\ngateway = 'gw'", "network.gateway: 'gw' is no IPv4 address"),
        (b"[network]\ndns = ['192.0.2.1', 'ns.example']", "network.dns: 'ns.example' is no IPv4 address"),
    ],
)
def test_errors_name_the_place(text: bytes, wrong: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        config.parse(text, WHERE)
    assert wrong in caught.value.message and str(WHERE) in caught.value.message
