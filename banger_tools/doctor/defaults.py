"""What `banger vm run` takes when nothing is named: whether it is here or can be had; and the catalogs behind URLs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from banger_tools import config, errors, locations, precedence, process
from banger_tools.doctor.result import PASS, WARN, Check


def image() -> Iterator[Check]:
    """Check that the default image is here, or that an entry of a catalog can be used for it; nobody is asked."""
    from banger_tools.store import images

    name = str(precedence.setting("image").value)
    if ":" in name or "/" in name:
        yield Check("default image", PASS, f"made of '{name}' when it is needed")
        return
    if name in images.listed():
        yield Check("default image", PASS, f"'{name}' is here")
        return
    usable, refusals = _offers(name)
    if usable:
        yield Check("default image", PASS, f"not here yet; banger vm run makes it of {usable}")
    else:
        why = "; ".join(refusals) or "no catalog has it"
        yield Check("default image", WARN, f"'{name}' cannot be made: {why}", "name another one with --image")


def _offers(name: str) -> tuple[str | None, list[str]]:
    """Return the entry that an image of a name would be made of, if there is one, and why those before it are not."""
    from banger_tools.catalog import entries, lookup, origins
    from banger_tools.catalog.origins import Access
    from banger_tools.oci.http import Settings

    access = Access(locations.cache())
    refusals = []
    for origin in origins.all_origins(access._replace(settings=Settings(offline=True))):
        try:
            named = [entry for entry in origin.read().images if entry.name == name]
        except errors.BangerError as error:
            refusals.append(error.message)
            continue
        for entry in named:
            ref = entries.reference_of(entry, origin.folder)
            refusal = lookup.why_not(entry, ref, origin, access, None)
            if refusal is None:
                return f"{entry.text}, of {origin.label}", refusals
            refusals.append(f"{entry.text}: {refusal}")
    return None, refusals


def kernel() -> Iterator[Check]:
    """Check that the default kernel is here, or that this host's apt knows it."""
    from banger_tools.kernel import sources
    from banger_tools.oci import platforms
    from banger_tools.store import kernels

    ref = kernels.default_ref(platforms.host().architecture)
    source = sources.parse(ref)
    assert isinstance(source, sources.Apt)
    name = sources.name_of(source)
    if name in kernels.listed():
        yield Check("default kernel", PASS, f"'{name}' is here")
    else:
        yield _of_apt(ref, source.package)


def _of_apt(ref: str, package: str) -> Check:
    cost = "images need --kernel-ref"
    try:
        process.find("dpkg-deb")
        # without these apt-cache would keep what it reads, where it may
        unkept = ["-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache="]
        said = process.run(["apt-cache", *unkept, "policy", "--", package], check=False).stdout.decode(errors="replace")
    except errors.BangerError as error:
        return Check("default kernel", WARN, f"{error.message}: {cost}", "banger kernel import --from FOLDER")
    candidates = [line.split()[-1] for line in said.splitlines() if line.strip().startswith("Candidate:")]
    if not candidates or candidates[0] == "(none)":
        return Check("default kernel", WARN, f"apt does not know '{package}': {cost}", "apt-get update")
    return Check("default kernel", PASS, f"not here yet; images get it: {ref}, {candidates[0]}")


def catalogs() -> Iterator[Check]:
    """Check that the catalogs behind URLs can be read now; what they hold is not kept."""
    from banger_tools.catalog import origins
    from banger_tools.catalog.origins import Access
    from banger_tools.oci.http import Settings

    urls = [catalog.url for catalog in config.load().catalogs if catalog.url is not None]
    with tempfile.TemporaryDirectory() as folder:
        access = Access(Path(folder), Settings(registries=config.load().registries))
        for url in urls:
            try:
                found = origins.remote(url, access)
            except errors.BangerError as error:
                yield Check("catalogs", WARN, f"{error.message}: its names are not known", error.hint)
            else:
                yield Check("catalogs", PASS, f"'{url}': {len(found.images)} images, {len(found.kernels)} kernels")
    if not urls:
        yield Check("catalogs", PASS, "none of config.toml is behind a URL")
