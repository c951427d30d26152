"""Covariates: sites that condition a story and are never scored, such as batch or library size.

They are there in every batch, also where nothing is observed. Both ways to an empty batch stand
here: :func:`emptied`, of rows that there are, and :func:`empty`, of new rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.elements import THERE


def covariates_of(pair: Any) -> tuple[str, ...]:
    """Names of a pair's covariates, in its card's order; none for a program without a card."""
    card = getattr(pair, "card", None)
    return () if card is None else tuple(card.covariates)


def emptied(pair: Any, batch: Batch) -> Batch:
    """The rows of a batch with nothing observed; their covariates stay.

    Raises:
        ValueError: If the batch lacks a covariate, naming it.
    """
    for name in covariates_of(pair):
        if name not in batch:
            raise ValueError(
                f"the batch lacks the covariate {name!r} of {pair.card.name} "
                f"({pair.card.covariates[name]}); it has {sorted(batch)}"
            )
    return batch.only(*covariates_of(pair))


def empty(pair: Any, rows: int, covariates: Mapping[str, Any] | None = None) -> Batch:
    """New rows of which nothing but the covariates is known.

    Args:
        pair: The pair.
        rows: Their number n.
        covariates: Values of every covariate: one for all rows (a number, or the name of a class
            of the data of the fit), or a tensor of some rows, such as the batch of a table's. Of
            another number of rows than n, rows are drawn at random, with replacement.

    Raises:
        ValueError: If a covariate has no value, or one that does not fit; naming it.
    """
    device = pair.like().device
    given = dict(covariates or {})
    wide: dict[str, Tensor] = {}
    single: dict[str, Tensor] = {}
    for name in covariates_of(pair):
        if name not in given:
            raise ValueError(
                f"{pair.card.name} has the covariate {name!r} ({pair.card.covariates[name]}) and "
                f"no value for it; give a table that has it, or covariates={{{name!r}: ...}}"
            )
        value, several = _by_row(pair, name, covariate_value(pair, name, given[name]))
        (wide if several else single)[name] = value
    counts = {name: len(value) for name, value in wide.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"covariates have the numbers of rows {counts}, expected one number")
    found = {name: value.expand(rows, *value.shape) for name, value in single.items()}
    of = next(iter(counts.values()), rows)
    chosen = torch.arange(rows) if of == rows else torch.randint(of, (rows,))
    found |= {name: value[chosen.to(value.device)] for name, value in wide.items()}
    return Batch(
        {name: found[name] for name in covariates_of(pair)}, torch.arange(rows, device=device)
    )


def covariate_value(pair: Any, name: str, value: Any) -> Tensor:
    """What a user gives for a covariate, in its type: codes of classes, or numbers.

    Args:
        pair: The pair, which knows the classes of the data that it was fitted on.
        name: The covariate.
        value: A number, a class name, several of them, or a tensor; a number may be text.

    Raises:
        ValueError: If there is no such covariate or class, or it is no finite number.
    """
    if name not in covariates_of(pair):
        raise ValueError(unknown(f"covariate of {pair.card.name}", name, covariates_of(pair)))
    site = None if pair.schema is None else pair.schema.sites.get(name)
    classes: Sequence[str] = () if site is None else site.classes
    listed = list(value) if isinstance(value, list | tuple) else [value]
    if classes and all(isinstance(entry, str) for entry in listed):
        for entry in listed:
            if entry not in classes:
                raise ValueError(f"covariate {name!r}: {unknown('class', entry, classes)}")
        codes = [classes.index(entry) for entry in listed]
        value = codes if isinstance(value, list | tuple) else codes[0]
    try:
        value = float(value) if isinstance(value, str) else value
        # Numbers of Python are of double precision, which torch alone would not keep.
        found = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(f"covariate {name!r} is {value!r}, expected numbers") from None
    like, row = pair.like(), _row(pair, name)
    is_code = not found.is_floating_point() if row is None else row[1]
    good, expected = found.isfinite(), "finite numbers"
    if is_code:
        most = len(classes) - 1 if classes else math.inf
        good = good & (found >= 0) & (found <= most) & (found == found.round())
        expected = f"a class in 0..{most}" if classes else "a class, a whole number from 0 on"
    if not bool(good.all()):
        bad = found[tuple((~good).nonzero()[0])].item()
        raise ValueError(f"covariate {name!r} is {bad:g}, expected {expected}")
    if found.dim() == 1 and len(found) > 1 and row is not None and row[0] == (1,):
        found = found.unsqueeze(1)  # a number for each of some rows
    return found.to(like.device, torch.long if is_code else like.dtype)


class NothingSaid(ValueError):
    """A pair that says no values of its covariates, where there are no data to take them from."""


def said_of(pair: Any) -> dict[str, Tensor]:
    """One row of what a pair says of its covariates where no data are at hand, or nothing."""
    try:
        found: dict[str, Tensor] = pair.some_covariates(1)
    except NothingSaid:
        return {}
    return found


def _row(pair: Any, name: str) -> tuple[tuple[int, ...], bool] | None:
    """Shape of a row of a covariate, and whether it is a class; None where nothing tells."""
    if pair.schema is not None and name in pair.schema.sites:
        site = pair.schema.sites[name]
        return tuple(site.shape), site.kind == "label"
    value = said_of(pair).get(name)
    return None if value is None else (tuple(value.shape[1:]), not value.is_floating_point())


def _by_row(pair: Any, name: str, value: Tensor) -> tuple[Tensor, bool]:
    """A value in the shape of a row, or rows of it; and whether it has rows."""
    row = _row(pair, name)
    if row is None:
        return value, value.dim() > 0
    event = row[0]
    if name.removesuffix(THERE) in pair.card.data:  # of a set, which may be of any size
        event = tuple(value.shape[-1:])
    if value.dim() == 0 and event == (1,):
        value = value.reshape(event)
    if tuple(value.shape) != event and tuple(value.shape[1:]) != event:
        raise ValueError(
            f"covariate {name!r} has shape {tuple(value.shape)}, expected {event} for all rows "
            "alike, or rows of that shape"
        )
    return value, value.dim() > len(event)
