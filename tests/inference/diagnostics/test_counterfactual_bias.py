"""Bias of linear classifiers under a linear causal model: flips and their sign in closed form."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.testing import assert_close
from worlds.combinations import in_turn
from worlds.stories.causes import causes, rows

from ppl_models import Batch
from ppl_models.inference import counterfactual_bias, counterfactual_images, logit_difference


def world(dtype=torch.float64, made=True):
    """Whose class k has no cause, and so stays as it is."""
    pair = causes(dtype, made=made)
    with torch.no_grad():
        pair.classes.zero_()
    return pair


def classifier(dtype=torch.float64, column=False):
    torch.manual_seed(2)
    layer = nn.Linear(6, 1).to(dtype)
    return layer if column else nn.Sequential(layer, nn.Flatten(0))


def moved_by_hand(pair, batch, do, effect):
    """What is added to x, by the slopes of the arrows."""
    ab, ac, bc = pair.slopes
    a, b, c = ((do.get(n, batch[n]) - batch[n]) for n in "abc")
    if effect == "total":
        b = b if "b" in do else ab * a
        c = c if "c" in do else ac * a + bc * b
    of_b, of_c = pair.decoder[:1], pair.decoder[1:2]
    return b @ of_b + c @ of_c


SET = [{"a": 1.5}, {"b": -2.0}, {"c": 0.25}, {"a": -1.0, "c": 2.0}]


@pytest.mark.parametrize(
    ("do", "effect", "made", "dtype"),
    in_turn(SET, ["total", "direct"], [True, False], [torch.float32, torch.float64]),
)
def test_flips_and_their_sign_are_those_of_the_arrows(do, effect, made, dtype):
    close = 1e-4 if dtype == torch.float32 else 1e-9
    pair, batch = world(dtype, made), rows(dtype, count=60)
    weigh = classifier(dtype)
    torch.manual_seed(3)
    before, after = counterfactual_images(pair, batch, do, effect=effect, draws=2)
    assert before.shape == after.shape == (2, 60, 6)
    moved = moved_by_hand(pair, batch, do, effect).detach()
    assert_close(after - before, moved.expand(2, -1, -1), rtol=close, atol=10 * close)
    if not made:  # the noise of x leads back to it
        assert_close(before, batch["x"].expand(2, -1, -1), rtol=close, atol=10 * close)
    torch.manual_seed(3)
    found = counterfactual_bias(weigh, pair, batch, do, effect=effect, draws=2)
    with torch.no_grad():
        logit = weigh(before.flatten(0, 1))
        now = logit + moved.repeat(2, 1) @ weigh[0].weight[0]
    up, down = (logit <= 0) & (now > 0), (logit > 0) & (now <= 0)
    assert found.up == pytest.approx(float(up.double().mean()))
    assert found.down == pytest.approx(float(down.double().mean()))
    assert found.flips == pytest.approx(found.up + found.down)
    # P(flip) (P(up | flip) - P(down | flip)), as the paper has it.
    flips = float((up | down).double().mean())
    share = [float(v[up | down].double().mean()) for v in (up, down)] if flips else [0, 0]
    assert found.bias == pytest.approx(flips * (share[0] - share[1]))
    change = float((now.sigmoid() - logit.sigmoid()).mean())
    assert found.change == pytest.approx(change, abs=close)


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_shares_of_many_rows_are_those_of_the_normal_law(made, sign):
    """A classifier of b alone: it flips where b is between the border and the border moved."""
    pair = world(made=made)
    with torch.no_grad():
        pair.decoder[1:].zero_()
    count, step = 4000, sign * 0.8
    batch = rows(count=count)
    b = dist.Normal(0.0, 2.0)
    x = batch["b"] @ pair.decoder[:1].detach()
    batch = Batch({**batch, "x": x})
    scale = float(pair.decoder[0].detach().square().sum())
    found = counterfactual_bias(
        lambda images: images @ pair.decoder[0] / scale, pair, batch, {"b": batch["b"] + step}
    )
    exact = float(b.cdf(torch.tensor(0.8)) - 0.5)
    error = 4 * (exact * (1 - exact) / count) ** 0.5
    assert found.bias == pytest.approx(sign * exact, abs=error)
    assert found.flips == pytest.approx(exact, abs=error)


@pytest.mark.parametrize("made", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_no_classifier_can_see_is_no_bias_to_the_bit(made, dtype):
    """A cause without an arrow into x, and a cause that is set to what it is."""
    pair, batch = world(dtype, made), rows(dtype)
    nothing = {"a": batch["a"]}
    for do, effect in (({"a": 5.0}, "direct"), (nothing, "direct"), (nothing, "total")):
        before, after = counterfactual_images(pair, batch, do, effect=effect)
        assert torch.equal(before, after)
        found = counterfactual_bias(classifier(dtype), pair, batch, do, effect=effect)
        assert (found.flips, found.bias, found.change) == (0, 0, 0)


@pytest.mark.parametrize("column", [True, False])
def test_the_difference_of_logits_and_its_gradient(column):
    pair, batch, weigh = world(), rows(), classifier(column=column)
    before, after = counterfactual_images(pair, batch, {"a": 1.5}, draws=3)
    found = logit_difference(weigh, before, after)
    moved = moved_by_hand(pair, batch, {"a": 1.5}, "total").detach()
    layer = weigh if column else weigh[0]
    exact = (moved @ layer.weight[0]).square().mean()
    assert_close(found, exact)
    (one,), (other,) = (torch.autograd.grad(v, layer.weight) for v in (found, exact))
    assert_close(one, other)
    # With one direction to forget, descent ends at a classifier that does not see the cause.
    optimiser = torch.optim.SGD(weigh.parameters(), 0.02)
    for _ in range(200):
        optimiser.zero_grad()
        logit_difference(weigh, before, after).backward()
        optimiser.step()
    found = counterfactual_bias(weigh, pair, batch, {"a": 1.5})
    assert found.flips == 0 and abs(found.change) < 1e-3


@pytest.mark.parametrize(
    ("do", "effect", "draws", "made"),
    in_turn(["distribution", "callable", "both"], ["total", "direct"], [1, 3], [True, False]),
)
def test_the_noise_is_the_same_whatever_kind_of_value_is_set(do, effect, draws, made):
    """Draws of what is set, and runs of their own for each draw, leave the guide's as they are."""
    pair, batch = world(made=made), rows()
    nearly = dist.Normal(batch["b"], 1e-13).to_event(1)
    given = {"b": nearly, "a": lambda fn: fn}
    do = {n: v for n, v in given.items() if do == "both" or (n == "b") == (do == "distribution")}
    before, after = counterfactual_images(pair, batch, do, effect=effect, draws=draws)
    assert_close(before, after, rtol=1e-9, atol=1e-9)


def test_every_call_draws_its_own_noise():
    pair, batch = world(), rows()
    torch.manual_seed(0)
    first = counterfactual_images(pair, batch, {"a": 1.5})
    second = counterfactual_images(pair, batch, {"a": 1.5})
    assert not torch.equal(first[0], second[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"do": {"k": 1}}, "unknown cause of causes 'k'"),
        ({"effect": "indirect"}, "effect is 'indirect', expected one of total, direct"),
        ({"classifier": nn.Linear(6, 2).double()}, r"the classifier gives shape \(7, 2\)"),
        ({"batch": rows().without("b"), "effect": "direct"}, "the batch lacks the cause 'b'"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    usual = {"classifier": classifier(), "pair": world(), "batch": rows(), "do": {"a": 1.5}}
    with pytest.raises(ValueError, match=message) as told:
        counterfactual_bias(**{**usual, **options})
    assert "\n" not in str(told.value)
