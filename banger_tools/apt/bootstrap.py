"""A root filesystem of packages as one layer, made by mmdebstrap: the same bytes for root and for anyone else.

What shaped a layer is its key; a layer whose key was built before is not built again. The archives' own dates are
its clock, so two builds of one state of the archives are equal.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from banger_tools import console, errors, manifest, process
from banger_tools.apt import hooks, mmdebstrap, records, releases, sources, workspace
from banger_tools.apt.records import Record
from banger_tools.oci import layer, reference
from banger_tools.oci.cache import Cache
from banger_tools.oci.cancel import Cancel
from banger_tools.oci.documents import Blob
from banger_tools.oci.pull import Fetched

if TYPE_CHECKING:
    from banger_tools.apt.releases import Release
    from banger_tools.oci.pull import Wants

PACKAGES = ("systemd", "systemd-sysv", "udev", "dbus", "iproute2", "openssh-server")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Plan(NamedTuple):
    """Everything that shapes a root filesystem but the state of the archives."""

    suite: str
    variant: str
    packages: tuple[str, ...]
    architecture: str
    sources: tuple[sources.Source, ...]
    tool: str
    epoch: str

    @property
    def key(self) -> str:
        """Return the hash of all of it, and of our own recipe."""
        parts = [*self[:4], *map(str, self.sources), self.tool, self.epoch, hooks.SETUP, hooks.CUSTOMIZE]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def fetch(ref: reference.Apt, requested: str, cache: Cache, wants: Wants) -> tuple[str, Fetched]:
    """Return the friendly name and the one layer of a suite, built now or before.

    Raises Unavailable naming the package that is missing, Denied, NoInput for a suite or package that is not there.
    """
    process.find("mmdebstrap")
    cache.prepare()
    workspace.sweep(cache.partial)
    plan = make_plan(ref, _architecture(wants.platform))
    record = records.load(cache, plan.key, thorough=wants.thorough)
    if record is not None and wants.pull != "always":
        console.note(f"'{ref}' is of {_day(record.epoch)}, as made before")
        return record.name, _fetched(ref, requested, plan, record)
    if wants.settings.offline:
        raise errors.Unavailable(f"'{ref}' is not in the cache", "make it once without --offline and --pull=never")
    record = _build_once(ref, plan, cache, wants, record)
    return record.name, _fetched(ref, requested, plan, record)


def make_plan(ref: reference.Apt, architecture: str) -> Plan:
    """Return what is to be built."""
    found = sources.choose(sources.configured(), ref.suite, _os_release().get("VERSION_CODENAME"))
    packages = [*(PACKAGES if ref.packages is None else ref.packages), *ref.include]
    if any(source.uri.startswith("https:") for source in found):
        packages.append("ca-certificates")  # or apt in the guest could not reach its own archive
    tool = process.run(["mmdebstrap", "--version"]).stdout.decode().strip()
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    return Plan(ref.suite, ref.variant, tuple(dict.fromkeys(packages)), architecture, tuple(found), tool, epoch)


def why_not(ref: reference.Apt, distro: str | None, cache: Cache, *, offline: bool) -> str | None:
    """Return why this host cannot make a suite, None if it can; `distro` is whose suite it is, by ID of os-release(5).

    A suite that apt was not told of can still be had from the archive of this host's own distribution.
    """
    try:
        process.find("mmdebstrap")
        is_configured = any(source.suite == ref.suite for source in sources.configured())
        if not is_configured and (distro is None or distro != _os_release().get("ID")):
            return f"this host's apt has no source for '{ref.suite}'"
        plan = make_plan(ref, _architecture(None))
        if offline and records.load(cache, plan.key, thorough=False) is None:
            return "it was not made before, and going out is not allowed"
    except errors.BangerError as error:
        return error.message
    return None


def _architecture(platform: manifest.Platform | None) -> str:
    """Return Debian's name of an architecture; dpkg's own without a platform."""
    if platform is None:
        return process.run(["dpkg", "--print-architecture"]).stdout.decode().strip()
    if platform.os_name != "linux":
        raise errors.NoInput(f"there are no packages for the OS '{platform.os_name}'")
    return {"386": "i386", "arm": "armhf", "ppc64le": "ppc64el"}.get(platform.architecture, platform.architecture)


def _os_release() -> dict[str, str]:
    """Return the fields of os-release(5) that say what this host is."""
    import platform

    try:
        return dict(platform.freedesktop_os_release())
    except OSError:
        return {}


def _build_once(ref: reference.Apt, plan: Plan, cache: Cache, wants: Wants, known: Record | None) -> Record:
    """Build unless the archives are as they were, or another process builds the same meanwhile."""
    with console.step(f"look at the archives of '{ref.suite}'"):
        found = releases.fetch(plan.sources, plan.architecture, cache.partial)
    own = releases.of_distribution(found, ref.suite, _identifiers())
    state = hashlib.sha256("".join(release.sha256 for release in own).encode()).hexdigest()
    if known is not None and known.state == state:
        return known
    with cache.claim(f"apt:{plan.key}", Cancel()):
        record = records.load(cache, plan.key, thorough=False)
        if record is None or record.state != state:
            record = _build(ref, plan, cache, wants, own, state)
            records.store(cache, plan.key, record)
        return record


def _identifiers() -> list[str]:
    fields = _os_release()
    return [fields.get("ID", ""), *fields.get("ID_LIKE", "").split()]


def _build(ref: reference.Apt, plan: Plan, cache: Cache, wants: Wants, own: Sequence[Release], state: str) -> Record:
    """Run mmdebstrap, and bring the tar that it writes into the cache."""
    epoch = int(plan.epoch) if plan.epoch.isdigit() else max(release.date for release in own)
    origin = own[0].origin
    order = mmdebstrap.Order(
        plan.suite, plan.variant, plan.packages, plan.architecture, tuple(release.source for release in own), epoch
    )
    console.note(f"making '{ref}' of packages; this takes a minute or so")
    name = reference.clean_name(f"{origin}-{ref.suite}" if origin else ref.suite)
    return Record(state, epoch, name, str(ref), _layer(order, cache, wants))


def _layer(order: mmdebstrap.Order, cache: Cache, wants: Wants) -> manifest.Layer:
    with console.step("make the root filesystem of packages"), console.progress("packages") as bar:
        task = layer.Task(cache, mmdebstrap.Output(order, cache.partial), Cancel(), wants.limits, bar)
        return layer.fetch(task, Blob(None, None, ""), None, "the new root filesystem")


def _fetched(ref: reference.Apt, requested: str, plan: Plan, record: Record) -> Fetched:
    """Return a layer of packages as an image."""
    architecture = {"i386": "386", "armhf": "arm", "ppc64el": "ppc64le"}.get(plan.architecture, plan.architecture)
    config: dict[str, Any] = {
        "architecture": architecture,
        "os": "linux",
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.epoch)),
        "config": {"Env": [f"PATH={PATH}"]},
        "rootfs": {"type": "layers", "diff_ids": [record.layer.diff_id]},
    }
    platform = manifest.Platform(architecture)
    source = manifest.Source(requested, ref.kind, f"{ref} of {_day(record.epoch)}", platform=platform)
    return Fetched(config, [record.layer], source)


def _day(epoch: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime(epoch))
