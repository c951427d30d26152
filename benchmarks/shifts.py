"""A step of sVAE+ beside the published implementation's formulas in hand-written PyTorch.

    python benchmarks/shifts.py [--repeats 60] [--rows 128] [--hidden 64]

Interleaved in one process, on one thread, on the same cells and networks: median milliseconds of
loss, gradient and one step of Adam, and medians of the ratios turn by turn. `torch` draws hard
Gumbel masks of each cell, takes the KL given them in closed form and scVI's negative binomial.
"""

from __future__ import annotations

import argparse
import statistics

import pyro
import torch
from interleaved import Step, compiled, measure, ratio, stepping
from torch import Tensor, nn
from torch.distributions import Beta, Normal, kl_divergence

import ppl_models as zoo
from ppl_models import data
from ppl_models.batch import Batch
from ppl_models.inference.objectives.schedule import Progress

LATENT, K = 8, 20.0
PAIRS = [
    *(("eager", "torch"), ("compiled", "torch"), ("gumbel", "torch"), ("VAE", "torch")),
    *(("torch compiled", "torch"), ("compiled", "torch compiled")),
]


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


class ByHand(nn.Module):
    """svae/_module.py, without batch norm and dropout, which the zoo's networks lack."""

    def __init__(self, genes: int, perturbations: int, hidden: int) -> None:
        super().__init__()
        self.encoder, self.decoder = mlp(genes, hidden, 2 * LATENT), mlp(LATENT, hidden, genes)
        self.log_theta = nn.Parameter(torch.randn(genes))
        self.mu = nn.Parameter(torch.randn(perturbations, LATENT))
        self.alpha = nn.Parameter(torch.full((perturbations, LATENT), 5.0))

    def loss(self, x: Tensor, cause: Tensor, library: Tensor, cells: int, weight: float) -> Tensor:
        loc, log_variance = self.encoder((1 + x).log()).chunk(2, -1)
        q = Normal(loc, (log_variance.exp() + 1e-4).sqrt())
        mean = library * self.decoder(q.rsample()).softmax(-1)
        theta, eps = self.log_theta.exp(), 1e-8
        log_sum = (theta + mean + eps).log()
        log_p = (
            theta * ((theta + eps).log() - log_sum) + x * ((mean + eps).log() - log_sum)
            + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        )  # fmt: skip
        logits = self.alpha[cause]
        u = torch.rand_like(logits)
        soft = (u.log() - (-u).log1p() + logits).sigmoid()
        mask = (soft > 0.5).to(soft) - soft.detach() + soft
        kl = kl_divergence(q, Normal(mask * self.mu[cause], torch.ones_like(loc))).sum(-1)
        prior = Beta(torch.ones_like(self.alpha), torch.full_like(self.alpha, K))
        sparse = -prior.log_prob(self.alpha.sigmoid()).sum()
        return cells * (weight * kl - log_p.sum(-1)).mean() + weight * sparse


def ours(rows: data.Dataset, batch: Batch, hidden: int) -> dict[str, Step]:
    steps: dict[str, Step] = {}
    for name, masks in {"eager": "summed", "gumbel": "gumbel", "VAE": "zeros"}.items():
        pair = zoo.build(
            "svae_plus", rows, latent=LATENT, hidden=(hidden, hidden), masks=masks, sparsity=K
        )
        objective = pair.objective()
        objective.at(Progress(0.1, 100))  # KL terms and prior at 0.6
        steps[name] = stepping(
            pair, lambda p=pair, o=objective: o.differentiable_loss(p.model, p.guide, (batch,))
        )
        if name == "eager":
            steps["compiled"] = compiled(pair, objective, batch)
    return steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--rows", type=int, default=128)
    parser.add_argument("--hidden", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    cells = data.load("perturb_sim")
    (batch,) = cells.train.rows(range(options.rows)).batches()
    batch = Batch(dict(batch), size=len(cells.train))
    hand = ByHand(cells.sizes["x"], cells.sizes["perturbation"], options.hidden)
    known = batch["x"], batch["perturbation"], batch["library"], batch.size, 0.6
    fast = torch.compile(hand.loss, fullgraph=True, dynamic=False)
    steps = ours(cells, batch, options.hidden)
    steps["torch"] = stepping(hand, lambda: hand.loss(*known))
    steps["torch compiled"] = stepping(hand, lambda: fast(*known))
    times = measure(steps, options.repeats)
    print("| " + " | ".join(f"{n} {statistics.median(t):.2f} ms" for n, t in times.items()) + " |")
    for one, other in PAIRS:
        print(f"{one} / {other}: {ratio(times, one, other):.2f}")


if __name__ == "__main__":
    main()
