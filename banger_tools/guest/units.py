"""Enabling and disabling systemd's units in an image that does not run, as `systemctl --root=DIR` does.

Sources: systemctl(1), systemd.unit(5): "[INSTALL] SECTION OPTIONS", "UNIT FILE LOAD PATH", "SPECIFIERS".
"""

from __future__ import annotations

import difflib
import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from banger_tools import console, errors
from banger_tools.ext4.view import Placed, View

CONFIG = "/etc/systemd/system"
# /lib comes before /usr/lib as in systemd before version 255; where one is a link to the other it is the same.
FOLDERS = (
    CONFIG, "/run/systemd/system", "/usr/local/lib/systemd/system", "/lib/systemd/system", "/usr/lib/systemd/system",
)  # fmt: skip
MAX_UNIT = 1 << 20
_MAX_FOLLOWED = 16
_TYPES = "automount|device|mount|path|scope|service|slice|socket|swap|target|timer"
_NAME = re.compile(rf"(?P<prefix>[A-Za-z0-9:_.\\-]+)(?P<instance>@[A-Za-z0-9:_.\\@-]*)?\.(?P<type>{_TYPES})")
_TYPED = re.compile(rf"\.(?:{_TYPES})@")
_DEPENDENCIES = {"WantedBy": "wants", "RequiredBy": "requires", "UpheldBy": "upholds"}


class Name(NamedTuple):
    """The name of a unit; `instance` is None without @, and empty for a template."""

    prefix: str
    instance: str | None
    type: str

    def __str__(self) -> str:
        return self.prefix + ("" if self.instance is None else f"@{self.instance}") + f".{self.type}"

    @property
    def template(self) -> Name:
        """The template that an instance is made of; else the name itself."""
        return self._replace(instance="") if self.instance else self


@dataclass
class Unit:
    """A unit file with its drop-ins: its name, where it is, and what its [Install] sections say."""

    name: Name
    path: str
    masked: bool = False
    install: dict[str, list[str]] = field(default_factory=dict)


def parse_name(text: str) -> Name:
    """Return the parts of a unit's name; without a type it is a service.

    Raises BadUsage if it is none.
    """
    match = _NAME.fullmatch(text) or (None if _TYPED.search(text) else _NAME.fullmatch(f"{text}.service"))
    if match is None or len(text) > 255:
        raise errors.BadUsage(f"'{text}' is not the name of a unit", "for example ssh.service, or getty@tty1.service")
    instance = match["instance"]
    return Name(match["prefix"], None if instance is None else instance[1:], match["type"])


def enable(view: View, name: Name) -> list[Placed]:
    """Return the links that enabling a unit makes, with those of the units that its [Install] names in Also=.

    Raises BadInput for a unit that is not there, is masked, is an alias, or is a template without an instance.
    """
    links: dict[str, Placed] = {}
    for unit in _with_also(view, _enableable(view, name)):
        for path, force in _links(view, unit):
            if _leads_to(view, path, unit.path):
                continue
            if view.at(path) is not None and not force:
                raise errors.BadInput(f"'{unit.name}' cannot be enabled: '{path}' is there already, and is not it")
            links[path] = Placed(path, "symlink", unit.path.encode())
    return list(links.values())


def disable(view: View, name: Name) -> list[str]:
    """Return the links that disabling a unit removes, with those of the units that its [Install] names in Also=.

    Raises BadInput for a unit that is not there, and that no link names either.
    """
    unit = find(view, name) or _unit_with_alias(view, name)
    if unit is not None and unit.masked:
        console.warning(f"'{unit.name}' is masked, so it is disabled in any case")
        return []
    names = {name, unit.name} | {also.name for also in _with_also(view, unit)} if unit else {name}
    found = _links_to(view, {str(one) for one in names})
    if unit is None and not found:
        raise _unknown(view, name)
    return found


def find(view: View, name: Name) -> Unit | None:
    """Return the unit of a name: its own file or its template's, aliases followed; None if there is none."""
    for _ in range(_MAX_FOLLOWED):
        path = _file(view, name)
        if path is None:
            return None
        if _is_mask(view, path):
            return Unit(name, path, masked=True)
        aliased = _alias(view, path, name)
        if aliased is None:
            return _load(view, name, path)
        name = aliased
    return None


