"""The completion for fish, for its vendor_conf.d or conf.d, or to be sourced."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping

from banger_tools import completions, docs
from banger_tools.completions import NOTICE, STORE, Value


def script(manuals: Mapping[str, docs.Manual]) -> str:
    """Return the completion."""
    folders = "\n".join(f"        case {kind}\n            set folder $folder/{name}" for kind, name in STORE.items())
    lines = [NOTICE, "", _FUNCTIONS.format(folders=folders, valued=" ".join(_valued(manuals)))]
    for manual in manuals.values():
        program, *words = manual.name.split()
        where = _called(words)
        if program == "banger" and not words:
            where = " -n '__banger_at 0'"
        lines += [f"complete -c {program}{where} {_option(option)}" for option in manual.options]
        lines += _arguments(manual)
    return "\n".join([*lines, *_commands(manuals)]) + "\n"


_FUNCTIONS = """\
# The words before the cursor that are no options and none of their values, without the program's own.
function __banger_words
    set -l before ''
    for word in (commandline -opc)[2..-1]
        string match -q -- '-*' $word; or contains -- $before {valued}; or echo $word
        set before $word
    end
end

# Whether just so many of them are there, and begin with the words given.
function __banger_at
    set -l words (__banger_words)
    test (count $words) -eq $argv[1]; and __banger_called $argv[2..-1]
end

# Whether they begin with the words given.
function __banger_called
    set -l words (__banger_words)
    for number in (seq (count $argv))
        test "$words[$number]" = "$argv[$number]"; or return 1
    end
end

# The names of one kind in the store.
function __banger_names
    set -l folder $HOME/.local/state/banger
    string match -q '/*' -- $XDG_STATE_HOME; and set folder $XDG_STATE_HOME/banger
    test -n "$BANGER_HOME"; and set folder $BANGER_HOME/state
    switch $argv[1]
{folders}
    end
    set -l paths $folder/*/
    string replace -r '.*/([^/]+)/$' '$1' -- $paths | string match -v -- '*.staging-*'
end

function __banger_remotes
    printf '%s:\\n' (__banger_names vm)
    __fish_complete_path (commandline -ct)
end
"""


def _valued(manuals: Mapping[str, docs.Manual]) -> list[str]:
    """Return the options whose value may be the next word, without those that are flags elsewhere."""
    every = [option for manual in manuals.values() for option in manual.options]
    flags = {name for option in every if not option.value for name in completions.spellings(option)}
    valued = {name for option in every if option.value for name in completions.spellings(option)}
    return sorted(valued - flags)


def _commands(manuals: Mapping[str, docs.Manual]) -> Iterator[str]:
    texts = dict(completions.commands(manuals))
    for name, text in texts.items():
        first, *second = name.split()
        where = f"__banger_at 1 {first}" if second else "__banger_at 0"
        yield f"complete -c banger -n {shlex.quote(where)} -f -a {(second or [first])[0]} -d {shlex.quote(text)}"
    for first in sorted({name.split()[0] for name in texts if " " in name}):
        yield f"complete -c banger -n '__banger_at 0' -f -a {first}"
        yield f"complete -c banger -n '__banger_at 1 {first}' -f"


def _arguments(manual: docs.Manual) -> Iterator[str]:
    """Yield what completes the arguments: a line for each place, and one for all that are left."""
    program, *words = manual.name.split()
    places = completions.places(manual)
    if program == "banger" and not words:
        return
    for number, value in enumerate(places.values, len(words)):
        last = places.endless and number == len(words) + len(places.values) - 1
        called = " ".join(["__banger_called", *words] if last else ["__banger_at", str(number), *words])
        before = [f"not __banger_at {place} {' '.join(words)}".rstrip() for place in range(len(words), number)]
        where = "; and ".join([called, *before] if last else [called])
        yield f"complete -c {program} -n {shlex.quote(where)} {_value(value, argument=True)}"
    if all(value.kind != "file" for value in places.values):
        yield f"complete -c {program}{_called(words)} -f"


def _called(words: list[str]) -> str:
    return f" -n {shlex.quote(' '.join(['__banger_called', *words]))}" if words else ""


def _value(value: Value, *, argument: bool = False) -> str:
    exclusive = "-f" if argument else "-x"
    words = " ".join(value.words)
    if value.kind == "file":
        return ("-F" if argument else "-r -F") + (f" -a {shlex.quote(words)}" if words else "")
    offers = {
        "folder": "(__fish_complete_directories)",
        "remote": "(__banger_remotes)",
        "any": "",
        "words": "",
        **{kind: f"(__banger_names {kind})" for kind in STORE},
    }
    offered = f"{offers[value.kind]} {words}".strip()
    return f"{exclusive} -a {shlex.quote(offered)}" if offered else exclusive


def _option(option: docs.Option) -> str:
    words = [f"-s {option.short[1:]}"] if option.short else []
    words += [f"-l {option.long[2:]}"] if option.long else []
    words += [_value(completions.value_of(option))] if option.value else []
    return " ".join([*words, "-d", shlex.quote(option.text.split(".")[0].split(" [default")[0])])
