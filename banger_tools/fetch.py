"""bg-fetch: bring the layers of an image to this machine, verified and decompressed

Usage:
  bg-fetch [options] REF

Arguments:
  REF  What to fetch: an image in a registry, in a file or folder, or a suite of Debian packages.

Options:
  --platform=PLATFORM   Choose os/arch[/variant] of an image that has several; default: this machine's.
  --pull=WHEN           Ask the source always, never, or when the answer is missing in the cache [default: missing].
  --offline             Let nothing go out to the network.
  --verify              Hash layers that are in the cache again before they are used.
  --plain-http=HOSTS    Registries, separated by commas, that speak HTTP without TLS.
  --ca-file=FILE        Trust the certificates in this PEM file, too.
  --creds=USER:PASSWORD  Log in so; default: as docker login and podman login did.
  --creds-stdin         Read USER:PASSWORD from the first line of stdin.
  --max-layer=SIZE      Refuse a layer whose tar is larger [default: 64G].
  --max-image=SIZE      Refuse an image whose tars are larger together [default: 256G].
  @stage
  @talk

Description:
  Prints a manifest with the image's configuration and its layers, each a plain tar in the cache whose digest (the
  diff_id) was checked against that configuration. Nothing is extracted. With --path or -o the manifest is also
  written to a file, DIR/NAME.json by default, where NAME comes from REF.

  REF is one of:
    NAME[:TAG][@DIGEST]            a registry, read as docker reads it: debian is docker.io/library/debian:latest
    docker://NAME[:TAG][@DIGEST]   the same, spelled out
    oci:DIR[:TAG|@DIGEST]          an OCI image layout
    oci-archive:FILE[:TAG]         a tar of one; FILE may be compressed, or - for stdin
    docker-archive:FILE[:NAME]     a file made by docker save or podman save
    rootfs:FILE                    a flat tar such as docker export makes; - is stdin
    apt:SUITE[?QUERY]              Debian packages, by this host's own apt sources, made into one layer by mmdebstrap

  QUERY of apt: is include=A,B (packages to add), packages=A,B (in place of the default ones: systemd, udev, dbus,
  iproute2, openssh-server) and variant=NAME of mmdebstrap, joined by &. It works for root and for ordinary users,
  and gives the same bytes for both.

  What has arrived is kept: a transfer that was interrupted goes on where it stopped, and layers that images share
  are fetched once. A tag or suite that was resolved before stays what it was until --pull=always.

  A registry on this machine (localhost, 127.0.0.0/8) may speak plain HTTP; any other only with --plain-http.
  Proxies are taken from HTTP_PROXY, HTTPS_PROXY and NO_PROXY.

Examples:
  bg-fetch debian:bookworm >debian.json
  bg-fetch apt:bookworm | bg-flatten | bg-mkext4 -o bookworm.ext4
  bg-fetch 'apt:bookworm?include=git,g++' --path
  docker export web | bg-fetch rootfs:-
  bg-fetch --platform linux/arm64 oci-archive:image.tar

Exit status:
  0   done
  64  the reference or another argument is wrong
  65  a manifest or layer is not what its digest says, or the image is no root filesystem
  66  the image, the platform or the file is not there
  69  the registry cannot be reached, or a program that is needed is not installed
  73  the output exists, or cannot be made
  74  the disk is full or failed
  75  the registry is busy, or the connection broke again and again
  77  the registry refuses access

See also:
  bg-flatten(1), banger(1), skopeo-copy(1), mmdebstrap(1)
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, errors, files, locations, sizes, stage

if TYPE_CHECKING:
    from banger_tools.manifest import Manifest
    from banger_tools.oci.http import Settings
    from banger_tools.oci.pull import Fetched, Wants
    from banger_tools.oci.reference import Reference

PULL_WORDS = ("missing", "always", "never")


class Options(NamedTuple):
    """The command line, checked."""

    requested: str
    ref: Reference
    wants: Wants
    outputs: stage.Outputs

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check every value.

        Raises BadUsage naming what is wrong.
        """
        from banger_tools.oci import reference

        requested = arguments["REF"]
        return cls(requested, reference.parse(requested), _wants(arguments), stage.Outputs.from_arguments(arguments))


def _wants(arguments: cli.Arguments) -> Wants:
    from banger_tools.oci import documents
    from banger_tools.oci.limits import Limits
    from banger_tools.oci.pull import Wants

    platform = arguments["--platform"]
    pull = arguments["--pull"]
    if pull not in PULL_WORDS:
        raise errors.BadUsage(f"--pull: '{pull}' is none of {', '.join(PULL_WORDS)}")
    if pull == "always" and arguments["--offline"]:
        raise errors.BadUsage("--pull=always and --offline contradict each other")
    bounds = Limits(
        sizes.parse(arguments["--max-layer"], "--max-layer"), sizes.parse(arguments["--max-image"], "--max-image")
    )
    chosen = documents.parse_platform(platform) if platform else None
    return Wants(chosen, pull, bounds, _settings(arguments, offline=pull == "never"), arguments["--verify"])


def _settings(arguments: cli.Arguments, *, offline: bool) -> Settings:
    from banger_tools.oci import credentials
    from banger_tools.oci.http import Settings

    secret, what = arguments["--creds"], "--creds"
    if arguments["--creds-stdin"]:
        if secret is not None:
            raise errors.BadUsage("--creds and --creds-stdin contradict each other")
        secret, what = sys.stdin.readline().rstrip("\r\n"), "--creds-stdin"
    hosts = tuple(filter(None, (arguments["--plain-http"] or "").split(",")))
    ca_file = arguments["--ca-file"]
    found = credentials.parse(secret, what) if secret is not None else None
    return Settings(hosts, Path(ca_file) if ca_file else None, found, offline or arguments["--offline"])


def fetch(ref: Reference, requested: str, wants: Wants) -> tuple[str, Fetched]:
    """Bring what a reference names into the cache, and return its friendly name and what it is."""
    from banger_tools.oci import pull, reference
    from banger_tools.oci.cache import Cache

    cache = Cache(locations.cache())
    if isinstance(ref, reference.Apt):
        from banger_tools.apt import bootstrap

        return bootstrap.fetch(ref, requested, cache, wants)
    return reference.friendly_name(ref), pull.fetch(ref, requested, cache, wants)


def describe(name: str, fetched: Fetched, wants: Wants) -> Manifest:
    """Return the manifest of something fetched."""
    from banger_tools.manifest import Manifest
    from banger_tools.oci import documents

    result = Manifest()
    result.name = name
    result.put("source", fetched.source)
    result.raw["image"] = fetched.config
    result.put("layers", fetched.layers)
    options = {"ref": fetched.source.requested}
    if wants.platform is not None:
        options["platform"] = documents.show_platform(wants.platform)
    result.record("bg-fetch", options)
    return result


def work(arguments: cli.Arguments) -> None:
    """Fetch what REF names, and print its manifest."""
    options = Options.from_arguments(arguments)
    outputs = options.outputs
    if outputs.output is not None:
        files.refuse_existing(outputs.artifact(""), force=outputs.force)
    name, fetched = fetch(options.ref, options.requested, options.wants)
    result = describe(name, fetched, options.wants)
    target = outputs.artifact(f"{name}.json")
    if outputs.output is not None or outputs.path_only:
        files.write_text(target, result.dumps(), force=outputs.force)
    stage.print_result(result, target, path_only=outputs.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-fetch."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
