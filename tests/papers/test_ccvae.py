"""CCVAE: every subset of labels by hand, sizes from the data, interventions, names."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import CharacteristicELBO, Evaluation
from ppl_models.interventions import traverse

SMALL = {"data_dim": 5, "hidden": (4,), "style": 2}
LABELS = {"a": (2, 1), "b": (3, 2)}  # values, and dimensions of the code
ROWS, K = 4, 3


def small(**settings):
    sizes = {"labels": tuple(LABELS), "classes": (2, 3), "characteristic": (1, 2)}
    pair = zoo.build("ccvae", particles=K, **{**SMALL, **sizes, **settings}).double()
    torch.manual_seed(1)
    for prior in pair.priors.values():  # away from the start, where all scales are equal
        prior.raw_scale.data += torch.rand_like(prior.raw_scale)
    return pair


def rows(scale, observed):
    torch.manual_seed(2)
    sites = {"x": torch.rand(ROWS, 5).double(), "a": torch.tensor([0, 1, 1, 0]),
             "b": torch.tensor([2, 0, 1, 2])}  # fmt: skip
    return Batch(sites, size=scale * ROWS).only("x", *observed)


def by_hand(pair, batch, detach):
    """The loss, row by row and label by label, at the draws that the objective makes."""
    objective = CharacteristicELBO(K, detach)
    torch.manual_seed(3)
    run = Evaluation(pair.model, pair.guide, batch)
    draws = 2 if detach == "none" and set(batch) & set(LABELS) else 1
    guide = objective.weights(run).guide
    z = {name: guide.nodes[name]["value"].reshape(draws, ROWS, -1) for name in pair.sizes}
    seen = [name for name in LABELS if name in batch]
    log_q_seen = objective.log_q(run) if seen else None

    def bracket(draw, row, values):
        """log p(x, y, z) - log q(z | x) - log q(y | z) at one draw."""
        x = batch["x"][row]
        codes = {name: value[draw, row] for name, value in z.items()}
        total = pair.likelihood(pair.decoder(**codes)).log_prob(x)
        total = total + Normal(0.0, 1.0).log_prob(codes["z_s"]).sum()
        for name, code in codes.items():
            total = total - pair.guide.factor(name, {"x": x}).log_prob(code)
        for name, (count, _) in LABELS.items():
            y, code = values[name], codes[f"z_{name}"]
            total = total + pair.priors[name](torch.tensor(y)).log_prob(code)
            total = total - torch.tensor(count).double().log() - log_label(name, y, code)
        return total

    def log_label(name, y, code):
        code = code.detach() if detach == "code" and name in seen else code
        return pair.guide.factor(name, {f"z_{name}": code}).log_prob(torch.tensor(y))

    def summed(draw, row):
        """The bracket, missing labels weighted by their factors."""
        total = 0.0
        spans = [[int(batch[n][row])] if n in seen else range(LABELS[n][0]) for n in LABELS]
        for y in itertools.product(*spans):
            values = dict(zip(LABELS, y, strict=True))
            log_weight = sum(
                log_label(n, values[n], z[f"z_{n}"][draw, row]) for n in LABELS if n not in seen
            )
            weight = log_weight.exp() if len(seen) < 2 else 1.0
            total = total + weight * bracket(draw, row, values)
        return total

    losses = []
    for row in range(ROWS):
        bound = summed(0, row)
        if seen:
            log_v = sum(log_label(n, int(batch[n][row]), z[f"z_{n}"][0, row]) for n in seen)
            centre = summed(1, row).detach() if detach == "none" else 0.0
            w = (log_v - log_q_seen[row]).exp()
            bound = w * (bound - centre) + centre + log_q_seen[row]
        losses.append(-bound)
    return batch.scale * torch.stack(losses).sum()


@pytest.mark.parametrize("observed", [(), ("a",), ("b",), ("a", "b")])
@pytest.mark.parametrize(("scale", "detach"), [(1, "none"), (10, "none"), (10, "code")])
def test_every_subset_of_labels_by_hand(observed, scale, detach):
    pair, batch = small(detach=detach), rows(scale, observed)
    torch.manual_seed(3)
    loss = pair.objective().differentiable_loss(pair.model, pair.guide, batch)
    expected = by_hand(pair, batch, detach)
    assert_close(loss, expected)
    parameters = list(pair.parameters())
    grads = [torch.autograd.grad(v, parameters, allow_unused=True) for v in (loss, expected)]
    for ours, theirs in zip(*grads, strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert_close(ours, theirs)


@pytest.mark.parametrize("observed", [(), ("a",), ("a", "b")])
@pytest.mark.parametrize("scale", [1, 10])
def test_another_bound_keeps_the_weight_of_the_label_networks(observed, scale):
    pair, batch, bound = small(alpha=0.7), rows(scale, observed), inference.EnumeratedELBO()

    def loss(objective):
        torch.manual_seed(3)
        return objective.differentiable_loss(pair.model, pair.guide, batch)

    torch.manual_seed(3)
    guide = Evaluation(pair.model, pair.guide, batch).weights().guide
    expected = loss(bound)
    for name in observed:
        z = guide.nodes[f"z_{name}"]["value"].reshape(ROWS, -1)
        log_q = pair.guide.factor(name, {f"z_{name}": z}).log_prob(batch[name])
        # All rows of the batch have the label: N / N_labelled is the batch's own scale.
        expected = expected - 0.7 * scale * log_q.sum()
    assert_close(loss(pair.objective(bound)), expected)


def test_missing_labels_cost_no_copies_of_codes_and_pictures():
    pair = zoo.build("ccvae", **SMALL)
    shapes = []
    pair.decoder.register_forward_hook(lambda net, args, out: shapes.append(out.shape))
    loss = pair.objective().per_datum(pair.model, pair.guide, Batch({"x": torch.rand(6, 5)}))
    assert loss.shape == (6,) and [s.numel() for s in shapes] == [6 * 5]


def test_codes_start_as_their_labels_logit():
    pair = zoo.build("ccvae", **SMALL)
    for name in pair.card.labels:
        prior = pair.priors[name](torch.arange(2))
        assert_close(prior.mean, torch.tensor([[-2.0], [2.0]]))
        assert_close(prior.stddev, torch.ones(2, 1))
        z = torch.linspace(-3, 3, 7).unsqueeze(-1)
        log_q = pair.guide.factor(name, {f"z_{name}": z}).logits
        assert_close(log_q[:, 1] - log_q[:, 0], z.squeeze(-1))


def test_sizes_come_from_the_labels_of_the_data():
    glyphs = data.load("glyphs", train=20, validation=5, test=5, labelled=5)
    pair = zoo.build("ccvae", glyphs, labels=("square", "bar"))
    assert pair.config.classes == (2, 2) and pair.card.labels == ("square", "bar")
    assert set(pair.card.latents) == {"square", "bar", "z_square", "z_bar", "z_s"}
    assert type(pair).card.labels == ("bar", "blob", "square")
    digits = data.load("digits", labelled=20)
    pair = zoo.build("ccvae", digits, labels=("y",), characteristic=(4,))
    assert pair.config.classes == (10,) and pair.priors["y"].loc.shape == (10, 4)
    with pytest.raises(ValueError, match="needs the site 'nose', but the data have"):
        zoo.build("ccvae", glyphs, labels=("bar", "nose"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": ("a", "a"), "classes": (2, 2)}, "expected different ones"),
        ({"labels": ("s",), "classes": (2,)}, "none called x or s"),
        ({"labels": (), "classes": ()}, "expected different ones"),
        ({"labels": ("a",)}, "classes has 3 entries, expected 1"),
        ({"characteristic": (1, 2)}, "characteristic has 2 entries, expected 3"),
        ({"classes": (2, 1, 2)}, "classes is 1, expected at least 2"),
    ],
)
def test_labels_that_do_not_fit_are_an_error_that_names_them(settings, message):
    with pytest.raises(ValueError, match=message):
        zoo.build("ccvae", **settings)


def test_an_intervention_redraws_the_code_of_its_label_and_a_transfer_carries_it_over():
    pair = small()
    batch = rows(1, ("a", "b"))
    torch.manual_seed(0)
    before = pair.intervene(batch, a=batch["a"])
    torch.manual_seed(0)
    after = pair.intervene(batch, a=1)
    for name in ("z_b", "z_s", "b"):
        assert torch.equal(after[name], before[name])
    assert not torch.equal(after["z_a"], before["z_a"]) and bool((after["a"] == 1).all())
    codes = {name: after[name] for name in pair.sizes}
    assert_close(after["x"], pair.likelihood(pair.decoder(**codes)).mean)
    other = rows(1, ("a", "b")).replace({"x": 1 - batch["x"]})
    torch.manual_seed(0)
    given = pair.guide(other)["z_b"]
    torch.manual_seed(0)
    taken = pair.transfer(other, batch, ["z_b"])
    assert torch.equal(taken["z_b"], given) and torch.equal(taken["b"], batch["b"])
    codes = {name: taken[name] for name in pair.sizes}
    assert_close(taken["x"], pair.likelihood(pair.decoder(**codes)).mean)


def test_a_traversal_moves_one_code_alone():
    pair, batch = small(), rows(1, ())
    values = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [1.0, 2.0]]).double()
    torch.manual_seed(0)
    pictures = traverse(pair, batch, "z_b", values)
    torch.manual_seed(0)
    kept = pair.intervene(batch, z_b=values[0])
    for value, picture in zip(values, pictures, strict=True):
        codes = {name: kept[name] for name in pair.sizes} | {"z_b": value.expand(ROWS, 2)}
        assert_close(picture, pair.likelihood(pair.decoder(**codes)).mean)
    with pytest.raises(ValueError, match="unknown site 'z_c'"):
        traverse(pair, batch, "z_c", values)


def test_codes_and_labels_come_out_by_name():
    glyphs = data.load("glyphs", train=60, validation=5, test=6, labelled={"bar": 10, "blob": 20})
    pair = zoo.build("ccvae", glyphs, hidden=(4,), characteristic=(2,), particles=5)
    run = inference.fit(pair, glyphs, epochs=1, progress=False)
    hidden = torch.zeros(6, dtype=torch.bool)
    idata = run.posterior(glyphs.test.hide(dict.fromkeys(pair.card.labels, hidden)), draws=20)
    for name in ("bar", "blob", "square"):
        assert idata.posterior[name].shape == (1, 20, 6)
        assert idata.posterior[f"z_{name}"].shape == (1, 20, 6, 2)
        probs = idata.variational[f"{name}_probs"]
        assert list(probs.coords[f"{name}_class"].values) == ["absent", "there"]
        z = pair.guide.factor(f"z_{name}", {"x": glyphs.test.sites["x"]}).mean
        assert_close(torch.as_tensor(idata.variational[f"z_{name}_loc"].values), z.detach())
    assert idata.posterior["z_s"].shape == (1, 20, 6, 5)


def test_what_is_recorded_is_an_estimate_and_what_is_exported_the_bound():
    """At one draw the paper's objective may lie above log p; the exported bound may not."""
    rows = data.load("glyphs", train=60, validation=10, test=12, labelled=20)
    pair = zoo.build("ccvae", rows, hidden=(8,), particles=1)
    run = inference.fit(pair, rows, epochs=1, progress=False)
    assert "estimate" in run.history and "bound" not in run.history
    idata = run.posterior(rows.test, draws=50)
    assert "estimate" in idata.training and "bound" not in idata.training
    weights = idata.sample_stats["log_weight"].values[0].astype(float)
    np.testing.assert_allclose(idata.diagnostics["elbo"], weights.mean(0), rtol=1e-5)
    with pytest.raises(ValueError, match="estimate"):
        run.bound_per_row(rows.test, pair.objective())
