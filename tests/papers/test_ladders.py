"""VLAE and the ladder VAE: bounds by hand, products of Normals, layers that are faded in."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from torch.distributions import Bernoulli, Laplace, Normal, kl_divergence
from torch.testing import assert_close
from worlds.processes import together

import ppl_models as zoo
from ppl_models import inference
from ppl_models.batch import Batch
from ppl_models.data import Table
from ppl_models.parts.ladder_training import FadeIn
from ppl_models.parts.top_down import product_of_normals

SHAPE, B, F = (5, 4, 1), 3, 4
SMALL = {
    "shape": SHAPE,
    "latent": (1, 3, 2),
    "levels": (3, 4, 5),
    "hidden": (6,),
    "activation": "tanh",
}
KINDS = {
    "vlae": ("vlae", {}),
    "vlae dense": ("vlae", {"networks": "dense"}),
    "ladder": ("ladder_vae", {}),
    "ladder with skips": ("ladder_vae", {"skips": True}),
    "ladder of maps": ("ladder_vae", {"networks": "conv", "skips": True}),
}
SHARES = (0.25, 0.5, 1.0)


def pair_of(kind: str, dtype=torch.float64, **settings):
    name, more = KINDS[kind]
    return zoo.build(name, **{**SMALL, **more, **settings}).to(dtype)


def rows(dtype=torch.float64, scale=1):
    x = torch.rand(B, math.prod(SHAPE), generator=torch.Generator().manual_seed(1)).to(dtype)
    return Batch({"x": x}, size=scale * B)


def normal(moments, least=None):
    loc, raw = moments.chunk(2, -1)
    scale = torch.nn.functional.softplus(raw) + 1e-3 if least is None else raw.sigmoid() + least
    return Normal(loc, scale)


# ---- bounds by hand --------------------------------------------------------------------------


def trunk(pair, x):
    """Features of each level of an image, and the image as level 0."""
    seen = x.reshape(1, 1, *SHAPE[:2]) if pair.config.networks == "conv" else x
    found = [seen]
    for net in pair.guide.shared.values():
        found.append(net.net(found[-1]))
    return found


def joined(join, path, code, conv):
    """The level below one that a code enters."""
    if not join.path:
        return join.down(code)
    return join.down(torch.cat((path, code), 1) if conv else path + join.gate * code)


def vlae_by_hand(pair, x, z, shares):
    """Minus the bound's parts of one row: log p(x | z) and KL by layer."""
    conv, features = pair.config.networks == "conv", trunk(pair, x)
    kl = []
    for layer in (1, 2, 3):
        level = 3 if layer == 3 else layer - 1
        net = pair.guide.factors[f"z_{layer}"].net.net.net
        q = normal(net(shares[layer - 1] * features[level]), least=1e-3)
        kl.append(kl_divergence(q, Normal(torch.zeros(()).to(x), 1.0)).sum())
    decoder = pair.decoder
    path = decoder.top(z[2])
    for layer in (2, 1):
        join = decoder.joins[str(layer)]
        path = joined(join, path, shares[layer - 1] * join.code(z[layer - 1]), conv)
    mean = decoder.last(path).sigmoid().flatten(1)
    return Laplace(mean, 1.0).log_prob(x).sum(), kl


def ladder_by_hand(pair, x, z, shares):
    """The same of the ladder VAE."""
    conv, features = pair.config.networks == "conv", trunk(pair, x)
    decoder, priors = pair.story.decoder, pair.story.priors
    q = normal(pair.guide.factors["z_3"].net.net(features[3]))
    kl = [kl_divergence(q, Normal(torch.zeros(()).to(x), 1.0)).sum()]
    path = decoder.top(z[2])
    for layer in (2, 1):
        share, join = shares[layer - 1], decoder.joins[str(layer)]
        prior = normal(priors[f"z_{layer}"](path))
        evidence = normal(pair.guide.factors[f"z_{layer}"].net.net(features[layer]))
        precision = 1 / prior.variance + share / evidence.variance
        mean = prior.mean / prior.variance + share * evidence.mean / evidence.variance
        kl.insert(0, kl_divergence(Normal(mean / precision, precision**-0.5), prior).sum())
        seen = share * z[layer - 1] + (1 - share) * prior.mean
        path = joined(join, path, join.code(seen), conv)
    logits = decoder.last(path).flatten(1)
    return Bernoulli(logits=logits, validate_args=False).log_prob(x).sum(), kl


