"""Objectives: what a pair is trained to make large.

They subclass Pyro's ``ELBO``, so ``SVI(pair.model, pair.guide, optim, loss=objective)`` takes
them; they add up (``IWELBO(8) + Classification("y", 0.1)``), print their formula, and give
one loss per row. A loss is what is made small: minus the bound, in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import torch
from pyro.infer import ELBO as PyroELBO
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.inference.bounds import (
    dreg_coefficients,
    label_posterior,
    lambda_bound,
    log_mean_weight,
    plain_coefficients,
)
from ppl_models.inference.evaluation import Evaluation, Weights
from ppl_models.inference.schedule import Anneal

Batches = Batch | Iterable[Batch]


class Objective(PyroELBO):
    """A loss per row of a batch, shared by all that an objective can be asked for.

    A subclass writes :meth:`rows` and :attr:`formula`.

    Args:
        plate_nesting: Number of plate dimensions in the model, the data plate included.
    """

    def __init__(self, plate_nesting: int = 1) -> None:
        super().__init__(max_plate_nesting=plate_nesting)
        self.progress = 0.0

    @property
    def formula(self) -> str:
        """What is made large, in the notation of ``bounds``."""
        raise NotImplementedError

    def __str__(self) -> str:
        """The formula."""
        return self.formula

    def rows(self, run: Evaluation) -> Tensor:
        """The loss per row ``(B,)`` of one evaluated batch, without the plate's N / B."""
        raise NotImplementedError

    def outside(self, run: Evaluation) -> Tensor | float:
        """The loss of sites outside the data plate, counted once per data set."""
        return 0.0

    def at(self, progress: float) -> None:
        """Set the share of training that is done, which schedules read."""
        self.progress = progress

    def per_datum(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batch: Batch
    ) -> Tensor:
        """The loss of each row, unreduced and without N / B; works under ``torch.func``.

        Under ``vmap`` take ``randomness="same"`` (every row then sees the same noise):
        torch's own Normal draws cannot differ from row to row there. Pyro's checks must be off
        (``pyro.validation_enabled(False)``).

        Args:
            model: The model.
            guide: The guide.
            batch: Rows that share what is observed.

        Returns:
            ``(B,)``, nats.
        """
        return self.rows(Evaluation(model, guide, batch, self.max_plate_nesting))

    def differentiable_loss(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> Tensor:
        """The loss of the whole data set, estimated from one batch or one of each kind.

        Labelled and unlabelled rows come as two batches; their losses add up before the one
        gradient step, each with the N / B of its own kind.

        Returns:
            A scalar, nats, for all rows that the batches stand for.
        """
        total: Tensor | float = 0.0
        for batch in (batches,) if isinstance(batches, Batch) else batches:
            run = Evaluation(model, guide, batch, self.max_plate_nesting)
            total = total + batch.scale * self.rows(run).sum()
            # Global sites are the same in every kind of batch: together they count once.
            total = total + self.outside(run) * (batch.size / batch.total)
        if not isinstance(total, Tensor):
            raise ValueError("no batch given, expected at least one")
        return total

    def loss(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> float:
        """The loss as a number, without gradient."""
        with torch.no_grad():
            return float(self.differentiable_loss(model, guide, batches))

    def loss_and_grads(
        self, model: Callable[[Batch], Any], guide: Callable[[Batch], Any], batches: Batches
    ) -> float:
        """The loss as a number, its gradient left in the parameters (for Pyro's SVI)."""
        loss = self.differentiable_loss(model, guide, batches)
        loss.backward()
        return float(loss.detach())

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
        # Pyro's base class asks for it: one run of the pair, as (model trace, guide trace).
        w = Evaluation(model, guide, args[0], self.max_plate_nesting).weights()
        return w.model, w.guide

    def __add__(self, other: Objective) -> Sum:
        """Both losses, on the same traces."""
        return Sum([*_parts(self), *_parts(other)])

    def __mul__(self, weight: float) -> Sum:
        """The loss times a weight."""
        return Sum([(weight * w, term) for w, term in _parts(self)])

    __rmul__ = __mul__


class Sum(Objective):
    """A weighted sum of objectives; all of them read the same traces."""

    def __init__(self, parts: list[tuple[float, Objective]]) -> None:
        super().__init__(max(term.max_plate_nesting for _, term in parts))
        self.parts = parts

    def __repr__(self) -> str:
        """As written."""
        return " + ".join(f"{term!r}" if w == 1 else f"{w:g} * {term!r}" for w, term in self.parts)

    @property
    def formula(self) -> str:
        """The formulas, added up."""
        return "  +  ".join(
            term.formula if w == 1 else f"{w:g} [{term.formula}]" for w, term in self.parts
        )

    def at(self, progress: float) -> None:
        """Hand the progress to every part."""
        super().at(progress)
        for _, term in self.parts:
            term.at(progress)

    def rows(self, run: Evaluation) -> Tensor:
        """The weighted sum of the parts' losses per row."""
        losses = [w * term.rows(run) if w != 1 else term.rows(run) for w, term in self.parts]
        return torch.stack(losses).sum(0) if len(losses) > 2 else sum(losses[1:], losses[0])

    def outside(self, run: Evaluation) -> Tensor | float:
        """The weighted sum of the parts' losses outside the data plate."""
        total: Tensor | float = 0.0
        for w, term in self.parts:
            total = total + w * term.outside(run)
        return total


def _parts(objective: Objective) -> list[tuple[float, Objective]]:
    return objective.parts if isinstance(objective, Sum) else [(1.0, objective)]


class _Bound(Objective):
    """A bound made from one set of log weights."""

    def weights(self, run: Evaluation) -> Weights:
        """The weights this bound asks for."""
        raise NotImplementedError

    def outside(self, run: Evaluation) -> Tensor | float:
        """Minus (log p - log q) of the sites outside the data plate."""
        return -self.weights(run).outside


class ELBO(_Bound):
    r"""The evidence lower bound with reparameterised draws, for pairs without missing labels.

    :math:`E_{q(z|x)}[\log p(x, z) - \log q(z|x)]` (Kingma and Welling 2014, arXiv 1312.6114).

    Args:
        particles: Draws K, averaged outside the log.
        kl: ``"analytic"`` takes KL(q || p) of each latent in closed form, ``"sampled"`` from
            the same draws as the likelihood.
        grad: ``"plain"``, or ``"stl"`` to leave the direct dependence of log q on its
            parameters out of the gradient, which has mean zero (Roeder et al. 2017,
            arXiv 1703.09194; sampled KL only).
        plate_nesting: Number of plate dimensions, the data plate included.

    Raises:
        ValueError: If an option is not one of those named.
    """

    enumerates = False

    def __init__(
        self,
        particles: int = 1,
        kl: Literal["sampled", "analytic"] = "sampled",
        grad: Literal["plain", "stl"] = "plain",
        plate_nesting: int = 1,
    ) -> None:
        super().__init__(plate_nesting)
        _check_particles(particles)
        _check_choice("kl", kl, ("sampled", "analytic"))
        _check_choice("grad", grad, ("plain", "stl"))
        if grad == "stl" and kl == "analytic":
            raise ValueError('grad="stl" changes the gradient of a sampled KL, got kl="analytic"')
        self.particles, self.kl, self.grad = particles, kl, grad

    def __repr__(self) -> str:
        """As written."""
        return f"{type(self).__name__}(particles={self.particles}, kl={self.kl!r})"

    @property
    def formula(self) -> str:
        """E.g. ``E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))``."""
        if self.kl == "analytic":
            return "E_q(z|x)[log p(x|z)] - KL(q(z|x) || p(z))"
        return "E_q(z|x)[log p(x,z) - log q(z|x)]"

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound."""
        return run.weights(
            self.particles,
            enumerate_labels=self.enumerates,
            analytic_kl=self.kl == "analytic",
            path=self.grad == "stl",
        )

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound per row."""
        w = self.weights(run)
        return -lambda_bound(log_mean_weight(w.log_w, inside=False), w.log_q_labels, 1.0)


class EnumeratedELBO(ELBO):
    r"""The evidence lower bound with every missing label summed out exactly.

    :math:`\sum_y q(y|x)\,[E_{q(z|x,y)}[\log p(x, y, z) - \log q(z|x,y)] - \log q(y|x)]`, the
    bound U of Kingma et al. 2014 (arXiv 1406.5298, eq. 7), and L (eq. 6) where the label is
    observed. Equals Pyro's ``TraceEnum_ELBO`` without a copy of x per label. Arguments as in
    :class:`ELBO`.
    """

    enumerates = True

    @property
    def formula(self) -> str:
        """With the sum over labels written out."""
        inner = super().formula.replace("q(z|x)", "q(z|x,y)").replace("p(x|z)", "p(x|y,z)")
        inner = inner.replace("log p(x,z)", "log p(x,y,z)").replace("p(z)", "p(y,z)")
        return f"sum_y q(y|x) {{{inner} - log q(y|x)}}"


class IWELBO(_Bound):
    r"""The importance-weighted bound with missing labels summed inside the log, row by row.

    :math:`L_\lambda = D_K - \lambda KL(q(y|x) \| \pi)` with
    :math:`D_K = \log \sum_y \frac1K \sum_k w_{y,k}` and :math:`\pi` the label posterior that the
    weights imply: a lower bound of log p(x) for every :math:`\lambda \ge 0`. At
    :math:`\lambda = 1`, K = 1 it is M2's bound; at 0 it is tightest, but q(y|x) gets no
    gradient, so where :math:`\lambda < 1` the classifier is also distilled from :math:`\pi`:
    the loss gains :math:`(1 - \lambda)\, distil\, CE(\mathrm{sg}(\pi), q(y|x))` on rows whose
    label is missing. Without missing labels it is the bound of Burda et al. 2016
    (arXiv 1509.00519).

    Args:
        particles: Draws K per row and label, averaged inside the log.
        lam: :math:`\lambda`, a number or an :class:`Anneal`.
        grad: ``"plain"``; ``"dreg"``, doubly reparameterised for the guide (Tucker et al.
            2019, arXiv 1810.04152; weights normalised jointly over label and draw);
            ``"stl"``, allowed only at K = 1 and :math:`\lambda = 1`, where it is unbiased.
        distil: Weight of the distillation.
        plate_nesting: Number of plate dimensions, the data plate included.

    Raises:
        ValueError: If an option is out of range, or sticking-the-landing would be biased.
    """

    def __init__(
        self,
        particles: int = 8,
        lam: float | Anneal = 1.0,
        grad: Literal["plain", "dreg", "stl"] = "plain",
        distil: float = 1.0,
        plate_nesting: int = 1,
    ) -> None:
        super().__init__(plate_nesting)
        _check_particles(particles)
        _check_choice("grad", grad, ("plain", "dreg", "stl"))
        for value in (lam,) if not isinstance(lam, Anneal) else (lam.first, lam.last):
            if not value >= 0:
                raise ValueError(f"lam is {value}, expected at least 0 (else it is no bound)")
        if not distil >= 0:
            raise ValueError(f"distil is {distil}, expected at least 0")
        if grad == "stl" and (particles != 1 or lam != 1):
            raise ValueError(
                'grad="stl" is biased for this bound unless particles=1 and lam=1; use grad="dreg"'
            )
        self.particles, self.lam, self.grad, self.distil = particles, lam, grad, distil

    def __repr__(self) -> str:
        """As written."""
        lam = f"Anneal({self.lam})" if isinstance(self.lam, Anneal) else f"{self.lam:g}"
        return f"IWELBO(particles={self.particles}, lam={lam}, grad={self.grad!r})"

    @property
    def formula(self) -> str:
        """With K and lambda filled in."""
        text = f"log sum_y 1/{self.particles} sum_k p(x,y,z_k) / q(z_k|x,y)"
        if self.lam != 0:
            lam = self.lam if isinstance(self.lam, Anneal) else f"{self.lam:g}"
            text += f" - ({lam}) KL(q(y|x) || pi)"
        if self.lam != 1 and self.distil:
            text += f" - {self.distil:g} (1 - lambda) CE(sg(pi), q(y|x))"
        return text

    @property
    def current_lam(self) -> float:
        """Lambda at the present progress of training."""
        return self.lam(self.progress) if isinstance(self.lam, Anneal) else self.lam

    def weights(self, run: Evaluation) -> Weights:
        """The draws of this bound."""
        return run.weights(self.particles, path=self.grad != "plain", bridge=self.grad == "dreg")

    def bound(self, w: Weights) -> Tensor:
        """The bound L_lambda per row ``(B,)``, differentiable as ``grad`` says."""
        lam = self.current_lam
        if w.rescaled is not None and (self.particles > 1 or lam != 1):
            raise ValueError(
                f"site {w.rescaled!r} carries a weight of its own inside the log, which is no "
                "bound; expected only the plate's N / B"
            )
        if self.grad == "dreg":
            return _dreg(w, lam)
        return lambda_bound(log_mean_weight(w.log_w), w.log_q_labels, lam)

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound per row, plus the distillation of the classifier."""
        w = self.weights(run)
        loss = -self.bound(w)
        share = self.distil * max(0.0, 1.0 - self.current_lam)
        if w.log_q_labels is not None and share > 0:
            labels = tuple(range(-w.log_q_labels.dim(), -2))
            pi = label_posterior(log_mean_weight(w.log_w.detach()), labels).exp()
            loss = loss - share * (pi * w.log_q_labels).sum(labels).squeeze(0)
        return loss


def _dreg(w: Weights, lam: float) -> Tensor:
    # One graph, three gradients: the model's parameters take the plain coefficients r, the
    # path through the draws the doubly reparameterised ones c, and q(y | x) its own.
    log_w = w.log_w.detach()
    log_q = w.log_q_labels
    value = lambda_bound(log_mean_weight(log_w), log_q, lam)
    held = None if log_q is None else log_q.detach()
    r = plain_coefficients(log_w, held, lam)
    c = dreg_coefficients(log_w, held, lam, w.shared)
    ratio = c / r.clamp_min(torch.finfo(r.dtype).tiny)  # at most 1, as c <= r

    for bridge, event_dims in w.bridges:
        if bridge.requires_grad:
            scale = ratio.reshape(ratio.shape + (1,) * event_dims)
            bridge.register_hook(lambda g, scale=scale: g * scale)
    every = tuple(range(w.log_p.dim() - 1))
    surrogate = (r * w.log_p - c * w.log_q).sum(every)
    return value + surrogate - surrogate.detach()


def _check_particles(particles: int) -> None:
    if particles < 1:
        raise ValueError(f"particles is {particles}, expected at least 1")


def _check_choice(option: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{option} is {value!r}, expected one of {', '.join(allowed)}")
