"""The completion for zsh: a file for a folder of fpath that may be sourced after compinit as well."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping

from banger_tools import completions, docs
from banger_tools.completions import NOTICE, STORE, Value


def script(manuals: Mapping[str, docs.Manual]) -> str:
    """Return the completion."""
    names = completions.programs(manuals)
    functions = "\n\n".join(_function(manual) for manual in manuals.values() if manual.name != "banger")
    commands = [name for name, _ in completions.commands(manuals)]
    first = sorted({name.split()[0] for name in commands})
    driver = _DRIVER.format(
        options="\n".join(f"    {_option(option)} \\" for option in manuals["banger"].options),
        first=" ".join(first),
        second="\n".join(_second(word, commands) for word in first),
        dispatch="\n".join(f"    {shlex.quote(name)}) {_name(f'banger {name}')} ;;" for name in commands),
    )
    services = "\n".join(f'    {name}) {_name(name)} "$@" ;;' for name in names if name != "banger")
    folders = "\n".join(f"    {kind}) folder+=/{folder} ;;" for kind, folder in STORE.items())
    head = f"#compdef {' '.join(names)}\n{NOTICE}\n"
    end = _END.format(services=services, names=" ".join(names))
    return "\n".join([head, _NAMES.format(folders=folders), functions, "", driver, end])


_NAMES = """\
_banger_names() {{
  local folder=${{BANGER_HOME:+$BANGER_HOME/state}}
  local -a names
  if [[ -z $folder ]]; then
    case $XDG_STATE_HOME in
      /*) folder=$XDG_STATE_HOME/banger ;;
      *) folder=$HOME/.local/state/banger ;;
    esac
  fi
  local remote=$2
  case $1 in
{folders}
  esac
  names=($folder/*(N/:t))
  names=(${{names:#*.staging-*}})
  compadd $remote -a names
}}
_banger_images() {{ _banger_names image }}
_banger_kernels() {{ _banger_names kernel }}
_banger_machines() {{ _banger_names vm }}
_banger_remotes() {{
  _banger_names vm -S:
  _files
}}
_banger_or_files() {{
  compadd $@
  _files
}}
_banger_or_images() {{
  compadd $@
  _banger_names image
}}
_banger_or_kernels() {{
  compadd $@
  _banger_names kernel
}}
"""

_DRIVER = """\
_banger_driver() {{
  local -a line
  local state name curcontext=$curcontext
  _arguments -C -S \\
{options}
    '1:command:({first})' '*::argument:->rest' && return
  name=$words[1]
  case $name in
{second}
  esac
  case $name in
{dispatch}
  esac
}}
"""

_END = """\
_banger_programs() {{
  case $service in
{services}
    *) _banger_driver "$@" ;;
  esac
}}

if [[ $funcstack[1] == _banger ]]; then
  _banger_programs "$@"
else
  compdef _banger_programs {names}
fi
"""


def _second(word: str, names: Iterable[str]) -> str:
    """Return the case of a first word: complete the second one, then step over both."""
    seconds = " ".join(name.split()[1] for name in names if name.startswith(f"{word} "))
    if not seconds:
        return f"    {word}) ;;"
    return (
        f"    {word})\n"
        f"      if ((CURRENT == 2)); then\n        compadd {seconds}\n        return\n      fi\n"
        f'      name="$words[1] $words[2]"\n      shift words\n      ((CURRENT--))\n      ;;'
    )


def _name(program: str) -> str:
    return "_banger_for_" + re.sub(r"[^a-z0-9]", "_", program)


def _function(manual: docs.Manual) -> str:
    lines = [_option(option) for option in manual.options] + list(_arguments(manual))
    return f"{_name(manual.name)}() {{\n  _arguments -S \\\n" + " \\\n".join(f"    {line}" for line in lines) + "\n}"


def _arguments(manual: docs.Manual) -> Iterator[str]:
    places = completions.places(manual)
    for number, value in enumerate(places.values, 1):
        place = "*" if places.endless and number == len(places.values) else str(number)
        yield shlex.quote(f"{place}:argument:{_action(value)}")


def _option(option: docs.Option) -> str:
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.text.split(".")[0].split("[default")[0].strip())
    action = f":{option.value.lower()}:{_action(completions.value_of(option))}" if option.value else ""
    names = [f"{option.short}{'+' if option.value else ''}"] if option.short else []
    names += [f"{option.long}{'=' if option.value else ''}"] if option.long else []
    described = shlex.quote(f"[{text}]{action}")
    told = option.text.rstrip(".").lower()
    if option.short == "-v" or told.endswith(("repeatable", "may be repeated")):
        return " ".join(f"'*{name}'{described}" for name in names)
    if len(names) == 1:
        return f"'{names[0]}'{described}"
    return f"'({option.short} {option.long})'{{{','.join(names)}}}{described}"


_ACTIONS = {
    "folder": "_files -/",
    "file": "_files",
    "image": "_banger_images",
    "kernel": "_banger_kernels",
    "vm": "_banger_machines",
    "remote": "_banger_remotes",
    "any": " ",
}


def _action(value: Value) -> str:
    words = " ".join(value.words)
    if value.kind == "words":
        return f"({words})"
    return f"_banger_or_{STORE.get(value.kind, 'files')} {words}" if words else _ACTIONS[value.kind]
