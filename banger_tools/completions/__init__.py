"""Completions for bash, zsh and fish, out of the same docstrings as `--help` and the manual pages.

What an option's value can be is read off its text (`auto, always, never or json`) and the name of its value.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from banger_tools import docs

FOLDERS = {"DIR"}
PATHS = {"FILE", "PATH", "INPUT", "REF", "TREE"}
_WORDS = re.compile(r"(?:: |^|\()((?:[a-z0-9-]+, )*[a-z0-9-]+ or [a-z0-9-]+)\b")
NOTICE = "# Written by `make docs`; edit the program's docstring instead."


class Value(NamedTuple):
    """What may stand for an option's value: folders, files, names of images, certain words, or anything."""

    kind: str
    words: tuple[str, ...] = ()


def value_of(option: docs.Option) -> Value:
    """Return what may stand for an option's value."""
    if option.value in FOLDERS:
        return Value("folder")
    if option.value in PATHS:
        return Value("file")
    if option.value == "IMAGE":
        return Value("image")
    match = _WORDS.search(option.text)
    return Value("words", tuple(re.split(r", | or ", match[1]))) if match else Value("any")


def files(manuals: Mapping[str, docs.Manual]) -> dict[str, str]:
    """Return the completion files by their path in a checkout."""
    return {
        "completions/banger.bash": bash(manuals),
        "completions/_banger": zsh(manuals),
        "completions/banger.fish": fish(manuals),
    }


def programs(manuals: Mapping[str, docs.Manual]) -> list[str]:
    """Return the names of the programs: those of one word."""
    return [name for name in manuals if " " not in name]


def _spellings(option: docs.Option) -> list[str]:
    return [spelling for spelling in (option.short, option.long) if spelling]


def _argument_kind(manual: docs.Manual) -> str:
    """Return what the arguments of a program are: files, or nothing that could be guessed."""
    words = re.findall(r"[A-Z]+", manual.synopsis[0].removeprefix(manual.name))
    return "file" if PATHS.intersection(words) else "any"


# bash


def bash(manuals: Mapping[str, docs.Manual]) -> str:
    """Return the completion for bash; it needs no package of completions."""
    cases = "\n".join(line for manual in manuals.values() for line in _bash_case(manual))
    commands = "\n".join(name.removeprefix("banger ") for name in manuals if name.startswith("banger "))
    return _BASH.format(
        notice=NOTICE, cases=cases, commands=shlex.quote(commands), programs=" ".join(programs(manuals))
    )


def _bash_case(manual: docs.Manual) -> Iterator[str]:
    offered = [f"{option.long}=" if option.value else option.long for option in manual.options if option.long]
    offered += [option.short for option in manual.options if option.short and not option.long]
    yield f"    {shlex.quote(manual.name)})"
    yield f"      options={shlex.quote(' '.join(offered))} argument={_argument_kind(manual)}"
    yield "      case $2 in"
    for option in manual.options:
        if option.value:
            value = value_of(option)
            kind = " ".join([value.kind, *value.words])
            yield f"        {' | '.join(_spellings(option))}) value='{kind}' ;;"
    yield "      esac"
    yield "      ;;"


_BASH = """\
{notice}
# shellcheck shell=bash

# Sets options, argument and value: what program $1 takes, and what may stand for the value of its option $2.
_banger_about() {{
  options='' argument=any value=''
  case $1 in
{cases}
  esac
}}

# Prints the words of one kind that begin with $2.
_banger_words() {{
  local kind=${{1%% *}} rest=${{1#* }}
  case $kind in
    folder) compgen -d -- "$2" ;;
    file) compgen -f -- "$2" ;;
    image) compgen -W "$(banger image list --names 2>/dev/null)" -- "$2" ;;
    words) compgen -W "$rest" -- "$2" ;;
  esac
}}

_banger_commands={commands}

# Sets name to the program that the words before the cursor call, or group to the first of a command's two words.
_banger_name() {{
  local word found=() nl=$'\n'
  name=${{COMP_WORDS[0]##*/}} group=''
  [[ $name == banger ]] || return
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    [[ $word == -* ]] || found+=("$word")
  done
  if [[ $nl$_banger_commands$nl == *"$nl${{found[0]-}} ${{found[1]-}}$nl"* ]]; then
    name="banger ${{found[0]}} ${{found[1]}}"
  elif [[ $nl$_banger_commands$nl == *"$nl${{found[0]-}}$nl"* ]]; then
    name="banger ${{found[0]}}"
  else
    group=${{found[0]-}}
  fi
}}

_banger() {{
  local name group options argument value cur prev
  _banger_name
  cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  _banger_about "$name" "$prev"
  if [[ -n $value ]]; then
    mapfile -t COMPREPLY < <(_banger_words "$value" "$cur")
    [[ $value == folder || $value == file ]] && compopt -o filenames
  elif [[ -n $group ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(sed -n "s/^$group //p" <<<"$_banger_commands")" -- "$cur")
  elif [[ $name == banger && $cur != -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(cut -d ' ' -f 1 <<<"$_banger_commands" | sort -u)" -- "$cur")
  elif [[ $cur == -* ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
  else
    mapfile -t COMPREPLY < <(_banger_words "$argument" "$cur")
    compopt -o filenames
  fi
}}

complete -F _banger {programs}
"""


# zsh