@pytest.mark.parametrize(
    ("kind", "scale", "dtype"),
    [*((kind, 10, torch.float64) for kind in KINDS), ("vlae", 1, torch.float32),
     ("ladder", 1, torch.float32)],
)  # fmt: skip
def test_the_loss_is_the_sum_by_hand(kind, scale, dtype):
    """With layers half faded in: likelihood by its weight, KL of each conditional by its own."""
    pair, batch = pair_of(kind, dtype, emphasis=3.0, fade_in=F, beta=2.0), rows(dtype, scale)
    pair.fade.alpha.copy_(torch.tensor(SHARES))
    torch.manual_seed(0)
    trace = poutine.trace(pair.guide).get_trace(batch)
    guide = poutine.replay(pair.guide, trace=trace)
    by_hand = vlae_by_hand if kind.startswith("vlae") else ladder_by_hand
    for done, betas in ((0, (1.0, 1.0, 150.0)), (F, (1.0, 2.0, 2.0)), (2 * F, (2.0, 2.0, 2.0))):
        objective, wanted = pair.objective(), 0.0
        objective.at(inference.Progress(done / (3 * F), done))
        for row, x in enumerate(batch["x"].split(1)):
            z = [trace.nodes[site]["value"][row : row + 1] for site in pair.config.sites]
            log_p, kl = by_hand(pair, x, z, SHARES)
            wanted = wanted - 3 * log_p + sum(b * k for b, k in zip(betas, kl, strict=True))
        found = objective.differentiable_loss(pair.model, guide, batch)
        tight = 1e-10 if dtype == torch.float64 else 1e-5
        assert_close(found, scale * wanted, rtol=tight, atol=tight)


def test_a_code_sees_those_above_it_and_an_image_all_or_the_lowest():
    """With skips the image hangs on each code, without them on z_1 alone; VLAE's on each."""
    for kind, wanted in (("vlae", 3), ("ladder", 1), ("ladder with skips", 3)):
        pair, batch = pair_of(kind), rows()
        z = {
            s: torch.randn(B, d).double()
            for s, d in zip(pair.config.sites, (1, 3, 2), strict=True)
        }
        moved = 0
        for site in z:
            images = []
            for value in (z[site], z[site] + 1):
                sites = poutine.condition(pair.model, {**z, site: value})
                images.append(poutine.trace(sites).get_trace(batch).nodes["x"]["fn"].mean)
            moved += not torch.equal(*images)
        assert moved == wanted, kind


# ---- densities -------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0, 4.0])
def test_the_product_of_normals_is_that_of_their_densities(weight):
    one = torch.distributions.Normal(torch.tensor([0.4], dtype=torch.float64), 0.7)
    other = torch.distributions.Normal(torch.tensor([-1.1], dtype=torch.float64), 1.3)
    found = product_of_normals(
        *(torch.distributions.Independent(fn, 1) for fn in (one, other)), weight
    )
    grid = torch.linspace(-9, 9, 20_001, dtype=torch.float64).unsqueeze(-1)
    density = (one.log_prob(grid) + weight * other.log_prob(grid)).exp().squeeze(-1)
    density = density / torch.trapezoid(density, grid.squeeze(-1))
    assert_close(found.log_prob(grid).exp(), density, rtol=1e-8, atol=1e-12)


def test_linear_gaussian_evidence_is_the_closed_form():
    """z_2 -> z_1 -> x with linear maps: the exact posterior makes every log weight log p(x).

    The product of prior and evidence is exact for z_1 given z_2 where the evidence is
    N(z_1 | x / a, s^2 / a^2), and q(z_2 | x) is given.
    """
    a, b, s1, s = 1.5, -0.8, 0.6, 0.9
    x = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)
    zero = torch.zeros(3, dtype=torch.float64)
    spread = a * a * (b * b + s1 * s1) + s * s
    exact = Normal(zero, spread**0.5).log_prob(x)
    gain = a * b / spread
    q2 = Normal(gain * x, (1 - gain * a * b) ** 0.5 + zero)
    torch.manual_seed(0)
    z2 = q2.sample()
    independent = torch.distributions.Independent
    prior = independent(Normal((b * z2).unsqueeze(-1), s1), 1)
    evidence = independent(Normal((x / a).unsqueeze(-1), s / a), 1)
    q1 = product_of_normals(prior, evidence)
    z1 = q1.sample()
    joint = Normal(zero, 1.0).log_prob(z2) + prior.log_prob(z1)
    joint = joint + Normal(a * z1.squeeze(-1), s).log_prob(x)
    assert_close(joint - q2.log_prob(z2) - q1.log_prob(z1), exact, rtol=1e-12, atol=1e-12)


def test_the_bound_of_one_number_a_layer_against_quadrature():
    """E_q[log p(x, z_1, z_2) - log q(z_1, z_2 | x)] over a grid of both codes."""
    settings = {"shape": (1, 1, 2), "latent": (1, 1), "levels": (3, 3), "hidden": ()}
    pair = pair_of("ladder with skips", **settings)
    x = torch.tensor([[0.2, 0.9]], dtype=torch.float64)
    grid = torch.linspace(-6, 6, 121, dtype=torch.float64)
    z = {"z_1": grid.repeat(121).unsqueeze(-1), "z_2": grid.repeat_interleave(121).unsqueeze(-1)}
    with torch.no_grad():
        every = Batch({"x": x.expand(121 * 121, 2)})
        logs = []
        for program in (pair.model, pair.guide):
            trace = poutine.trace(poutine.condition(program, z)).get_trace(every)
            trace.compute_log_prob()
            sites = [site for site in ("z_1", "z_2", "x") if site in trace.nodes]
            logs.append(sum(trace.nodes[site]["log_prob"] for site in sites).reshape(121, 121))
        log_p, log_q = logs
        mass, exact = (
            torch.trapezoid(torch.trapezoid(values, grid), grid)
            for values in (log_q.exp(), log_q.exp() * (log_p - log_q))
        )
        assert_close(mass, torch.ones_like(mass), rtol=1e-6, atol=0)
        torch.manual_seed(0)
        elbo = inference.ELBO(2_000, kl="analytic")
        bound = -elbo.per_datum(pair.model, pair.guide, Batch({"x": x}))
    # 2,000 draws, whose mean has a deviation of 0.005 nats over ten seeds
    assert abs(float(bound - exact)) < 0.02


