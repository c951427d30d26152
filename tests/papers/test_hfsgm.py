"""HFSGM, Neural Statistician and VAE of sets: bounds by hand, exchangeability, new elements."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pyro import poutine
from torch import nn
from torch.distributions import Bernoulli, Normal, kl_divergence
from torch.testing import assert_close
from worlds.drawn_sets import (
    B,
    D,
    M,
    check_order_and_padding,
    drawn,
    rows,
)
from worlds.whole_life import whole_life

from ppl_models import build, data, inference
from ppl_models.batch import Batch

SMALL = {"context": 2, "latent": 3, "layers": 2, "hidden": 8, "heads": 2}
KINDS = {
    "hfsgm": {},
    "c is added": {"film": "none"},
    "mean": {"pool": "mean"},
    "max": {"pool": "max"},
    "c sees c": {"prior_uses_z": False},
    "ns": {"contexts": "top", "pool": "mean"},
    "ns with film": {"contexts": "top", "pool": "mean", "film": "all"},
    "vae": {"contexts": "none"},
}
each_kind = pytest.mark.parametrize("kind", KINDS)


def pair_of(kind: str, dtype=torch.float64, **settings):
    given = {**SMALL, **KINDS[kind], **settings}
    pair = build("hfsgm", data_dim=D, most=M, seed=0, **given)
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():  # scales that are not 1, as they begin
        for name, parameter in pair.named_parameters():
            if ".scale." in name:
                parameter.normal_(generator=draw)
    return pair.to(dtype)


def net(layers: nn.Module, **given):
    """A network of one hidden layer, whose context scales and shifts where it is so made."""
    weights = layers.first.weights
    out = layers.first.bias + sum(given[name] @ w.T for name, w in weights.items())
    if hasattr(layers, "scale"):
        scale = 1 + layers.scale.bias + layers.scale.weight @ given["c"]
        out = scale * out + layers.shift.weight @ given["c"]
    for layer in layers.rest:
        out = layer(out)
    return out


def normal(moments):
    loc, raw = moments.chunk(2, -1)
    return Normal(loc, F.softplus(raw) + 1e-3)


def context_of(module, m: int, **given) -> Normal:
    """The Normal of one set's context from its m elements, pooled by hand."""
    if not hasattr(module, "pool"):
        known = {name: given[name] for name in module.given}
        return normal(net(module.net, **known)) if known else Normal(module.zero, 1.0)
    found = []
    for k in range(m):
        one = {n: given[n] if n == "c" else given[n][k] for n in module.given}
        weights = module.first.weights
        e = F.silu(module.first.bias + sum(one[n] @ w.T for n, w in weights.items()))
        found.append(e + net(module.block, e=e))
    e = torch.stack(found)
    pool = module.pool
    pooled = e.mean(0) if pool.kind == "mean" else e.amax(0)
    if pool.kind == "attention":
        parts = []
        query = pool.query.weight @ e.mean(0)
        for head in torch.arange(pool.size).chunk(pool.heads):
            keys, value = e @ pool.key.weight[head].T, e @ pool.value.weight[head].T
            parts.append((keys @ query[head] / len(head) ** 0.5).softmax(0) @ value)
        pooled = torch.cat(parts)
    known = {n: given[n] for n in ("c",) if n in module.moments.given}
    return normal(net(module.moments, pooled=pooled, **known))


def code_of(module, **given) -> Normal:
    known = {name: given[name] for name in module.given}
    return normal(net(module.net, **known)) if known else Normal(module.zero, 1.0)


def by_hand(pair, x, sites) -> tuple[torch.Tensor, torch.Tensor]:
    """log p(X | ...) and all KL terms of one set without padding ``(m, D)``, at these draws."""
    guide, kl = pair.guide, torch.zeros((), dtype=x.dtype)
    h = torch.stack([net(guide.element, x=row) for row in x])
    q, p = {"h": h}, {}
    for layer in guide.ladder.codes:
        if f"c_{layer}" in sites:
            one, other = (
                context_of(side.contexts[layer], len(x), **given)
                for side, given in ((guide.ladder, q), (pair.prior, p))
            )
            kl = kl + kl_divergence(one, other).sum()  # once, however many elements there are
            q["c"] = p["c"] = sites[f"c_{layer}"]
        for m in range(len(x)):
            own = [{n: v if n == "c" else v[m] for n, v in given.items()} for given in (q, p)]
            one, other = (
                code_of(side.codes[layer], **given)
                for side, given in zip((guide.ladder, pair.prior), own, strict=True)
            )
            kl = kl + kl_divergence(one, other).sum()
        q["z"] = p["z"] = sites[f"z_{layer}"]
    log_p = torch.zeros((), dtype=x.dtype)
    for m in range(len(x)):
        given = {n: v[m] if n.startswith("z") else v for n, v in sites.items()}
        log_p = log_p + Bernoulli(logits=net(pair.decoder, **given)).log_prob(x[m]).sum()
    return log_p, kl