def zsh(manuals: Mapping[str, docs.Manual]) -> str:
    """Return the completion for zsh, to be put into a folder of fpath."""
    names = programs(manuals)
    functions = "\n\n".join(_zsh_function(manual) for manual in manuals.values() if manual.name != "banger")
    pairs = [(name.removeprefix("banger "), manual) for name, manual in manuals.items() if name.startswith("banger ")]
    first = sorted({name.split()[0] for name, _ in pairs})
    second = "\n".join(_zsh_second(word, [name for name, _ in pairs]) for word in first)
    dispatch = "\n".join(f"    {shlex.quote(name)}) {_zsh_name(f'banger {name}')} ;;" for name, _ in pairs)
    head = f"#compdef {' '.join(names)}\n{NOTICE}\n"
    driver = _ZSH_DRIVER.format(
        options=_zsh_options(manuals["banger"]), first=" ".join(first), second=second, dispatch=dispatch
    )
    services = "\n".join(f'  {name}) {_zsh_name(name)} "$@" ;;' for name in names if name != "banger")
    chosen = f'case $service in\n{services}\n  *) _banger_driver "$@" ;;\nesac\n'
    return "\n".join([head, _ZSH_IMAGES, functions, "", driver, chosen])


_ZSH_IMAGES = """\
_banger_images() {
  local -a names
  names=(${(f)"$(banger image list --names 2>/dev/null)"})
  compadd -a names
}
"""

_ZSH_DRIVER = """\
_banger_driver() {{
  local -a first second
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


def _zsh_second(word: str, names: Iterable[str]) -> str:
    """Return the case of a first word: complete the second one, then step over both."""
    seconds = " ".join(name.split()[1] for name in names if name.startswith(f"{word} "))
    if not seconds:
        return f"    {word}) ;;"
    return (
        f"    {word})\n"
        f"      if ((CURRENT == 2)); then\n        compadd {seconds}\n        return\n      fi\n"
        f'      name="$words[1] $words[2]"\n      shift words\n      ((CURRENT--))\n      ;;'
    )


def _zsh_name(name: str) -> str:
    return "_banger_for_" + re.sub(r"[^a-z0-9]", "_", name)


def _zsh_function(manual: docs.Manual) -> str:
    argument = "_files" if _argument_kind(manual) == "file" else " "
    return f"{_zsh_name(manual.name)}() {{\n  _arguments -S \\\n{_zsh_options(manual)}\n    '*:argument:{argument}'\n}}"


def _zsh_options(manual: docs.Manual) -> str:
    return "\n".join(f"    {_zsh_option(option)} \\" for option in manual.options)


def _zsh_option(option: docs.Option) -> str:
    text = re.sub(r"([\[\]:\\])", r"\\\1", option.text.split(".")[0].split("[default")[0].strip())
    action = _zsh_action(option)
    spellings = [f"{option.short}{'+' if option.value else ''}"] if option.short else []
    spellings += [f"{option.long}{'=' if option.value else ''}"] if option.long else []
    described = shlex.quote(f"[{text}]{action}")
    if option.spelling == "-v":
        return f"'*-v'{described}"
    if len(spellings) == 1:
        return f"'{spellings[0]}'{described}"
    return f"'({option.short} {option.long})'{{{','.join(spellings)}}}{described}"


def _zsh_action(option: docs.Option) -> str:
    if not option.value:
        return ""
    value = value_of(option)
    actions = {"folder": "_files -/", "file": "_files", "image": "_banger_images", "any": " "}
    return f":{option.value.lower()}:" + (f"({' '.join(value.words)})" if value.words else actions[value.kind])


# fish


def fish(manuals: Mapping[str, docs.Manual]) -> str:
    """Return the completion for fish, to be put into its conf.d or sourced."""
    lines = [NOTICE, ""]
    for manual in manuals.values():
        program, *words = manual.name.split()
        condition = _fish_condition(words) if program == "banger" else ""
        if not words and program != "banger":
            lines.append(f"complete -c {program} {'-F' if _argument_kind(manual) == 'file' else '-f'}")
        if words and _argument_kind(manual) == "file":
            lines.append(f"complete -c banger{condition} -F")
        lines += [f"complete -c {program}{condition} {_fish_option(option)}" for option in manual.options]
    lines += ["complete -c banger -n __fish_use_subcommand -f", *_fish_commands(manuals["banger"])]
    return "\n".join(lines) + "\n"


def _fish_condition(words: list[str]) -> str:
    if not words:
        return " -n __fish_use_subcommand"
    return " -n " + shlex.quote("; and ".join(f"__fish_seen_subcommand_from {word}" for word in words))


def _fish_commands(manual: docs.Manual) -> Iterator[str]:
    texts = docs.commands(manual)
    for name, text in texts.items():
        first, *second = name.split()
        if not second:
            yield f"complete -c banger -n __fish_use_subcommand -f -a {first} -d {shlex.quote(text)}"
            continue
        others = " ".join(other.split()[1] for other in texts if other.startswith(f"{first} "))
        unfinished = f"__fish_seen_subcommand_from {first}; and not __fish_seen_subcommand_from {others}"
        yield f"complete -c banger -n {shlex.quote(unfinished)} -f -a {second[0]} -d {shlex.quote(text)}"
    for first in sorted({name.split()[0] for name in texts if " " in name}):
        yield f"complete -c banger -n __fish_use_subcommand -f -a {first}"


def _fish_option(option: docs.Option) -> str:
    words = [f"-s {option.short[1:]}"] if option.short else []
    words += [f"-l {option.long[2:]}"] if option.long else []
    if option.value:
        value = value_of(option)
        choices = {
            "folder": "-x -a '(__fish_complete_directories)'",
            "file": "-r -F",
            "image": "-x -a '(banger image list --names 2>/dev/null)'",
            "words": f"-x -a {shlex.quote(' '.join(value.words))}",
            "any": "-x",
        }
        words.append(choices[value.kind])
    return " ".join([*words, "-d", shlex.quote(option.text.split(".")[0].split(" [default")[0])])
