"""What counts as a missing value, the same for all that comes in.

Missing are None, NaN, pandas' NA and NaT, masked entries, the code -1 of a category and the label
-1. So are the words that numpy, pandas and R write for them where a column was made text:
:data:`WORDS`, letter by letter. Whoever has a class of such a name lists it among the classes.
"""

from __future__ import annotations

import warnings
from collections.abc import Container, Sequence
from typing import Any

WORDS = ("", "nan", "NaN", "NA", "<NA>", "None", "NaT")


def is_missing(value: Any) -> bool:
    """Whether a value says that there is none; text never does."""
    if value is None or type(value).__name__ in ("NAType", "NaTType", "MaskedConstant"):
        return True
    try:
        return not isinstance(value, str | bytes) and bool(value != value)
    except (TypeError, ValueError):  # such as arrays, which have many answers
        return False


def missing_words(names: Sequence[str], classes: Container[str]) -> list[str]:
    """Those of some names that mean a missing value, since they are no class."""
    return [name for name in names if name in WORDS and name not in classes]


def tell_missing(site: str, rows: int, words: Sequence[str]) -> None:
    """Warn that text was read as missing."""
    warnings.warn(
        f"site {site!r}: {rows} {'row is' if rows == 1 else 'rows are'} "
        f"{' or '.join(map(repr, words))}, read as missing; list the name among "
        f"classes={{{site!r}: ...}} if it is a class",
        stacklevel=2,
    )
