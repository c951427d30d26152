"""Which objectives, terms and algorithms apply to a pair, found out by trying each on few rows."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from pyro import poutine

from ppl_models.batch import Batch
from ppl_models.data.tables.table import Dataset, Table
from ppl_models.inference.diagnostics.debug import rows_of_each_kind
from ppl_models.inference.objectives.base import Objective
from ppl_models.inference.objectives.by_name import BOUNDS
from ppl_models.inference.objectives.classification import Classification
from ppl_models.inference.objectives.code_terms.code_covariance import CodeCovariance
from ppl_models.inference.objectives.code_terms.distance_correlation import DistanceCorrelation
from ppl_models.inference.objectives.code_terms.hausdorff_support import (
    HausdorffSupport,
    SupportScale,
)
from ppl_models.inference.objectives.code_terms.total_correlation import TotalCorrelation
from ppl_models.inference.objectives.emphasis import Emphasis
from ppl_models.inference.objectives.kl_terms import Capacity
from ppl_models.inference.objectives.margins import Balance, Hat, Hinge
from ppl_models.inference.posterior.density import no_evidence
from ppl_models.inference.posterior.points_by_row import lent_points
from ppl_models.inference.sampling import evidence, importance, maximum, mcmc
from ppl_models.inference.traces.sites import latent_sites
from ppl_models.pair import Pair
from ppl_models.quiet import quiet
from ppl_models.sample_sites import is_local

ROWS = 3  # of each kind, that a method is tried on

# With the fewest draws that show whether they run.
_CHAIN = {"draws": 1, "warmup": 1, "chains": 1, "progress": False}
ALGORITHMS: Mapping[str, tuple[Callable[..., Any], Mapping[str, Any]]] = {
    "nuts": (mcmc.nuts, _CHAIN),
    "hmc": (mcmc.hmc, _CHAIN),
    "importance": (importance.importance, {"draws": 2}),
    "sir": (importance.sir, {"draws": 1, "proposals": 2}),
    "log_evidence": (evidence.log_evidence, {"draws": 2, "temperatures": 2}),
    "map": (maximum.map, {"iterations": 1}),
}
# By name what makes a term of sites, of the guide's or, for an emphasis, the model's data.
TERMS_OF: Mapping[str, tuple[Callable[..., Objective], int]] = {
    "balance": (Balance, 1),
    "capacity": (lambda site: Capacity(site, 1.0, 1.0), 1),
    "classification": (Classification, 1),
    "code_covariance": (lambda site: CodeCovariance(site, 1.0, 1.0), 1),
    "distance_correlation": (DistanceCorrelation, 2),
    "emphasis": (lambda site: Emphasis(site, 2.0), 1),
    "hat": (Hat, 1),
    "hausdorff_support": (HausdorffSupport, 1),
    "hinge": (Hinge, 1),
    "support_scale": (SupportScale, 1),
    "total_correlation": (TotalCorrelation, 1),
}


@dataclass(frozen=True)
class Method:
    """Whether a method applies to a pair.

    Attributes:
        name: Of an objective as ``parse_objective`` takes it, or a function of ``inference``.
        kind: ``"objective"``, ``"term"`` or ``"algorithm"``.
        reason: Why it does not apply; empty where it does.
    """

    name: str
    kind: str
    reason: str = ""

    @property
    def applies(self) -> bool:
        """Whether it can be used."""
        return not self.reason


class Methods(tuple[Method, ...]):
    """All methods; prints as a table."""

    __slots__ = ()

    def __str__(self) -> str:
        """One line per method, with the reason where it does not apply."""
        width = max(len(m.name) for m in self)
        return "\n".join(
            f"{m.name:<{width}}  {m.kind:<9}  {'yes' if m.applies else 'no: ' + m.reason}"
            for m in self
        )


def methods(pair: Pair, data: Batch | Table | Dataset, seed: int = 0) -> Methods:
    """Try every objective, term and algorithm on a few rows of each kind.

    An objective applies if its loss is finite on every kind of rows, and its gradient reaches
    on some kind every parameter that the guide's latent sites depend on. A term applies if it
    adds something finite, of some site, to the first objective that does; rows whose label is
    missing are then tried with one of the guide's, too. An algorithm applies if it runs; none
    does on a pair whose rows have no evidence, by its card's ``density`` or because its model
    scores no data. Options are left at their defaults, but for the number of draws.

    Args:
        pair: The pair; left as it was.
        data: Rows, of which 3 of each kind are taken.
        seed: Seed of the draws; the global random state stays as it was.

    Returns:
        One :class:`Method` each, printable as a table.
    """
    like = pair.like()
    batches = [b.to(like.device, like.dtype) for b in rows_of_each_kind(pair, data, ROWS)]
    with _quiet(pair, seed), lent_points(pair, data):
        asked = _asked(pair, batches)
        # A bound of codes trains; where nothing is scored there is nothing to bound.
        none = "" if pair.card.density == "codes" else no_evidence(pair, batches[-1])
        objectives = [
            Method(name, "objective", none or _reason(_objective, make, pair, batches, asked))
            for name, make in BOUNDS.items()
        ]
        bound = next((BOUNDS[m.name] for m in objectives if m.applies), None)
        terms = (
            Method(name, "term", _reason(lambda name=name: _term(name, bound, pair, batches)[1]))
            for name in TERMS_OF
        )
        algorithms = (
            Method(name, "algorithm", _reason(lambda name=name: _attempt(name, pair, batches[-1])))
            for name in ALGORITHMS
        )
        return Methods((*objectives, *terms, *algorithms))


def term_of(name: str, pair: Pair, batches: Sequence[Batch], bound: Objective) -> Objective | None:
    """A term of the first sites of a pair that it applies to, or None.

    Args:
        name: Of the term.
        pair: The pair.
        batches: Some rows of each kind.
        bound: The bound beside it.
    """
    with _quiet(pair, 0):
        return _term(name, lambda: bound, pair, batches)[0]


def _term(
    name: str, bound: Callable[[], Objective] | None, pair: Pair, batches: Sequence[Batch]
) -> tuple[Objective | None, str]:
    # The term, and why there is none.
    if bound is None:
        return None, "no objective applies that it could be added to"
    make, count = TERMS_OF[name]
    seen, latent = _with_labels(pair, batches)
    if name == "emphasis":
        scored = {*pair.card.data, *pair.card.labels}
        sites = [site for site in batches[0] if site in scored]
        reason = "no site of the data is scored"
    else:
        sites = latent
        reason = f"it needs {count} sites of the guide, which has {len(sites)}"
    for chosen, rows in itertools.product(itertools.permutations(sites, count), (batches, seen)):
        term = make(*chosen)
        try:
            told = (bound() + term).loss_by_part(pair.model, pair.guide, rows)
        except Exception as error:  # of a site that the term does not take
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        if not bool(told.total.isfinite()):
            return None, f"it is not finite of {', '.join(chosen)}"
        if dict(zip(told.names, told.values.tolist(), strict=True))[term.part_names[0]] != 0:
            return term, ""
        reason = f"it says nothing of {', '.join(chosen)}"
    return None, reason


def _with_labels(pair: Pair, batches: Sequence[Batch]) -> tuple[list[Batch], list[str]]:
    # The same rows, and once more with labels that the guide draws; and its latent sites.
    seen, latent = list(batches), []
    for batch in batches:
        for site, node in latent_sites(poutine.trace(pair.guide).get_trace(batch)):
            if not is_local(node):
                continue
            latent.append(site)
            if node["fn"].has_enumerate_support and node["fn"].event_dim == 0:
                known = {**batch, site: node["value"].detach()}
                seen.append(Batch(known, batch.rows))
    return seen, list(dict.fromkeys(latent))


def _attempt(name: str, pair: Pair, batch: Batch) -> str:
    """Run an algorithm for as few draws as it takes; an empty text if nothing stops it."""
    function, options = ALGORITHMS[name]
    function(pair, Table("rows", dict(batch), numbers=batch.rows), **options)
    return ""


@contextmanager
def _quiet(pair: Pair, seed: int) -> Iterator[None]:
    like = pair.like()
    with (
        quiet(like.device, seed, pair),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def _reason(attempt: Callable[..., str], *args: Any) -> str:
    try:
        return attempt(*args)
    except Exception as error:  # whatever stops a method is the reason that it does not apply
        text = str(error).splitlines()[0] if str(error) else ""
        return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"


def _asked(pair: Pair, batches: Sequence[Batch]) -> set[str]:
    """Parameters that the density of some latent site under the guide depends on."""
    found = set()
    names = [n for n, p in pair.named_parameters() if p.requires_grad]
    for batch in batches:
        trace = poutine.trace(pair.guide).get_trace(batch)
        densities = [
            site["fn"].log_prob(site["value"].detach()).sum() for _, site in latent_sites(trace)
        ]
        if densities and sum(densities).requires_grad:
            found |= {n for n, g in zip(names, _gradients(sum(densities), pair), strict=True) if g}
    return found


def _objective(
    make: Callable[[], Objective], pair: Pair, batches: Sequence[Batch], asked: set[str]
) -> str:
    objective = make()
    names = [n for n, p in pair.named_parameters() if p.requires_grad]
    missing = set(asked)
    for batch in batches:
        loss = objective.per_datum(pair.model, pair.guide, batch)
        if not bool(loss.isfinite().all()):
            return f"its loss is not finite on rows that observe {', '.join(batch)}"
        missing -= {n for n, g in zip(names, _gradients(loss.sum(), pair), strict=True) if g}
    return f"its gradient does not reach {min(missing)!r}" if missing else ""


def _gradients(value: Any, pair: Pair) -> list[bool]:
    parameters = [p for p in pair.parameters() if p.requires_grad]
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    return [g is not None and bool(g.any()) for g in grads]
