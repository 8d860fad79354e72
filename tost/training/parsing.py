"""Command lines read by jsonargparse, with errors of one line that name the way out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any


def parse(call: Callable[..., Any], arguments: Sequence[str], prog: str, description: str) -> dict[str, Any]:
    """The keyword arguments of `call`, typed as its signature says, from the command line."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=prog, description=description, exit_on_error=False, allow_abbrev=False)
    parser.add_function_arguments(call, as_group=False, as_positional=True)
    return parser.instantiate(parse_with(parser, arguments)).as_dict()


def parse_with(parser: Any, arguments: Sequence[str]) -> Any:
    """parser.parse_args in which a bare --flag means --flag true and errors are ValueErrors of one line."""
    from jsonargparse import ArgumentError

    try:
        return parser.parse_args(with_flags(parser, arguments))
    except ArgumentError as error:
        raise ValueError(explain(" ".join(str(error).split()), list(parser.get_defaults().keys()))) from None
    except SystemExit as done:
        raise done if not done.code else ValueError("the arguments were not understood") from None


def with_flags(parser: Any, arguments: Sequence[str]) -> list[str]:
    """`arguments` as the parser knows them: --max_new_tokens for --max-new-tokens, --model.mixer for --mixer where no
    other section has a mixer, and "true" after every switch that stands alone."""
    defaults, given = parser.get_defaults(), []
    known = list(defaults.keys())
    for argument, following in zip(arguments, [*arguments[1:], "--"]):
        argument = with_underscores(argument, known)
        given.append(argument)
        name = argument[2:] if argument.startswith("--") else ""
        if name in defaults and isinstance(defaults[name], bool) and following.lower() not in ("true", "false"):
            given.append("true")
    return given


def with_underscores(argument: str, known: Collection[str]) -> str:
    """--max-new-tokens as --max_new_tokens, and --mixer as --model.mixer, if that is the option; else as it is."""
    name, equals, value = argument.partition("=")
    written = name[2:].replace("-", "_")
    if not name.startswith("--") or not written:
        return argument
    if written not in known and "." not in written:
        owners = [key for key in known if key.endswith(f".{written}")]
        written = owners[0] if len(owners) == 1 else written
    return f"--{written}{equals}{value}" if written in known else argument


def explain(message: str, known: list[str]) -> str:
    """jsonargparse's message, with the nearest option for one that doesn't exist."""
    unknown = re.match(r"unrecognized arguments: (\S+)", message, re.IGNORECASE)
    if unknown:
        name = unknown.group(1).partition("=")[0]
        what = "option" if name.startswith("--") else "argument"
        return f"unknown {what} {name}{did_you_mean(name.lstrip('-'), known, '--')}; --help lists all"
    wrong = re.match(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)', message)
    union = r'Parser key "([\w.]+)": Does not validate against any .*? Subtypes: \[(.+)\] Errors: .* Given value: (.*)'
    wrong = wrong or re.match(union, message)
    if wrong:
        key, kind, value = wrong.groups()
        kind = re.sub(r", <class 'NoneType'>$", "", kind)
        kind = re.sub(r"<class '(\w+)'>", r"\1", kind).replace("typing.", "").replace("Literal", "one of ")
        return f"--{key}: expected {kind}, got {value!r}"
    return message


def did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    """', did you mean a or b?' for the closest of the known names, or nothing."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.75)
    close += [k for k in known if k.rpartition(".")[2] == name.rpartition(".")[2] and k not in close]
    return f", did you mean {' or '.join(prefix + k for k in close[:3])}?" if close else ""


def one_line(error: BaseException) -> str:
    """The message of an error with its line breaks folded."""
    return " ".join(str(error).split())
