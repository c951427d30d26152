"""Config fields that explain themselves to the command line, the docs and sweeps."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any

# By the type of a setting's default: what its values may be, and how that is called.
KINDS: dict[type, tuple[type, str]] = {
    bool: (bool, "True or False"),
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a name"),
}


def setting(
    default: Any,
    doc: str,
    *,
    from_data: str | None = None,
    choices: Iterable[str] | None = None,
    minimum: float | None = None,
) -> Any:
    """A field of a config dataclass.

    Args:
        default: The paper's value.
        doc: One line with the paper's symbol.
        from_data: Name of a site whose size in the data set this field takes; or of another
            field, which lists sites, and then this one takes a tuple of their sizes.
        choices: Allowed values.
        minimum: Least allowed value, for each entry of a tuple.
    """
    metadata = {
        "doc": doc,
        "from_data": from_data,
        "choices": tuple(choices) if choices is not None else None,
        "minimum": minimum,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Config:
    """Base of a paper's frozen dataclass of settings; checks them when made."""

    def __post_init__(self) -> None:
        """Check types, choices and ranges; lists become tuples.

        Raises:
            ValueError: Naming the field, its value and what was expected.
        """
        for field in dataclasses.fields(self):
            value, rules = _typed(field, getattr(self, field.name)), field.metadata
            object.__setattr__(self, field.name, value)
            if rules.get("choices") and value not in rules["choices"]:
                raise ValueError(unknown(field.name.replace("_", " "), value, rules["choices"]))
            least = rules.get("minimum")
            for entry in value if isinstance(value, tuple) else (value,):
                if least is not None and not entry >= least:
                    raise ValueError(f"{field.name} is {entry}, expected at least {least}")


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value, if it is of the kind of the field's default."""
    if isinstance(field.default, tuple):
        if not isinstance(value, tuple | list):
            raise ValueError(
                f"{field.name} is {value!r}, expected a tuple such as {field.default}"
            )
        entries, like = tuple(value), field.default[0] if field.default else None
    else:
        entries, like = (value,), field.default
    kind, name = KINDS.get(type(like), (object, ""))
    for entry in entries:
        if not isinstance(entry, kind) or (isinstance(entry, bool) and kind in (Integral, Real)):
            raise ValueError(f"{field.name} is {entry!r}, expected {name}")
    return entries if isinstance(field.default, tuple) else value


def plain(value: Any) -> Any:
    """Settings as they come back from JSON: keys as text, tuples as lists."""
    if isinstance(value, dict):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"unknown {what} {str(name)!r}: {hint}expected one of {', '.join(known)}"


def check_seed(seed: Any, name: str = "seed", derived: bool = False) -> int:
    """A seed that torch and numpy take, and so that of each stage and chain.

    Args:
        seed: What was given.
        name: What to call it.
        derived: Whether the number of a stage or chain may have been added to it.

    Raises:
        ValueError: If it is no whole number in 0..2^63 - 1.
    """
    whole = isinstance(seed, Integral) and not isinstance(seed, bool)
    if not whole or not 0 <= seed < 1 << (64 if derived else 63):
        raise ValueError(f"{name} is {seed!r}, expected a whole number from 0 to 2^63 - 1")
    return int(seed)


def at_least(**counts: tuple[int, int]) -> None:
    """Refuse options below their minimum.

    Args:
        counts: By name of the option, its value and the least that is allowed.

    Raises:
        ValueError: Naming the option, its value and the minimum.
    """
    for name, (value, least) in counts.items():
        if value < least:
            raise ValueError(f"{name} is {value}, expected at least {least}")