def _enableable(view: View, name: Name) -> Unit:
    path = _file(view, name)
    if path is not None and posixpath.dirname(path) == CONFIG:
        alias = _alias(view, path, name)
        if alias is not None and not _is_mask(view, path):
            raise errors.BadInput(f"'{name}' is an alias in '{view.image.path}'", f"name the unit itself: {alias}")
    unit = find(view, name)
    if unit is None:
        raise _unknown(view, name)
    if unit.masked:
        raise errors.BadInput(f"'{name}' is masked in '{view.image.path}': '{unit.path}' leads to /dev/null")
    if not any(unit.install.get(key) for key in ("Alias", "Also", *_DEPENDENCIES)):
        console.warning(f"'{name}' is static: it has no [Install] section, so it is started by what needs it only")
    return unit


def _unknown(view: View, name: Name) -> errors.BadInput:
    known = _all_names(view)
    near = difflib.get_close_matches(str(name), known, n=3)
    unit = _unit_with_alias(view, name)
    hint = f"there are {', '.join(near)}" if near else None if known else "it has no units of systemd at all"
    if unit is not None:
        hint = f"it is another name of {unit.name}"
    return errors.BadInput(f"'{name}' is not a unit in '{view.image.path}'", hint)


def _all_names(view: View) -> list[str]:
    return sorted({one for folder in FOLDERS for one in view.names(folder) if _NAME.fullmatch(one)})


def _unit_with_alias(view: View, name: Name) -> Unit | None:
    """Return the unit that would have a name as an alias if it were enabled."""
    for one in _all_names(view):
        unit = find(view, parse_name(one))
        if unit is not None and str(name) in unit.install.get("Alias", []):
            return unit
    return None


def _file(view: View, name: Name) -> str | None:
    """Return the path of the file of a unit: of its own, else of its template; as the search path spells it."""
    for candidate in dict.fromkeys((name, name.template)):
        for folder in FOLDERS:
            path = f"{folder}/{candidate}"
            try:
                found = view.at(view.real_parent(path))
            except errors.BadInput:
                continue
            if found is not None and found.kind in ("file", "symlink"):
                return path
    return None


def _is_mask(view: View, path: str) -> bool:
    """Tell whether a unit file is a link to /dev/null, or empty."""
    if view.target(view.real_parent(path)) is not None and view.real(path, clamp=True) == "/dev/null":
        return True
    return view.read(path, MAX_UNIT) == b""


def _alias(view: View, path: str, name: Name) -> Name | None:
    """Return the unit that a unit file links to if that has another name, with the instance of the alias."""
    target = view.target(view.real_parent(path))
    match = _NAME.fullmatch(posixpath.basename(target)) if target else None
    if match is None:
        return None
    found = parse_name(match[0])
    if found.instance == "" and name.instance:
        found = found._replace(instance=name.instance)
    return None if found in (name, name.template) else found


def _load(view: View, name: Name, path: str) -> Unit | None:
    text = view.read(path, MAX_UNIT)
    if text is None:
        return None
    unit = Unit(name, path)
    drop_ins: dict[str, str] = {}
    for folder in reversed(FOLDERS):  # the same name in an earlier folder hides one in a later
        for owner in dict.fromkeys((name.template, name)):
            drop_ins.update({one: f"{folder}/{owner}.d/{one}" for one in view.names(f"{folder}/{owner}.d")})
    pieces = [text] + [view.read(drop_ins[one], MAX_UNIT) or b"" for one in sorted(drop_ins) if one.endswith(".conf")]
    for piece in pieces:
        for key, value in _install_section(piece.decode(errors="replace")):
            _assign(unit.install, key, value)
    return unit


def _install_section(text: str) -> Iterator[tuple[str, str]]:
    """Yield the assignments of the [Install] sections of a unit file; a line that ends in a backslash goes on."""
    inside = False
    for line in re.sub(r"\\\n(?:[ \t]*[#;].*\n)*", " ", text).splitlines():
        line = line.strip()
        if line.startswith("["):
            inside = line == "[Install]"
        elif inside and line and line[0] not in "#;" and "=" in line:
            key, value = line.split("=", 1)
            yield key.strip(), value.strip()


def _assign(install: dict[str, list[str]], key: str, value: str) -> None:
    """Add to a list, which an empty value empties; there is one DefaultInstance, the last."""
    words = [word.strip("\"'") for word in value.split()]
    old = install.get(key, []) if words and key != "DefaultInstance" else []
    install[key] = old + words


