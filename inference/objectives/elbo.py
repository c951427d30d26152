"""The evidence lower bound, plain and with labels summed out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import mean_bound, zero_loss
from ppl_models.inference.objectives.base import Bound, check_choice
from ppl_models.inference.objectives.formulas import expected, expected_analytic, over_labels
from ppl_models.inference.objectives.kl_terms import (
    Beta,
    FreeBits,
    by_site,
    check_beta,
    reweighted,
)
from ppl_models.inference.objectives.loss_parts import BOUND, EXTRA_KL, added, weighted
from ppl_models.inference.objectives.schedule import value_at, written
from ppl_models.inference.traces.backends import BACKENDS, backend
from ppl_models.inference.traces.drawn import Ask
from ppl_models.inference.traces.evaluation import Evaluation, Lead
from ppl_models.inference.traces.label_chunks import elbo_in_pieces
from ppl_models.inference.traces.weights import Weights
from ppl_models.sample_sites import COMBINATIONS


class ELBO(Bound):
    r"""The evidence lower bound with reparameterised draws, for pairs without missing labels.

    :math:`E_{q(z|x)}[\log p(x, z) - \log q(z|x)]` (Kingma and Welling 2014, arXiv 1312.6114).

    Args:
        particles: Draws K, averaged outside the log.
        kl: ``"analytic"`` takes KL(q || p) of each latent in closed form, ``"sampled"`` from
            the same draws as the likelihood.
        grad: ``"plain"``, or ``"stl"`` to leave the direct dependence of log q on its
            parameters out of the gradient, which has mean zero (Roeder et al. 2017,
            arXiv 1703.09194; sampled KL only).
        beta: Weight of the KL terms of all sites inside the data plate, labels included
            (Higgins et al. 2017), a number or an :class:`Anneal`, or either by site (the sites
            not named keep 1).
        free_bits: Floor under the KL of drawn sites, in nats per latent dimension on the batch
            mean, or a :class:`FreeBits` for the other ways.
        plate_nesting: Number of plate dimensions, the data plate included; the pair's by default.

    Raises:
        ValueError: If an option is not one of those named.
    """

    enumerates = False

    def __init__(
        self,
        particles: int = 1,
        kl: Literal["sampled", "analytic"] = "sampled",
        grad: Literal["plain", "stl"] = "plain",
        beta: Beta = 1.0,
        free_bits: float | FreeBits = 0.0,
        plate_nesting: int | None = None,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_choice("kl", kl, ("sampled", "analytic"))
        check_choice("grad", grad, ("plain", "stl"))
        if grad == "stl" and kl == "analytic":
            raise ValueError('grad="stl" changes the gradient of a sampled KL, got kl="analytic"')
        check_beta(beta)
        floor = free_bits if isinstance(free_bits, FreeBits) else FreeBits(free_bits)
        if grad == "stl" and (beta != 1 or floor.nats != 0):
            raise ValueError('grad="stl" takes beta=1 and no free bits; use grad="plain"')
        self.particles, self.kl, self.grad = particles, kl, grad
        self.beta, self.free_bits = beta, floor

    @property
    def formula(self) -> str:
        """E.g. ``E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))``."""
        return self._bound(labels=False)

    def _bound(self, labels: bool) -> str:
        # Behind the terms, as a remark, the exceptions to weight 1 and floor 0.
        terms = expected_analytic(labels) if self.kl == "analytic" else expected(labels=labels)
        if isinstance(self.beta, Mapping):
            marks = [f"{written(weight)} KL({site})" for site, weight in self.beta.items()]
        else:
            marks = [] if self.beta == 1 else [f"{written(self.beta)} KL"]
        marks += [] if self.free_bits.nats == 0 else [f"KL at least {self.free_bits}"]
        return f"{terms} with {', '.join(marks)}" if marks else terms

    def ask(self) -> Ask:
        """The draws of this bound."""
        return Ask(
            self.particles,
            enumerate_labels=self.enumerates,
            analytic_kl=self.kl == "analytic",
            path=self.grad == "stl",
        )

    @property
    def across_rows(self) -> bool:  # type: ignore[override]
        """Whether free bits compare the mean over a batch."""
        return self.free_bits.across_rows

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound."""
        return run.weights_for(self.ask())

    @property
    def part_names(self) -> tuple[str, ...]:
        """The bound, and beside it what weights and floors change in its KL terms."""
        return (BOUND, EXTRA_KL) if self._reweighs() else (BOUND,)

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """Minus the bound per row, and what weights and floors add."""
        w = self.weights(run)
        parts = {BOUND: -mean_bound(w.log_w, w.log_q_labels_by_draw)}
        if self._reweighs():
            analytic = self.kl == "analytic"
            extra = reweighted(run, w, analytic, self.beta, self.free_bits, self.progress)
            extra = extra if isinstance(extra, Tensor) else zero_loss(run)
            parts[EXTRA_KL] = extra.expand(run.batch.count)
        return parts

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """The bound's addends, where no more than one label is summed out, and in the guide."""
        return by_site(self.weights(run))

    def _reweighs(self) -> bool:
        plain = isinstance(self.beta, float | int) and self.beta == 1
        return not plain or self.free_bits.nats != 0


