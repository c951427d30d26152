"""Latents in blocks, each of which follows a variable that is sometimes set by hand (CITRIS).

Latents z of a frame become those of the next one, each alone given all before it. Which of K
variables a latent belongs to is its block psi, from 1 to K, and 0 for what nobody sets; a latent's
transition sees whether the variable of its own block was set, and no other target.

Shapes: E blocks that are summed out, S draws, M latents, B rows, K variables. A latent is an entry
of a plate within the rows, so that its block is summed out by itself: (M, B) there, and (B, M) as
vectors.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
import zuko
from pyro.ops.indexing import Vindex
from torch import Tensor, nn
from torch.distributions import constraints
from torch.nn import functional

from ppl_models.batch import Batch

NEVER = -1e4  # log probability of a block that there is not; its probability is 0
LARGEST = 3.0  # of the logarithm of a scale
ROUNDING = 1e-3  # how far a vector may be from what it is carried to


def latents(size: int) -> Any:
    """The plate over latents, within the rows'."""
    return pyro.plate("latent", size, dim=-2)


def inside(values: Tensor) -> Tensor:
    """Vectors ``(B, M)``, of S draws ``(S, 1, B, M)``, as entries of the plate ``(S, M, B)``."""
    values = values.transpose(-1, -2)
    return values if values.dim() == 2 else values.squeeze(-3)


def vectors(values: Tensor) -> Tensor:
    """Entries of the plate ``(M, B)`` or ``(S, M, B)`` as vectors of the rows."""
    values = values.transpose(-1, -2)
    return values if values.dim() == 2 else values.unsqueeze(-3)


class Flow(nn.Module):
    """An invertible function of vectors, masked and autoregressive (Papamakarios et al. 2017).

    From vectors to latents it is one pass (arXiv 1705.07057), and back it is one for each entry.

    Args:
        size: Entries M of a vector.
        steps: Number of autoregressive steps, which alternate in direction; none is the identity.
        hidden: Units of their conditioners' hidden layers.
    """

    def __init__(self, size: int, steps: int, hidden: Sequence[int]) -> None:
        super().__init__()
        flow = zuko.flows.MAF(
            size, transforms=steps, hidden_features=tuple(hidden), activation=nn.SiLU
        )
        self.steps = flow.transform.transforms

    def __repr__(self) -> str:
        """The module's tree; zuko draws random numbers to describe its own part."""
        with torch.random.fork_rng(devices=[]):
            return super().__repr__()

    def forward(self, x: Tensor) -> Tensor:
        """Vectors to latents, ``(..., M)``."""
        return self.with_log_det(x)[0]

    def with_log_det(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same and the log of the volume that it makes of one, ``(...)``."""
        log_det = x.new_zeros(x.shape[:-1])
        for step in self.steps:
            x, moved = step().call_and_ladj(x)
            log_det = log_det + moved
        return x, log_det

    def inverse(self, z: Tensor) -> Tensor:
        """Latents to vectors."""
        for step in reversed(self.steps):
            z = step().inv(z)
        return z


class Carried(dist.TorchDistribution):
    """The vector that a flow carries to these latents, with certainty.

    Its density at that vector is the volume that the flow makes of one there, so that latents
    with a density and this make a density of vectors; at any other vector it is 0.

    Args:
        flow: Vectors to latents.
        latents: ``(..., M)``.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, flow: Flow, latents: Tensor) -> None:
        self.flow, self.latents = flow, latents
        super().__init__(latents.shape[:-1], latents.shape[-1:], validate_args=False)

    def expand(self, batch_shape: Any, _instance: Any = None) -> Carried:
        """To more rows or draws."""
        return Carried(self.flow, self.latents.expand(*batch_shape, -1))

    @property
    def mean(self) -> Tensor:
        """The vector."""
        return self.flow.inverse(self.latents)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """The vector."""
        made = self.mean
        return made.expand(*sample_shape, *made.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Log of the volume, ``(...)``; minus infinity where latents are not the vector's."""
        found, log_det = self.flow.with_log_det(value)
        near = (found - self.latents).abs() <= ROUNDING * (1 + found.abs())
        return torch.where(near.all(-1), log_det, -math.inf)


class Blocks(nn.Module):
    """Which block each latent is in: probabilities that are parameters, as of all rows.

    Args:
        latents: Their number M.
        variables: Number K of variables.
        spare: Whether there is a block 0, for latents of no variable.

    Attributes:
        told: What a variable's target says of the others', ``(2, K + 1, K)``: by its value and
            number E[I_j | I_i], and at 0 of no variable the E[I_j] of all rows; see :meth:`count`.
    """

    closed: Tensor
    told: Tensor

    def __init__(self, latents: int, variables: int, spare: bool = True) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(latents, variables + 1))
        closed = torch.zeros(variables + 1)
        closed[0] = 0.0 if spare else NEVER
        self.register_buffer("closed", closed, persistent=False)
        self.register_buffer("told", torch.full((2, variables + 1, variables), 0.5))

    @property
    def scores(self) -> Tensor:
        """Log probabilities ``(M, K + 1)`` up to a constant."""
        return self.logits + self.closed

    @property
    def probabilities(self) -> Tensor:
        """``(M, K + 1)``."""
        return self.scores.softmax(-1)

    @property
    def assigned(self) -> Tensor:
        """The most probable block of each latent ``(M,)``."""
        return self.scores.argmax(-1)

    def forward(self) -> dist.TorchDistribution:
        """The block of a latent, as a site of the plate.

        It is the same in story and guide: there are no probabilities of a row, and a row says
        nothing of them, so that they cost nothing.
        """
        return dist.Categorical(logits=self.scores.unsqueeze(-2))

    def masks(self, gumbel: Tensor) -> Tensor:
        """Which latents are in each block ``(K + 2, B, M)``, and last all of them.

        Blocks are drawn, with the gradient of their softmax (Jang et al. 2017, arXiv 1611.01144).

        Args:
            gumbel: Gumbel noise ``(B, M, K + 1)``.
        """
        scores = self.scores + gumbel
        soft = scores.softmax(-1)
        hard = (scores == scores.amax(-1, keepdim=True)).to(soft.dtype)
        drawn = (hard + soft - soft.detach()).movedim(-1, 0)
        return torch.cat([drawn, torch.ones_like(drawn[:1])])

    def share(self, run: Any = None) -> Tensor:
        """Mean probability of a latent to be outside block 0."""
        return 1 - self.probabilities[:, 0].mean()

    def swapped(self, first: Tensor, second: Tensor, blocks: Sequence[int]) -> Tensor:
        """Latents ``(B, M)``, those of some blocks as in the second."""
        own = torch.isin(self.assigned, torch.as_tensor(blocks, device=first.device))
        return torch.where(own, second, first)

    def count(self, batch: Batch) -> None:
        """Take what targets say of each other from some rows, for ``Stage(start=)``."""
        targets = batch["targets"]
        mean = targets.mean(0)
        for value, rows in enumerate((1 - targets, targets)):
            many = rows.sum(0).unsqueeze(-1)
            given = torch.where(many > 0, rows.T @ targets / many.clamp(min=1), mean)
            self.told[value].copy_(torch.cat([mean.unsqueeze(0), given]))


