"""Log densities of one run of a pair: term by term, and added up to log weights."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from pyro import poutine
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_models.inference.traces.contraction import (
    NONE,
    Backend,
    Dims,
    Summed,
    Term,
    Torch,
    check_count,
    expectation,
    log_sum,
    multiply,
    over_plates,
)
from ppl_models.inference.traces.nesting import without_plates
from ppl_models.inference.traces.sites import UnhandledSite, family, latent_sites
from ppl_models.sample_sites import DATA, is_local


@dataclass
class Weights:
    """Log weights of one run; dimensions ``(E..., K, B)`` as in ``bounds``.

    The joint tensors ``log_p``, ``log_q`` and ``log_q_labels`` are formed when asked for. Where
    several labels are summed out the methods give the same sums without them.

    Attributes:
        terms: Terms by kind: ``p`` of the model, ``q`` of the guide's drawn sites, ``labels``
            of its enumerated sites, ``cut`` of drawn sites whose draws carry no gradient.
        factors: Log q of each enumerated site of the guide as a weight, without its mask, by
            dimension.
        labels: The enumerated sites, by dimension.
        nesting: Number of plate dimensions, the data plate included.
        cap: Largest number of combinations of labels that a joint tensor may have.
        outside: Log p - log q of sites outside the data plate, a scalar.
        rescaled: Name of a site whose weight is not just the plate's N / B, or of a masked
            label that stands in no plate within the rows, or None.
        term_by_term: Whether labels are summed in each term by itself, not in the joint tensors:
            there are several, they stand in a plate within the rows, or one has a weight or a
            mask of its own.
        guide: Trace of the guide.
        model: Trace of the model.
        bridges: Values that the model received for the guide's draws, by site name, each
            with its number of event dimensions (for gradients that scale the path).
        shared: Summed dimensions that the draws do not depend on.
        padding: Minus log of the number of values of each label where the model masks it: a
            label that is not there then adds nothing to a log of a sum over its values.
    """

    terms: Mapping[str, list[Term]]
    factors: Mapping[int, Term]
    labels: Mapping[int, Summed]
    nesting: int
    cap: int
    outside: Tensor | float
    rescaled: str | None
    term_by_term: bool
    guide: poutine.Trace
    model: poutine.Trace
    bridges: list[tuple[Tensor, int]] = field(default_factory=list)
    shared: tuple[int, ...] = ()
    padding: list[Term] = field(default_factory=list)

    @cached_property
    def log_p(self) -> Tensor:
        """Log joint of the model; sites enumerated in the model alone are summed out."""
        total = self._joint(self._model_terms(self.terms["p"], Torch(self.cap)))
        if not isinstance(total, Tensor):  # a story of codes whose KL is taken in closed form
            assert isinstance(self.log_q, Tensor)
            return torch.zeros_like(self.log_q)
        return total

    @cached_property
    def log_q(self) -> Tensor | float:
        """Log density of the guide's drawn sites (0.0 if there are none)."""
        return self._joint(self.terms["q"])

    @cached_property
    def log_q_labels(self) -> Tensor | None:
        """Log q of the sites enumerated in the guide, ``(E..., 1, B)``, or None."""
        total = self.log_q_labels_by_draw
        return None if total is None else _mean_of_draws(total, -2)

    @cached_property
    def log_q_labels_by_draw(self) -> Tensor | None:
        """The same before the mean over the draws, ``(E..., K or 1, B)``."""
        total = self._joint(self.terms["labels"])
        return total if isinstance(total, Tensor) else None

    @cached_property
    def log_q_given(self) -> Tensor | None:
        """Log probability of the guide's labels, without masks, ``(E..., K or 1, B)``, or None."""
        total = self._joint(self.factors.values())
        return total if isinstance(total, Tensor) else None

    @property
    def draws(self) -> dict[str, Tensor]:
        """Values of the guide's latent sites."""
        return {name: site["value"] for name, site in latent_sites(self.guide)}

    @property
    def as_drawn(self) -> bool:
        """Whether the model saw the draws as they are in the guide's trace."""
        return (
            bool(self.model.nodes)
            and not self.bridges
            and not any(label.drawn for label in self.labels.values())
        )

    @cached_property
    def log_q_cut(self) -> Tensor | float:
        """The part of ``log_q`` whose draws carry no gradient (0.0 if there are none)."""
        return self._joint(self.terms["cut"])

    @property
    def log_w(self) -> Tensor:
        """``(E..., K, B)``."""
        return self.log_p - self.log_q

    def elbo(
        self, backend: Backend, kept: Dims = NONE, beta: float | Mapping[str, float] = 1.0
    ) -> Tensor:
        r"""The lower bound :math:`\sum_y q(y)\,[\overline{\log w_y} - \log q(y)]`, ``(B,)``.

        Draws are averaged outside the log. Where labels depend on the draws, each draw is
        weighted by its own q(y).

        Args:
            backend: What does the arithmetic.
            kept: Summed dimensions of which only a part of the values is there.
            beta: Weight of log p - log q of all the guide's sites, or by site (the others at 1).
        """
        return self.elbo_by_draw(backend, kept, beta).mean(0)

    def elbo_by_draw(
        self, backend: Backend, kept: Dims = NONE, beta: float | Mapping[str, float] = 1.0
    ) -> Tensor:
        """The same before the mean over the draws, ``(K or 1, B)``."""
        p, q, labels = (self._weighted(self.terms[k], beta) for k in ("p", "q", "labels"))
        costs = [*self._model_terms(p, backend), *_minus(q), *_minus(labels)]
        value = expectation(costs, self.factors, self.labels, backend, kept)
        return value.reshape(value.shape[self._draw_dim], value.shape[-1])

    def log_evidence(self, backend: Backend) -> Tensor:
        r""":math:`D_K = \log \sum_y \frac1K \sum_k w_{y,k}`, ``(B,)``."""
        terms = [*self.terms["p"], *_minus(self.terms["q"]), *self.padding]
        return self._log_evidence(terms, backend)

    def log_w_labels(self, backend: Backend) -> Tensor:
        r""":math:`\ell_y` with all that the guide does not enumerate summed, ``(E..., K, B)``."""
        summed = frozenset(d for d, label in self.labels.items() if not label.in_guide)
        terms = [*self.terms["p"], *_minus(self.terms["q"]), *self.padding]
        total = self._joint(log_sum(terms, summed, self.labels, backend))
        assert isinstance(total, Tensor)
        return total

    def distillation(self) -> Tensor:
        r"""Cross-entropy from the posterior :math:`\pi` that the weights imply, ``(B,)``.

        :math:`-\sum_y \mathrm{sg}(\pi_y) \log q(y)`, factor by factor: :math:`\pi` over the
        labels of a factor is the gradient of :math:`D_K` with respect to that factor's log.
        """
        held = [*self.terms["p"], *_minus(self.terms["q"]), *self.padding]
        held = [Term(t.name, t.value.detach(), t.labels, t.plates) for t in held]
        factors = self.terms["labels"]
        if not factors:
            return torch.zeros_like(held[0].value.flatten(0, -2)[0])

        def total(*shifts: Tensor) -> Tensor:
            moved = [
                Term(t.name, s, t.labels, t.plates) for t, s in zip(factors, shifts, strict=True)
            ]
            return self._log_evidence([*held, *moved], Torch(self.cap)).sum()

        zeros = tuple(torch.zeros_like(t.value) for t in factors)
        pi = torch.func.grad(total, argnums=tuple(range(len(zeros))))(*zeros)
        parts = [-(p * t.value) for p, t in zip(pi, factors, strict=True)]
        return torch.stack([v.sum(tuple(range(v.dim() - 1))) for v in parts]).sum(0)

    @property
    def _draw_dim(self) -> int:
        return -1 - self.nesting

    def _log_evidence(self, terms: list[Term], backend: Backend) -> Tensor:
        value = multiply(log_sum(terms, frozenset(self.labels), self.labels, backend)).value
        return _mean_of_draws(value, self._draw_dim).reshape(value.shape[-1])

    def _model_terms(self, terms: list[Term], backend: Backend) -> list[Term]:
        summed = frozenset(d for d, label in self.labels.items() if not label.in_guide)
        if not summed:
            return terms
        padding = [term for term in self.padding if term.labels & summed]
        return log_sum([*terms, *padding], summed, self.labels, backend)

    def _weighted(self, terms: list[Term], beta: float | Mapping[str, float]) -> list[Term]:
        if beta == 1:
            return terms
        latent = {t.name for kind in ("q", "labels") for t in self.terms[kind]}
        by_site = beta if isinstance(beta, Mapping) else dict.fromkeys(latent, beta)
        for name in by_site.keys() - latent - self.model.nodes.keys():
            raise UnhandledSite(f"beta names site {name!r}, the guide samples {sorted(latent)}")
        out = []
        for term in terms:
            weight = by_site.get(term.name, 1.0) if term.name in latent else 1.0
            if weight != 1 and any(not self.labels[d].in_guide for d in term.labels):
                raise UnhandledSite(
                    f"beta weighs the KL of site {term.name!r}, whose prior depends on a site "
                    "that is summed out in the model alone; give the guide a factor for that site"
                )
            value = weight * term.value if weight != 1 else term.value
            out.append(Term(term.name, value, term.labels, term.plates))
        return out

    def _joint(self, terms: Iterable[Term]) -> Tensor | float:
        total: Tensor | float = 0.0
        sizes = [label.size for label in self.labels.values() if label.in_guide]
        check_count((v for v in self.labels.values() if v.in_guide), self.cap)
        for term in terms:
            if term.plates:
                raise UnhandledSite(
                    f"site {term.name!r} depends on a site that is enumerated inside a plate "
                    "within the rows, which this objective does not sum exactly; use "
                    "EnumeratedELBO, or IWELBO with particles=1 or lam=0"
                )
            total = term.value if isinstance(total, float) else total + term.value
        if isinstance(total, float):
            return total
        total = without_plates(total, self.nesting)
        dims = 2 + len(sizes)
        return total if total.dim() <= dims else total.reshape(total.shape[-dims:])


