"""Names of columns and classes, none of which may come twice."""

from __future__ import annotations

from collections.abc import Sequence


def check_columns(where: str, names: Sequence[str], shape: Sequence[int]) -> None:
    """Check names of a vector's numbers against its shape ``(N, D)``.

    Raises:
        ValueError: If there are too few or too many, or one comes twice; starting with ``where``.
    """
    if len(shape) != 2 or len(names) != shape[1]:
        raise ValueError(
            f"{where} has {len(names)} names of columns for rows of shape {tuple(shape[1:])}"
        )
    if (twice := twice_in(names)) is not None:
        raise ValueError(f"{where} has the column {twice!r} twice, expected different names")


def twice_in(names: Sequence[str]) -> str | None:
    """The first name that comes again, if one does."""
    if len(set(names)) == len(names):
        return None
    return next(name for place, name in enumerate(names) if name in names[:place])
