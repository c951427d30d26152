"""Guides over global sites, and globals together with amortised rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from torch import Tensor, nn
from torch.distributions import Transform, biject_to

from ppl_models.batch import Batch
from ppl_models.centres import carried_moments
from ppl_models.guides.factored import Factored
from ppl_models.guides.supports import SUPPORTS, support_of
from ppl_models.quiet import quiet
from ppl_models.sample_sites import is_local, is_plate

AUTOGUIDES = (AutoNormal, AutoLowRankMultivariateNormal, AutoDelta)


class Globals(nn.Module):
    """q over all latent sites outside the data plate: a Normal on each support, or a point.

    Family, parameters and starting values are those of one of Pyro's autoguides. Each site is
    sampled as a distribution of its own, given the sites before it where the family
    correlates them, so that objectives can score it at any value and take a divergence in
    closed form where there is one (Pyro's autoguides sample hidden auxiliary sites and
    Deltas instead). All dimensions of a site, plates of its own included, are event
    dimensions here. The parameters exist from the start, and the random state is left as it
    was.

    Args:
        model: The model, called with the batch.
        batch: Any batch; the model is traced on it once.
        auto: Makes the autoguide from a model: ``AutoNormal``,
            ``AutoLowRankMultivariateNormal``, ``AutoDelta`` (a point, at its best the one of
            highest posterior density), or a ``functools.partial`` of one with its options.

    Raises:
        ValueError: If the model has no latent site outside the data plate, one is neither
            real nor of a support in ``guides.supports.SUPPORTS``, or the autoguide is
            another one.
    """

    def __init__(
        self,
        model: Callable[[Batch], Any],
        batch: Batch,
        auto: Callable[[Callable[[Batch], Any]], Any] = AutoNormal,
    ) -> None:
        super().__init__()
        with quiet(batch.rows.device, None, model), torch.no_grad():
            trace = poutine.trace(poutine.block(model, hide_fn=_not_global)).get_trace(batch)
            self.sites = {
                name: _Site(trace.nodes[name]["value"], support_of(name, trace.nodes[name]["fn"]))
                for name in trace.stochastic_nodes
            }
            if not self.sites:
                raise ValueError("the model has no latent site outside the data plate")
            self.auto = auto(poutine.block(model, hide_fn=_not_global))
            if not isinstance(self.auto, AUTOGUIDES):
                raise ValueError(
                    f"auto makes a {type(self.auto).__name__}, expected AutoNormal, "
                    "AutoLowRankMultivariateNormal or AutoDelta"
                )
            self.auto._setup_prototype(batch)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sample every global site; returns their values by name."""
        values: dict[str, Tensor] = {}
        for name, q in self.factors(values):
            values[name] = pyro.sample(name, q)
        return values

    def factors(
        self, values: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dist.TorchDistribution]]:
        """Each site's distribution, given the values of the sites before it.

        Args:
            values: By name; read when the next factor is asked for, so that the caller may
                put each site's value in on the way.

        Yields:
            Name and distribution, without batch dimensions, in the model's order.
        """
        if isinstance(self.auto, AutoDelta):
            for name in self.sites:
                point = attrgetter(name)(self.auto)
                yield name, dist.Delta(point, event_dim=point.dim())
        elif isinstance(self.auto, AutoNormal):
            yield from self._independent()
        else:
            yield from self._correlated(values)

    def marginals(self) -> dict[str, dist.TorchDistribution]:
        """The posterior of each global site by itself, whatever the others are.

        Returns:
            By name, in the model's order, as it is now: further training does not change it. All
            dimensions of a site are event dimensions, so that ``mean`` and ``stddev`` have its
            shape; shares, in (0, 1) or on the simplex, have them by draws alone.
        """
        with torch.no_grad():
            if not isinstance(self.auto, AutoLowRankMultivariateNormal):
                return {name: _copied(q) for name, q in self.factors({})}
            joint, start, found = self.auto.get_posterior(), 0, {}
            for name, site in self.sites.items():
                part = slice(start, start + site.size)
                start += site.size
                own = (v[part] for v in (joint.loc, joint.cov_factor, joint.cov_diag))
                found[name] = _copied(site.carry(dist.LowRankMultivariateNormal(*own)))
            return found

    def centres(self) -> dict[str, Tensor]:
        """What stands for each site where nothing is drawn: its free numbers' mean, carried.

        Of a real site that is the mean, of a positive one the median; shares have neither in
        closed form.
        """
        found = {}
        for name, q in self.marginals().items():
            steps = q.transforms if isinstance(q, _Carried) else []
            value = q.base_dist.mean if steps else q.mean
            for step in steps:
                value = step(value)
            found[name] = value
        return found

    def _independent(self) -> Iterator[tuple[str, dist.TorchDistribution]]:
        for name, site in self.sites.items():
            read = attrgetter(name)
            loc, scale = read(self.auto.locs), read(self.auto.scales)
            q = dist.Normal(loc, scale).to_event(loc.dim())
            yield name, site.carry(q)

    def _correlated(
        self, values: Mapping[str, Tensor]
    ) -> Iterator[tuple[str, dist.TorchDistribution]]:
        # u = loc + W e + sqrt(d) n with e, n standard Normal. Given the sites so far,
        # e ~ N(m, S S'): a low-rank Normal again for the next one.
        joint = self.auto.get_posterior()
        W = joint.cov_factor
        rank = W.shape[-1]
        m, S = W.new_zeros(rank), torch.eye(rank, dtype=W.dtype, device=W.device)
        start = 0
        for name, site in self.sites.items():
            part = slice(start, start + site.size)
            start += site.size
            d = joint.cov_diag[part]
            loc, factor = joint.loc[part] + W[part] @ m, W[part] @ S
            yield name, site.carry(dist.LowRankMultivariateNormal(loc, factor, d))
            if start == len(joint.loc):
                return
            rest = site.free(values[name]).reshape(-1) - loc
            scaled = factor / d.unsqueeze(-1)
            root = torch.linalg.cholesky(
                torch.eye(rank, dtype=W.dtype, device=W.device) + factor.T @ scaled
            )
            step = torch.cholesky_solve((scaled.T @ rest).unsqueeze(-1), root).squeeze(-1)
            m = m + S @ step
            S = torch.linalg.solve_triangular(root, S.T, upper=False).T