class Collector:
    """Turns sites into terms, without the plate's N / B."""

    def __init__(
        self, plate_scale: float, nesting: int, guide: Mapping[str, Any], model: Mapping[str, Any]
    ) -> None:
        self.plate_scale, self.nesting = plate_scale, nesting
        self.labels = {
            label.dim: label
            for in_guide, sites in ((True, guide), (False, model))
            for label in (label_of(n, s, nesting, in_guide) for n, s in sites.items())
        }
        self.terms: dict[str, list[Term]] = {"p": [], "q": [], "labels": [], "cut": []}
        self.factors: dict[int, Term] = {}
        self.padding: list[Term] = []
        self.outside: Tensor | float = 0.0
        self.rescaled: str | None = None
        self.term_by_term = len(self.labels) > 1 or any(v.plates for v in self.labels.values())

    def add(self, kind: str, name: str, site: Any, log_prob: Tensor) -> None:
        """Add the log density of a site to the terms of a kind."""
        scale, mask = site["scale"], site["mask"]
        if not is_local(site):
            if kind == "cut":
                return
            value = scale_and_mask(log_prob, scale, mask).sum()
            self.outside = self.outside + (value if kind == "p" else -value)
            return
        if isinstance(scale, Tensor) or scale != self.plate_scale:
            self.rescaled = name
            scale = scale / self.plate_scale
        else:
            scale = 1.0
        term = self._term(name, site, scale_and_mask(log_prob, scale, mask))
        self.terms[kind].append(term)
        if kind == "p" and isinstance(mask, Tensor):
            size = next((v.size for v in self.labels.values() if v.name == name), 0)
            if size:
                padding = torch.zeros_like(log_prob).masked_fill(~mask, -math.log(size))
                self.padding.append(self._term(name, site, padding))
        if kind == "labels":
            # A weight or mask changes what a label costs, never how probable it is.
            plain = isinstance(scale, float) and scale == 1.0 and mask is None
            self.term_by_term = self.term_by_term or not plain
            # Labels of a plate are summed one by one, and padding makes up for their mask.
            if mask is not None and mask is not True and not plates_within(site, self.nesting):
                self.rescaled = name
            factor = term if plain else self._term(name, site, log_prob)
            self.factors[site["infer"]["_enumerate_dim"]] = factor

    def sum_over(self, variables: Iterable[Summed]) -> None:
        """Declare dimensions that are summed like labels."""
        self.labels |= {variable.dim: variable for variable in variables}

    def weights(
        self,
        cap: int,
        guide: poutine.Trace,
        model: poutine.Trace,
        bridges: list[tuple[Tensor, int]] | None = None,
        shared: tuple[int, ...] = (),
    ) -> Weights:
        """All terms added so far."""
        return Weights(
            terms=self.terms,
            factors=self.factors,
            labels=self.labels,
            nesting=self.nesting,
            cap=cap,
            outside=self.outside,
            rescaled=self.rescaled,
            term_by_term=self.term_by_term,
            guide=guide,
            model=model,
            bridges=bridges or [],
            shared=shared,
            padding=self.padding,
        )

    def _term(self, name: str, site: Any, value: Tensor) -> Term:
        if value.dim() <= self.nesting:
            value = value.reshape((1,) * (self.nesting + 1 - value.dim()) + value.shape)
        labels = frozenset(d for d in self.labels if value.dim() >= -d and value.shape[d] > 1)
        if self.nesting == 1:
            return Term(name, value, labels)
        term = Term(name, value, labels, frozenset(range(-self.nesting, -1)))
        if any(self.labels[d].plates for d in labels):
            return over_plates(term, term.plates - plates_within(site, self.nesting))
        return over_plates(term, term.plates)


