"""Discrete sites replaced by points inside the simplex: Gumbel-softmax and Concrete."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import kl_divergence

from ppl_models.batch import Batch
from ppl_models.config import at_least
from ppl_models.inference.objectives.arithmetic import log_mean_weight
from ppl_models.inference.objectives.base import Bound, check_choice
from ppl_models.inference.objectives.formulas import expected
from ppl_models.inference.objectives.loss_parts import ESTIMATE
from ppl_models.inference.objectives.schedule import Anneal, check_range, value_at, written
from ppl_models.inference.traces.evaluation import Evaluation, Lead
from ppl_models.inference.traces.sites import UnhandledSite
from ppl_models.inference.traces.weights import Weights


class RelaxedELBO(Bound):
    r"""The ELBO with discrete latent sites drawn from their relaxation, biased but low in noise.

    The guide's Categorical, OneHotCategorical and Bernoulli sites (also vectors of them) are
    drawn as points of the simplex or of (0, 1) (Jang et al. 2017, arXiv 1611.01144; Maddison et
    al. 2017, arXiv 1611.00712), and the networks get these values: a category as a vector of C
    weights, never an integer. Observed sites stay as they are.

    Args:
        particles: Draws K, averaged outside the log.
        temperature: Of the relaxation, above 0, or an :class:`Anneal`.
        hard: Round the draw, and let the gradient pass as if it were not rounded
            (straight-through).
        prior: ``"categorical"`` takes KL(q || p) of the discrete distributions in closed form;
            ``"relaxed"`` scores the draw with the Concrete densities of guide and model at the
            same temperature, a bound of the relaxed model.
        plate_nesting: Number of plate dimensions, the data plate included.

    Raises:
        ValueError: If an option is out of range, or rounded draws would get a density.
    """

    def __init__(
        self,
        particles: int = 1,
        temperature: float | Anneal = 0.66,
        hard: bool = False,
        prior: Literal["categorical", "relaxed"] = "categorical",
        plate_nesting: int = 1,
    ) -> None:
        super().__init__(plate_nesting)
        at_least(particles=(particles, 1))
        check_range("temperature", temperature, 1e-6)
        check_choice("prior", prior, ("categorical", "relaxed"))
        if hard and prior == "relaxed":
            raise ValueError(
                "hard=True puts draws on the corners, where Concrete densities are infinite; "
                'use prior="categorical"'
            )
        self.particles, self.temperature, self.hard = particles, temperature, hard
        self.prior = prior

    @property
    def formula(self) -> str:
        """With y for the relaxed sites."""
        if self.prior == "relaxed":
            bound = expected("y,z", labels=False)
        else:
            bound = "E_q(y,z|x)[log p(x,z|y) - log q(z|x,y)] - KL(q(y|x) || p(y))"
        hard = ", rounded" if self.hard else ""
        return f"{bound}, y relaxed at {written(self.temperature)}{hard}"

    @property
    def part_names(self) -> tuple[str, ...]:
        """An estimate: the relaxed values are another model's."""
        return (ESTIMATE,)

    def weights(self, run: Evaluation) -> Weights:
        """The relaxed draws of this bound, apart from the other terms' of a sum."""
        return self._where(run).weights(self.particles, enumerate_labels=False)

    def _where(self, run: Evaluation) -> Evaluation:
        return run.once("relaxed", lambda: self._relaxed(run), owner=self)

    def lead(self, run: Evaluation) -> Lead | None:
        """Its relaxed draws."""
        return Lead(self._where(run), self.weights(run))

    def _relaxed(self, run: Evaluation) -> Evaluation:
        relax = _Relax(value_at(self.temperature, self.progress), self.hard, self.prior)
        return run.like(relax.model(run.model), relax.guide(run.guide))

    def rows(self, run: Evaluation) -> Tensor:
        """Minus the bound per row."""
        bound = log_mean_weight(self.weights(run).log_w, inside=False)
        return -bound.reshape(run.batch.count)