class _Site:
    """How one global site is made from unconstrained numbers."""

    def __init__(self, value: Tensor, support: str | None) -> None:
        self.support = support
        self.shape = self.free(value).shape
        self.size = math.prod(self.shape)

    @property
    def transform(self) -> Transform | None:
        return None if self.support is None else biject_to(SUPPORTS[self.support])

    def free(self, value: Tensor) -> Tensor:
        """The unconstrained numbers of a value."""
        return value if self.transform is None else self.transform.inv(value)

    def carry(self, q: dist.TorchDistribution) -> dist.TorchDistribution:
        """A distribution over unconstrained numbers, flat or of the site's shape, at the site."""
        steps: list[Transform] = []
        if q.event_shape != self.shape:
            steps.append(dist.transforms.ReshapeTransform(q.event_shape, self.shape))
        if self.transform is not None:
            steps.append(self.transform)
        return _Carried(q, steps) if steps else q


class _Carried(dist.TransformedDistribution):
    """Knows its mean and variance where reshaping and an exponential are all that carries it."""

    @property
    def mean(self) -> Tensor:
        return self._moments()[0]

    @property
    def variance(self) -> Tensor:
        return self._moments()[1]

    def _moments(self) -> tuple[Tensor, Tensor]:
        found = carried_moments(self)
        if found is None:
            raise NotImplementedError("no mean in closed form; take that of draws")
        return found


def _copied(q: dist.TorchDistribution) -> dist.TorchDistribution:
    """A distribution whose numbers are its own: no parameter that trains on."""
    if isinstance(q, dist.Independent):
        return dist.Independent(_copied(q.base_dist), q.reinterpreted_batch_ndims)
    if isinstance(q, _Carried):
        return _Carried(_copied(q.base_dist), q.transforms)
    if isinstance(q, dist.Delta):
        return dist.Delta(q.v.clone(), event_dim=q.event_dim)
    if isinstance(q, dist.Normal):
        return dist.Normal(q.loc.clone(), q.scale.clone())
    own = (v.clone() for v in (q.loc, q.cov_factor, q.cov_diag))
    return dist.LowRankMultivariateNormal(*own)


class Mixed(nn.Module):
    """Globals once per data set, rows amortised: q(globals) prod_rows q(locals | row, globals).

    The rows are the batch's own, in its plate with its N / B; none are drawn anew.

    Args:
        globals_: Guide of the sites outside the data plate.
        locals_: Guide of the rows. Its factors may be given global sites by name
            (``guides.inverse(..., see_globals=True)`` does so where the model calls for it).
    """

    def __init__(self, globals_: Globals, locals_: Factored) -> None:
        super().__init__()
        self.globals_, self.locals_ = globals_, locals_

    @property
    def given(self) -> Mapping[str, tuple[str, ...]]:
        """As of :class:`Factored`, by row-wise site; globals are among what is given."""
        return self.locals_.given

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sample globals, then rows; returns all values by name."""
        values: dict[str, Tensor] = self.locals_(batch, self.globals_(batch))
        return values

    def marginals(self) -> dict[str, dist.TorchDistribution]:
        """As of :class:`Globals`."""
        return self.globals_.marginals()

    def centres(self) -> dict[str, Tensor]:
        """As of :class:`Globals`."""
        return self.globals_.centres()

    def factor(self, name: str, values: Mapping[str, Tensor]) -> dist.TorchDistribution:
        """A row-wise factor, as :meth:`Factored.factor`; globals it needs are in ``values``."""
        return self.locals_.factor(name, values)

    def upstream(
        self, name: str, values: Mapping[str, Tensor], draw: bool = False
    ) -> dict[str, Tensor]:
        """As :meth:`Factored.upstream`; globals that are missing take centres, or are drawn."""
        shared = self.centres()
        if draw:
            for site, q in self.globals_.factors(shared):
                shared[site] = q.rsample() if q.has_rsample else q.sample()
        return self.locals_.upstream(name, {**shared, **values}, draw)

    def scores(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        """As :meth:`Factored.scores`."""
        return self.locals_.scores(name, values)


def _not_global(msg: Any) -> bool:
    return bool(msg["type"] != "sample" or msg["is_observed"] or is_local(msg) or is_plate(msg))