def label_of(name: str, site: Any, nesting: int, in_guide: bool = True) -> Summed:
    """What a site's listed values are to a sum over them."""
    dim = site["infer"]["_enumerate_dim"]
    size = site["value"].shape[dim - site["fn"].event_dim]
    return Summed(name, dim, size, plates_within(site, nesting), in_guide)


def plates_within(site: Any, nesting: int) -> Dims:
    """Dimensions of the plates within the row that a site stands in."""
    frames = site["cond_indep_stack"]
    return frozenset(f.dim for f in frames if f.name != DATA and -nesting <= (f.dim or 0) < -1)


def log_q_of(site: Any, score: Any = None) -> Tensor:
    """Log density of a drawn site; with its score, without the direct gradient."""
    log_q: Tensor = site["fn"].log_prob(site["value"])
    if score is not None:
        direct = score["fn"].log_prob(score["value"])
        log_q = log_q - direct + direct.detach()
    return log_q


def closed_kl(name: str, q: Any, p: Any, value: Tensor) -> Tensor:
    """KL(q || p) of a site's two distributions in closed form, ``value`` being its draw.

    Raises:
        UnhandledSite: If it has none.
    """
    try:
        kl = kl_divergence(q, p)
    except NotImplementedError:
        raise UnhandledSite(
            f'site {name!r} has no closed-form KL({family(q)} || {family(p)}); use kl="sampled"'
        ) from None
    # Of sites that are masked as a whole Pyro says a plain number.
    return kl if isinstance(kl, Tensor) else value.new_full(q.batch_shape, kl)


def _minus(terms: Iterable[Term]) -> list[Term]:
    return [Term(t.name, -t.value, t.labels, t.plates) for t in terms]


def _mean_of_draws(value: Tensor, dim: int) -> Tensor:
    draws = value.shape[dim]
    if draws == 1:
        return value
    return torch.logsumexp(value, dim, keepdim=True) - math.log(draws)
