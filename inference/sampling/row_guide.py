r"""A guide without networks: variational parameters of their own for every row.

It starts where an amortised guide stands and is improved row by row, which shows how much of
the guide's error is its networks' (the amortisation gap of Cremer, Li and Duvenaud 2018,
arXiv 1801.03558) and repairs rows that the networks got wrong.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import ComposeTransform, IndependentTransform, Transform

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.data.tables.table import Table
from ppl_models.inference.objectives.elbo import EnumeratedELBO
from ppl_models.inference.posterior.rows import Sites, chosen, undisturbed, weighed
from ppl_models.inference.posterior.target import (
    Target,
    fixed,
    rows_at_a_time,
    rows_of,
    sites_of_rows,
    target,
)
from ppl_models.inference.traces.evaluation import Evaluation
from ppl_models.inference.traces.sites import UnhandledSite, family, is_enumerated, latent_sites
from ppl_models.pair import Pair
from ppl_models.sample_sites import COMBINATIONS

MOMENTS = 200  # draws of the guide from which its mean and spread are taken
NARROWEST = 1e-3  # standard deviation, on the real line, that a code starts with at least
FAINTEST = 1e-4  # probability that a label's value starts with at least
LABELS = ("Categorical", "OneHotCategorical", "Bernoulli")

Labels = dict[str, tuple[str, Tensor]]
Codes = dict[str, tuple[Transform, Tensor, Tensor]]


class Rowwise(nn.Module):
    r"""q(y) :math:`\prod_j q(z_j | y)` of each row: tables of label probabilities, and Normals.

    A code has a mean and a standard deviation for every combination of the labels; where its
    support is not the real line, the Normal is carried there.

    Args:
        numbers: Row numbers ``(N,)``, all different.
        labels: By label, in order: its family, and its logits ``(N, C_1, ..., C_k)`` given
            the labels before it.
        codes: By code: the transform from the real line to its support, and mean and standard
            deviation on the line ``(N, C_1, ..., C_m, *free)``.
        sites: The random variables of a row.

    Raises:
        ValueError: If two rows have one number.
    """

    def __init__(self, numbers: Tensor, labels: Labels, codes: Codes, sites: Sites) -> None:
        super().__init__()
        self.sites = sites
        self.families = {name: kind for name, (kind, _) in labels.items()}
        self.transforms = {name: transform for name, (transform, _, _) in codes.items()}
        self.start = {name: (loc, scale) for name, (_, loc, scale) in codes.items()}
        self.logits = nn.ParameterDict({name: table for name, (_, table) in labels.items()})
        # In units of the start's spread, so that one learning rate suits them all.
        self.shift = nn.ParameterDict({n: torch.zeros_like(v) for n, (v, _) in self.start.items()})
        self.widen = nn.ParameterDict({n: torch.zeros_like(v) for n, (v, _) in self.start.items()})
        self.sorted, self.order = numbers.sort()
        if bool((self.sorted.diff() == 0).any()):
            twice = int(self.sorted[:-1][self.sorted.diff() == 0][0])
            raise ValueError(f"row number {twice} stands for two rows, expected one each")

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Sample every latent site.

        Raises:
            ValueError: If the batch has a row without parameters.
        """
        at: tuple[Tensor, ...] = (self._places(batch.rows),)
        values: dict[str, Tensor] = {}
        with batch.plate():
            for name, table in self.logits.items():
                q = _label(self.families[name], table[at])
                values[name] = pyro.sample(name, q, infer={"enumerate": "parallel"})
                at = (*at, self.sites.latents[name].places(values[name]))
            for name in self.transforms:
                values[name] = pyro.sample(name, self._code(name, at))
        return values

    def _code(self, name: str, at: tuple[Tensor, ...]) -> dist.TorchDistribution:
        loc, scale = (value[at] for value in self.start[name])
        q = dist.Normal(
            loc + scale * self.shift[name][at], scale * self.widen[name][at].exp()
        ).to_event(self.start[name][0].dim() - len(at))
        transform = self.transforms[name]
        return q if _identity(transform) else dist.TransformedDistribution(q, [transform])

    def _places(self, rows: Tensor) -> Tensor:
        place = torch.searchsorted(self.sorted, rows).clamp_max(len(self.sorted) - 1)
        missing = self.sorted[place] != rows
        if bool(missing.any()):
            raise ValueError(
                f"row number {int(rows[missing][0])} has no variational parameters of its own; "
                "refine it, or use the pair's own guide"
            )
        return self.order[place]


def rowwise(
    pair: Pair,
    table: Table,
    rows: Sequence[int] | Tensor | None = None,
    *,
    given: Sequence[str] | None = None,
    steps: int = 200,
    learning_rate: float = 0.1,
    particles: int = 8,
    seed: int = 0,
) -> Pair:
    """A pair of the same model with a guide that is optimised for each row by itself.

    The start is the moments of the pair's guide. Each row then climbs its own ELBO, labels
    summed out, by Adam with a rate that falls to zero; the end is the mean of the last quarter
    of the steps. What a row comes to does not depend on the other rows, but for random numbers.
    Whatever takes a pair takes the result, on these rows and with these sites given.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        table: Where the rows are from.
        rows: Positions in the table; all by default.
        given: Sites to condition on; the card's data sites by default.
        steps: Steps; 0 keeps the start.
        learning_rate: Of Adam at the start, in standard deviations of the guide.
        particles: Draws per row and step.
        seed: Seed; the global random state stays as it was.

    Returns:
        The pair, which shares its networks with the first; its guide is a :class:`Rowwise`.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or the
            rows do not fit the model.
        UnhandledSite: If the labels have too many joint values, or one is of a family that a
            table of probabilities does not cover.
    """
    steps, particles = at_least(steps=(steps, 0), particles=(particles, 1))
    if not 0 < learning_rate < math.inf:
        raise ValueError(f"learning_rate is {learning_rate}, expected a positive number")
    table, index = chosen(pair, table, rows)
    parts: list[Rowwise] = []
    with undisturbed(pair, seed), fixed(pair):
        seen = weighed(pair, table, given, index)
        sites = sites_of_rows(pair, seen)
        step = rows_at_a_time(pair, sites, sites.labels, max(particles, MOMENTS))
        for block in torch.arange(len(seen)).split(step):
            batch = rows_of(seen.rows(block), pair)
            found = target(pair, batch, guide=True, rows_alone=True)
            parts.append(_moments(found))
            _climb(pair, parts[-1], batch, steps, learning_rate, particles)
    return with_guide(pair, _joined(parts).requires_grad_(False))