# ---- layers that are faded in ----------------------------------------------------------------


def test_shares_by_steps():
    fade = FadeIn(3, F)
    assert fade.alpha.tolist() == [0, 0, 1]
    after = inference.scheduled(fade, "alpha", fade.schedules())
    found = []
    for step in range(3 * F + 2):
        after(inference.Progress(step / 100, step))
        found.append(fade.alpha.tolist())
    shares = [[min(1, max(0, (t - k * F) / F)) for k in (2, 1)] + [1] for t in range(1, 3 * F + 3)]
    assert_close(torch.tensor(found), torch.tensor(shares, dtype=torch.float32))
    fade.begin()
    assert fade.alpha.tolist() == [0, 0, 1]


@pytest.mark.parametrize("kind", ["vlae", "ladder with skips", "ladder"])
def test_before_its_turn_a_layer_changes_nothing(kind):
    """Whatever its code is, the image stays the same to the bit; of the ladder its KL is 0."""
    pair, batch = pair_of(kind, fade_in=F), rows()
    torch.manual_seed(0)
    trace = poutine.trace(pair.guide).get_trace(batch)
    z = {site: trace.nodes[site]["value"] for site in pair.config.sites}
    images = []
    for site in (None, "z_1", "z_2", "z_3"):
        given = {n: 0 * v if n == site else v for n, v in z.items()}
        model = poutine.trace(poutine.condition(pair.model, given)).get_trace(batch)
        images.append(model.nodes["x"]["fn"].mean)
        if site is None and kind != "vlae":
            for name in ("z_1", "z_2"):
                p, q = (t.nodes[name]["fn"].base_dist for t in (model, trace))
                assert float(kl_divergence(q, p).detach().abs().max()) < 1e-14
    assert torch.equal(images[0], images[1])
    assert torch.equal(images[0], images[2])
    assert not torch.equal(images[0], images[3])


def table():
    return Table("rows", {"x": rows(torch.float32)["x"].repeat(8, 1)})


def fitted(kind, **options):
    pair = pair_of(kind, torch.float32, fade_in=F)
    options = {"steps": 3 * F, "batch_size": 12, "progress": False, **options}
    inference.fit(pair, table(), device="cpu", **options)
    return pair


@pytest.mark.parametrize(
    "kind", ["vlae dense", pytest.param("ladder with skips", marks=pytest.mark.long)]
)
def test_a_fade_in_is_resumed_bit_for_bit_and_can_be_prolonged(kind, tmp_path):
    whole = fitted(kind)
    part = fitted(kind, out=tmp_path / "r", steps=F + 2)
    assert 0 < float(part.fade.alpha[1]) < 1
    pair = fitted(kind, out=tmp_path / "r", resume=True)
    for name, value in whole.state_dict().items():
        assert torch.equal(pair.state_dict()[name], value), name
    assert pair.fade.alpha.tolist() == [1, 1, 1]


def test_two_processes_fade_in_as_one(tmp_path):
    whole = fitted("vlae dense")

    def work(rank):
        pair = fitted("vlae dense")
        return {name: value.clone() for name, value in pair.state_dict().items()}

    for outcome in together(2, tmp_path, work):
        assert not outcome.error
        for name, value in whole.state_dict().items():
            assert_close(outcome.value[name], value, rtol=1e-5, atol=1e-5)


def test_without_fade_in_and_weights_it_is_the_plain_bound():
    """One layer of weight 1 without warm-up has the plain bound, to the bit."""
    pair, batch = pair_of("vlae", latent=(2,), kl_warmup=0, emphasis=1.0), rows()
    objective = pair.objective()
    assert objective == inference.ELBO(kl="analytic")
    assert not pair.stages()[0].changes
    assert pair.fade.alpha.tolist() == [1]
    losses = []
    for same in (objective, inference.ELBO(kl="analytic")):
        torch.manual_seed(0)
        losses.append(same.per_datum(pair.model, pair.guide, batch))
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": (3, 4)}, r"latent is \(1, 3, 2\) and levels are \(3, 4\), expected"),
        ({"latent": ()}, r"latent is \(\) and levels are .* at least one code"),
        ({"networks": "convolutional"}, "unknown networks 'convolutional': expected one of conv"),
        ({"fade_in": -1}, "fade_in is -1"),
    ],
)
def test_settings_that_do_not_fit(settings, words):
    with pytest.raises(ValueError, match=words):
        pair_of("vlae", **settings)
