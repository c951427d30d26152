"""SCHA-VAE: its bound by hand, exchangeability, maps from coarse to fine, new elements."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.testing import assert_close
from worlds.drawn_sets import B, D, M, check_order_and_padding, drawn, rows
from worlds.whole_life import whole_life

from ppl_models import build, data
from ppl_models.batch import Batch
from ppl_models.guides import POOLS

SMALL = {"context": 2, "latent": 3, "hidden": 4, "heads": 2, "sides": (1, 1, 2, 3)}


def pair_of(pool="mean", dtype=torch.float64, **settings):
    given = {**SMALL, "pool": pool, **settings}
    return build("scha_vae", shape=(D, 1, 1), most=M, seed=0, **given).to(dtype)


def normal(raw) -> Normal:
    loc, spread = raw.chunk(2, 1)
    unit = math.log(math.e - 1)  # whose softplus is 1
    return Normal(loc, 1e-3 + (1 - 1e-3) * F.softplus(spread + unit))


def pooled(pool, maps):
    """Of one set's maps ``(m, H, r, r)``."""
    if pool.kind != "attention":
        return maps.mean(0, keepdim=True) if pool.kind == "mean" else maps.amax(0, keepdim=True)
    layers = {
        name: torch.einsum("ah,mhij->maij", getattr(pool, name).weight, maps)
        for name in ("key", "value")
    }
    query = torch.einsum("ah,hij->aij", pool.query.weight, maps.mean(0))
    parts = []
    for head in torch.arange(pool.size).chunk(pool.heads):
        scores = (query[head] * layers["key"][:, head]).sum((1, 2, 3)) / query[head].numel() ** 0.5
        parts.append(torch.einsum("m,maij->aij", scores.softmax(0), layers["value"][:, head]))
    return torch.cat(parts)[None]


def by_hand(pair, x, sites):
    """log p(X | ...) and all KL terms of one set without padding ``(m, D)``, at these draws."""
    guide, story, m = pair.guide, pair.prior, len(x)
    seen, h = guide.first.layers(x.reshape(m, 1, D, 1)), {}
    for side, block in zip(guide.sides, guide.blocks, strict=True):
        seen = h[side] = block.layers(seen)
    z = story.z_start.expand(m, *story.z_start.shape)
    c = story.c_start[None] if story.contexts else None
    kl = x.new_zeros(())
    for place, (step, own) in enumerate(zip(story.steps, guide.steps, strict=True)):
        layer, side = len(story.steps) - place, step.side
        state = z = z if z.shape[-1] == side else F.interpolate(z, (side, side))
        if c is not None:
            c = c if c.shape[-1] == side else F.interpolate(c, (side, side))
            raw, rest = step.c_prior.layers(c).split((step.sizes[0], SMALL["hidden"]), 1)
            q = own.c.layers(pooled(own.pool, c + h[side] + own.z_to_c.layers(z)))
            kl = kl + kl_divergence(normal(q), normal(raw)).sum()  # once, however many elements
            c = step.c_block.layers(c + rest + step.c_in.layers(sites[f"c_{layer}"][None]))
            state = z + step.c_to_z.layers(c)
        raw, rest = step.z_prior.layers(state).split((step.sizes[1], SMALL["hidden"]), 1)
        q = own.z.layers(torch.cat([state, h[side]], 1))
        kl = kl + kl_divergence(normal(q), normal(raw)).sum()
        z = step.z_block.layers(z + rest + step.z_in.layers(sites[f"z_{layer}"]))
    made = pair.decoder.block.layers(z if c is None else z + story.last.layers(c))
    logits = pair.decoder.net.layers(F.interpolate(made, (D, 1))).reshape(m, D)
    return Bernoulli(logits=logits).log_prob(x).sum(), kl


@pytest.mark.parametrize(
    ("pool", "scale", "dtype", "context"),
    [*((pool, 10, torch.float64, 2) for pool in POOLS), ("mean", 1, torch.float32, 2),
     ("attention", 1, torch.float64, 2), ("attention", 10, torch.float32, 2),
     ("mean", 10, torch.float64, 0)],
)  # fmt: skip
def test_the_loss_is_the_sum_by_hand(pool, scale, dtype, context) -> None:
    """Of sets of several sizes; contexts count once for a set, KL terms 1/9 at first."""
    pair, batch = pair_of(pool, dtype, context=context), rows(dtype=dtype)
    batch = Batch(dict(batch), size=scale * B)
    trace = drawn(pair, batch)
    guide = poutine.replay(pair.guide, trace=trace)
    tight = 1e-10 if dtype == torch.float64 else 1e-4
    for progress, beta in ((0.0, 1 / 9), (1.0, 1.0)):
        objective = pair.objective()
        objective.at(progress)
        loss = objective.differentiable_loss(pair.model, guide, [batch])
        wanted = torch.zeros((), dtype=dtype)
        for row in range(B):
            m = int(batch["x_there"][row].sum())
            values = {n: trace.nodes[n]["value"] for n in pair.card.latents}
            own = {n: v[:m, row] if n.startswith("z") else v[row] for n, v in values.items()}
            log_p, kl = by_hand(pair, batch["x"][row, :m], own)
            wanted = wanted - scale * (log_p - beta * kl)
        assert_close(loss, wanted, rtol=tight, atol=tight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("pool", POOLS)
def test_order_and_padding(pool, dtype) -> None:
    check_order_and_padding(pair_of(pool, dtype), rows(dtype=dtype))


def test_maps_grow_and_the_prior_begins_near_the_unit_normal() -> None:
    pair = pair_of()
    with torch.no_grad():
        trace = poutine.trace(pair.model).get_trace(rows().without("x"))
    sides = {n: tuple(trace.nodes[n]["fn"].event_shape) for n in pair.card.latents}
    assert [sides[f"z_{k}"] for k in (4, 3, 2, 1)] == [(3, r, r) for r in SMALL["sides"]]
    assert [sides[f"c_{k}"] for k in (4, 3, 2, 1)] == [(2, r, r) for r in SMALL["sides"]]
    for name in sides:
        q = trace.nodes[name]["fn"].base_dist
        assert float(q.mean.abs().max()) < 0.1 and float((q.stddev - 1).abs().max()) < 0.1


def test_new_elements_are_as_many_as_are_asked_for() -> None:
    pair = pair_of("attention")
    for n, rounds in ((1, 0), (7, 2)):
        made = pair.sample_sets(rows(), n, rounds)
        assert made.shape == (B, n, D) and ((made > 0) & (made < 1)).all()
    assert pair.sample_sets(6, 2).shape == (6, 2, D)


def test_sides_have_to_rise() -> None:
    with pytest.raises(ValueError, match=r"^sides are \(2, 1\), expected sides that rise$"):
        pair_of(sides=(2, 1))


@pytest.mark.long
def test_whole_life(tmp_path) -> None:
    digits = data.load("concepts", source="strokes", size=(3, 6), test_size=4)
    digits = replace(digits, train=digits.train.rows(slice(60)), test=digits.test.rows(slice(8)))

    def make():
        small = {**SMALL, "shape": (14, 14, 1), "sides": (1, 4), "subset": 3}
        return build("scha_vae", digits, seed=0, **small)

    _, idata = whole_life(make, digits, tmp_path, epochs=2, batch_size=20)
    z = idata.posterior.z_1
    assert z.sizes["element"] == 6  # of which test sets have four
    gone = z.isnull().any([d for d in z.dims if d != "element"]).values
    assert gone.tolist() == 4 * [False] + 2 * [True]
    assert idata.posterior.c_1.shape[-3:] == (2, 4, 4)
