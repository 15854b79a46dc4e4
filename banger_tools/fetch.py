"""bg-fetch: bring the layers of an image, or a kernel, to this machine, verified and decompressed

Usage:
  bg-fetch [options] REF

Arguments:
  REF  What to fetch: an image by its name in a catalog, in a registry, in a file or folder, a suite of Debian packages,
       a bundle, or a kernel.

Options:
  --platform=PLATFORM   Choose os/arch[/variant] of an image that has several; default: this machine's.
  --pull=WHEN           Ask the source always, never, or when the answer is missing in the cache [default: missing].
  --offline             Let nothing go out to the network.
  --verify              Hash layers that are in the cache again, and what they came out of; fetch what is damaged.
  --inspect             Print what REF is as it stands now, as JSON with its documents and sizes; fetch no layer.
  --list-tags           Print the tags of REF's repository, or the names in its layout or archive, one a line.
  --mirror=HOSTS        Ask these mirrors, separated by commas, before those of config.toml and the registry.
  --plain-http=HOSTS    Registries, separated by commas, that speak HTTP without TLS.
  --ca-file=FILE        Trust the certificates in this PEM file, too.
  --cert-file=FILE      Show this client certificate (PEM) to the registry, and to no other host.
  --key-file=FILE       The key of --cert-file, if it is not in the same file.
  --stall=SECONDS       Drop a connection that makes no progress for so long, and go on in a new one [default: 30].
  --creds=USER:PASSWORD  Log in so; default: as docker login and podman login did.
  --creds-stdin         Read USER:PASSWORD from the first line of stdin.
  --max-layer=SIZE      Refuse a layer whose tar is larger [default: 64G].
  --max-image=SIZE      Refuse an image whose tars are larger together [default: 256G].
  --initrd=FILE         The initrd of a kernel that is a file.
  --modules=DIR         The modules of a kernel that is a file: lib/modules/VERSION, or a folder that holds it.
  @stage
  @talk

Description:
  Prints a manifest with the image's configuration and its layers, each a plain tar in the cache whose digest (the
  diff_id) was checked against that configuration. Nothing is extracted. With --path or -o the manifest is also
  written to a file, DIR/NAME.json by default, where NAME comes from REF.

  REF is one of:
    NAME                           an entry of a catalog, as listed by `banger image list --available`
    NAME[:TAG][@DIGEST]            a registry, read as docker reads it: debian is docker.io/library/debian:latest
    docker://NAME[:TAG][@DIGEST]   the same, spelled out
    oci:DIR[:TAG|@DIGEST]          an OCI image layout
    oci-archive:FILE[:TAG]         a tar of one; FILE may be compressed, or - for stdin
    docker-archive:FILE[:NAME]     a file made by docker save or podman save
    docker-daemon:NAME             an image in the store of docker on this machine, by docker save; podman:NAME likewise
    rootfs:FILE                    a flat tar such as docker export makes; - is stdin
    rootfs:DIR                     a folder as it is, made into one layer by tar
    bundle:FILE                    a bundle; see below
    https://URL.tar.zst[#DIGEST]   a bundle behind a URL; write the digest if you know it
    apt:SUITE[?QUERY]              Debian packages, by this host's own apt sources, made into one layer by mmdebstrap
    kernel:KERNEL                  a kernel; see below

  A NAME stands for the first entry of that name in the catalogs of config.toml and in the one that comes with banger
  that this host can use; which one that is goes to stderr. A name that no catalog has is a repository's, as are all
  with a tag, a digest or a slash.

  A bundle is a finished image: a tar.zst of rootfs.ext4 and manifest.json. Its image becomes an artifact, DIR/NAME.ext4
  or what -o says, and its manifest is printed, to be read by bg-seed: it was flattened, owned and injected when it was
  made. It is unpacked while it arrives, and appears only if its digest is right. What the manifest says it was made
  from is its `origin`.

  QUERY of apt: is include=A,B (packages to add), packages=A,B (in place of the default ones: systemd, systemd-sysv,
  udev, dbus, iproute2, openssh-server) and variant=NAME of mmdebstrap (minbase if not given), joined by &. It works for
  root and for ordinary users, and gives the same bytes for both.

  KERNEL is a NAME of a catalog, apt:PACKAGE (a kernel package of this host's own package manager; a meta package is
  followed to the real one), the URL or the path of a kernel's bundle (a tar.zst of vmlinux, and perhaps initrd.img,
  modules/ and config), or a path with a slash in it: of a kernel file, or of a folder with what a build leaves. It is
  put together in the cache, with an initrd of the modules that a boot needs, and the manifest has a `kernel` section
  with verified files, to be read by bg-publish --kernel.

  In a folder an ordinary user's own files count as root's, as they do in a namespace of that user; other owners are
  kept. Sockets and what is mounted in it are left out, and files that change meanwhile are an error.

  What has arrived is kept: a transfer that was interrupted goes on where it stopped, and layers that images share
  are fetched once. A tag or suite that was resolved before stays what it was until --pull=always.

  Of an image with several platforms the one for this machine is taken, chosen as container runtimes choose: the
  nearest variant that runs here, and 386 on amd64 or arm on arm64 if there is nothing better. --platform is exact.
  Layers with URLs of their own (foreign layers) are fetched from these first, without credentials.

  --inspect prints reference, digest, mediaType, platforms (of an index, else null), platform, manifest_digest, the
  untouched manifest and config, layers, and size, the sum of theirs. It asks the source, unless --offline or
  --pull=never, and does not change what a tag stands for in the cache.

  A mirror is written HOST[:PORT][/PREFIX]. It is asked before the registry, in the order given, with credentials and
  TLS settings of its own, and told by ?ns=REGISTRY whose image it is. One that is down, refuses, or has other bytes
  than the digest says is passed over (-v says so). What a tag stands for is what the first mirror that knows it says.

  A registry on this machine (localhost, 127.0.0.0/8, ::1) may speak plain HTTP; any other only with --plain-http or
  by config.toml, which may name for each host: mirrors, plain-http, ca-file, cert-file and key-file. Those that docker
  and podman have for a host (in certs.d) are used as well. Proxies are taken from HTTP_PROXY, HTTPS_PROXY and
  NO_PROXY (hosts, domains, addresses, networks); this machine is never asked through one.

Examples:
  bg-fetch debian:bookworm >debian.json
  bg-fetch apt:bookworm | bg-flatten | bg-mkext4 -o bookworm.ext4
  bg-fetch 'apt:bookworm?include=git,g++' --path
  docker export web | bg-fetch rootfs:-
  bg-fetch --platform linux/arm64 oci-archive:image.tar
  bg-fetch --inspect debian:bookworm | jq .size
  bg-fetch kernel:apt:linux-image-cloud-amd64 | bg-publish --kernel
  bg-fetch --mirror mirror.example.org/hub debian:bookworm

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
  bg-flatten(1), banger(1), banger-catalog(5), banger-config(5), skopeo-copy(1), mmdebstrap(1)
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from banger_tools import cli, console, errors, files, lease, locations, sizes, stage

if TYPE_CHECKING:
    from banger_tools.catalog.lookup import Found
    from banger_tools.kernel.sources import Source
    from banger_tools.manifest import Manifest
    from banger_tools.oci.credentials import Credentials
    from banger_tools.oci.http import Settings
    from banger_tools.oci.pull import Fetched, Wants
    from banger_tools.oci.reference import Bundle
    from banger_tools.oci.tls import Certificate

KERNEL = "kernel:"
PULL_WORDS = ("missing", "always", "never")


class Options(NamedTuple):
    """The command line, checked."""

    requested: str
    wants: Wants
    outputs: stage.Outputs
    look: str | None
    kernel: Kernel | None

    @classmethod
    def from_arguments(cls, arguments: cli.Arguments) -> Options:
        """Check every value.

        Raises BadUsage naming what is wrong.
        """
        from banger_tools.oci import reference

        kernel = _kernel(arguments)
        if kernel is None:
            reference.parse(arguments["REF"])
        outputs = stage.Outputs.from_arguments(arguments)
        return cls(arguments["REF"], _wants(arguments), outputs, _look(arguments), kernel)


class Kernel(NamedTuple):
    """A kernel that was asked for: the name of a catalog's entry, or where it is."""

    text: str
    source: Source | None


