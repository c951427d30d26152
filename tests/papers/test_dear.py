"""DEAR: its three losses by hand, the density of its prior, its game's masks, its effects."""

from __future__ import annotations

import math
import re

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.nn import functional
from torch.testing import assert_close
from worlds.weights import perturbed
from worlds.whole_life import whole_life

from ppl_models import build, data, inference
from ppl_models.batch import Batch

B, R, D = 6, 2, 5
VECTORS = {
    "shape": (1, 1, D), "channels": (), "hidden": (7,), "labels": "l2", "arrows": (),
    "low": (0.1, 0.0, -0.2, 0.0), "span": (1.0, 2.0, 1.0, 0.5),
}  # fmt: skip
IMAGES = {**VECTORS, "shape": (4, 3, 1), "channels": (2, 3), "labels": "ce", "arrows": ("a>c",)}
NAMES = ("a", "b", "c", "d")
SINGLE = pytest.param(torch.float32, marks=pytest.mark.long)
EPS = {torch.float32: 1e-4, torch.float64: 1e-10}


def made(dtype=torch.float64, **options):
    """A small pair whose A and f are somewhere."""
    pair = build("dear", seed=0, rest=R, factors=NAMES, **{**VECTORS, **options}).to(dtype)
    perturbed(pair.code.scm, 0.5)
    return pair


