"""A value that a site is set to: brought to the site's type and shape, or refused."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.sample_sites import base_of, support_words


def site_value(
    name: str, value: Any, site: Any, batch: Batch, check: bool, draws: int | None = None
) -> Tensor:
    """A value in a site's type and shape.

    Args:
        name: The site.
        value: A number, or what becomes a tensor.
        site: The site in a trace of the model; None for what the story only reads.
        batch: The rows, which say the type and shape of what is only read.
        check: Whether to compare it with the site's support.
        draws: S, where it is to have a first dimension for draws.

    Returns:
        ``(B, ...)`` or ``(S, B, ...)``.

    Raises:
        ValueError: In one line, if it is no number, has another shape, or can never be.
    """
    like: Tensor = batch[name] if site is None else site["value"]
    shape = like.shape if draws is None else torch.Size((draws, *like.shape))
    try:
        given = torch.as_tensor(value)
        if given.is_floating_point() and like.is_floating_point() and not hasattr(value, "dtype"):
            given = torch.as_tensor(value, dtype=like.dtype)  # of Python's numbers, all digits
    except (TypeError, ValueError, RuntimeError):
        given = torch.tensor(1j)
    if given.is_complex():
        raise ValueError(f"site {name!r} is set to {value!r}, expected numbers")
    given = given.to(like.device)
    shaped = given.to(like.dtype)
    try:
        shaped = shaped.expand(shape)
    except RuntimeError:
        raise ValueError(
            f"the value for site {name!r} has shape {tuple(given.shape)}, expected one that "
            f"broadcasts to {tuple(shape)}"
        ) from None
    if check:
        _check_value(name, given.expand(shape), shaped, None if site is None else site["fn"])
    return shaped


def _check_value(name: str, given: Tensor, shaped: Tensor, fn: Any) -> None:
    """Refuse what the site can never be.

    Args:
        name: The site.
        given: Values as they were given ``(B, ...)``.
        shaped: The same in the type of the site, in which 1.5 is 1.
        fn: Its distribution; None for what the story only reads.
    """
    whole = shaped.is_floating_point() or given.to(torch.float64) == shaped.to(torch.float64)
    good, expected = given.isfinite() & whole, "finite numbers"
    with contextlib.suppress(AttributeError, NotImplementedError):  # a site of no known support
        support = base_of(fn).support
        expected = _classes(fn) or support_words(support)
        if bool(good.all()):
            good = support.check(shaped)  # entry by entry, or event by event
    if not bool(good.all()):
        value = given[tuple((~good).nonzero()[0])].tolist()
        shown = f"{value:g}" if isinstance(value, int | float) else value
        raise ValueError(f"site {name!r} is set to {shown}, expected {expected}")


def _classes(fn: Any) -> str:
    if not fn.has_enumerate_support or fn.event_shape:
        return ""
    classes = [f"{value:g}" for value in fn.enumerate_support(expand=False).flatten().tolist()]
    few = classes if len(classes) <= 12 else [*classes[:2], "...", classes[-1]]
    return f"one of its {len(classes)} classes {', '.join(few)}"
