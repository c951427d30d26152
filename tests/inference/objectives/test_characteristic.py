"""CCVAE's bound: quadrature, gradients, labels that share a code, guides it does not fit."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal
from torch.testing import assert_close
from worlds.gradients import batches
from worlds.linear import linear
from worlds.one_code import RARE, SHIFTED, USUAL
from worlds.two_labels import Toy, Two, quadrature

from ppl_models import guides
from ppl_models.batch import Batch
from ppl_models.inference import (
    CharacteristicELBO,
    EnumeratedELBO,
    Evaluation,
    SelfNormalisedELBO,
    UnhandledSite,
)
from ppl_models.inference.objectives.by_name import parse_objective
from ppl_models.inference.objectives.characteristic import FewParticles

DRAWS = 20_000


def mean_bound(objective, x, y):
    """Its average over many draws of one row of the toy, with a standard error."""
    torch.manual_seed(0)
    toy = Toy()
    batch = Batch({"x": torch.full((DRAWS,), x), "y": torch.full((DRAWS,), y)})
    rows = -objective.rows(Evaluation(toy.model, toy.guide, batch)).detach()
    return float(rows.mean()), float(rows.std() / DRAWS**0.5)


@pytest.mark.parametrize(("x", "y"), [(0.8, 1.0), (0.8, 0.0)])
def test_it_tends_to_the_quadrature_as_the_self_normalised_bound_does(x, y):
    exact, log_q_y, _ = quadrature(x, y)
    many, error = mean_bound(CharacteristicELBO(100), x, y)
    assert abs(many - exact) < 0.03 and error < 0.015
    other, _ = mean_bound(SelfNormalisedELBO(100), x, y)
    assert abs(other - exact) < 0.03
    one, error = mean_bound(CharacteristicELBO(1, "code"), x, y)
    assert one < exact - 0.2 - 4 * error  # the mean of 1 / q(y|x) is not that of q(y|x)
    more, error = mean_bound(CharacteristicELBO(100, alpha=2.0, gamma=0.5), x, y)
    assert abs(more - 0.5 * (exact + 2 * log_q_y)) < 0.03


# ---- on which side of log p its value lies ------------------------------------------------

# Nats above log p(x, y) with 1, 2, 5, 10, 32 and 100 draws, and of the bound it tends to.
ABOVE = {
    USUAL: (-0.23, -0.44, -0.50, -0.51, -0.51, -0.52, -0.52),
    SHIFTED: (0.52, -0.03, -0.20, -0.23, -0.25, -0.25, -0.25),
    RARE: (1018, 81.4, 9.14, 2.33, 0.10, -0.28, -0.43),
}


@pytest.mark.parametrize("toy", ABOVE, ids=["usual", "shifted", "rare"])
def test_its_documented_figures_are_those_of_the_quadrature(toy):
    found = [toy.mean(draws) for draws in (1, 2, 5, 10, 32, 100)] + [toy.limit()]
    told = [f"{value:.3g}" if value > 5 else f"{value:.2f}" for value in ABOVE[toy]]
    above = [value - toy.log_p() for value in found]
    assert [f"{v:.3g}" if v > 5 else f"{v:.2f}" for v in above] == told
    lines = [line.split()[1:] for line in CharacteristicELBO.__doc__.splitlines()]
    assert [f"{value:g}" if value > 500 else f"{value:.2f}" if value < 50 else f"{value:.1f}"
            for value in ABOVE[toy]] in lines  # fmt: skip


@pytest.mark.parametrize(
    ("alpha", "scale", "dtype"),
    [
        (0.0, 1, torch.float64),
        (0.7, 10, torch.float32),
        # The other two cross what those hold one by one.
        pytest.param(0.7, 1, torch.float64, marks=pytest.mark.long),
        pytest.param(0.0, 10, torch.float32, marks=pytest.mark.long),
    ],
)
@pytest.mark.parametrize(
    ("toy", "draws", "detach"),
    [
        (USUAL, 2, "none"), (USUAL, 5, "none"), (USUAL, 32, "none"), (USUAL, 5, "code"),
        (SHIFTED, 1, "none"), (SHIFTED, 2, "none"), (SHIFTED, 10, "none"), (SHIFTED, 2, "code"),
        (RARE, 32, "none"), (RARE, 100, "none"), (RARE, 100, "code"),
    ],
)  # fmt: skip
def test_its_mean_is_that_of_the_quadrature(toy, draws, detach, alpha, scale, dtype):
    objective, pair = CharacteristicELBO(draws, detach, alpha), toy.pair(dtype)
    torch.manual_seed(0)
    run = Evaluation(pair.model, pair.guide, toy.batch(DRAWS, dtype, scale))
    rows = -objective.rows(run).detach()
    error = float(rows.std()) / DRAWS**0.5
    assert error < 0.15
    assert abs(float(rows.mean()) - toy.mean(draws, alpha, detach)) < 4.5 * error + 1e-3


@pytest.mark.parametrize("toy", ABOVE, ids=["usual", "shifted", "rare"])
def test_its_error_has_the_documented_first_order(toy):
    p, v, b = toy.grid()
    q = (p * v).sum()
    slope = float(((p * v * v).sum() / q**2 - 1) * ((p * v * b).sum() / q - (p * b).sum() - 0.5))
    for draws in (2000, 8000):
        assert draws * (toy.mean(draws) - toy.limit()) == pytest.approx(slope, rel=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("logq", ["lme", "jensen"])
@pytest.mark.parametrize("draws", [1, 2, 5, 32])
@pytest.mark.parametrize("toy", ABOVE, ids=["usual", "shifted", "rare"])
def test_the_self_normalised_value_is_a_lower_bound_at_any_number(toy, draws, logq, dtype):
    """Draw by draw below the log of the mean weight, whose mean is p(x, y)."""
    objective, pair = SelfNormalisedELBO(draws, logq), toy.pair(dtype)
    torch.manual_seed(0)
    run = Evaluation(pair.model, pair.guide, toy.batch(2000, dtype))
    value = -objective.rows(run).detach()
    log_w = objective.weights(run).log_w.reshape(draws, -1)
    assert bool((value <= log_w.logsumexp(0) - math.log(draws) + 1e-5).all())
    assert float(value.mean()) < toy.log_p()
    assert objective.part_names == ("bound",)


@pytest.mark.parametrize("draws", [1, 2, 5, 10, 31, 32, 100])
def test_few_draws_warn_once_at_construction(draws):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        objective = CharacteristicELBO(draws)
        toy = USUAL.pair()
        objective.rows(Evaluation(toy.model, toy.guide, USUAL.batch(3)))
    told = [w for w in caught if "CharacteristicELBO" in str(w.message)]
    assert len(told) == (draws < 32)
    if told:
        assert told[0].category is FewParticles and told[0].filename == __file__
        assert str(told[0].message) == (
            f"CharacteristicELBO has particles={draws}: below 32 draws its value can lie nats "
            "above log p(x, y); take more, or SelfNormalisedELBO, which bounds it from below at "
            "any number"
        )
    assert objective.part_names == ("estimate",)


def exact_gradient(x: float, y: float) -> dict[str, Tensor]:
    """The gradient of the toy's exact bound, by name of parameter of its guide."""
    guide = Toy().double().guide
    z = torch.linspace(-12, 12, 4001).double()
    q_z = guide.factor("z", {"x": torch.tensor(x).double()}).base_dist
    log_q = q_z.log_prob(z)
    logit = guide.factors["y"].net(z=z.unsqueeze(-1)).squeeze(-1)
    log_v = F.logsigmoid(logit * (2 * y - 1))
    step = (z[1] - z[0]).log()
    log_label = torch.logsumexp(log_q + log_v, 0) + step
    log_p = Normal(4 * y - 2, 1.0).log_prob(z) + Normal(z, 1.0).log_prob(torch.tensor(x).double())
    posterior = (log_q + log_v - log_label + step).exp()
    bound = (posterior * (log_p - log_q - log_v + log_label)).sum()
    names, parameters = zip(*guide.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(bound, parameters), strict=True))


