"""How far counterfactuals of rows obey the axioms that they should, and what an oracle sees.

Each function sets the causes of a pair's card in turn, to the values that other rows have, and
measures how far each site then stands from where it should (Pearl, Causality, 2009, section 7.3;
Monteiro et al. 2023, arXiv 2303.01274). Distances are means over rows and entries in units of the
range that the site has over the rows; of a class, they are the share of rows that differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, distributions as of_torch

from ppl_models.batch import Batch
from ppl_models.config import unknown
from ppl_models.counterfactuals import Graph, counterfactual
from ppl_models.exogenous import noise_family
from ppl_models.inference.posterior.groups import Array, Groups
from ppl_models.pair import Pair
from ppl_models.quiet import quiet
from ppl_models.sample_sites import is_delta
from ppl_models.set_sites import by_row, descendants
from ppl_models.site_values import site_value

Oracle = Callable[[Tensor], Any]  # of the data, the value of a cause, or a class
DRAWN = (of_torch.Categorical, of_torch.Bernoulli)  # families whose values leave their noise open
SET, SITE = "set_site", "site"  # dimensions: the cause that is set, and what is looked at


def null_intervention(pair: Pair, batch: Batch, seed: int = 0) -> xr.Dataset:
    """What happens when a cause is set to what it is: nothing should.

    Args:
        pair: A pair whose card has ``causes``.
        batch: At least two rows.
        seed: Of the guide's draws.

    Returns:
        Over causes and sites, ``error``; ``largest``, that of the worst entry; ``change``, how far
        rows stand from other rows; and over sites ``made``, whether it is made anew and not
        scored, so that what comes back is its reconstruction, and ``drawn``, whether a draw tells
        it: the guide's where it is not observed, or that of the noise behind a class.

    Raises:
        ValueError: If the pair's card has no causes, there are fewer than two rows, or the pair
            cannot tell their counterfactuals.
    """
    return _null(_Worlds.of(pair, batch, seed))


def _null(worlds: _Worlds) -> xr.Dataset:
    own, like = worlds.own, worlds.graph.sites
    found = {cause: worlds.at(worlds.batch, {cause: own[cause]}) for cause in worlds.causes}
    far = {name: worlds.apart(name, value, _others(value)) for name, value in own.items()}
    measured = worlds.table(
        error={c: {n: worlds.apart(n, made[n], own[n]) for n in own} for c, made in found.items()},
        largest={
            c: {n: worlds.worst(n, made[n], own[n]) for n in own} for c, made in found.items()
        },
        change=dict.fromkeys(found, far),
    )
    points = [int(n in like and is_delta(like[n]["fn"])) for n in own]
    classes = [n in like and noise_family(like[n]["fn"]) in DRAWN for n in own]
    drawn = [int(n not in worlds.batch or of) for n, of in zip(own, classes, strict=True)]
    return measured.assign(made=((SITE,), points), drawn=((SITE,), drawn))


def non_descendants(pair: Pair, batch: Batch, seed: int = 0) -> xr.Dataset:
    """Whether what does not depend on a cause stays where the cause is set: to the bit.

    Args:
        pair: As of :func:`null_intervention`.
        batch: As of :func:`null_intervention`.
        seed: As of :func:`null_intervention`.

    Returns:
        Over causes and sites, ``largest``, how far the worst entry moves; NaN of the cause itself
        and of what depends on it.

    Raises:
        ValueError: As :func:`null_intervention`.
    """
    return _non_descendants(_Worlds.of(pair, batch, seed))


def _non_descendants(worlds: _Worlds) -> xr.Dataset:
    own, largest = worlds.own, {}
    for cause in worlds.causes:
        below = {cause} | descendants(worlds.graph.parents, {cause})
        made = worlds.at(worlds.batch, {cause: _others(own[cause])})
        largest[cause] = {
            n: math.nan if n in below else worlds.worst(n, made[n], own[n]) for n in own
        }
    return worlds.table(largest=largest)


def composition(pair: Pair, batch: Batch, seed: int = 0) -> xr.Dataset:
    """Whether one intervention after the other is both at once, and what has come about anyway.

    After a cause is set, the next one below it is set in the rows as they have become, from which
    the guide tells all else anew; and each other cause is set together with it, to what it has
    become. Of causes one above the other it is the lower that is set last: rows as they have
    become do not know that it was set.

    Args:
        pair: As of :func:`null_intervention`.
        batch: As of :func:`null_intervention`.
        seed: As of :func:`null_intervention`.

    Returns:
        Over causes and sites, ``error``, that of the worse of the two, and ``change``, how far
        both at once move it.

    Raises:
        ValueError: As :func:`null_intervention`.
    """
    return _composition(_Worlds.of(pair, batch, seed))


def _composition(worlds: _Worlds) -> xr.Dataset:
    own, causes, batch = worlds.own, worlds.causes, worlds.batch
    order = [name for name in worlds.graph.sites if name in causes]
    error, change = {}, {}
    for cause in causes:
        following = order[min(order.index(cause) + 1, len(order) - 1)]
        first = {cause: _others(own[cause])}
        second = {following: _others(own[following], 2)}
        after, both = worlds.at(batch, first), worlds.at(batch, {**first, **second})
        twice = worlds.at(worlds.rows(after), second)
        anyway = [
            worlds.at(batch, {**first, other: after[other]}) for other in causes if other != cause
        ]
        error[cause] = {
            name: max(
                worlds.apart(name, twice[name], both[name]),
                *(worlds.apart(name, same[name], after[name]) for same in anyway),
                0.0,
            )
            for name in own
        }
        change[cause] = {name: worlds.apart(name, both[name], own[name]) for name in own}
    return worlds.table(error=error, change=change)


def reversibility(pair: Pair, batch: Batch, seed: int = 0) -> xr.Dataset:
    """Whether a cause that is set, and then set back, gives the rows back.

    Args:
        pair: As of :func:`null_intervention`.
        batch: As of :func:`null_intervention`.
        seed: As of :func:`null_intervention`.

    Returns:
        Over causes and sites, ``error`` of what comes back, and ``change``, how far the way out
        led.

    Raises:
        ValueError: As :func:`null_intervention`.
    """
    return _reversibility(_Worlds.of(pair, batch, seed))


def _reversibility(worlds: _Worlds) -> xr.Dataset:
    own, error, change = worlds.own, {}, {}
    for cause in worlds.causes:
        there = worlds.at(worlds.batch, {cause: _others(own[cause])})
        back = worlds.at(worlds.rows(there), {cause: own[cause]})
        error[cause] = {name: worlds.apart(name, back[name], own[name]) for name in own}
        change[cause] = {name: worlds.apart(name, there[name], own[name]) for name in own}
    return worlds.table(error=error, change=change)


def effectiveness(
    pair: Pair,
    batch: Batch,
    do: Mapping[str, Any] | None,
    oracle: Mapping[str, Oracle],
    data: str | None = None,
    seed: int = 0,
) -> xr.Dataset:
    """Whether the data show what a cause was set to, as an oracle of the user's reads it.

    Args:
        pair: As of :func:`null_intervention`.
        batch: As of :func:`null_intervention`.
        do: Values by cause, ``(B, ...)`` or what broadcasts to it; by default, and of causes
            that are not named, those of other rows.
        oracle: By cause, a function of the data ``(B, ...)`` that tells the cause ``(B, ...)``.
        data: The site that it is given; by default the one data site that is no cause.
        seed: As of :func:`null_intervention`.

    Returns:
        Over the oracle's causes, ``error``: how far what it reads in the counterfactual data
        stands from what was set; ``change``: how far what it reads in the rows does; and ``own``:
        how far it is wrong about these.

    Raises:
        ValueError: As :func:`null_intervention`; if an oracle is of no cause, tells another number
            of values, or it is not clear which data it is given.
    """
    return _effectiveness(_Worlds.of(pair, batch, seed), do or {}, oracle, data)


def _effectiveness(
    worlds: _Worlds, do: Mapping[str, Any], oracle: Mapping[str, Oracle], data: str | None
) -> xr.Dataset:
    pair, batch = worlds.pair, worlds.batch
    check_oracle(pair, oracle)
    shown = [name for name in pair.card.data if name not in pair.card.causes]
    if data is None and len(shown) != 1:
        raise ValueError(f"card {pair.card.name!r} has data {shown}, say which an oracle is given")
    site = shown[0] if data is None else data
    if site not in worlds.own:
        raise ValueError(unknown("data site", site, worlds.own))
    found: dict[str, list[float]] = {"error": [], "change": [], "own": []}
    for cause, read in oracle.items():
        own = worlds.own[cause]
        given = do.get(cause)
        rows = Batch({cause: own})
        to = _others(own) if given is None else site_value(cause, given, None, rows, check=False)
        made = worlds.at(batch, {cause: to})[site]
        before = _read(cause, read, worlds.own[site], own)
        found["error"].append(worlds.apart(cause, _read(cause, read, made, own), to))
        found["change"].append(worlds.apart(cause, before, to))
        found["own"].append(worlds.apart(cause, before, own))
    return xr.Dataset({n: ((SET,), v) for n, v in found.items()}, {SET: list(oracle)})


def check_oracle(pair: Pair, oracle: Collection[str]) -> None:
    """Refuse an oracle of what is neither a cause nor a modality that rows may lack.

    Raises:
        ValueError: Naming it.
    """
    known = (*pair.card.causes, *pair.may_lack)
    if oracle and not known:
        raise ValueError(
            f"an oracle reads causes or modalities, and card {pair.card.name!r} has none"
        )
    for name in oracle:
        if name not in known:
            kind = "cause" if pair.card.causes else "modality"
            raise ValueError(f"oracle: {unknown(kind, name, known)}")


def _read(cause: str, oracle: Oracle, data: Tensor, like: Tensor) -> Tensor:
    told = torch.as_tensor(oracle(data)).to(like.device)
    if told.numel() != like.numel():
        raise ValueError(
            f"the oracle of {cause!r} tells values of shape {tuple(told.shape)}, expected "
            f"{tuple(like.shape)}"
        )
    return told.reshape(like.shape).to(like.dtype)


def _others(value: Tensor, by: int = 1) -> Tensor:
    """The values of other rows."""
    return value.roll(by, 0)


@dataclass(frozen=True)
class _Worlds:
    """Counterfactuals of rows by the same draws, and how far they are apart.

    Attributes:
        pair: The pair.
        batch: The rows.
        seed: Of the draws.
        graph: What hangs on what.
        own: Values of the rows ``(B, ...)``: of what they observe, and of the causes.
        ranges: Of these, their largest less their smallest; 0 of classes.
    """

    pair: Pair
    batch: Batch
    seed: int
    graph: Graph
    own: dict[str, Tensor] = field(default_factory=dict)
    ranges: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, pair: Pair, batch: Batch, seed: int) -> _Worlds:
        causes = pair.card.causes
        if not causes:
            raise ValueError(f"card {pair.card.name!r} has no causes, expected some to set")
        if batch.count < 2:
            raise ValueError(f"the batch has {batch.count} rows, expected at least 2")
        with quiet(batch.rows.device, seed):
            worlds = cls(pair, batch, seed, Graph.of(pair, batch))
        seen = [name for name in worlds.graph.sites if name in batch]
        found = worlds.at(batch, {})
        for name in dict.fromkeys([*causes, *seen]):
            value = batch[name] if name in batch else found[name]
            worlds.own[name] = value
            wide = value.is_floating_point()
            worlds.ranges[name] = float(value.max() - value.min()) if wide else 0.0
        return worlds

    @property
    def causes(self) -> tuple[str, ...]:
        """The causes of the pair's card."""
        return self.pair.card.causes

    def at(self, batch: Batch, do: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Rows as some sites are set, in the shape of a batch."""
        with quiet(batch.rows.device, self.seed):
            found = counterfactual(self.pair, batch, do, graph=self.graph)
        like = self.graph.sites
        return {n: by_row(like[n], v) if n in like else v for n, v in found.items()}

    def rows(self, found: Mapping[str, Tensor]) -> Batch:
        """Rows as they have become; what was not observed is not."""
        return self.batch.replace(
            {name: found.get(name, value) for name, value in self.batch.items()}
        )

    def distances(self, name: str, one: Tensor, other: Tensor) -> Tensor:
        """Of each entry, in units of the site's range."""
        if not self.ranges[name]:
            return (one != other).double()
        return (one - other).abs().double() / self.ranges[name]

    def apart(self, name: str, one: Tensor, other: Tensor) -> float:
        """Their mean."""
        return float(self.distances(name, one, other).mean())

    def worst(self, name: str, one: Tensor, other: Tensor) -> float:
        """The largest of them."""
        return float(self.distances(name, one, other).max())

    def table(self, **figures: Mapping[str, Mapping[str, float]]) -> xr.Dataset:
        """Figures by name, cause and site."""
        names: Sequence[str] = list(self.own)
        arrays: dict[str, Array] = {
            figure: np.array([[by_site[name] for name in names] for by_site in rows.values()])
            for figure, rows in figures.items()
        }
        at = {SET: list(self.causes), SITE: names}
        return xr.Dataset({n: ((SET, SITE), array) for n, array in arrays.items()}, at)


def add_axioms(
    groups: Groups,
    pair: Pair,
    batch: Batch,
    seed: int,
    oracle: Mapping[str, Oracle] | None = None,
) -> dict[str, str]:
    """Add a group ``axioms`` of all of these, such as ``null_error``.

    Args:
        groups: Where to add it.
        pair: A pair whose card has causes.
        batch: The rows.
        seed: Of the guide's draws.
        oracle: As of :func:`effectiveness`; none by default.

    Returns:
        Attributes: ``no_counterfactuals``, why there is no such group, where there is none.

    Raises:
        ValueError: If an oracle does not fit.
    """
    try:
        worlds = _Worlds.of(pair, batch, seed)
        found = {
            "null": _null(worlds),
            "non_descendants": _non_descendants(worlds),
            "composition": _composition(worlds),
            "reversibility": _reversibility(worlds),
        }
    except ValueError as error:
        if oracle:
            raise
        return {"no_counterfactuals": str(error)}
    if oracle:
        read = _effectiveness(worlds, {}, oracle, None)
        found["effectiveness"] = read.reindex({SET: list(worlds.causes)})
    groups.coordinates |= {SET: np.array(worlds.causes), SITE: np.array(list(worlds.own))}
    variables = {
        f"{check}_{name}": (tuple(map(str, values.dims)), values.values)
        for check, figures in found.items()
        for name, values in figures.data_vars.items()
    }
    groups.add("axioms", variables)
    return {}