def _kernel(arguments: cli.Arguments) -> Kernel | None:
    """Return what kernel was asked for; None if it is none but an image.

    Raises BadUsage.
    """
    given = [option for option in ("--initrd", "--modules") if arguments[option]]
    if not arguments["REF"].startswith(KERNEL):
        if given:
            raise errors.BadUsage(f"{given[0]} goes with kernel:FILE only")
        return None
    from banger_tools.kernel import sources

    for option in ("--inspect", "--list-tags"):
        if arguments[option]:
            raise errors.BadUsage(f"{option} is not for kernels")
    text = arguments["REF"].removeprefix(KERNEL)
    source = sources.parse(text)
    if given and not isinstance(source, sources.Files):
        raise errors.BadUsage(f"{given[0]} goes with kernel:FILE only")
    if isinstance(source, sources.Files):
        source = source._replace(initrd=_path(arguments["--initrd"]), modules=_path(arguments["--modules"]))
    return Kernel(text, source)


def _path(text: str | None) -> Path | None:
    return Path(text) if text else None


def _look(arguments: cli.Arguments) -> str | None:
    """Return which of the options that only look was given, if any.

    Raises BadUsage if it came with an option that makes no sense then.
    """
    given = [option for option in ("--inspect", "--list-tags") if arguments[option]]
    if not given:
        return None
    senseless = ["--output", "--path", "--force", "--verify", *given[1:]]
    senseless += ["--platform"] if given[0] == "--list-tags" else []
    for option in senseless:
        if arguments[option]:
            raise errors.BadUsage(f"{given[0]} and {option} do not go together")
    return given[0]