def gradients(objective: CharacteristicELBO, x: float, y: float) -> dict[str, Tensor]:
    """Its gradient in blocks of draws ``(blocks, ...)``, by name of parameter."""
    toy, blocks = Toy(), 100
    torch.manual_seed(0)
    batch = Batch({"x": torch.full((DRAWS // blocks,), x), "y": torch.full((DRAWS // blocks,), y)})
    names, parameters = zip(*toy.guide.named_parameters(), strict=True)
    found = []
    for _ in range(blocks):
        bound = -objective.rows(Evaluation(toy.model, toy.guide, batch)).mean()
        found.append(torch.autograd.grad(bound, parameters))
    return {n: torch.stack(g) for n, g in zip(names, zip(*found, strict=True), strict=True)}


def test_its_gradient_is_that_of_the_exact_bound_and_the_codes_is_not():
    exact = exact_gradient(0.8, 0.0)
    ours, code = (gradients(CharacteristicELBO(400, d), 0.8, 0.0) for d in ("none", "code"))
    for name, expected in exact.items():
        mean, error = ours[name].mean(0), ours[name].std(0) / 10
        # Of order 1/K besides: the variance of the label's probability over K.
        assert bool(((mean - expected).abs() < 4 * error + 0.01).all()), name
    gap = (code["factors.z.net.first.bias"].mean(0) - exact["factors.z.net.first.bias"]).abs()
    assert gap.max() > 0.5


def test_counting_from_a_second_draw_keeps_the_mean_and_shrinks_the_spread():
    """Beside many pixels the bracket is far below zero, and the weight's spread times that."""

    class Shifted(Toy):
        def model(self, batch: Batch) -> None:
            with batch.plate():
                y = pyro.sample("y", dist.Bernoulli(0.5), obs=batch.get("y"))
                z = pyro.sample("z", dist.Normal((4 * y - 2).unsqueeze(-1), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(z.squeeze(-1), 1.0), obs=batch.get("x"))
                pyro.sample("pixels", dist.Delta(y, log_density=-100.0), obs=y)

    batch = Batch({"x": torch.full((DRAWS,), 0.8), "y": torch.zeros(DRAWS)})
    rows = {}
    for toy, objective in ((Toy(), "none"), (Shifted(), "none"), (Shifted(), "code")):
        torch.manual_seed(0)
        run = Evaluation(toy.model, toy.guide, batch)
        rows[type(toy), objective] = -CharacteristicELBO(100, objective).rows(run).detach()
    assert_close(rows[Shifted, "none"], rows[Toy, "none"] - 100, rtol=1e-4, atol=1e-4)
    assert rows[Shifted, "code"].std() > 10 * rows[Shifted, "none"].std()


@pytest.mark.parametrize("scale", [1, 10])
def test_with_labels_first_it_is_m2s_bound_plus_the_classifier(scale):
    pair = linear(seed=1)
    unlabelled, labelled = batches(pair, "mixed", scale)
    objective = CharacteristicELBO(5, alpha=0.3)
    torch.manual_seed(0)
    loss = objective.differentiable_loss(pair.model, pair.guide, labelled)
    torch.manual_seed(0)
    first = Evaluation(pair.model, pair.guide, labelled).weights(2).log_w[0]
    log_q = pair.guide.factor("y", labelled).log_prob(labelled["y"])
    assert_close(loss, -scale * (first + 0.3 * log_q).sum())
    both = []
    for bound in (objective, EnumeratedELBO()):
        torch.manual_seed(0)
        both.append(bound.differentiable_loss(pair.model, pair.guide, unlabelled))
    assert torch.equal(*both)


class Shared(nn.Module):
    """Labels a and b hang on one code, c on another; d on the data alone."""

    def __init__(self) -> None:
        super().__init__()
        self.guide = guides.Factored(
            u=guides.Normal(1, {"x": 1}),
            v=guides.Normal(2, {"x": 1}),
            a=guides.Bernoulli({"u": 1}),
            b=guides.Categorical(3, {"u": 1, "x": 1}),
            c=guides.Bernoulli({"v": 2}),
            d=guides.Bernoulli({"x": 1}),
        )


@pytest.mark.parametrize("observed", [("a", "b", "c", "d"), ("a", "c"), ("b",), ("d",)])
def test_labels_of_different_codes_are_averaged_apart(observed):
    torch.manual_seed(0)
    world, K = Shared().double(), 6
    one = torch.ones(4).double()
    truth = {"a": one, "b": torch.arange(4) % 3, "c": 0 * one, "d": one}
    batch = Batch({"x": torch.randn(4, 1).double(), **{n: truth[n] for n in observed}})
    run = Evaluation(lambda batch: None, world.guide, batch)
    torch.manual_seed(1)
    got = CharacteristicELBO(K).log_q(run)
    torch.manual_seed(1)
    values = dict(batch)
    for name in ("u", "v"):
        values[name] = world.guide.factor(name, batch).expand([K, 4]).rsample()
    expected = torch.zeros(4).double()
    for group in (("a", "b"), ("c",), ("d",)):
        seen = [n for n in group if n in observed]
        if seen:
            joint = sum(world.guide.factor(n, values).log_prob(truth[n]) for n in seen)
            joint = joint.expand(K, 4)
            expected = expected + torch.logsumexp(joint, 0) - math.log(K)
    assert_close(got, expected)


def test_it_reads_as_it_was_written():
    objective = parse_objective("characteristic(particles=7, detach=code, alpha=2, gamma=3)")
    assert repr(objective) == ("CharacteristicELBO(particles=7, detach='code', alpha=2, gamma=3)")
    assert objective.formula == (
        "3 {E_q(z|x)[w(z) log p(x,y,z) / q(y,z|x)] + (1 + 2) log q(y|x)}, "
        "w = q(y|z) / q(y|x), z in q(y|z) constant"
    )


def test_what_it_cannot_do_is_an_error_that_names_it():
    for options, message in (
        ({"detach": "all"}, "detach is 'all', expected one of none, code"),
        ({"particles": 0}, "particles is 0"),
        ({"alpha": -1}, "alpha is -1"),
        ({"gamma": -1}, "gamma is -1"),
    ):
        with pytest.raises(ValueError, match=message):
            CharacteristicELBO(**options)
    toy = Toy()
    run = Evaluation(toy.model, lambda batch: toy.guide(batch), Batch({"x": torch.zeros(2)}))
    with pytest.raises(TypeError, match="has no given, no factor"):
        CharacteristicELBO().rows(run)
    two = Two()
    run = Evaluation(
        two.model, two.guide, Batch({"x": torch.zeros(2), "y": torch.zeros(2).long()})
    )
    with pytest.raises(UnhandledSite, match="'y' is given a label that is missing"):
        CharacteristicELBO().rows(run)