def relaxation(fn: Any, temperature: float, hard: bool = False) -> Any:
    """The relaxation of a discrete distribution, or None where it has none here.

    Args:
        fn: A Categorical, OneHotCategorical or Bernoulli, or a vector of independent ones.
        temperature: Temperature of the relaxation.
        hard: Round the draws, straight-through.

    Returns:
        A distribution over one-hot vectors ``(..., C)`` or numbers in (0, 1).
    """
    if isinstance(fn, dist.Independent):
        base = relaxation(fn.base_dist, temperature, hard)
        return None if base is None else base.to_event(fn.reinterpreted_batch_ndims)
    if isinstance(fn, dist.Categorical | dist.OneHotCategorical):
        onehot = dist.RelaxedOneHotCategoricalStraightThrough if hard else _Concrete
        return onehot(fn.logits.new_ones(()) * temperature, logits=fn.logits)
    if isinstance(fn, dist.Bernoulli):
        number = dist.RelaxedBernoulliStraightThrough if hard else dist.RelaxedBernoulli
        return number(fn.logits.new_ones(()) * temperature, logits=fn.logits)
    return None


class _Concrete(dist.RelaxedOneHotCategorical):
    """Draws kept off the faces of the simplex, where a cold draw rounds to and log is -inf."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        draw: Tensor = super().rsample(sample_shape)
        # Cold scores are large, and their rounding shows in the sum.
        draw = draw / draw.sum(-1, keepdim=True)
        return draw.clamp_min(torch.finfo(draw.dtype).tiny)


class _Relax:
    """The two sides of a pair with their discrete latent sites relaxed; guide first."""

    def __init__(self, temperature: float, hard: bool, prior: str) -> None:
        self.temperature, self.hard, self.closed = temperature, hard, prior == "categorical"
        self.exact: dict[str, Any] = {}
        self.event_dim: dict[str, int] = {}
        self.drawn: dict[str, Tensor] = {}

    def guide(self, function: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        relaxed: Callable[[Batch], Any] = _Guide(self)(function)
        return relaxed

    def model(self, function: Callable[[Batch], Any]) -> Callable[[Batch], Any]:
        relaxed: Callable[[Batch], Any] = _Model(self)(function)
        return relaxed


class _Guide(Messenger):
    def __init__(self, relax: _Relax) -> None:
        super().__init__()
        self.relax = relax

    def _pyro_sample(self, msg: Any) -> None:
        if msg["is_observed"]:
            return
        relaxed = relaxation(msg["fn"], self.relax.temperature, self.relax.hard)
        if relaxed is None:
            return
        self.relax.exact[msg["name"]] = msg["fn"]
        self.relax.event_dim[msg["name"]] = relaxed.event_dim
        # Under the closed form the model's side carries the whole KL.
        msg["fn"] = relaxed.mask(False) if self.relax.closed else relaxed

    def _pyro_post_sample(self, msg: Any) -> None:
        if msg["name"] in self.relax.exact:
            self.relax.drawn[msg["name"]] = msg["value"]


class _Model(Messenger):
    def __init__(self, relax: _Relax) -> None:
        super().__init__()
        self.relax = relax

    def _pyro_sample(self, msg: Any) -> None:
        name, prior = msg["name"], msg["fn"]
        if msg["is_observed"] or name not in self.relax.exact:
            return
        if not self.relax.closed:
            msg["fn"] = relaxation(prior, self.relax.temperature)
            if msg["fn"] is None:
                raise UnhandledSite(_no_counterpart(name, self.relax.exact[name], prior))
            return
        q = self.relax.exact[name]
        shape = torch.broadcast_shapes(q.batch_shape, prior.batch_shape)
        try:
            kl = kl_divergence(q.expand(shape), prior.expand(shape))  # torch's does not broadcast
        except NotImplementedError:
            raise UnhandledSite(_no_counterpart(name, q, prior)) from None
        value, event = self.relax.drawn[name], self.relax.event_dim[name]
        batch = torch.broadcast_shapes(kl.shape, value.shape[: value.dim() - event])
        value = value.expand(batch + value.shape[value.dim() - event :])
        msg["fn"] = dist.Delta(value, log_density=-kl.expand(batch), event_dim=event)


def _no_counterpart(name: str, q: Any, p: Any) -> str:
    return (
        f"site {name!r} is {type(q).__name__} in the guide and {type(p).__name__} in the model; "
        "expected the same discrete distribution, so that both have one relaxation"
    )