def _with_also(view: View, unit: Unit) -> list[Unit]:
    """Return a unit and those that its [Install] section, and theirs, names in Also=."""
    found = {unit.name: unit}
    pending = [unit]
    while pending:
        current = pending.pop(0)
        for text in current.install.get("Also", []):
            name = parse_name(_expanded(text, current.name))
            other = None if name in found else find(view, name)
            if name not in found and (other is None or other.masked):
                console.warning(f"'{name}', which goes along with '{current.name}', is not in the image, or masked")
            elif other is not None and other.name not in found:
                found[other.name] = other
                pending.append(other)
    return list(found.values())


def _links(view: View, unit: Unit) -> Iterator[tuple[str, bool]]:
    """Yield the paths of the links that enable a unit, each with whether it replaces what stands there."""
    for alias in unit.install.get("Alias", []):
        yield f"{CONFIG}/{_alias_name(_expanded(alias, unit.name), unit.name)}", False
    name = unit.name
    if name.instance == "" and unit.install.get("DefaultInstance"):
        name = name._replace(instance=_expanded(unit.install["DefaultInstance"][0], name))
        own = find(view, name)
        if own is not None and own.masked:
            raise errors.BadInput(f"'{name}' is masked in '{view.image.path}'")
    for key, folder in _DEPENDENCIES.items():
        for text in unit.install.get(key, []):
            target = parse_name(_expanded(text, unit.name))
            if name.instance == "" and target.instance != "":
                hint = f"name an instance, such as {name._replace(instance='NAME')}"
                raise errors.BadInput(f"'{name}' is a template, and '{target}', which wants it, is none", hint)
            yield f"{CONFIG}/{target}.{folder}/{name}", True


def _alias_name(alias: str, name: Name) -> str:
    """Return the name of an alias's link; that of a template has the instance of the unit."""
    folder, last = posixpath.split(alias)
    if folder and not re.fullmatch(rf"[^/]+\.(?:{'|'.join(_DEPENDENCIES.values())})", folder):
        raise errors.BadInput(f"'{name}' cannot have the alias '{alias}'")
    found = parse_name(last)
    if found.type != name.type:
        raise errors.BadInput(f"'{name}' cannot have the alias '{alias}': it is of another type")
    if found.instance == "" and name.instance:
        found = found._replace(instance=name.instance)
    return posixpath.join(folder, str(found))


def _expanded(text: str, name: Name) -> str:
    """Return a value with its specifiers replaced.

    Raises BadInput for those that only a running system knows.
    """
    known = {
        "%": "%",
        "i": name.instance or "",
        "j": name.prefix.rsplit("-", 1)[-1],
        "n": str(name),
        "N": str(name).removesuffix(f".{name.type}"),
        "p": name.prefix,
    }

    def value(match: re.Match[str]) -> str:
        if match[1] not in known:
            raise errors.BadInput(
                f"'{name}' has '{match[0]}' in its [Install] section, which only it knows when it runs"
            )
        return known[match[1]]

    return re.sub("%(.)", value, text)


def _leads_to(view: View, link: str, path: str) -> bool:
    """Tell whether a link is there and leads to a file, however it is spelled."""
    target = view.target(view.real_parent(link))
    if target is None:
        return False
    absolute = posixpath.join(posixpath.dirname(view.real_parent(link)), target)
    return view.real(absolute, clamp=True) == view.real(path, clamp=True)


def _links_to(view: View, names: set[str]) -> list[str]:
    """Return the links below CONFIG that name one of these units, or lead to one, or to such a link."""
    links = dict(_all_links(view, view.real(CONFIG, clamp=True)))
    found: set[str] = set()
    while True:
        more = {path for path, target in links.items() if _names_of(path, target) & names} - found
        if not more:
            return sorted(found)
        found |= more
        names = names | {posixpath.basename(path) for path in more}


def _names_of(path: str, target: str) -> set[str]:
    """Return the units that a link stands for: its name and that of its target; a template for all its instances."""
    name = parse_name(posixpath.basename(path))
    return {str(name), str(name.template), posixpath.basename(target)}


def _all_links(view: View, folder: str) -> Iterator[tuple[str, str]]:
    """Yield the links in a folder and in its folders that have names of units, each with its target."""
    for name in view.names(folder):
        path = f"{folder}/{name}"
        target = view.target(path)
        if target is not None and _NAME.fullmatch(name):
            yield path, target
        elif target is None and re.search(r"\.(?:wants|requires|upholds)$", name):
            yield from _all_links(view, path)