class Transitions(nn.Module):
    """p(z_j' | z, whether its block's variable was set): a Normal for each block it may be in.

    Args:
        latents: Their number M.
        variables: Number K of variables.
        hidden: Units of each latent's network.
        perfect: A variable that is set is drawn from one distribution, whatever it was before;
            else a target is one more input of the networks.
    """

    def __init__(self, latents: int, variables: int, hidden: int, perfect: bool = False) -> None:
        super().__init__()
        self.sizes = latents, hidden
        self.before = nn.Linear(latents, latents * hidden)
        self.after = nn.Parameter(torch.empty(latents, hidden, 2))
        self.bias = nn.Parameter(torch.zeros(latents, 2))
        self.set = nn.Parameter(torch.empty(variables, latents, 2 if perfect else hidden))
        self.perfect = perfect
        nn.init.uniform_(self.after, -(hidden**-0.5), hidden**-0.5)
        nn.init.uniform_(self.set, -1.0, 1.0)

    def forward(self, z: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and scale ``(K + 1, M, B)`` in each block.

        Args:
            z: Latents before ``(B, M)``.
            targets: Which variables were set ``(B, K)``, 1 or 0.
        """
        hidden = self.before(z).unflatten(-1, self.sizes)  # B x M x H
        was_set = targets.T[..., None, None]  # K x B x 1 x 1
        own = self.set.unsqueeze(1)
        if self.perfect:
            free = self._last(hidden)
            free = torch.cat([free.unsqueeze(0), torch.where(was_set > 0, own, free)])
        else:
            free = self._last(torch.cat([hidden.unsqueeze(0), hidden + was_set * own]))
        loc, log_scale = free.transpose(1, 2).unbind(-1)
        return loc, (LARGEST * (log_scale / LARGEST).tanh()).exp()

    def sample(self, blocks: Blocks, z: Tensor, targets: Tensor) -> Tensor:
        """The sites ``psi`` and ``z_next`` in the plate over latents, within the rows'.

        Args:
            blocks: The latents' blocks.
            z: Latents before ``(B, M)``.
            targets: ``(B, K)``.

        Returns:
            ``z_next`` as vectors ``(B, M)``.
        """
        moments = self(z, targets)
        with latents(len(blocks.logits)):
            psi = pyro.sample("psi", blocks())  # E x M x B
            z_next = pyro.sample("z_next", self.of(psi, moments))  # M x B
        return vectors(z_next)

    def of(self, psi: Tensor, moments: tuple[Tensor, Tensor]) -> dist.TorchDistribution:
        """The distribution ``(E, 1, M, B)`` in the blocks that latents are in.

        Args:
            psi: Blocks, which broadcast to ``(M, B)``.
            moments: What a call gives.
        """
        _, size, rows = moments[0].shape
        row = torch.arange(rows, device=psi.device)
        place = torch.arange(size, device=psi.device).unsqueeze(-1)
        loc, scale = (Vindex(moment)[psi, place, row] for moment in moments)
        return dist.Normal(loc, scale)

    def _last(self, hidden: Tensor) -> Tensor:
        return torch.einsum("...mh,mho->...mo", functional.silu(hidden), self.after) + self.bias
