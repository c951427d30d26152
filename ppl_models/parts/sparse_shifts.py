"""Causes of which each shifts a few of the latents, and it is learnt which ones.

Cause a shifts latent j by mu_aj where gamma_aj = 1, and that is so with probability pi_aj, of
which the prior is Beta(1, K). The masks gamma stand in the rows, each latent's in an entry of a
plate, with the same probabilities in story and guide: their KL is 0, and a bound that sums labels
out has the expectation over them exactly.

Shapes: A causes, L latents, B rows; E values of gamma on the left.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.config import unknown

FIXED = {"ones": 1.0, "zeros": 0.0}
MASKS = ("summed", "gumbel", *FIXED)
START = 5.0  # logit of all probabilities: at first every cause shifts every latent


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

    def __init__(
        self, causes: int, latent: int, masks: str, sparsity: float, idle: Sequence[str] = ()
    ) -> None:
        super().__init__()
        self.causes, self.latent, self.masks = causes, latent, masks
        self.sparsity, self.idle = sparsity, tuple(idle)
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
            q = dist.Delta(self.logits.sigmoid(), event_dim=2)
            found: Tensor = pyro.sample("pi", q)
        else:
            one = self.logits.new_ones(self.causes, self.latent)
            found = pyro.sample("pi", dist.Beta(one, self.sparsity).to_event(2))
        return found

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
        every = next(self.parameters(), torch.zeros(0))
        free = self.free(torch.arange(self.causes, device=every.device), names).unsqueeze(-1)
        pi = self.logits.sigmoid() if self.learnt else FIXED[self.masks]
        return (free * pi).expand(-1, self.latent)

    def free(self, cause: Tensor, names: Sequence[str]) -> Tensor:
        """1.0 of causes ``(...)`` that may shift latents, 0.0 of those that are idle.

        Raises:
            ValueError: If an idle one is none of the names.
        """
        found = torch.ones_like(cause, dtype=torch.get_default_dtype())
        for name in self.idle:
            if name not in names:
                raise ValueError(unknown("cause that shifts nothing", name, names))
            found = found * (cause != list(names).index(name))
        return found