def _wants(arguments: cli.Arguments) -> Wants:
    from banger_tools.oci import platforms
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
    chosen = platforms.parse(platform) if platform else None
    return Wants(chosen, pull, bounds, _settings(arguments, offline=pull == "never"), arguments["--verify"])


def _settings(arguments: cli.Arguments, *, offline: bool) -> Settings:
    from banger_tools import config
    from banger_tools.oci.http import Settings

    ca_file = arguments["--ca-file"]
    return Settings(
        plain_http=_hosts(arguments["--plain-http"]),
        ca_file=Path(ca_file) if ca_file else None,
        credentials=_credentials(arguments),
        offline=offline or arguments["--offline"],
        stall=_seconds(arguments["--stall"]),
        mirrors=_words(arguments["--mirror"]),
        certificate=_certificate(arguments),
        registries=config.load().registries,
    )


def _hosts(text: str | None) -> tuple[str, ...]:
    """Return the hosts of --plain-http.

    Raises BadUsage.
    """
    from banger_tools.oci import reference

    for word in _words(text):
        if not reference.is_host(word):
            raise errors.BadUsage(f"--plain-http: '{word}' is not a host", "one is written NAME or NAME:PORT")
    return _words(text)


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(filter(None, (text or "").split(",")))


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d{1,4}(\.\d{1,3})?", text) or float(text) == 0:
        raise errors.BadUsage(f"--stall: '{text}' is not a number of seconds")
    return float(text)


def _credentials(arguments: cli.Arguments) -> Credentials | None:
    from banger_tools.oci import credentials

    secret, what = arguments["--creds"], "--creds"
    if arguments["--creds-stdin"]:
        if secret is not None:
            raise errors.BadUsage("--creds and --creds-stdin contradict each other")
        secret, what = sys.stdin.readline().rstrip("\r\n"), "--creds-stdin"
    return credentials.parse(secret, what) if secret is not None else None


def _certificate(arguments: cli.Arguments) -> Certificate | None:
    from banger_tools.oci.tls import Certificate

    file, key = arguments["--cert-file"], arguments["--key-file"]
    if key and not file:
        raise errors.BadUsage("--key-file: there is no --cert-file that it is for")
    return Certificate(Path(file), Path(key) if key else None) if file else None


def resolve(requested: str, wants: Wants) -> Found:
    """Return what REF stands for, and say so if a catalog knows it."""
    from banger_tools.catalog import lookup, origins

    found = lookup.find(requested, origins.Access(locations.cache(), wants.settings, wants.pull), wants.platform)
    if found.entry is not None:
        console.note(str(found))
    return found


def fetch(found: Found, wants: Wants) -> tuple[str, Fetched]:
    """Bring the layers of what was found into the cache, and return its friendly name and what it is."""
    from banger_tools.oci import pull, reference
    from banger_tools.oci.cache import Cache

    cache = Cache(locations.cache())
    with lease.held(cache.sweep):
        if isinstance(found.ref, reference.Apt):
            from banger_tools.apt import bootstrap

            name, fetched = bootstrap.fetch(found.ref, found.requested, cache, wants)
            return found.name if found.entry else name, fetched
        return found.name, pull.fetch(found.ref, found.requested, cache, wants)