def rows(dtype=torch.float64, scale=1, labels=NAMES, size=D):
    """Rows of which a fifth of the data has labels."""
    draw = torch.rand(B, size + 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    sites = {"x": draw[:, :size]}
    sites |= {name: draw[:, size + NAMES.index(name)] for name in labels}
    size = scale * B
    return Batch(sites, size=size, total=5 * size, observed=dict.fromkeys(labels, size))


def encoded_by_hand(pair, x):
    """Means and draws by site; all noise in the order of the guide."""
    raw, means, draws, first = pair.guide.shared["numbers"](x=x), {}, {}, 0
    for site, size in pair.code.sizes.items():
        loc, log_variance = raw[:, first : first + 2 * size].chunk(2, -1)
        noise = torch.randn(loc.shape if site == "z_rest" else loc.shape[:-1], dtype=x.dtype)
        noise = noise if site == "z_rest" else noise[:, None]
        means[site], draws[site] = loc, loc + (0.5 * log_variance).exp() * noise
        first += 2 * size
    narrow = {n: v if n == "z_rest" else v.squeeze(-1) for n, v in draws.items()}
    return {n: v.squeeze(-1) for n, v in means.items() if n != "z_rest"}, narrow


def factors_by_hand(pair, eps):
    """f(eps (I - A)^-1), f a line."""
    scm = pair.code.scm
    one = torch.eye(4, dtype=eps.dtype)
    u = eps @ torch.linalg.inv(one - scm.weights * scm.mask)
    lines = [scm.mechanisms[f"z_{name}"].outer[0] for name in NAMES]
    return torch.stack(
        [line.loc + line.log_scale.exp() * u[:, j] for j, line in enumerate(lines)], -1
    )


def made_by_hand(pair, dtype):
    """x = G(z) and z, z of the prior."""
    eps = torch.cat([torch.randn(B, 1, dtype=dtype) for _ in NAMES], -1)
    z = dict(zip(pair.card.causes, factors_by_hand(pair, eps).unbind(-1), strict=True))
    z["z_rest"] = torch.randn(B, R, dtype=dtype)
    return pair.generator(**z), z


def taught_by_hand(pair, batch, means):
    """Means over rows and factors; of a batch of labelled rows, for a fifth of the data."""
    c, loss = pair.config, 0.0
    for name, low, span in zip(NAMES, c.low, c.span, strict=True):
        if name in batch:
            mu, y = means[f"z_{name}"], (batch[name] - low) / span
            both = y * functional.softplus(-mu) + (1 - y) * functional.softplus(mu)
            loss = loss + 5.0 * ((mu - y).square() if c.labels == "l2" else both) / 4
    return loss * batch.total / batch.size if torch.is_tensor(loss) else torch.zeros(B)


def gradients(loss, module):
    named = dict(module.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True, retain_graph=True)
    return {n: g for n, g in zip(named, found, strict=True) if g is not None}


@pytest.mark.parametrize("options", [VECTORS, IMAGES])
@pytest.mark.parametrize("dtype", [SINGLE, torch.float64])
@pytest.mark.parametrize(("scale", "labels"), [(1, NAMES), (10, ()), (10, ("a", "d"))])
def test_losses_and_gradients_are_those_by_hand(options, dtype, scale, labels):
    """Of encoder, generator, prior and critic; the ratio that tilts is a clipped constant."""
    pair = made(dtype, **options)
    batch = rows(dtype, scale, labels, math.prod(options["shape"]))
    (stage,) = pair.stages()
    (player,) = stage.players
    stage.start(batch)
    critic = player.module
    with torch.no_grad():
        heads = getattr(critic, "net", critic)
        for head in (heads.of_x, heads.of_z, heads.of_both):
            head.rest[-1].bias.add_(2.0 if scale == 1 else -0.1)  # beyond the clip, and within

    torch.manual_seed(3)
    loss = stage.objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(3)
    means, z = encoded_by_hand(pair, batch["x"])
    x_made, z_made = made_by_hand(pair, dtype)
    first = critic(x=batch["x"], **z).squeeze(-1)
    second = critic(x=x_made, **z_made).squeeze(-1)
    tilt = second.detach().exp().clamp(0.5, 2.0)
    encoder = scale * (first + taught_by_hand(pair, batch, means).to(dtype)).sum()
    generator = -scale * (tilt * second).sum()
    close = EPS[dtype]
    assert_close(loss, encoder + generator, rtol=close, atol=close)
    found = gradients(loss, pair)
    of_encoder, of_generator = (gradients(side, pair) for side in (encoder, generator))
    assert {n.split(".")[0] for n in of_encoder} == {"guide"}
    assert {n.split(".")[0] for n in of_generator} == {"generator", "code"}
    exact = of_encoder | of_generator
    assert found.keys() == exact.keys()
    for name, gradient in exact.items():
        assert_close(
            found[name],
            gradient,
            rtol=100 * close,
            atol=10 * close,
            msg=lambda m, n=name: f"{n}: {m}",
        )

    torch.manual_seed(3)
    judged = player.objective.differentiable_loss(pair.model, pair.guide, batch)
    by_hand = scale / 2 * (functional.softplus(-first) + functional.softplus(second)).sum()
    assert_close(judged, by_hand, rtol=close, atol=close)
    assert not gradients(judged, pair)
    exact = gradients(by_hand, critic)
    for name, gradient in gradients(judged, critic).items():
        assert_close(
            gradient,
            exact[name],
            rtol=100 * close,
            atol=10 * close,
            msg=lambda m, n=name: f"{n}: {m}",
        )


@pytest.mark.parametrize("labels", ["l2", "ce"])
def test_labels_may_come_as_columns(labels):
    """From arrays and files a number per row comes as ``(N, 1)``."""
    pair, batch = made(labels=labels), rows(scale=10)
    wide = {n: v if n == "x" else v[:, None] for n, v in batch.items()}
    columns = Batch(wide, size=batch.size, total=batch.total, observed=batch.observed)
    taught = inference.Penalty("labels", pair.taught)
    found = [taught.differentiable_loss(pair.model, pair.guide, b) for b in (batch, columns)]
    assert_close(*found, rtol=0, atol=0)


@pytest.mark.parametrize("prior", ["line", "curve", "independent"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_density_of_the_prior_is_the_closed_form(prior, dtype):
    """log N(eps) - sum log f'(u), since det(I - A) = 1; by the Jacobian of all of it."""
    pair = made(dtype, prior=prior)
    eps = torch.randn(B, 4, generator=torch.Generator().manual_seed(2)).to(dtype)
    joint = pair.code.scm.joint()

    def push(e):
        for step in joint.transforms:
            e = step(e)
        return e

    jacobian = torch.stack([torch.autograd.functional.jacobian(push, e) for e in eps])
    standard = dist.Normal(eps.new_zeros(4), 1.0).to_event(1)
    exact = standard.log_prob(eps) - jacobian.det().abs().log()
    z = push(eps)
    trace = poutine.trace(pair.model).get_trace(
        Batch({**dict(zip(pair.card.causes, z.unbind(-1), strict=True))})
    )
    trace.compute_log_prob()
    found = sum(trace.nodes[site]["log_prob"] for site in pair.card.causes)
    close = 100 * EPS[dtype]
    assert_close(found, exact, rtol=close, atol=close)
    if prior == "line":
        slopes = sum(m.outer[0].log_scale for m in pair.code.scm.mechanisms.values())
        assert_close(exact, standard.log_prob(eps) - slopes, rtol=close, atol=close)
        assert_close(z, factors_by_hand(pair, eps), rtol=close, atol=close)
    if prior == "independent":
        assert_close(z, eps, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [SINGLE, torch.float64])
@pytest.mark.parametrize("site", ["a", "b", "c", "d"])
def test_effects_are_those_of_matrices_along_chains(site, dtype):
    """a -> b -> d besides a -> c: z' = z + change times total effects, x is made anew."""
    pair = made(dtype, arrows=("a>b", "b>d", "a>c"))
    batch, place = rows(dtype, labels=()), NAMES.index(site)
    torch.manual_seed(5)
    as_is = pair.counterfactual(batch, **{f"z_{site}": lambda fn: fn})
    torch.manual_seed(5)
    found = pair.counterfactual(batch, **{f"z_{site}": as_is[f"z_{site}"] + 1.5})
    scm = pair.code.scm
    scale = torch.stack([scm.mechanisms[n].outer[0].log_scale.exp() for n in pair.card.causes])
    total = torch.linalg.inv(torch.eye(4, dtype=dtype) - scm.weights * scm.mask)[place]
    close = 10 * EPS[dtype]
    for j, name in enumerate(pair.card.causes):
        exact = as_is[name] + 1.5 * total[j] * scale[j] / scale[place]
        assert_close(found[name], exact, rtol=close, atol=close)
        assert bool(total[j]) or torch.equal(found[name], as_is[name])
    assert torch.equal(found["z_rest"], as_is["z_rest"])
    remade = pair.generator(**{n: found[n] for n in pair.code.sizes})
    assert_close(found["x"], remade, rtol=close, atol=close)
    remade = pair.generator(**{n: as_is[n] for n in pair.code.sizes})
    assert_close(as_is["x"], remade, rtol=close, atol=close)


@pytest.fixture(scope="module")
def world():
    return data.load("pendulum_vectors", train=60, validation=10, test=10, labelled=20)


OPTIONS = {
    "shape": (1, 1, 16), "channels": (), "hidden": (8,), "labels": "l2",
    "low": (0.0,) * 4, "span": (1.0,) * 4,
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("kind", [{}, {"shape": (4, 4, 1), "channels": (2, 3)}], ids=str)
def test_a_whole_life(world, kind, tmp_path):
    """And what is masked is exactly 0 after it, with moments, decay of weights and all."""
    run, posterior = whole_life(
        lambda: build("dear", world, seed=0, arrow_rate=0.1, **{**OPTIONS, **kind}),
        world, tmp_path, steps=6, batch_size=30, seed=0, weight_prior=0.01,
    )  # fmt: skip
    weights = run.pair.code.scm.weights
    allowed = torch.zeros(4, 4)
    allowed[:2, 2:] = 1
    assert torch.equal(run.pair.code.scm.adjacency != 0, allowed.bool())
    assert torch.equal(weights != 0, allowed.bool())
    assert set(posterior.posterior.data_vars) == set(run.pair.code.sizes)


def test_a_and_f_have_rates_of_their_own(world):
    """Adam's first step is as long as the rate."""
    rates = {"arrow_rate": 0.1, "outer_rate": 0.01}
    pair = build("dear", world, seed=0, **OPTIONS, **rates)
    before = {n: v.clone() for n, v in pair.state_dict().items()}
    inference.fit(
        pair,
        world,
        steps=1,
        learning_rate=1e-3,
        batch_size=30,
        seed=0,
        progress=False,
        device="cpu",
    )
    allowed = torch.zeros(4, 4)
    allowed[:2, 2:] = 1
    assert torch.equal(pair.code.scm.weights != 0, allowed.bool())
    moved = {n: float((v - before[n]).abs().max()) for n, v in pair.state_dict().items()}
    assert moved["code.scm.weights"] == pytest.approx(0.1, rel=1e-3)
    (first, *_) = pair.card.causes
    assert moved[f"code.scm.mechanisms.{first}.outer.0.loc"] == pytest.approx(0.01, rel=1e-3)
    assert moved["guide.shared.numbers.first.bias"] == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("prior", ["line", "curve"])
def test_the_same_prior_runs_under_a_bound(prior):
    """ELBO with a Normal decoder by hand, and labels beside it."""
    pair = made(prior=prior, sigma=0.3)
    batch = rows(scale=10)
    (stage,) = pair.stages()
    assert pair.card.density == "data" and not stage.players
    torch.manual_seed(3)
    loss = stage.objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(3)
    means, z = encoded_by_hand(pair, batch["x"])
    q = sum(pair.guide.factor(n, batch).log_prob(v) for n, v in z.items())
    p = pair.code.scm.log_prob({n: z[n] for n in pair.card.causes})
    p = p + dist.Normal(torch.zeros(R).double(), 1.0).to_event(1).log_prob(z["z_rest"])
    p = p + dist.Normal(pair.generator(**z), 0.3).to_event(1).log_prob(batch["x"])
    exact = 10 * (q - p + taught_by_hand(pair, batch, means)).sum()
    assert_close(loss, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"low": (0.0,)}, "low has 1 numbers, expected 4, one for each of a, b, c, d"),
        ({"span": (1.0, 0.0, 1.0, 1.0)}, "span is (1.0, 0.0, 1.0, 1.0), expected numbers above 0"),
        ({"arrows": ("a>e",)}, "arrow 'a>e': unknown factor 'e': expected one of a, b, c, d"),
        ({"arrows": ("b>a",)}, "mask has an arrow from 'z_b' to 'z_a', expected arrows from"),
    ],
)
def test_settings_that_do_not_fit_are_refused(options, sentence):
    with pytest.raises(ValueError, match="^" + re.escape(sentence)):
        made(**options)


@pytest.mark.parametrize(
    ("labels", "value", "sentence"),
    [
        ("ce", 2.5, "the value 2.5 is outside the support of a cross-entropy with low 0 and span "
         "1, expected numbers from -0.5 to 1.5"),
        ("l2", [0.5, 0.5], "has rows of shape (2,), expected one number"),
        ("ce", [0.5, 0.5], "has rows of shape (2,), expected one number"),
        ("ce", -0.4, ""),
        ("l2", 40.0, ""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", [False, True])
def test_labels_that_cannot_be_are_refused_before_training(labels, value, sentence, column):
    """Hidden ones may be anything; noise may carry a label half a span beyond its range."""
    shape = (8, 2) if isinstance(value, list) else (8, 1) if column else (8,)
    b = torch.full(shape, 0.5)
    b[3] = torch.as_tensor(value)
    b[5] = 100.0
    sites = {"x": torch.rand(8, D), "b": b}
    table = data.Table("rows", sites, observed={"b": torch.arange(8) != 5})
    pair = made(torch.float32, labels=labels, low=(0.0,) * 4, span=(1.0,) * 4)
    if sentence:
        with pytest.raises(ValueError, match=r"^site 'b'.*" + re.escape(sentence)) as error:
            inference.fit(pair, table, steps=1, progress=False, device="cpu")
        assert "\n" not in str(error.value)
        assert "row 3 of rows" in str(error.value) or isinstance(value, list)
    else:
        inference.check_data(pair, table)