def hand_loss(pair, batch, trace, beta) -> torch.Tensor:
    total = torch.zeros((), dtype=batch["x"].dtype)
    for row in range(batch.count):
        m = int(batch["x_there"][row].sum())
        sites = {
            n: trace.nodes[n]["value"][:m, row] if n.startswith("z") else
            trace.nodes[n]["value"].reshape(batch.count, -1)[row]
            for n in pair.card.latents
        }  # fmt: skip
        log_p, kl = by_hand(pair, batch["x"][row, :m], sites)
        total = total - (log_p - beta * kl)
    return batch.scale * total


@pytest.mark.parametrize(
    ("kind", "scale", "dtype"),
    [*((kind, 10, torch.float64) for kind in KINDS), ("hfsgm", 1, torch.float32),
     ("hfsgm", 1, torch.float64), ("hfsgm", 10, torch.float32)],
)  # fmt: skip
def test_the_loss_is_the_sum_by_hand(kind, scale, dtype) -> None:
    """Of complete sets, of sets of several sizes, and of both; contexts count once for a set."""
    pair = pair_of(kind, dtype)
    full, ragged = rows((M, M), seed=2, dtype=dtype), rows(dtype=dtype)
    for batches in ([ragged], [full, ragged]):
        given = [
            Batch(dict(b), size=scale * b.count, total=scale * sum(o.count for o in batches))
            for b in batches
        ]
        traces = {id(b["x"]): drawn(pair, b) for b in given}

        def guide(batch, traces=traces):
            return poutine.replay(pair.guide, trace=traces[id(batch["x"])])(batch)

        for progress, beta in ((0.0, 1 / 9), (1.0, 1.0)):
            objective = pair.objective()
            objective.at(progress)
            loss = objective.differentiable_loss(pair.model, guide, given)
            wanted = sum(hand_loss(pair, b, traces[id(b["x"])], beta) for b in given)
            tight = 1e-10 if dtype == torch.float64 else 1e-4
            assert_close(loss, wanted, rtol=tight, atol=tight)
        if dtype == torch.float64:
            parameters = list(pair.parameters())
            found, expected = (
                torch.autograd.grad(v, parameters, allow_unused=True) for v in (loss, wanted)
            )
            for one, other in zip(found, expected, strict=True):
                zero = torch.zeros(())
                assert_close(
                    zero if one is None else one.sum(), zero if other is None else other.sum(),
                    rtol=1e-9, atol=1e-9, check_dtype=False,
                )  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_features_scaled_by_one_are_features_of_a_sum(dtype) -> None:
    film, plain = pair_of("hfsgm", dtype), pair_of("c is added", dtype)
    known = plain.state_dict()
    given = {}
    for name, value in film.state_dict().items():
        if ".scale." in name:
            given[name] = torch.zeros_like(value)
        else:
            given[name] = known[name.replace("shift.weight", "first.weights.c")]
    film.load_state_dict(given)
    # Of both sides, the lower layer, and the guide's top; the prior's top has nothing to scale.
    assert sum(name.endswith("scale.weight") for name in given) == 3
    batch, losses = rows(scale=10, dtype=dtype), []
    for pair in (film, plain):
        torch.manual_seed(0)
        losses.append(inference.ELBO(kl="analytic").per_datum(pair.model, pair.guide, batch))
    tight = 1e-12 if dtype == torch.float64 else 1e-5
    assert_close(*losses, rtol=tight, atol=tight)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@each_kind
def test_order_and_padding(kind, dtype) -> None:
    check_order_and_padding(pair_of(kind, dtype), rows(dtype=dtype))


def constant(module: nn.Module, value: float) -> None:
    """A Normal about a value, whatever it is given, of a scale of 1e-3."""
    layers = getattr(module, "moments", None) or module.net
    last = layers.rest[-1]
    size = len(last.bias) // 2
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.tensor([value] * size + [-30.0] * size))


class Recorder(nn.Module):
    """In place of a decoder: what it is given, and even odds."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = []

    def forward(self, **values):
        self.seen.append(values)
        shape = torch.broadcast_shapes(*(v.shape[:-1] for v in values.values()))
        return values["z_1"].new_zeros(*shape, D)


def test_new_elements_take_contexts_from_the_guide_and_codes_from_the_prior() -> None:
    """Until they are refined: then codes are the guide's of what was drawn, contexts stay."""
    pair = pair_of("hfsgm")
    for layer in pair.prior.codes:
        constant(pair.guide.ladder.contexts[layer], 7.0)
        constant(pair.guide.ladder.codes[layer], 3.0)
        if layer == "1":
            constant(pair.prior.contexts[layer], -7.0)
            constant(pair.prior.codes[layer], -3.0)
    constant(pair.prior.codes["2"], -3.0)
    recorder = pair.decoder = Recorder().double()

    def seen(*arguments, **options):
        recorder.seen.clear()
        torch.manual_seed(0)
        x = pair.sample_sets(*arguments, **options)
        means = {n: round(float(v.mean())) for n, v in recorder.seen[-1].items()}
        return x, len(recorder.seen), means["c_1"], means["z_1"], means["z_2"]

    x, runs, *means = seen(rows(), 6)
    assert x.shape == (B, 6, D) and runs == 1 and means == [7, -3, -3]
    assert (x == 0.5).all()
    x, runs, *means = seen(rows(), 6, rounds=2, mean=False)
    assert runs == 3 and means == [7, 3, 3]
    assert set(x.unique().tolist()) == {0.0, 1.0}
    x, runs, *means = seen(40, 2)
    assert x.shape == (40, 2, D) and runs == 1 and means == [-7, -3, -3]
    assert abs(float(recorder.seen[-1]["c_2"].std()) - 1) < 0.3  # of 80 numbers