def fetch_bundle(ref: Bundle, found: Found, wants: Wants, outputs: stage.Outputs) -> tuple[Manifest, Path]:
    """Lay the image of a bundle out as an artifact; return the manifest that came with it and the artifact's path."""
    from banger_tools.catalog import bundle
    from banger_tools.oci.cache import Cache

    cache = Cache(locations.cache())
    target = outputs.artifact(f"{found.name}.ext4")
    size = found.entry.size if found.entry else None
    with lease.held(cache.sweep), outputs.making(target) as temporary:
        own, digest = bundle.fetch(ref, size, wants, cache, temporary)
    result = bundle.adopt(own, found, digest, target)
    _record(result, found.requested, wants)
    return result, target


def fetch_kernel(kernel: Kernel, wants: Wants) -> Manifest:
    """Bring a kernel into the cache and return its manifest."""
    from banger_tools.catalog import kernels as catalogs
    from banger_tools.catalog import origins
    from banger_tools.kernel import fetching, sources
    from banger_tools.manifest import Manifest, Platform
    from banger_tools.manifest import Source as Origin
    from banger_tools.oci.cache import Cache

    name, source = kernel.text, kernel.source
    if source is None:
        found = catalogs.find(name, origins.Access(locations.cache(), wants.settings, wants.pull), wants.platform)
        if found is None:
            raise errors.NoInput(f"no catalog has the kernel '{name}'", "banger kernel catalog lists them all")
        console.note(str(found))
        source = found.source
    else:
        name = sources.name_of(source)
    cache = Cache(locations.cache())
    with lease.held(cache.sweep):
        fetched = fetching.fetch(source, name, wants, cache)
    result = Manifest()
    result.name = name
    platform = Platform(fetched.kernel.architecture)
    result.put("source", Origin(f"{KERNEL}{kernel.text}", "kernel", str(source), fetched.digest, platform))
    result.put("kernel", fetched.kernel)
    _record(result, f"{KERNEL}{kernel.text}", wants)
    return result


def describe(name: str, fetched: Fetched, wants: Wants) -> Manifest:
    """Return the manifest of something fetched."""
    from banger_tools.manifest import Manifest

    result = Manifest()
    result.name = name
    result.put("source", fetched.source)
    result.raw["image"] = fetched.config
    result.put("layers", fetched.layers)
    _record(result, fetched.source.requested, wants)
    return result


def _record(result: Manifest, requested: str, wants: Wants) -> None:
    from banger_tools.oci import platforms

    options = {"ref": requested}
    if wants.platform is not None:
        options["platform"] = platforms.show(wants.platform)
    result.record("bg-fetch", options)


def look(option: str, found: Found, wants: Wants) -> None:
    """Print what an image is, or the tags beside it."""
    from banger_tools.oci import inspect
    from banger_tools.oci.cache import Cache

    cache = Cache(locations.cache())
    with lease.held(cache.sweep):
        if option == "--inspect":
            text = json.dumps(inspect.inspect(found.ref, cache, wants), indent=2, sort_keys=True) + "\n"
        else:
            text = "".join(f"{tag}\n" for tag in inspect.tags(found.ref, cache, wants))
    sys.stdout.write(text)


def work(arguments: cli.Arguments) -> None:
    """Fetch what REF names, and print its manifest."""
    options = Options.from_arguments(arguments)
    outputs = options.outputs
    if outputs.output is not None:
        files.refuse_existing(outputs.artifact(""), force=outputs.force)
    if options.kernel is not None:
        _print(fetch_kernel(options.kernel, options.wants), outputs)
        return
    found = resolve(options.requested, options.wants)
    if outputs.path_only and found.ref.kind != "apt":  # those get their names from the archives
        ending = "ext4" if found.bundle else "json"
        files.refuse_existing(outputs.artifact(f"{found.name}.{ending}"), force=outputs.force)
    if options.look is not None:
        look(options.look, found, options.wants)
        return
    if found.bundle is not None:
        result, target = fetch_bundle(found.bundle, found, options.wants, outputs)
    else:
        name, fetched = fetch(found, options.wants)
        _print(describe(name, fetched, options.wants), outputs)
        return
    stage.print_result(result, target, path_only=outputs.path_only)


def _print(result: Manifest, outputs: stage.Outputs) -> None:
    """Print a manifest, and write it to a file, too, if that was asked for."""
    target = outputs.artifact(f"{result.name}.json")
    if outputs.output is not None or outputs.path_only:
        outputs.write_manifest(result, target)
    stage.print_result(result, target, path_only=outputs.path_only)


def main(argv: Sequence[str] | None = None) -> int:
    """Run bg-fetch."""
    return cli.run(__doc__ or "", argv, work)


if __name__ == "__main__":
    raise SystemExit(main())
