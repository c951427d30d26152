"""A step of HFSGM beside hand-written PyTorch of the same networks.

    python benchmarks/sets.py [--repeats 60] [--rows 16] [--elements 5] [--hidden 128]

Interleaved in one process, on one thread, on the same sets: median milliseconds of loss, gradient
and one step of Adam, and medians of the ratios turn by turn. `torch` takes complete sets, without
a mask, draws each site once and has each KL in closed form.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable

import pyro
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.inference.objectives.schedule import Progress
from ppl_models.inference.training.compiled_step import Compiled, inductor

PAIRS = [("eager", "torch"), ("compiled", "torch"), ("compiled", "torch compiled")]
Moments = tuple[Tensor, Tensor]


def kl(q: Moments, p: Moments) -> Tensor:
    """Of diagonal Normals, all entries together."""
    ratio = (q[1] / p[1]).square()
    return 0.5 * (ratio + ((q[0] - p[0]) / p[1]).square() - 1 - ratio.log()).sum()


class ByHand(nn.Module):
    """The networks of a pair, and its loss without handlers."""

    def __init__(self, pair: zoo.Pair) -> None:
        super().__init__()
        self.nets = copy.deepcopy(pair)

    def moments(self, module: nn.Module, given: dict[str, Tensor]) -> Moments:
        known = {name: given[name] for name in module.given}
        if not known:
            return module.zero, torch.ones_like(module.zero)
        if not hasattr(module, "pool"):
            raw = module.net(**known)
        else:
            e = F.silu(module.first(**known))
            e = e + module.block(e=e)  # M x B x H
            pool, (M, B, _) = module.pool, e.shape
            heads, d = pool.heads, pool.size // pool.heads
            query = pool.query(e.mean(0)).view(B, heads, 1, d)
            keys = pool.key(e).view(M, B, heads, d).permute(1, 2, 3, 0)
            value = pool.value(e).view(M, B, heads, d).permute(1, 2, 0, 3)
            weights = (query @ keys / d**0.5).softmax(-1)
            pooled = (weights @ value).reshape(B, pool.size)
            above = {n: given[n] for n in module.moments.given if n == "c"}
            raw = module.moments(pooled=pooled, **above)
        loc, scale = raw.chunk(2, -1)
        return loc, F.softplus(scale) + 1e-3

    def loss(self, x: Tensor, size: int, beta: float) -> Tensor:
        x = x.transpose(0, 1)
        guide, prior = self.nets.guide, self.nets.prior
        q, p, found = {"h": guide.element(x=x)}, {}, {}
        total = x.new_zeros(())
        for layer in guide.ladder.codes:
            for what in ("c", "z"):
                ours, story = (
                    (side.contexts if what == "c" else side.codes)[layer]
                    for side in (guide.ladder, prior)
                )
                one, other = self.moments(ours, q), self.moments(story, p)
                total = total + beta * kl(one, other)
                drawn = one[0] + one[1] * torch.randn_like(one[1])
                q[what] = p[what] = found[f"{what}_{layer}"] = drawn
        logits = self.nets.decoder(**found)
        total = total + F.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        return size / x.shape[1] * total


def stepping(module: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    optimiser = torch.optim.Adam(module.parameters(), 1e-4, fused=True)

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        loss().backward()
        optimiser.step()

    return step


def ours(pair: zoo.Pair, batch: Batch) -> dict[str, Callable[[], None]]:
    objective = pair.objective()
    objective.at(Progress(0.1, 100))  # KL terms at 5/9
    graph = Compiled(objective, pair, list(pair.parameters()), (), inductor)
    optimiser = torch.optim.Adam(pair.parameters(), 1e-4, fused=True)

    def compiled() -> None:
        optimiser.zero_grad(set_to_none=True)
        if graph.gradient((batch,), batch.size) is None:
            raise RuntimeError("the step is not compiled")
        optimiser.step()

    plain = stepping(pair, lambda: objective.differentiable_loss(pair.model, pair.guide, (batch,)))
    return {"eager": plain, "compiled": compiled}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=60)
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--elements", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    shape = options.rows, options.elements
    x = (torch.rand(*shape, 196) < 0.3).float()
    batch = Batch({"x": x, "x_there": torch.ones(shape)}, size=50 * options.rows)
    pair = zoo.build(
        "hfsgm", data_dim=196, most=options.elements, hidden=options.hidden, layers=2, seed=0
    )
    hand = ByHand(pair)
    fast = torch.compile(hand.loss, dynamic=False)
    steps = ours(pair, batch)
    steps["torch"] = stepping(hand, lambda: hand.loss(x, batch.size, 5 / 9))
    steps["torch compiled"] = stepping(hand, lambda: fast(x, batch.size, 5 / 9))
    times: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(options.repeats + 5):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            if repeat >= 5:
                times[name].append(1e3 * (time.perf_counter() - began))
    print("| " + " | ".join(f"{n} {statistics.median(t):.2f} ms" for n, t in times.items()) + " |")
    for one, other in PAIRS:
        ratios = [a / b for a, b in zip(times[one], times[other], strict=True)]
        print(f"{one} / {other}: {statistics.median(ratios):.2f}")


if __name__ == "__main__":
    main()
