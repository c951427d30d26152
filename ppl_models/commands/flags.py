"""Flags of the command line, read off a paper's config, the training options and a loader."""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, Protocol

from ppl_models.config import unknown
from ppl_models.inference.objectives.habits import as_flag, ours

SEVERAL = re.compile(r"tuple\[[^|]*\]( \| None)?")  # annotations of options that list values

METAVARS = {int: "N", float: "X", str: "NAME"}  # by the type of a setting's default


class Flags(Protocol):
    """What takes flags: a parser, or a group of its help."""

    def add_argument(self, *names: str, **how: Any) -> Any:
        """Add one."""


class UsageError(ValueError):
    """A command line that does not fit."""


class Parser(argparse.ArgumentParser):
    """Raises one line in place of printing the usage; a mistyped flag names its nearest."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "allow_abbrev": False})

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UsageError(message)

    def parse_all(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parse, and name the nearest flag for one that does not exist."""
        options, rest = self.parse_known_args(arguments)
        if rest:
            if rest[0].startswith("-"):
                flag, flags = rest[0].split("=")[0], self.flags()
                name = as_flag(ours(flag))
                if name.split(" ")[0] in flags:
                    raise UsageError(f"{self.prog} has no flag {flag}; it is {name}")
                raise UsageError(unknown("flag", flag, flags))
            raise UsageError(f"unexpected argument {rest[0]!r}")
        return options

    def flags(self) -> list[str]:
        """All flags with two dashes."""
        return [o for action in self._actions for o in action.option_strings if o[:2] == "--"]


def add_settings(parser: Parser, config: type, title: str, several: bool = False) -> list[str]:
    """A flag per field of a config dataclass; sizes that the data decide have none.

    The shape of images has one, for data that do not tell it.

    Args:
        parser: Gets the flags.
        config: The dataclass.
        title: Heading in the help.
        several: Accept several values, one per stage.

    Returns:
        Names of the fields with a flag; those not given on the command line stay out of the
        parsed arguments.
    """
    group = parser.add_argument_group(title)
    names = []
    for field in dataclasses.fields(config):
        if field.metadata.get("from_data"):
            continue
        default = field.default
        if isinstance(default, bool):
            group.add_argument(
                _flag(field.name),
                dest=field.name,
                action=argparse.BooleanOptionalAction,
                default=argparse.SUPPRESS,
                help=f"{field.metadata['doc']} (default {default})",
            )
            names.append(field.name)
            continue
        named = field.metadata.get("prior_of") is not None  # a name, or numbers
        many = several or named or isinstance(default, tuple)
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        if field.metadata.get("shape_from"):
            shown = "that of the data"
        one = default if not isinstance(default, tuple) else default[0] if default else 0.0
        group.add_argument(
            _flag(field.name),
            dest=field.name,
            type=_name_or_number if named else _typed(type(one)),
            action=_NameOrNumbers if named else "store",
            nargs="+" if many else None,
            metavar=METAVARS.get(type(one), "VALUE"),
            default=argparse.SUPPRESS,
            help=f"{field.metadata['doc']} (default {shown})".replace("%", "%%"),
        )
        names.append(field.name)
    return names


def add_loader(parser: Parser, loader: Callable[..., Any], title: str) -> dict[str, str]:
    """A flag per option of a data set's loader; ranges and lists take several values.

    A flag that is taken, such as ``--sun`` of a paper beside that of the data, and ``--seed``,
    has ``--data-`` before its name.

    Returns:
        Option of the loader by name of the parsed argument.
    """
    group = parser.add_argument_group(title)
    names, texts = {}, argument_texts(loader)
    for name, parameter in inspect.signature(loader).parameters.items():
        default = parameter.default
        taken = name == "seed" or _flag(name) in parser.flags()
        dest = f"data_{name}" if taken else name
        many = SEVERAL.fullmatch(str(parameter.annotation)) is not None
        shown = (" ".join(map(str, default)) or "none") if isinstance(default, tuple) else default
        group.add_argument(
            _flag(dest),
            dest=dest,
            type=_literal,
            nargs="+" if many else None,
            metavar="VALUE",
            default=argparse.SUPPRESS,
            help=f"{texts.get(name, '')} (default {shown})".replace("%", "%%").strip(),
        )
        names[dest] = name
    return names


@contextlib.contextmanager
def taking(name: str) -> Iterator[None]:
    """Options that a data set's loader stumbles over are the user's to mend."""
    try:
        yield
    except (TypeError, KeyError, AttributeError, IndexError, OverflowError) as error:
        raise UsageError(f"{name} does not take these options: {error}") from error


def chosen(arguments: argparse.Namespace, names: Sequence[str]) -> dict[str, Any]:
    """Those of the named arguments that were given; lists come as tuples."""
    given = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    return {n: tuple(v) if isinstance(v, list) else v for n, v in given.items()}


def argument_texts(function: Callable[..., Any]) -> dict[str, str]:
    """What the ``Args`` of a docstring say of each argument, in one line."""
    _, _, rest = (inspect.getdoc(function) or "").partition("\nArgs:\n")
    entries = re.split(r"^    (?=\w+: )", rest.partition("\n\n")[0], flags=re.MULTILINE)
    pairs = (" ".join(entry.split()).partition(": ") for entry in entries if entry.strip())
    return {name: text.replace("``", "") for name, _, text in pairs}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def positive(text: str) -> int:
    """A whole number above 0, as the type of an argument."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def _typed(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        return kind(text)

    read.__name__ = {"int": "whole number", "float": "number"}.get(kind.__name__, kind.__name__)
    return read


def _name_or_number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


class _NameOrNumbers(argparse.Action):
    """One name stands for itself, all else is a list."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        single = len(values) == 1 and isinstance(values[0], str)
        setattr(namespace, self.dest, values[0] if single else values)


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text
