r"""Annealing from a proposal to the posterior, for all particles of all rows at once.

Particles move through :math:`\pi_t \propto q(z)^{1 - \beta_t} p(x, z)^{\beta_t}` by Hamiltonian
Monte Carlo that leaves :math:`\pi_t` as it is, and gain :math:`(p(x, z) / q(z))^{\beta_t -
\beta_{t-1}}` in weight before each move; the mean weight is an unbiased estimate of p(x)
(annealed importance sampling, Neal 2001). Where the weights of a population have become
uneven, its particles are drawn anew by weight (sequential Monte Carlo, Del Moral et al. 2006);
that the decision depends on the weights leaves the estimate unbiased.

Step sizes are fitted to a pilot population and then fixed. Were they fitted to the particles
that are weighed, moves would depend on their neighbours and the estimate be biased.

Shapes: S particles, B rows, D numbers of all codes of a row on the real line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.inference.posterior.draws import draw_guide, score
from ppl_models.inference.posterior.target import Target

PILOT = 24  # particles that step sizes are fitted to
ACCEPTANCE = 0.8  # which they are fitted for
GAIN = 0.5  # change of log step per unit of acceptance
QUARTER = math.pi / 2  # longest trajectory, in standard deviations of the pilot
NARROWEST = 1e-6  # standard deviation, where all pilots are at one point
SHARE = 0.5  # of effective particles, below which a population is resampled


@dataclass(frozen=True)
class Particles:
    """Places on the real line, with log densities there and their gradients.

    Attributes:
        place: ``(S, B, D)``.
        log_q: Of the proposal ``(S, B)``.
        log_p: Of the model, with the data ``(S, B)``.
        slope_q: Gradient of ``log_q`` ``(S, B, D)``.
        slope_p: Gradient of ``log_p`` ``(S, B, D)``.
    """

    place: Tensor
    log_q: Tensor
    log_p: Tensor
    slope_q: Tensor
    slope_p: Tensor

    def log_density(self, beta: float) -> Tensor:
        """Between proposal and posterior ``(S, B)``."""
        return (1 - beta) * self.log_q + beta * self.log_p

    def slope(self, beta: float) -> Tensor:
        """Gradient of the same ``(S, B, D)``."""
        return (1 - beta) * self.slope_q + beta * self.slope_p

    def where(self, chosen: Tensor, other: Particles) -> Particles:
        """The other's particles where not chosen ``(S, B)``."""
        return Particles(
            *(
                torch.where(chosen.reshape(*chosen.shape, *[1] * (a.dim() - 2)), a, b)
                for a, b in zip(self._parts(), other._parts(), strict=True)
            )
        )

    def at(self, index: Tensor) -> Particles:
        """Those of each row at these places ``(S, B)``."""
        rows = torch.arange(index.shape[1], device=index.device)
        return Particles(*(part[index, rows] for part in self._parts()))

    def _parts(self) -> tuple[Tensor, ...]:
        return (self.place, self.log_q, self.log_p, self.slope_q, self.slope_p)


class Between:
    """Proposal and posterior of some rows as functions of places on the real line.

    Args:
        found: The posterior; no site stands outside the data plate.
        proposal: Program of the same latent sites, called with the batch.
        labels: Labels that it samples; they are summed out.
    """

    def __init__(
        self, found: Target, proposal: Callable[[Batch], Any], labels: Sequence[str]
    ) -> None:
        self.found, self.proposal, self.labels = found, proposal, labels
        self.sizes = [math.prod(shape[1:]) for shape in found.shapes.values()]

    def draw(self, count: int) -> Particles:
        """Particles from the proposal."""
        drawn = draw_guide(self.proposal, self.found.batch, self.found.sites, count).values
        codes = {name: drawn[name] for name in self.found.transforms}
        flat = [
            value.reshape(count, self.found.batch.count, -1)
            for value in self.found.unconstrained(codes).values()
        ]
        none = self.found.pair.like().new_zeros(count, self.found.batch.count, 0)
        return self.particles(torch.cat([none, *flat], -1).detach())

    def particles(self, place: Tensor) -> Particles:
        """Densities and gradients at ``(S, B, D)``."""
        count = len(place)
        with torch.enable_grad():
            place = place.detach().requires_grad_()
            parts = place.split(self.sizes, -1)
            free = {
                name: part.reshape(count, *shape)
                for (name, shape), part in zip(self.found.shapes.items(), parts, strict=True)
            }
            values = self.found.constrained(free)
            change = self._change(free, values)
            labels = self.labels
            log_q = score(self.proposal, self.found.batch, values, labels, count).marginal()
            log_p = self.found.scores(values, count)[0].marginal()
            log_q, log_p = log_q + change, log_p + change
            # Without codes there is nothing to differentiate.
            slopes = [_slope(value, place) if self.sizes else place for value in (log_q, log_p)]
        return Particles(place.detach(), log_q.detach(), log_p.detach(), *slopes)

    def _change(self, free: dict[str, Tensor], values: dict[str, Tensor]) -> Tensor:
        total = self.found.pair.like().new_zeros(())
        for name, number in free.items():
            change = self.found.transforms[name].log_abs_det_jacobian(number, values[name])
            total = total + change.reshape(*number.shape[:2], -1).sum(-1)
        return total


