"""Causes of which each shifts a few of the latents, and it is learnt which ones.

Cause a shifts latent j by mu_aj where gamma_aj = 1, and that is so with probability pi_aj, of
which the prior is Beta(1, K). The masks gamma stand in the rows, each latent's in an entry of a
plate, with the same probabilities in story and guide: their KL is 0, and a bound that sums labels
out has the expectation over them exactly.

Shapes: A causes, L latents, B rows; E values of gamma on the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.batch import Batch
from ppl_models.config import unknown

FIXED = {"ones": 1.0, "zeros": 0.0}
MASKS = ("summed", "gumbel", *FIXED)
START = 5.0  # logit of all probabilities: at first every cause shifts every latent
SURE = 16.0  # logit of a mask that is settled


class SparseShifts(nn.Module):
    """Shifts mu ``(A, L)``, and logits ``(A, L)`` of the point that the guide has for pi.

    Args:
        causes: A.
        latent: L.
        masks: ``summed`` samples gamma, to be summed out; ``gumbel`` draws it straight-through
            at temperature 1 (Jang et al. 2017, arXiv 1611.01144); ``ones`` and ``zeros`` fix it.
        sparsity: K.
        idle: Names of causes that shift nothing, such as controls.
    """

    one: Tensor

    def __init__(
        self, causes: int, latent: int, masks: str, sparsity: float, idle: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.causes, self.latent, self.masks = causes, latent, masks
        self.sparsity, self.idle = sparsity, tuple(idle)
        self.register_buffer("one", torch.ones(()), persistent=False)
        if masks != "zeros":
            self.mu = nn.Parameter(torch.randn(causes, latent))
        if self.learnt:
            self.logits = nn.Parameter(torch.full((causes, latent), START))

    @property
    def learnt(self) -> bool:
        """Whether there are masks to learn."""
        return self.masks not in FIXED

    def sample_pi(self, point: bool) -> Tensor | None:
        """Sample pi ``(A, L)``, outside the rows; None where the masks are fixed.

        Args:
            point: As the guide does, at its point.
        """
        if not self.learnt:
            return None
        if point:
            found: Tensor = pyro.sample("pi", dist.Delta(self.point(), event_dim=2))
        else:
            one = self.logits.new_ones(self.causes, self.latent)
            found = pyro.sample("pi", dist.Beta(one, self.sparsity).to_event(2))
        return found

    def rates(self, masks: float, shifts: float) -> dict[str, float]:
        """Learning rates of what there is to learn, for a stage of a pair's ``shifts``."""
        found = {"shifts.logits": masks} if self.learnt else {}
        return found if self.masks == "zeros" else {**found, "shifts.mu": shifts}

    def point(self) -> Tensor:
        """The guide's point of pi ``(A, L)``."""
        return self.logits.sigmoid()

    @torch.no_grad()
    def settle(self, unseen: Tensor) -> None:
        """Make masks 0 or 1, so that what follows fits shifts: transfer to further causes.

        Where no cause shifts anything, there is nothing to settle.

        Args:
            unseen: Codes of causes without a row so far; they may shift every latent, and their
                shifts start at 0.
        """
        if self.masks == "zeros":
            return
        self.mu[unseen] = 0
        if self.learnt:
            sure = torch.where(self.logits > 0, SURE, -SURE)
            sure[unseen] = SURE
            self.logits.copy_(sure)

    def sample_masks(self, pi: Tensor | None, cause: Tensor, names: Sequence[str]) -> Tensor:
        """Sample gamma ``(E, L, B)`` of rows, in their plate and one over the latents.

        Args:
            pi: As :meth:`sample_pi` gives it.
            cause: Code of each row's cause ``(B,)``.
            names: Those of the causes, in the order of their codes.
        """
        free = self.free(cause, names)
        if pi is None:
            return free * FIXED[self.masks]
        probs = (pi[cause] * free.unsqueeze(-1)).mT  # L x B
        if self.masks == "summed":
            gamma: Tensor = pyro.sample("gamma", dist.Bernoulli(probs))
        else:
            relaxed = dist.RelaxedBernoulliStraightThrough(probs.new_ones(()), probs=probs)
            gamma = pyro.sample("gamma", relaxed.mask(False))
        return gamma

    def means(self, gamma: Tensor, cause: Tensor) -> Tensor:
        """Mean of each latent ``(E, L, B)``."""
        if self.masks == "zeros":
            return gamma.expand(self.latent, -1)
        return gamma * self.mu[cause].mT

    def probabilities(self, names: Sequence[str]) -> Tensor:
        """That each cause shifts each latent ``(A, L)``.

        Args:
            names: Those of the causes, in the order of their codes.
        """
        causes = torch.arange(self.causes, device=self.one.device)
        free = self.free(causes, names).unsqueeze(-1)
        pi = self.point() if self.learnt else FIXED[self.masks]
        return (free * pi).expand(-1, self.latent)

    def structure(self, names: Sequence[str]) -> dict[str, Tensor]:
        """Probabilities and sizes of the shifts ``(A, L)``, by name.

        Args:
            names: Those of the causes, in the order of their codes.
        """
        found = {"target_probs": self.probabilities(names)}
        return found if self.masks == "zeros" else {**found, "shifts": self.mu}

    def free(self, cause: Tensor, names: Sequence[str]) -> Tensor:
        """1.0 of causes ``(...)`` that may shift latents, 0.0 of those that are idle."""
        found = self.one.expand(cause.shape)
        for code in self.idle_codes(names):
            found = found * (cause != code)
        return found

    def idle_codes(self, names: Sequence[str]) -> list[int]:
        """Codes of the causes that shift nothing.

        Raises:
            ValueError: If one of them has none of the names.
        """
        for name in self.idle:
            if name not in names:
                raise ValueError(unknown("cause that shifts nothing", name, names))
        return [list(names).index(name) for name in self.idle]


def vectors(z: Tensor) -> Tensor:
    """Latents in a plate within the rows, ``(L, B)`` or ``(K, L, B)``, as vectors of rows.

    Returns:
        ``(B, L)`` or ``(K, 1, B, L)``.
    """
    return z.mT if z.dim() == 2 else z.mT.unsqueeze(-3)


class ShiftGuide(nn.Module):
    """q(pi) q(gamma | pi) q(z | x), where z is Normal and its moments do not see the cause.

    Args:
        pair: Has ``shifts``, and says the ``classes`` of the cause.
        net: Means and log-variances of z ``(B, 2 L)`` from x.
        cause: The covariate that says the cause.
    """

    def __init__(self, pair: Any, net: nn.Module, cause: str = "perturbation") -> None:
        super().__init__()
        self._pair, self.net, self.cause = (pair,), net, cause  # a tuple is no part of it

    def moments(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of z ``(B, L)``."""
        loc, log_variance = self.net(x).chunk(2, -1)
        return loc, (0.5 * log_variance).exp()

    def forward(self, batch: Batch) -> None:
        """Sample pi, gamma and z."""
        (pair,) = self._pair
        loc, scale = self.moments(batch["x"])
        pi = pair.shifts.sample_pi(point=True)
        with batch.plate(), pyro.plate("latent", pair.shifts.latent, dim=-2):
            pair.shifts.sample_masks(
                pi, batch[self.cause], pair.class_names(self.cause)
            )  # E x L x B
            pyro.sample("z", dist.Normal(loc.mT, scale.mT))  # L x B
