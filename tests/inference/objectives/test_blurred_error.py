"""Squared errors after a blur, against the convolution and loops over labels."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.nn import functional
from torch.testing import assert_close
from worlds.enumerated import same
from worlds.gradients import REGIMES, batches, parts_by_hand
from worlds.linear import linear

from ppl_models.inference import Anneal, BlurredError, EnumeratedELBO, Evaluation, UnhandledSite
from ppl_models.inference.objectives.blurred_error import blurred_squares, box_blur

SHAPE = (3, 2, 2)  # of the 12 numbers of a row


def convolved(images, radius):
    """Of ``(n, C, H, W)``, with a kernel of equal numbers that sum to 1 and zeros outside."""
    side = 2 * radius + 1
    kernel = torch.full((1, 1, side, side), side**-2, dtype=images.dtype)
    flat = images.reshape(-1, 1, *images.shape[-2:])
    return functional.conv2d(flat, kernel, padding=radius).reshape(images.shape)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("shape", "radius"), [((1, 1), 2), ((5, 8), 0), ((9, 4), 1), ((7, 6), 30), ((64, 64), 31)]
)
def test_the_blur_is_the_convolution(shape, radius, dtype) -> None:
    g = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, *shape, generator=g, dtype=dtype)
    found = box_blur(images, radius)
    assert_close(found, convolved(images, radius))
    squares = blurred_squares(images.movedim(1, -1), radius)
    assert_close(squares, found.square().sum((1, 2, 3)))


def errors(pair, batch, z, radius):
    """|K (x - E[x | y, z])|^2, ``(C or 1, K, B)``."""
    labels = [batch["y"]] if "y" in batch else range(pair.config.classes)
    found = []
    for place, y in enumerate(labels):
        loc = z[place] @ pair.A.T + pair.means[torch.as_tensor(y).expand(batch.count)]
        e = (batch["x"] - loc).unflatten(-1, SHAPE).movedim(-1, -3)  # K x B x C x H x W
        found.append(convolved(e, radius).square().sum((-3, -2, -1)))
    return torch.stack(found)


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_bound_and_gradient_are_those_of_loops(regime, scale, weight) -> None:
    pair = linear(seed=1, data_dim=12)
    objective = EnumeratedELBO(2) + BlurredError("x", SHAPE, 1, weight)
    parts = batches(pair, regime, scale)
    hand = torch.zeros((), dtype=torch.float64)
    torch.manual_seed(0)
    for batch in parts:
        z = Evaluation(pair.model, pair.guide, batch).weights(2).guide.nodes["z"]["value"]
        z = z.reshape(-1, 2, batch.count, 2)
        log_p, log_q, log_q_y = parts_by_hand(pair, batch, z)
        each = log_p - log_q - log_q_y - weight * errors(pair, batch, z, 1)
        hand = hand - scale * (log_q_y.exp() * each).mean(1).sum()
    torch.manual_seed(0)
    ours = objective.differentiable_loss(pair.model, pair.guide, parts)
    same(ours, hand, pair, tol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_beside_a_normal_site_it_is_a_log_density_but_for_a_constant(dtype) -> None:
    """Of precision I / s^2 + 2 w K'K, of which differences between rows know no constant."""
    pair = linear(seed=1, data_dim=12).to(dtype)
    (batch,) = batches(pair.double(), "labelled", 1)
    pair.to(dtype)
    batch = batch.replace({"x": batch["x"].to(dtype), "y": torch.zeros_like(batch["y"])})
    blur = box_blur(torch.eye(12).double().reshape(12, *SHAPE).movedim(-1, -3), 1)
    K = blur.movedim(-3, -1).reshape(12, 12)
    precision = torch.eye(12) / pair.noise**2 + 2 * 5.0 * K @ K.T
    run = Evaluation(pair.model, pair.guide, batch)
    fn = run.likelihood("x")
    log_p = fn.log_prob(batch["x"]).reshape(-1) - BlurredError("x", SHAPE, 1, 5.0).rows(run)
    full = MultivariateNormal(torch.zeros(12).double(), precision_matrix=precision)
    expected = full.log_prob((batch["x"] - fn.mean).double().reshape(-1, 12))
    assert_close((log_p - log_p[0]).double(), expected - expected[0], rtol=1e-4, atol=1e-4)


def test_the_weight_follows_its_schedule_and_is_printed() -> None:
    pair = linear(seed=1, data_dim=12)
    (batch,) = batches(pair, "labelled", 1)
    run = Evaluation(pair.model, pair.guide, batch)
    term = BlurredError("x", SHAPE, 1, Anneal(0.0, 4.0))
    one = BlurredError("x", SHAPE, 1, 1.0).rows(run)
    for progress, times in ((0.0, 0.0), (0.5, 2.0), (1.0, 4.0)):
        term.at(progress)
        assert_close(term.rows(run), times * one)
    assert str(BlurredError("x", (64, 64))) == "-3969 E_q|box_63 * (x - E[x | ...])|^2"
    assert repr(term) == "BlurredError('x', (3, 2, 2), radius=1, weight=Anneal(0, 4))"
    missing = batch.replace({"y": batch["y"]})
    assert not BlurredError("x", SHAPE).rows(Evaluation(pair.model, pair.guide, missing)).any()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: BlurredError("x", (3,)), r"shape is \(3,\), expected \(H, W, C\)"),
        (lambda: BlurredError("x", SHAPE, -1), "radius is -1, expected at least 0"),
        (lambda: BlurredError("x", SHAPE, 1, math.nan), r"weight of BlurredError\('x'\)"),
    ],
)
def test_what_is_out_of_range_is_refused(make, words) -> None:
    with pytest.raises(ValueError, match=words):
        make()


def test_what_it_cannot_blur_is_named() -> None:
    pair = linear(seed=1, data_dim=12)
    (batch,) = batches(pair, "labelled", 1)
    run = Evaluation(pair.model, pair.guide, batch)
    with pytest.raises(UnhandledSite, match=r"event shape \(12,\), expected \(16,\) for images"):
        BlurredError("x", (4, 4)).rows(run)
    with pytest.raises(UnhandledSite, match=r"BlurredError names site 'w'"):
        BlurredError("w", SHAPE).rows(
            Evaluation(pair.model, pair.guide, batch.replace({**batch, "w": batch["x"]}))
        )
