"""The completion for bash; it needs no package of completions, and starts no program at a TAB."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from banger_tools import completions, docs
from banger_tools.completions import NOTICE, STORE, Value


def files(manuals: Mapping[str, docs.Manual]) -> dict[str, str]:
    """Return the files: the completion, and one for each other program, for bash-completion loads them by that name."""
    others = [name for name in completions.programs(manuals) if name != "banger"]
    return {"banger.bash": script(manuals), **{f"{name}.bash": _LOADER.format(notice=NOTICE) for name in others}}


def script(manuals: Mapping[str, docs.Manual]) -> str:
    """Return the completion, to be sourced."""
    cases = "\n".join(line for manual in manuals.values() for line in _case(manual))
    commands = "\n".join(name for name, _ in completions.commands(manuals))
    folders = "\n".join(f"    {kind}) folder=$folder/{folder} ;;" for kind, folder in STORE.items())
    names = " ".join(completions.programs(manuals))
    return _SCRIPT.format(notice=NOTICE, cases=cases, commands=shlex.quote(commands), programs=names, folders=folders)


def _kind(value: Value) -> str:
    return f"'{' '.join([value.kind, *value.words])}'"  # in quotes, or shellcheck takes the word file for a command


def _case(manual: docs.Manual) -> Iterator[str]:
    offered = [f"{option.long}=" if option.value else option.long for option in manual.options if option.long]
    offered += [option.short for option in manual.options if option.short and not option.long]
    places = completions.places(manual)
    yield f"    {shlex.quote(manual.name)})"
    yield f"      options={shlex.quote(' '.join(offered))}"
    yield f"      arguments=({' '.join(map(_kind, places.values))}) endless={int(places.endless)}"
    yield "      case $2 in"
    for option in manual.options:
        if option.value:
            yield f"        {' | '.join(completions.spellings(option))}) value={_kind(completions.value_of(option))} ;;"
    yield "      esac"
    yield "      ;;"


_LOADER = """\
{notice}
# shellcheck shell=bash source=/dev/null
. "${{BASH_SOURCE[0]%/*}}/banger.bash"
"""

_SCRIPT = """\
{notice}
# shellcheck shell=bash

# Sets options, arguments, endless and value: what program $1 takes, and what may stand for the value of its option $2.
_banger_about() {{
  options='' arguments=() endless=0 value=''
  case $1 in
{cases}
  esac
}}

# Prints the names of one kind in the store.
_banger_names() {{
  local folder=${{BANGER_HOME:+$BANGER_HOME/state}} path
  if [[ -z $folder ]]; then
    case ${{XDG_STATE_HOME-}} in
      /*) folder=$XDG_STATE_HOME/banger ;;
      *) folder=$HOME/.local/state/banger ;;
    esac
  fi
  case $1 in
{folders}
  esac
  for path in "$folder"/*/; do
    path=${{path%/}} path=${{path##*/}}
    [[ $path == *.staging-* || $path == *[!a-z0-9._-]* ]] || printf '%s\\n' "$path"
  done
}}

# Prints the words of kind $1 that begin with $2: a kind, and words that may stand there, too.
_banger_words() {{
  local kind=${{1%% *}} rest=${{1#"${{1%% *}}"}}
  [[ -z $rest ]] || compgen -W "$rest" -- "$2"
  case $kind in
    folder) compgen -d -- "$2" ;;
    file) compgen -f -- "$2" ;;
    image | kernel | vm) compgen -W "$(_banger_names "$kind")" -- "$2" ;;
    remote)
      compgen -S : -W "$(_banger_names vm)" -- "$2"
      compgen -f -- "$2"
      ;;
  esac
}}

_banger_commands={commands}

# Sets name to the program or command that the words before the cursor call, group to the first of a command's two
# words if the second is not there yet, place to the number of arguments, and ended after a word that ends the options.
_banger_read() {{
  local word value='' skip='' options arguments endless nl=$'\\n'
  name=${{COMP_WORDS[0]##*/}} group='' place=0 ended=''
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    if [[ $word == = ]]; then
      skip=1
    elif [[ -n $skip ]]; then
      skip=''
    elif [[ $word == -- && -z $ended ]]; then
      ended=1
    elif [[ $word == -?* && -z $ended ]]; then
      _banger_about "$name" "$word"
      [[ -z $value ]] || skip=1
    elif [[ $name != banger ]]; then
      ((place += 1))
    elif [[ $nl$_banger_commands$nl == *"$nl${{group:+$group }}$word$nl"* ]]; then
      name="banger ${{group:+$group }}$word" group=''
    else
      group=${{group:+$group }}$word
    fi
  done
}}

_banger_offer() {{
  mapfile -t COMPREPLY < <(_banger_words "$1" "$cur")
  case $1 in
    folder* | file*) compopt -o filenames ;;
    remote*) compopt -o nospace ;;
  esac
}}

_banger() {{
  local name group place ended options arguments endless value cur prev
  _banger_read
  cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
  if [[ $cur == = ]]; then
    cur=''
  elif [[ $prev == = ]]; then
    prev=${{COMP_WORDS[COMP_CWORD - 2]}}
  fi
  [[ -z $ended ]] || prev=''
  _banger_about "$name" "$prev"
  if [[ -n $value ]]; then
    _banger_offer "$value"
  elif [[ $cur == -* && -z $ended && -z $group ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    [[ ${{#COMPREPLY[@]}} -eq 1 && ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace
  elif [[ -n $group ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(sed -n "s/^$group //p" <<<"$_banger_commands")" -- "$cur")
  elif [[ $name == banger ]]; then
    mapfile -t COMPREPLY < <(compgen -W "$(cut -d ' ' -f 1 <<<"$_banger_commands" | sort -u)" -- "$cur")
  elif ((place < ${{#arguments[@]}})); then
    _banger_offer "${{arguments[place]}}"
  elif ((endless)); then
    _banger_offer "${{arguments[-1]}}"
  fi
}}

complete -F _banger {programs}
"""