def _slope(value: Tensor, place: Tensor) -> Tensor:
    # Both densities share the change of variables, whose graph the first must not free.
    (slope,) = torch.autograd.grad(value.sum(), place, materialize_grads=True, retain_graph=True)
    return slope


@dataclass(frozen=True)
class Move:
    """One HMC trajectory at one temperature.

    Attributes:
        beta: The temperature's place between proposal (0) and posterior (1).
        scale: Step size times the pilot's standard deviation ``(B, D)``.
        steps: Leapfrog steps.
    """

    beta: float
    scale: Tensor
    steps: int

    def __call__(self, between: Between, start: Particles) -> tuple[Particles, Tensor]:
        """Particles after it, and the probability ``(S, B)`` that each was let move."""
        speed = torch.randn_like(start.place)
        energy = start.log_density(self.beta) - 0.5 * speed.square().sum(-1)
        end = start
        for _ in range(self.steps):
            speed = speed + 0.5 * self.scale * end.slope(self.beta)
            end = between.particles(end.place + self.scale * speed)
            speed = speed + 0.5 * self.scale * end.slope(self.beta)
        gain = end.log_density(self.beta) - 0.5 * speed.square().sum(-1) - energy
        # A trajectory that left the numbers is refused.
        accept = torch.where(gain.isnan(), -math.inf, gain).clamp(max=0).exp()
        moved = torch.rand_like(accept) < accept
        return end.where(moved, start), accept


def fitted(between: Between, betas: Sequence[float], steps: int) -> list[Move]:
    """Moves for all temperatures but the last, with step sizes fitted to a pilot.

    Args:
        between: Proposal and posterior.
        betas: Increasing, the last one 1.
        steps: Leapfrog steps of each move.
    """
    pilot = between.draw(PILOT)
    longest = math.log(QUARTER / steps)
    log_step = pilot.log_p.new_full((pilot.log_p.shape[1], 1), longest)
    moves = []
    for beta in betas[:-1]:
        width = pilot.place.std(0).clamp_min(NARROWEST)
        moves.append(Move(beta, log_step.exp() * width, steps))
        pilot, accept = moves[-1](between, pilot)
        change = GAIN * (accept.mean(0) - ACCEPTANCE)
        log_step = (log_step + change.unsqueeze(-1)).clamp(max=longest)
    return moves


def anneal(
    between: Between,
    betas: Sequence[float],
    steps: int,
    populations: int,
    size: int,
) -> tuple[Tensor, Tensor]:
    """Log evidence estimates of independent populations.

    Args:
        between: Proposal and posterior.
        betas: Increasing, the last one 1.
        steps: Leapfrog steps of each move.
        populations: Number of them G.
        size: Particles of each; a population of one is never resampled.

    Returns:
        ``(G, B)``, float64, nats; and the mean acceptance rate of each row ``(B,)``.
    """
    moves = fitted(between, betas, steps)
    now = between.draw(populations * size)
    rows = now.log_p.shape[1]
    log_w = now.log_p.new_zeros(populations, size, rows, dtype=torch.float64)
    gained = log_w.new_zeros(populations, rows)
    accepted, before = log_w.new_zeros(rows), 0.0
    for move in moves:
        log_w = log_w + (move.beta - before) * _ratio(now).reshape(log_w.shape)
        before = move.beta
        if size > 1:
            log_w, gained, chosen = _resampled(log_w, gained)
            now = now.at(chosen)
        now, accept = move(between, now)
        accepted = accepted + accept.mean(0) / len(moves)
    log_w = log_w + (betas[-1] - before) * _ratio(now).reshape(log_w.shape)
    return gained + log_w.logsumexp(1) - math.log(size), accepted


def _ratio(now: Particles) -> Tensor:
    return (now.log_p - now.log_q).double()


def _resampled(log_w: Tensor, gained: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Uneven populations drawn anew, systematically.

    Returns:
        Log weights ``(G, P, B)``, the mean log weights gained so far ``(G, B)``, and the chosen
        particles ``(G * P, B)``.
    """
    populations, size, rows = log_w.shape
    total = log_w.logsumexp(1)
    effective = (2 * total - (2 * log_w).logsumexp(1)).exp()
    uneven = effective < SHARE * size
    upto = (log_w - total.unsqueeze(1)).exp().cumsum(1).movedim(1, -1).contiguous()
    ticks = torch.arange(size, device=log_w.device) + torch.rand_like(total).unsqueeze(-1)
    chosen = torch.searchsorted(upto, ticks / size).clamp_max(size - 1).movedim(-1, 1)
    places = torch.arange(size, device=log_w.device).reshape(1, -1, 1)
    chosen = torch.where(uneven.unsqueeze(1), chosen, places)
    first = size * torch.arange(populations, device=log_w.device).reshape(-1, 1, 1)
    gained = gained + torch.where(uneven, total - math.log(size), 0.0)
    log_w = torch.where(uneven.unsqueeze(1), 0.0, log_w)
    return log_w, gained, (chosen + first).reshape(-1, rows)
