"""config.toml: what may stand in it, and errors that name the place."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path

import msgspec
import pytest

from banger_tools import config, errors
from tests.support import ROOT

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
        (b"registry = {}", "registry: there is no such key"),
        (b"[registries.fine]\n[registries.'a:5']\nmirror = []", 'registries."a:5".mirror: there is no such key'),
        (b"registries = 5", "registries: expected"),
        (b"[registries.a]\nmirrors = [1]", 'registries."a".mirrors[0]'),
        (b"[registries.a]\nplain-http = 'yes'", "plain-http"),
        (b"[registries.'http://a']", "registries: 'http://a' is not a host"),
        (b"[registries.'[1.2.3.4]']", "registries: '[1.2.3.4]' is not a host"),
        (b"[[catalogs]]", "catalogs[0]: needs"),
        (b"[[catalogs]]\nfile = 'a'\nurl = 'b'", "catalogs[0]: needs"),
        (b"[network]\nsubnets = 'x'", "network.subnets: there is no such key"),
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
        (b"[vm_defaults]\ncpus = 0", "vm_defaults.cpus: expected int >= 1"),
        (b"[vm_defaults]\ncpus = '2'", "vm_defaults.cpus: expected int"),
        (b"[vm_defaults]\nmemory = '2 apples'", "vm_defaults.memory: '2 apples' is not a size"),
        (b"[vm_defaults]\nwork-disk = '0'", "vm_defaults.work-disk: '0' must be more than zero"),
        (b"[vm_defaults]\nvmm = 'xen'", "vm_defaults.vmm: invalid enum value 'xen'"),
        (b"[vm_defaults]\ntimeout = 0", "vm_defaults.timeout: expected float > 0"),
        (b"vm_defaults = 5", "vm_defaults: expected object"),
        (b"[[file_sync]]\nhost = 'x'", "file_sync[0]: object missing required field guest"),
        (b"[[file_sync]]\nhost = 'x'\nguest = '/root/x'\nmode = 'rw'", "file_sync[0].mode: must be a mode in octal"),
        (
            b"[[file_sync]]\nhost = 'x'\nguest = '/etc/x'",
            "file_sync[0].guest: '/etc/x' is no path of a file below /root",
        ),
        (b"[[file_sync]]\nhost = 'x'\nguest = '/root/../etc/x'", "file_sync[0].guest: '/root/../etc/x' is no path"),
        (b"[[file_sync]]\nhost = 'x'\nguest = '/root/'", "file_sync[0].guest: '/root/' is no path"),
        (b"[[file_sync]]\nhost = 'x'\nguest = '/root'", "file_sync[0].guest: '/root' is no path"),
        (b"[[file_sync]]\nhost = 'x'\nguest = '/root/x'\n" * 2, "file_sync[1].guest: '/root/x' is there twice"),
        (b"[network]\ndns = ['192.0.2.1', 'ns.example']", "network.dns: 'ns.example' is no IPv4 address"),
    ],
)
def test_errors_name_the_place(text: bytes, wrong: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        config.parse(text, WHERE)
    assert wrong in caught.value.message and str(WHERE) in caught.value.message


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (b"[registries.'a:5']\nmirror = []", "did you mean 'mirrors'?"),
        (b"[vm-defaults]\ncpus = 1", "did you mean 'vm_defaults'?"),
        (b"[vm_defaults]\nwork_disk = '1G'", "did you mean 'work-disk'?"),
        (b"[[file_sync]]\nhost = 'a'\nguests = '/root/a'", "did you mean 'guest'?"),
        (b"[[catalogs]]\nxyz = 'a'", "the keys here are file, url"),
    ],
)
def test_key_that_is_unknown_is_told_with_the_nearest_one(text: bytes, hint: str) -> None:
    with pytest.raises(errors.BadInput) as caught:
        config.parse(text, WHERE)
    assert caught.value.hint == hint


def documented() -> bytes:
    """Return the example in the module's own text, which banger-config(5) shows."""
    paragraphs = (config.__doc__ or "").split("\n\n")
    return "\n".join(one for one in paragraphs if one.startswith("[")).encode()


def test_the_documented_example_is_valid_and_has_every_key() -> None:
    found = config.parse(documented(), WHERE)
    assert found.vm_defaults.ssh_key == os.path.expanduser("~/.ssh/id_ed25519.pub")
    raw = tomllib.loads(documented().decode())
    assert list(raw) == list(config.Config.__struct_fields__)
    given = {
        "vm_defaults": raw["vm_defaults"],
        "file_sync": {key for one in raw["file_sync"] for key in one},
        "registries": {key for one in raw["registries"].values() for key in one},
        "catalogs": {key for one in raw["catalogs"] for key in one},
        "network": raw["network"],
    }
    for table, struct in config.TABLES.items():
        assert {one.encode_name for one in msgspec.structs.fields(struct)} == set(given[table]), table


@pytest.mark.parametrize("table", config.TABLES)
def test_every_key_is_described(table: str) -> None:
    struct = config.TABLES[table]
    properties = msgspec.json.schema(struct)["$defs"][struct.__name__]["properties"]
    page = (ROOT / "man" / "banger-config.5").read_text().replace("\\", "")
    for key, schema in properties.items():
        assert schema["description"].endswith("."), key
        assert schema["description"].replace("\n", " ") in page, key
