"""A step of HFSGM or SCHA-VAE beside hand-written PyTorch of the same networks.

    python benchmarks/sets.py [--pair scha_vae --hidden 32] [--repeats 60] [--rows 16]

Interleaved in one process, on one thread, on the same sets: median milliseconds of loss, gradient
and one step of Adam, and medians of the ratios turn by turn. `torch` takes complete sets, without
a mask, draws each site once and has each KL in closed form.
"""

from __future__ import annotations

import argparse
import copy
import statistics

import pyro
import torch
import torch.nn.functional as F
from interleaved import Step, compiled, measure, ratio, stepping
from torch import Tensor, nn

import ppl_models as zoo
from ppl_models.batch import Batch
from ppl_models.inference.objectives.schedule import Progress
from ppl_models.parts.set_maps import LEAST, UNIT

PAIRS = [("eager", "torch"), ("compiled", "torch"), ("compiled", "torch compiled")]
Moments = tuple[Tensor, Tensor]


def kl(q: Moments, p: Moments) -> Tensor:
    """Of diagonal Normals, all entries together."""
    wider = (q[1] / p[1]).square()
    return 0.5 * (wider + ((q[0] - p[0]) / p[1]).square() - 1 - wider.log()).sum()


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


class MapsByHand(nn.Module):
    """The networks of a SCHA-VAE with means as pools, and its loss without handlers."""

    def __init__(self, pair: zoo.Pair) -> None:
        super().__init__()
        self.story, self.guide = copy.deepcopy(pair.prior), copy.deepcopy(pair.guide)
        self.guide.story, self.decoder = (), copy.deepcopy(pair.decoder)

    def loss(self, x: Tensor, size: int, beta: float) -> Tensor:
        (B, M), side = x.shape[:2], int(x.shape[2] ** 0.5)
        seen, h = self.guide.first.layers(x.transpose(0, 1).reshape(M * B, 1, side, side)), {}
        for width, block in zip(self.guide.sides, self.guide.blocks, strict=True):
            seen = h[width] = block.layers(seen)
        H = seen.shape[1]
        c, z = self.story.c_start.expand(B, H, 1, 1), self.story.z_start.expand(M * B, H, 1, 1)
        total = x.new_zeros(())
        for step, own in zip(self.story.steps, self.guide.steps, strict=True):
            r = step.side
            c, z = (v if v.shape[-1] == r else F.interpolate(v, (r, r)) for v in (c, z))
            raw, rest = step.c_prior.layers(c).split((step.sizes[0], H), 1)
            e = (h[r] + own.z_to_c.layers(z)).view(M, B, H, r, r) + c
            q, p = maps(own.c.layers(e.mean(0))), maps(raw)
            drawn = q[0] + q[1] * torch.randn_like(q[1])
            total = total + beta * kl(q, p)
            c = step.c_block.layers(c + rest + step.c_in.layers(drawn))
            state = (z.view(M, B, H, r, r) + step.c_to_z.layers(c)).flatten(0, 1)
            raw, rest = step.z_prior.layers(state).split((step.sizes[1], H), 1)
            q, p = maps(own.z.layers(torch.cat([state, h[r]], 1))), maps(raw)
            drawn = q[0] + q[1] * torch.randn_like(q[1])
            total = total + beta * kl(q, p)
            z = step.z_block.layers(z + rest + step.z_in.layers(drawn))
        made = (z.view(M, B, *z.shape[1:]) + self.story.last.layers(c)).flatten(0, 1)
        made = F.interpolate(self.decoder.block.layers(made), (side, side))
        logits = self.decoder.net.layers(made).view(M, B, -1)
        wanted = x.transpose(0, 1)
        log_p = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum")
        return size / B * (total + log_p)


def maps(raw: Tensor) -> Moments:
    """Mean and scale of maps."""
    loc, spread = raw.chunk(2, 1)
    return loc, LEAST + (1 - LEAST) * F.softplus(spread + UNIT)


def pair_of(options: argparse.Namespace) -> zoo.Pair:
    known = {"most": options.elements, "hidden": options.hidden, "seed": 0}
    if options.pair == "hfsgm":
        return zoo.build("hfsgm", data_dim=196, layers=2, **known)
    return zoo.build("scha_vae", shape=(14, 14, 1), sides=(1, 4), context=8, latent=8, **known)


def ours(pair: zoo.Pair, batch: Batch) -> dict[str, Step]:
    objective = pair.objective()
    objective.at(Progress(0.1, 100))  # KL terms at 5/9
    loss = objective.differentiable_loss
    return {
        "eager": stepping(pair, lambda: loss(pair.model, pair.guide, (batch,))),
        "compiled": compiled(pair, objective, batch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", choices=("hfsgm", "scha_vae"), default="hfsgm")
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
    pair = pair_of(options)
    hand = ByHand(pair) if options.pair == "hfsgm" else MapsByHand(pair)
    fast = torch.compile(hand.loss, dynamic=False)
    steps = ours(pair, batch)
    steps["torch"] = stepping(hand, lambda: hand.loss(x, batch.size, 5 / 9))
    steps["torch compiled"] = stepping(hand, lambda: fast(x, batch.size, 5 / 9))
    times = measure(steps, options.repeats)
    print("| " + " | ".join(f"{n} {statistics.median(t):.2f} ms" for n, t in times.items()) + " |")
    for one, other in PAIRS:
        print(f"{one} / {other}: {ratio(times, one, other):.2f}")


if __name__ == "__main__":
    main()
