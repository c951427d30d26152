"""Config fields that explain themselves to the command line, the docs and sweeps."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import os
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

MOST_SHOWN = 40  # names in a message
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
    shape_from: str | None = None,
    choices: Iterable[str] | None = None,
    minimum: float | None = None,
    prior_of: str | None = None,
    added: bool = False,
) -> Any:
    """A field of a config dataclass.

    Args:
        default: The paper's value.
        doc: One line with the paper's symbol.
        from_data: Name of a site whose size in the data set this field takes; or of another
            field, which lists sites, and then this one takes a tuple of their sizes.
        shape_from: Name of a site of images whose shape in the data set this field takes, as
            ``(H, W, C)``; ``(H, W)`` stands for one channel.
        choices: Allowed values.
        minimum: Least allowed value, for each entry of a tuple.
        prior_of: Name of the label site whose prior this is, or of another field, which lists
            such sites: a name of ``choices``, or probabilities as a tuple. See
            :func:`ppl_models.parts.label_prior.label_prior`.
        added: Runs of older versions have no such field; see
            :func:`ppl_models.inference.objectives.options.identity`.
    """
    metadata = {
        "doc": doc,
        "from_data": from_data,
        "shape_from": shape_from,
        "choices": tuple(choices) if choices is not None else None,
        "minimum": minimum,
        "prior_of": prior_of,
    }
    if added:
        metadata["added"] = True
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
            if rules.get("shape_from"):
                value = image_shape(field.name, value)
            object.__setattr__(self, field.name, value)
            named = isinstance(value, str) or not rules.get("prior_of")
            if rules.get("choices") and named and value not in rules["choices"]:
                raise ValueError(unknown(field.name.replace("_", " "), value, rules["choices"]))
            least = rules.get("minimum")
            for entry in value if isinstance(value, tuple) else (value,):
                if least is not None and not entry >= least:
                    raise ValueError(f"{field.name} is {entry}, expected at least {least}")


def _typed(field: dataclasses.Field[Any], value: Any) -> Any:
    """The value, if it is of the kind of the field's default."""
    value = native(value)
    if field.metadata.get("prior_of"):
        return _name_or_numbers(field, value)
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


def image_shape(what: str, shape: Sequence[int]) -> tuple[int, int, int]:
    """``(H, W, C)`` as somebody says it of single images; ``(H, W)`` stands for one channel.

    Raises:
        ValueError: In one line, if it is neither.
    """
    sides = tuple(shape)
    if len(sides) not in (2, 3) or min(sides) < 1:
        raise ValueError(f"{what} is {sides}, expected (H, W, C), each at least 1")
    height, width, *channels = sides
    return height, width, channels[0] if channels else 1


def _name_or_numbers(field: dataclasses.Field[Any], value: Any) -> Any:
    """A name, or numbers as a tuple."""
    numbers = tuple(value) if isinstance(value, tuple | list) else ()
    kind = KINDS[float][0]
    if isinstance(value, str):
        return value
    if not numbers or not all(isinstance(n, kind) and not isinstance(n, bool) for n in numbers):
        names = ", ".join(map(repr, field.metadata["choices"]))
        raise ValueError(f"{field.name} is {value!r}, expected {names} or a number per class")
    return tuple(map(float, numbers))


def native(value: Any) -> Any:
    """A setting as the plain Python value that it equals; what equals none stays as it is.

    Single numbers of numpy and torch become Python's, arrays tuples, enumerations their values,
    paths text; what is in lists, tuples and dictionaries, too.
    """
    value = native_entry(value)
    if isinstance(value, Mapping):
        return {native(key): native(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        entries = map(native, value)
        return list(entries) if isinstance(value, list) else tuple(entries)
    if isinstance(value, range) or (_is_array(value) and value.ndim):
        return native(tuple(value if isinstance(value, range) else value.tolist()))
    return value


def native_entry(value: Any) -> Any:
    """As :func:`native`, but arrays and collections stay as they are."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, enum.Enum):
        return native_entry(value.value)
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if _is_array(value):
        # A single number that trains is no setting.
        whole = value.ndim == 0 and not getattr(value, "requires_grad", False)
        entry = value.item() if whole else value
        return entry if isinstance(entry, bool | int | float | str) else value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real) and float(value) == value:
        return float(value)
    return value


def _is_array(value: Any) -> bool:
    """Whether it is an array, a tensor or one of their single numbers."""
    return hasattr(type(value), "__array__") and hasattr(value, "ndim") and hasattr(value, "item")


def whole(name: str, value: Any, least: int | None = None) -> int:
    """An option that is a whole number, as Python's own.

    Raises:
        ValueError: Naming the option, its value and what was expected.
    """
    number = native_entry(value)
    if not isinstance(number, int) or isinstance(number, bool):
        raise ValueError(f"{name} is {value!r}, expected a whole number")
    if least is not None and number < least:
        raise ValueError(f"{name} is {number}, expected at least {least}")
    return number


def names(option: str, value: Any) -> tuple[str, ...]:
    """An option that lists names, as Python's own.

    Raises:
        ValueError: Naming the option, if it is a single text, or holds what is none.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ValueError(f"{option} is {value!r}, expected a tuple such as ({str(value)!r},)")
    found = tuple(map(native, value))
    for entry in found:
        if not isinstance(entry, str):
            raise ValueError(f"{option} has {entry!r}, expected names")
    return found


def plain(value: Any) -> Any:
    """Settings as they come back from JSON: keys as text, tuples as lists."""
    value = native(value)
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    return value


def unknown(what: str, name: object, known: Iterable[str]) -> str:
    """The sentence for a name that does not exist, with the nearest one that does."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    shown = known if len(known) <= MOST_SHOWN else [*known[:MOST_SHOWN], f"... ({len(known)})"]
    expected = f"expected one of {', '.join(shown)}" if shown else "there is none"
    return f"unknown {what} {str(name)!r}: {hint}{expected}"


def check_seed(seed: Any, name: str = "seed", derived: bool = False) -> int:
    """A seed that torch and numpy take, and so that of each stage and chain.

    Args:
        seed: What was given.
        name: What to call it.
        derived: Whether the number of a stage or chain may have been added to it.

    Raises:
        ValueError: If it is no whole number in 0..2^63 - 1.
    """
    number = native_entry(seed)
    fits = isinstance(number, int) and not isinstance(number, bool)
    if not fits or not 0 <= number < 1 << (64 if derived else 63):
        raise ValueError(f"{name} is {seed!r}, expected a whole number from 0 to 2^63 - 1")
    return int(number)


def at_least(**counts: tuple[Any, int]) -> tuple[int, ...]:
    """Options that are whole numbers, as Python's own.

    Args:
        counts: By name of the option, its value and the least that is allowed.

    Returns:
        The values, in their order.

    Raises:
        ValueError: Naming the option, its value and what was expected.
    """
    return tuple(whole(name, value, least) for name, (value, least) in counts.items())
