"""What a sample site of Pyro is: a plate's own, a row's own, and its distribution."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.distributions import constraints

DATA = "data"  # name of the plate over rows
COMBINATIONS = 4096  # most values of several sites together that are formed unasked


def is_plate(site: Any) -> bool:
    """Whether a site is a plate's choice of rows."""
    return type(site["fn"]).__name__ == "_Subsample"


def is_of_story(site: Any) -> bool:
    """Whether a node of a trace is a site of the story: drawn, observed, or made (a Delta).

    What is only noted by ``pyro.deterministic`` is none, nor is a plate's own.
    """
    if site["type"] != "sample" or is_plate(site):
        return False
    return not site["infer"].get("_deterministic")


def is_local(site: Any) -> bool:
    """Whether a site stands inside the data plate."""
    return any(frame.name == DATA for frame in site["cond_indep_stack"])


def there(site: Any, nesting: int) -> Tensor | None:
    """Where a row's site has a value, of its batch and event shape; None where everywhere.

    Entries of a plate within the rows, or of an event, are padding where they are masked. A row
    that is masked as a whole keeps its values.

    Args:
        site: The site of a trace in which nothing is enumerated or drawn several times.
        nesting: Number of plate dimensions, the data plate included.
    """
    fn, mask = site["fn"], None
    batch, event = fn.batch_shape, fn.event_shape
    wide = (1,) * (nesting - len(batch)) + tuple(batch) + tuple(event)
    inner = any(f.name != DATA and (f.dim or 0) < -1 for f in site["cond_indep_stack"])
    if inner and isinstance(site["mask"], Tensor):
        mask = site["mask"].reshape(*site["mask"].shape, *[1] * len(event)).expand(wide)
    own = own_mask(fn, wide)
    if own is not None:
        mask = own if mask is None else mask & own
    return mask


def own_mask(fn: Any, wide: Sequence[int]) -> Tensor | None:
    """Where a distribution is not masked; None where all of it is there, or none.

    Args:
        fn: The distribution.
        wide: Its batch and event shape, to which the answer is expanded.
    """
    mask = None
    while isinstance(fn, WRAPPERS):
        if isinstance(fn, dist.MaskedDistribution) and isinstance(fn._mask, Tensor):
            own = fn._mask.expand(fn.batch_shape)
            # What is event to the whole is partly batch to what is masked.
            own = own.reshape(*own.shape, *[1] * len(fn.event_shape)).expand(*wide)
            mask = own if mask is None else mask & own
        fn = fn.base_dist
    return mask


def plates_within(site: Any) -> list[Any]:
    """The plates within the rows that a site stands in, from dimension -2 leftwards."""
    frames = [f for f in site["cond_indep_stack"] if f.name != DATA and (f.dim or 0) < -1]
    return sorted(frames, key=lambda frame: -frame.dim)


def rows_first(site: Any, value: Tensor, event: int) -> Tensor:
    """Values ``(P, B, *event)`` of a row's site as ``(B, plates, *event)``.

    Args:
        site: The site, in which nothing is enumerated or drawn several times.
        value: Its values, or what else has their batch dimensions.
        event: Number of dimensions right of these.
    """
    dims = [-1, *(frame.dim for frame in plates_within(site))]
    moved = value.movedim([dim - event for dim in dims], [*range(len(dims))])
    # What is left between plates and event has size one.
    return moved.reshape(*moved.shape[: len(dims)], *value.shape[value.dim() - event :])


def in_plates(site: Any, value: Tensor) -> Tensor:
    """Values ``(B, plates, *event)`` of a row's site as the site has them, ``(P, B, *event)``."""
    dims = [-1, *(frame.dim for frame in plates_within(site))]
    event = value.dim() - len(dims)
    depth = -min(dims)
    wide = value.reshape(*[1] * (depth - len(dims)), *value.shape)
    first = depth - len(dims)
    return wide.movedim([first + place for place in range(len(dims))], [d - event for d in dims])


WRAPPERS = (torch.distributions.Independent, dist.ExpandedDistribution, dist.MaskedDistribution)


def base_of(fn: Any, through_masks: bool = True) -> Any:
    """The distribution whose copies make up a vector of independent ones, or that is expanded.

    Args:
        fn: The distribution.
        through_masks: Whether one that is masked is looked into.
    """
    wrappers = WRAPPERS if through_masks else WRAPPERS[:2]
    while isinstance(fn, wrappers):
        fn = fn.base_dist
    return fn


def is_delta(fn: Any) -> bool:
    """Whether a distribution is a point: a value that is made, and not scored."""
    return isinstance(base_of(fn), dist.Delta)


def is_masked(fn: Any) -> bool:
    """Whether a distribution, or one that it wraps, is masked."""
    return base_of(fn) is not base_of(fn, through_masks=False)


class Refused(Exception):
    """A site is refused while a run of it is traced.

    No ``ValueError``, to which Pyro's traces add lines of their own.
    """


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Make a ``ValueError`` of :class:`Refused`, outside the traces that it arose in."""
    try:
        yield
    except Refused as error:
        raise ValueError(str(error)) from None


def support_words(support: Any) -> str:
    """What a support allows, in words and in one line."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = (_bound(getattr(support, f"{end}_bound", None)) for end in ("lower", "upper"))
    kind = "whole numbers" if support.is_discrete else "numbers"
    if low and high:
        if not bool(support.check(torch.as_tensor(support.lower_bound)).any()):
            return f"{kind} between {low} and {high}"
        return f"{kind} from {low} to {high}"
    if low or high:
        strict = isinstance(support, constraints.greater_than | constraints.less_than)
        if low:
            return f"{kind} {'above' if strict else 'of at least'} {low}"
        return f"{kind} {'below' if strict else 'of at most'} {high}"
    known = {
        "Boolean()": "0 or 1",
        "Real()": "finite numbers",
        "Simplex()": "shares that add up to 1",
        "OneHot()": "one 1 among zeros",
        "Sphere()": "vectors of length 1",
    }
    return known.get(str(support), " ".join(str(support).split()))


def _bound(bound: Any) -> str:
    """An end of an interval, which may differ from entry to entry; empty without one."""
    if bound is None:
        return ""
    ends = torch.as_tensor(bound, dtype=torch.float64).unique().tolist()
    return f"{ends[0]:g}" if len(ends) == 1 else f"[{ends[0]:g} ... {ends[-1]:g}]"
