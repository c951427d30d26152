"""Sets of elements, and what holds of contexts and codes whatever their order and padding."""

from __future__ import annotations

import torch
from pyro import poutine
from torch.testing import assert_close

from ppl_models.batch import Batch

D, M, B = 5, 4, 3
SIZES = (4, 1, 2)


def rows(sizes=SIZES, most=M, scale=1, total=1, dtype=torch.float64, seed=0) -> Batch:
    """Binary sets; in the padding stands anything."""
    draw = torch.Generator().manual_seed(seed)
    there = torch.arange(most) < torch.tensor(sizes)[:, None]
    x = (torch.rand(len(sizes), most, D, generator=draw) < 0.4).to(dtype)
    x[~there] = float("nan")
    count = scale * len(sizes)
    return Batch({"x": x, "x_there": there.to(dtype)}, size=count, total=count * total)


def drawn(pair, batch, seed=1):
    torch.manual_seed(seed)
    with torch.no_grad():
        return poutine.trace(pair.guide).get_trace(batch)


def moments(trace, name):
    """Mean and scale of a site, one on the other; of codes wide enough for every element."""
    node = trace.nodes[name]
    fn = node["fn"]
    while not hasattr(fn, "loc"):
        fn = fn.base_dist
    return torch.stack([v.expand_as(node["value"]) for v in (fn.loc, fn.scale)])


def check_order_and_padding(pair, batch) -> None:
    """Given permuted codes: contexts stay, codes are permuted, log p(X | codes) stays.

    So whatever stands in the padding, and however long it is.
    """
    dtype = batch["x"].dtype
    tolerance = {"rtol": 0, "atol": 1e-5 if dtype == torch.float32 else 1e-10}
    plain = drawn(pair, batch)
    order = torch.tensor([[2, 0, 3, 1], [3, 2, 1, 0], [1, 3, 0, 2]])
    there = batch["x_there"].gather(1, order)
    moved = Batch({"x": batch["x"].gather(1, order[..., None].expand(B, M, D)), "x_there": there})
    longer = Batch({
        "x": torch.cat([batch["x"], torch.full((B, 2, D), 3.0, dtype=dtype)], 1),
        "x_there": torch.cat([batch["x_there"], torch.zeros(B, 2, dtype=dtype)], 1),
    })  # fmt: skip
    values = {n: plain.nodes[n]["value"] for n in pair.card.latents}
    before = log_p(pair, batch, values)
    for other in (moved, longer):
        known = other["x_there"].T > 0
        own, wanted = {}, {}
        for name, value in values.items():
            own[name], wanted[name] = value, moments(plain, name)
            if not name.startswith("z"):
                continue
            event = [1] * (value.dim() - 2)  # of vectors, or of maps
            there, by_place = known.reshape(-1, B, *event), order.T.reshape(-1, B, *event)
            if other is moved:
                own[name] = value.gather(0, by_place.expand_as(value))
                wanted[name] = wanted[name].gather(1, by_place.expand_as(wanted[name]))
            else:  # where nothing is there, any value
                own[name] = torch.cat([value, 100 * torch.ones_like(value[:2])])
                empty = torch.zeros_like(wanted[name][:, :2])
                wanted[name] = torch.cat([wanted[name], empty], 1)
            wanted[name] = wanted[name].where(there, 0)
        again = poutine.trace(poutine.condition(pair.guide, data=own)).get_trace(other)
        for name, found in wanted.items():
            seen = moments(again, name)
            if name.startswith("z"):
                seen = seen.where(known.reshape(-1, B, *[1] * (seen.dim() - 3)), 0)
            assert_close(seen, found, **tolerance)
        scale = 1e2 if dtype == torch.float32 else 1.0  # of sums of about thirty
        assert_close(log_p(pair, other, own), before, rtol=0, atol=tolerance["atol"] * scale)


def log_p(pair, batch, values):
    """log p(X | codes) of each set."""
    trace = poutine.trace(poutine.condition(pair.model, data=values)).get_trace(batch)
    trace.compute_log_prob(site_filter=lambda name, _: name == "x")
    return trace.nodes["x"]["log_prob"].sum(0)
