"""A guide that is a product of conditional factors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
from pyro import poutine
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.centres import mean_of
from ppl_models.guides.factors import Categorical, Conditional


class Factored(nn.Module):
    """q(a | x) q(b | x, a) ...: row-wise factors sampled in the order they are given.

    Sites that the batch observes are left out, so one guide serves labelled and unlabelled
    rows. Discrete factors are marked for parallel enumeration, which Pyro's
    ``TraceEnum_ELBO`` and the objectives of this package sum out.

    Args:
        shared: Networks that several factors have in common, by the name that these are given
            them under; each is run once per batch. A network lists its own inputs as ``given``,
            as :class:`ppl_models.networks.Net` does: sites, or networks before it, so that a
            trunk has heads at several depths.
        factors: A factor by site name, each given only values from the data or from sites
            before it, or what a shared network makes of them.

    Raises:
        ValueError: If a factor is given a site that is sampled later, or a network is called
            as a site is.
    """

    def __init__(
        self, shared: Mapping[str, nn.Module] | None = None, /, **factors: Conditional
    ) -> None:
        super().__init__()
        self.shared = nn.ModuleDict(shared)
        self.factors = nn.ModuleDict(factors)
        for place, (name, net) in enumerate((shared or {}).items()):
            later = set(list(shared or {})[place:]) & set(_given(net))
            if later:
                raise ValueError(
                    f"shared network {name!r} is given {sorted(later)}, expected sites or "
                    "networks before it"
                )
        self.given = {name: self._sites(factor.given) for name, factor in factors.items()}
        taken = sorted(set(self.shared) & ({*factors}.union(*self.given.values())))
        if taken:
            raise ValueError(f"shared networks {taken} are called as sites are; rename them")
        for place, name in enumerate(factors):
            later = set(list(factors)[place:]) & set(self.given[name])
            if later:
                raise ValueError(
                    f"factor {name!r} is given {sorted(later)}, which the guide samples later; "
                    "expected sites from the data or from factors before it"
                )

    def forward(
        self, batch: Batch, outside: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Sample every site that the batch does not observe; returns all values by name.

        Args:
            batch: The batch.
            outside: Values of sites outside the data plate, without a dimension for rows,
                that factors may be given.
        """
        values = {**(outside or {}), **batch}
        made: dict[str, Tensor] = {}
        factor: Any
        with batch.plate():
            for name, factor in self.factors.items():
                if name in values:
                    continue
                q = factor(**self._inputs(name, values, made), **self._rows(name, batch))
                infer = {"enumerate": "parallel"} if q.has_enumerate_support else {}
                mask = factor.mask(values)
                with nullcontext() if mask is None else poutine.mask(mask=mask):
                    values[name] = pyro.sample(name, q, infer=infer)
        return values

    def factor(self, name: str, values: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """One factor as a distribution, outside any trace.

        Args:
            name: Site of the factor.
            values: A batch, or any mapping that holds the values the factor is given.

        Raises:
            ValueError: If the guide has no such factor, or a value it needs is missing.
        """
        if name not in self.factors:
            raise ValueError(f"the guide has no factor {name!r}; it has {list(self.factors)}")
        inputs = self._inputs(name, values, {})
        q: dist.TorchDistribution = self.factors[name](**inputs, **self._rows(name, values))
        return q

    def scores(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """Scores of a label's classes ``(..., C)``: its network's output before the softmax.

        Args:
            name: Site of the label.
            values: As of :meth:`factor`.

        Raises:
            ValueError: If the site's factor is no :class:`Categorical`, or a value is missing.
        """
        factor: Any = dict(self.factors.items()).get(name)
        if not isinstance(factor, Categorical):
            raise ValueError(
                f"no scores of the label {name!r}: expected a factor "
                f"{name}=guides.Categorical(...), got {type(factor).__name__}"
            )
        scores: Tensor = factor.scores(**self._inputs(name, values, {}))
        return scores

    def upstream(
        self, name: str, values: Mapping[str, Tensor], draw: bool = False
    ) -> dict[str, Tensor]:
        """Values for all that a factor is given, filled in from the factors before it.

        Args:
            name: Site of the factor.
            values: Observed values; they are kept.
            draw: Draw the missing ones; by default they take their factor's mean, as the
                papers do at test time.

        Raises:
            ValueError: If a missing value has no mean to stand for it: it is discrete, or its
                factor (a flow) has none in closed form.
        """
        known: dict[str, Tensor] = dict(values)

        def fill(site: str) -> None:
            for parent in self.given.get(site, ()):  # a site without factor needs nothing
                if parent in known or parent not in self.factors:
                    continue
                fill(parent)
                by_row = getattr(self.factors[parent], "by_row", False)
                q = self.factor(parent, values if by_row else known)
                if draw:
                    known[parent] = q.rsample() if q.has_rsample else q.sample()
                else:
                    known[parent] = _mean(name, parent, q)

        fill(name)
        return known

    def _sites(self, given: Iterable[str]) -> tuple[str, ...]:
        """Sites that values come from, through shared networks."""
        found: list[str] = []
        nets: Any = self.shared
        for name in given:
            found += self._sites(_given(nets[name])) if name in nets else [name]
        return tuple(dict.fromkeys(found))

    def _needed(self, owner: Any) -> set[str]:
        """The sites that a factor or shared network cannot do without."""
        found: set[str] = set()
        nets: Any = self.shared
        for name in set(_given(owner)) - getattr(owner, "optional", frozenset()):
            found |= self._needed(nets[name]) if name in nets else {name}
        return found

    def _rows(self, name: str, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a factor looks up by the row numbers, if it does."""
        factor: Any = self.factors[name]
        if not getattr(factor, "by_row", False):
            return {}
        found: dict[str, Tensor] = factor.looked_up(name, values)
        return found

    def _inputs(
        self, name: str, values: Mapping[str, Tensor], made: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        factor: Any = self.factors[name]
        given, needed = self.given[name], self._needed(factor)
        missing = [g for g in given if g in needed and g not in values]
        if missing:
            raise ValueError(
                f"factor {name!r} is given {list(given)}, but {missing} "
                "is neither in the batch nor sampled before it"
            )
        return self._read(factor, values, made)

    def _read(
        self, owner: Any, values: Mapping[str, Tensor], made: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """What a factor or shared network is given, of what is there; networks run once."""
        nets: Any = self.shared
        for g in _given(owner):
            if g in nets and g not in made and values.keys() >= self._needed(nets[g]):
                made[g] = nets[g](**self._read(nets[g], values, made))
        found = {g: (made if g in nets else values).get(g) for g in _given(owner)}
        return {g: value for g, value in found.items() if value is not None}


def _given(owner: Any) -> tuple[str, ...]:
    return tuple(owner.given)


def _mean(name: str, parent: str, q: dist.TorchDistribution) -> Tensor:
    mean = mean_of(q) if q.has_rsample else None
    if mean is not None:
        return mean
    kind = "site" if q.has_rsample else "discrete site"
    raise ValueError(
        f"factor {name!r} needs the {kind} {parent!r}, which has no mean; observe it or draw it "
        "(draw=True)"
    )
