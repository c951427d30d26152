"""A step with a term that reads codes, beside the same step without: convolutions on 64 x 64.

    python benchmarks/coupled.py [--repeats 30] [--rows 64]

Interleaved in one process, on one thread; median milliseconds of loss, gradient and one step of
Adam, and the mean of the ratios of a step to the plain one beside it. `another run` is what a term
costs that runs guide and model for itself.
"""

from __future__ import annotations

import argparse
import statistics

import pyro
import pyro.distributions as dist
import torch
from interleaved import Step, measure, ratio, stepping
from torch import nn

from ppl_models.batch import Batch
from ppl_models.inference import ELBO, DistanceCorrelation, Evaluation, Penalty, TotalCorrelation

SIDE, CODE, N = 64, 5, 10_000


class Study(nn.Module):
    """The convolutional VAE of the disentanglement studies, its code in two halves."""

    def __init__(self) -> None:
        super().__init__()
        conv, back = nn.Conv2d, nn.ConvTranspose2d
        self.encoder = nn.Sequential(
            conv(1, 32, 4, 2, 1), nn.ReLU(), conv(32, 32, 4, 2, 1), nn.ReLU(),
            conv(32, 64, 4, 2, 1), nn.ReLU(), conv(64, 64, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(1024, 256), nn.ReLU(), nn.Linear(256, 4 * CODE),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(2 * CODE, 256), nn.ReLU(), nn.Linear(256, 1024), nn.ReLU(),
            nn.Unflatten(-1, (64, 4, 4)), back(64, 64, 4, 2, 1), nn.ReLU(),
            back(64, 32, 4, 2, 1), nn.ReLU(), back(32, 32, 4, 2, 1), nn.ReLU(),
            back(32, 1, 4, 2, 1), nn.Flatten(),
        )  # fmt: skip

    def model(self, batch: Batch) -> None:
        zero = batch["x"].new_zeros(CODE)
        with batch.plate():
            a, b = (pyro.sample(n, dist.Normal(zero, 1.0).to_event(1)) for n in "ab")
            logits = self.decoder(torch.cat((a, b), -1).reshape(-1, 2 * CODE))
            pyro.sample("x", dist.Bernoulli(logits=logits).to_event(1), obs=batch["x"])

    def guide(self, batch: Batch) -> None:
        raw = self.encoder(batch["x"].reshape(-1, 1, SIDE, SIDE))
        with batch.plate():
            for name, (loc, log_scale) in zip("ab", self.halves(raw), strict=True):
                pyro.sample(name, dist.Normal(loc, log_scale.exp()).to_event(1))

    def halves(self, raw: torch.Tensor) -> list[tuple[torch.Tensor, ...]]:
        return [half.chunk(2, -1) for half in raw.chunk(2, -1)]


def again(run: Evaluation) -> torch.Tensor:
    apart = run.like()
    apart.weights()  # guide and model
    return TotalCorrelation("a").rows(apart)


OBJECTIVES = {
    "plain": ELBO(kl="analytic"),
    "total correlation": ELBO(kl="analytic") + TotalCorrelation("a", 5.0),
    "stratified": ELBO(kl="analytic") + TotalCorrelation("a", 5.0, "mss"),
    "distance correlation": ELBO(kl="analytic") + DistanceCorrelation("a", "b", 5.0),
    "another run": ELBO(kl="analytic") + Penalty("again", again, across_rows=True),
}


def step_of(objective: ELBO, batch: Batch) -> Step:
    torch.manual_seed(0)
    pair = Study()
    return stepping(pair, lambda: objective.differentiable_loss(pair.model, pair.guide, batch))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--rows", type=int, default=64)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    x = (torch.rand(options.rows, SIDE * SIDE) > 0.9).float()
    steps = {name: step_of(o, Batch({"x": x}, size=N)) for name, o in OBJECTIVES.items()}
    times = measure(steps, options.repeats)
    print("| term | ms | to plain |\n|---|---|---|")
    for name, taken in times.items():
        times_that = ratio(times, name, "plain")
        print(f"| {name} | {statistics.median(taken):.1f} | {times_that:.2f} |")


if __name__ == "__main__":
    main()
