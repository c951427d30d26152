"""How many plate dimensions a pair has: the data plate, and plates within its rows."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor

from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.sample_sites import DATA, is_local


def nesting_of(model: Callable[..., Any], given: int | None = None) -> int:
    """Number of plate dimensions of a model, the data plate (dimension -1) included.

    Args:
        model: A method of a pair, under Pyro's handlers or not; any other model has 1.
        given: What the user says in place of the pair; more than it has does no harm.

    Raises:
        ValueError: If fewer are given than the pair has.
    """
    owner = owner_of(model)
    own: int = getattr(owner, "plate_nesting", 1)
    if given is None:
        return own
    if given < own:
        raise ValueError(
            f"plate_nesting is {given}, expected at least the {own} plate dimensions of "
            f"{type(owner).__name__}; leave the option out"
        )
    return given


def widest(nestings: Iterable[int | None]) -> int | None:
    """The largest number of plate dimensions that was said; None if none was."""
    return max((nesting for nesting in nestings if nesting is not None), default=None)


def without_plates(value: Tensor, nesting: int, event: int = 0) -> Tensor:
    """A tensor ``(E..., K, 1..., B, *event)`` without the dimensions of plates within the rows.

    Args:
        value: The tensor, of size 1 in these dimensions; any of the first may be missing.
        nesting: Number of plate dimensions, the data plate included.
        event: Number of dimensions behind that of the rows.
    """
    rows = value.dim() - event - 1
    if nesting == 1 or rows < 1:
        return value
    return value.reshape(value.shape[: max(0, rows - nesting + 1)] + value.shape[rows:])


def check_nesting(site: Any, nesting: int) -> None:
    """Refuse a row's site in a plate left of all the plates that were said to be there.

    Raises:
        UnhandledSite: Naming the site and the plate.
    """
    if not is_local(site):
        return
    for frame in site["cond_indep_stack"]:
        if frame.name != DATA and frame.name != DRAWS and (frame.dim or 0) < -nesting:
            raise UnhandledSite(
                f"site {site['name']!r} stands in plate {frame.name!r} (dimension {frame.dim}), "
                f"but plate_nesting is {nesting}; set plate_nesting = {-frame.dim} in the "
                "pair's class, or as the objective's option"
            )


DRAWS = "particles"  # of an objective's own, left of all plates


def owner_of(model: Any) -> Any:
    """The pair whose method a model is, found inside the functions that handlers make, or None."""
    while isinstance(model, functools.partial):
        model = model.args[-1] if model.args else model.func
    return getattr(model, "__self__", None)