@each_kind
def test_new_elements_are_the_storys(kind) -> None:
    """Shown elements may be in any number; draws follow torch's seed; the mode stays."""
    pair = pair_of(kind).train()
    first, again = [], []
    for found in (first, again):
        torch.manual_seed(3)
        found += [pair.sample_sets(rows(), n, rounds) for n, rounds in ((1, 0), (7, 1))]
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other) and ((one > 0) & (one < 1)).all()
    assert pair.training


def test_what_does_not_fit_is_said_in_one_line() -> None:
    pair = pair_of("hfsgm")
    for message, call in (
        ("n is 0, expected at least 1", lambda: pair.sample_sets(rows(), 0)),
        ("rounds is 2, but nothing is shown", lambda: pair.sample_sets(4, 1, 2)),
        ("context is 0, expected at least 1", lambda: pair.sample_sets(0, 1)),
        ("the batch lacks site 'x'", lambda: pair.sample_sets(rows().without("x"), 1)),
        ("contexts", lambda: pair_of("hfsgm", contexts="all")),
        ("pool", lambda: pair_of("hfsgm", pool="median")),
        ("film", lambda: pair_of("hfsgm", film="max")),
    ):
        with pytest.raises(ValueError, match=message) as error:
            call()
        assert "\n" not in str(error.value)


def test_weights_begin_with_a_variance_of_one_over_inputs() -> None:
    """And scales of features at 1."""
    pair = build("hfsgm", data_dim=D, most=M, seed=0, **{**SMALL, "hidden": 200})
    scales = [p for n, p in pair.named_parameters() if ".scale." in n]
    assert len(scales) == 2 * 3 and all((p == 0).all() for p in scales)
    for side in (pair.prior, pair.guide.ladder):
        net = side.codes["1"].net  # what is added has the variance of one map of all inputs
        maps = [net.shift.weight, *net.first.weights.values()]
        width = sum(weight.shape[1] for weight in maps)
        for weight in maps:
            assert float(weight.detach().var()) == pytest.approx(
                1 / width, rel=0.2
            )  # 10 seeds: 0.1
    layer = pair.decoder.rest[1]  # 200 to 200
    assert float(layer.weight.detach().var()) == pytest.approx(1 / 200, rel=0.05)
    first = pair.guide.element.first
    assert float(first.weights["x"].detach().var()) == pytest.approx(1 / D, rel=0.2)
    assert all((p == 0).all() for n, p in pair.named_parameters() if n.endswith("bias"))


def drawings(seed=0) -> data.Dataset:
    return data.load("concepts", source="strokes", size=(3, 6), test_size=4, seed=seed)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["hfsgm", "vae"])
def test_whole_life(kind, tmp_path) -> None:
    digits = drawings()
    digits = replace(digits, train=digits.train.rows(slice(60)), test=digits.test.rows(slice(8)))
    settings = {**SMALL, **KINDS[kind], "subset": 3}

    def make():
        return build("hfsgm", digits, seed=0, **settings)

    _, idata = whole_life(make, digits, tmp_path, epochs=2, batch_size=20)
    assert idata.posterior.z_1.dims == ("chain", "draw", "datum", "element", "z_1_dim")
    assert idata.log_likelihood.x.dims == ("chain", "draw", "datum")
    assert "c_2" in idata.posterior or kind == "vae"


def test_likelihood_of_new_elements_of_a_set() -> None:
    """Contexts that say nothing leave elements independent: shown ones tell nothing."""
    pair = pair_of("vae", torch.float32)
    table = data.Table("sets", {n: v.nan_to_num() for n, v in rows((4, 2, 3)).items()})
    one = inference.set_likelihood(pair, table.to(torch.float32), context=1, draws=2000)
    gone = rows((4, 2, 3))["x_there"].clone()
    gone[:, 0] = 0
    alone = table.replace(sites={**table.sites, "x_there": gone}).to(torch.float32)
    none = inference.set_likelihood(pair, alone, context=0, draws=2000)
    for row, expected in enumerate((3, 1, 2)):
        assert int(one.targets[row]) == int(none.targets[row]) == expected
        error = float(one.log_likelihood_error[row] + none.log_likelihood_error[row])
        assert abs(float(one.log_likelihood[row] - none.log_likelihood[row])) < 4 * error