def with_guide(pair: Pair, guide: nn.Module) -> Pair:
    """The same pair, sharing its model's modules, with another guide."""
    new = copy.copy(pair)
    new.__dict__["_modules"] = {**pair._modules, "guide": guide}
    return new


def _climb(
    pair: Pair, guide: Rowwise, batch: Batch, steps: int, learning_rate: float, particles: int
) -> None:
    objective = EnumeratedELBO(particles, grad="stl")
    parameters = list(guide.parameters())
    optimiser = torch.optim.Adam(parameters, learning_rate)
    totals = [torch.zeros_like(value) for value in parameters]
    last = max(1, steps // 4)
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = learning_rate * (1 - step / steps)
        optimiser.zero_grad()
        loss = objective.per_datum(pair.model, guide, batch).sum()
        loss.backward()
        optimiser.step()
        if step >= steps - last:
            for total, value in zip(totals, parameters, strict=True):
                total += value.detach() / last
    if steps:
        with torch.no_grad():
            for total, value in zip(totals, parameters, strict=True):
                value.copy_(total)


@torch.no_grad()
def _moments(found: Target) -> Rowwise:
    """Label probabilities, and means and spreads on the real line, of draws of the guide."""
    batch, sites = found.batch, found.sites
    run = Evaluation(found.pair.model, found.pair.guide, batch).weights(MOMENTS, cut="all")
    nodes = dict(latent_sites(run.guide))
    names = [name for name, node in nodes.items() if is_enumerated(node)]
    sizes = [len(sites.latents[name].values()) for name in names]
    if math.prod(sizes) > COMBINATIONS:
        raise UnhandledSite(
            f"sites {names} have {math.prod(sizes)} joint values, for each of which every row "
            f'would get parameters, expected at most {COMBINATIONS}; use method="nuts"'
        )
    # Label dimensions are numbered from the right, the guide's first label nearest.
    dims = [nodes[name]["infer"]["_enumerate_dim"] for name in names]

    def in_order(value: Tensor, event: int) -> Tensor:
        """``(E..., K, B, *event)`` as ``(K, B, E..., *event)``, labels in the guide's order."""
        full = (*(sizes[dims.index(d)] for d in sorted(dims)), value.shape[-2 - event])
        value = value.expand(*full, batch.count, *value.shape[value.dim() - event :])
        return value.movedim([-2 - event, -1 - event, *(d - event for d in dims)],
                             list(range(2 + len(dims))))  # fmt: skip

    labels: Labels = {}
    if run.log_q_labels is not None:
        joint = in_order(run.log_q_labels, 0)[0].exp().clamp_min(FAINTEST)
        for place, name in enumerate(names):
            later = tuple(range(2 + place, joint.dim()))
            table = joint.sum(later) if later else joint
            labels[name] = (_family(name, nodes[name]["fn"]), table.log())
    codes: Codes = {}
    for name, transform in found.transforms.items():
        value = transform.inv(nodes[name]["value"])
        event = len(found.shapes[name]) - 1
        wide = value.reshape(*[1] * (2 + len(dims) + event - value.dim()), *value.shape)
        wide = in_order(wide, event)
        codes[name] = (transform, wide.mean(0), wide.std(0).clamp_min(NARROWEST))
    return Rowwise(batch.rows, labels, codes, sites)


def _family(name: str, fn: Any) -> str:
    kind = family(fn)
    if kind not in LABELS:
        raise UnhandledSite(
            f"site {name!r} is a label of the family {kind}, for which rows get no table of "
            f'probabilities, expected one of {", ".join(LABELS)}; use method="sir" or "nuts"'
        )
    return kind


def _label(kind: str, logits: Tensor) -> dist.TorchDistribution:
    if kind == "Bernoulli":
        return dist.Bernoulli(logits=logits[..., 1] - logits[..., 0])
    q: dist.TorchDistribution = getattr(dist, kind)(logits=logits)
    return q


def _identity(transform: Transform) -> bool:
    while isinstance(transform, IndependentTransform):
        transform = transform.base_transform
    return isinstance(transform, ComposeTransform) and not transform.parts


def _joined(parts: list[Rowwise]) -> Rowwise:
    first = parts[0]
    if len(parts) == 1:
        return first
    numbers = torch.cat([part.sorted[part.order.argsort()] for part in parts])
    labels: Labels = {
        name: (kind, torch.cat([part.logits[name].detach() for part in parts]))
        for name, kind in first.families.items()
    }
    codes: Codes = {}
    for name, transform in first.transforms.items():
        loc, scale = (torch.cat([part.start[name][i] for part in parts]) for i in (0, 1))
        codes[name] = (transform, loc, scale)
    whole = Rowwise(numbers, labels, codes, first.sites)
    for kept in ("shift", "widen"):
        for name in codes:
            values = torch.cat([getattr(part, kept)[name].detach() for part in parts])
            getattr(whole, kept)[name] = nn.Parameter(values)
    return whole