class EnumeratedELBO(ELBO):
    r"""The evidence lower bound with every missing label summed out exactly.

    :math:`\sum_y q(y|x)\,[E_{q(z|x,y)}[\log p(x, y, z) - \log q(z|x,y)] - \log q(y|x)]`, the
    bound U of Kingma et al. 2014 (arXiv 1406.5298, eq. 7), and L (eq. 6) where the label is
    observed. Equals Pyro's ``TraceEnum_ELBO`` without a copy of x per label.

    Several labels, also in plates within the rows, are summed term by term, each term over the
    labels it depends on: a chain or a plate of labels costs as much as its links or entries.
    A vector of discrete values is one label with all its combinations.

    Args:
        particles: As in :class:`ELBO`.
        kl: As in :class:`ELBO`.
        grad: As in :class:`ELBO`.
        beta: As in :class:`ELBO`.
        free_bits: As in :class:`ELBO`; for one label at most, not in pieces.
        plate_nesting: As in :class:`ELBO`.
        chunk: Values per pass of the guide's label with most values; the pass is repeated in
            the backward pass, so that memory does not grow with the number of values. 0 takes
            all at once. Not under ``torch.func``.
        backend: ``"torch"``, or ``"funsor"`` to contract by named dimensions.
        combinations: Most combinations of labels that one term may depend on.

    Raises:
        ValueError: If an option is not one of those named.
    """

    enumerates = True

    def __init__(
        self,
        particles: int = 1,
        kl: Literal["sampled", "analytic"] = "sampled",
        grad: Literal["plain", "stl"] = "plain",
        beta: Beta = 1.0,
        free_bits: float | FreeBits = 0.0,
        plate_nesting: int | None = None,
        chunk: int = 0,
        backend: Literal["torch", "funsor"] = "torch",
        combinations: int = COMBINATIONS,
    ) -> None:
        super().__init__(particles, kl, grad, beta, free_bits, plate_nesting)
        check_choice("backend", backend, BACKENDS)
        at_least(chunk=(chunk, 0), combinations=(combinations, 1))
        self.chunk, self.backend, self.combinations = chunk, backend, combinations

    @property
    def formula(self) -> str:
        """With the sum over labels written out."""
        return over_labels(self._bound(labels=True))

    def ask(self) -> Ask:
        """The draws of this bound, labels enumerated up to ``combinations``."""
        return dataclasses.replace(super().ask(), cap=self.combinations)

    @property
    def part_names(self) -> tuple[str, ...]:
        """As in :class:`ELBO`; in pieces the two are one, which is then no bound."""
        return (weighted(BOUND, 0.0),) if self.chunk and self._reweighs() else super().part_names

    def rows_by_part(self, run: Evaluation) -> dict[str, Tensor]:
        """Minus the bound per row, and what weights and floors add."""
        if pieces := self._in_pieces(run):
            return {self.part_names[0]: -pieces[0]}
        parts = self._at_once(run)
        return parts if len(self.part_names) > 1 else {self.part_names[0]: added(parts)}

    def breakdown(self, run: Evaluation) -> dict[str, Tensor]:
        """As in :class:`ELBO`; nothing in pieces, or by named dimensions."""
        return {} if self.chunk or self.backend != "torch" else super().breakdown(run)

    def _at_once(self, run: Evaluation) -> dict[str, Tensor]:
        w = self.weights(run)
        if not w.term_by_term and self.backend == "torch":
            return super().rows_by_part(run)
        by = backend(self.backend, self.combinations)
        loss = -w.elbo(by, beta=self._beta())
        if not self._reweighs():
            return {BOUND: loss}
        with torch.no_grad():
            bound = -w.elbo(by)
        return {BOUND: bound, EXTRA_KL: loss - bound}

    def outside(self, run: Evaluation) -> Tensor | float:
        """Minus (log p - log q) of the sites outside the data plate."""
        if pieces := self._in_pieces(run):
            return -pieces[1]
        return super().outside(run)

    def lead(self, run: Evaluation) -> Lead | None:
        """Its own draws; in pieces they are never all there at once."""
        return None if self._in_pieces(run) else super().lead(run)

    def _in_pieces(self, run: Evaluation) -> tuple[Tensor, Tensor | float] | None:
        if not self.chunk:
            return None
        by = backend(self.backend, self.combinations)
        return run.once(
            "pieces",
            lambda: elbo_in_pieces(run, self.ask(), self.chunk, by, self._beta),
            owner=self,
        )

    def _beta(self) -> float | dict[str, float]:
        if self.free_bits.nats != 0:
            raise ValueError(
                "free_bits needs the KL of each site by itself, which several labels, chunk= and "
                'backend="funsor" do not form; use beta='
            )
        if isinstance(self.beta, Mapping):
            return {name: value_at(beta, self.progress) for name, beta in self.beta.items()}
        return value_at(self.beta, self.progress)
