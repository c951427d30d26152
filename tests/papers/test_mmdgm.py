"""mmDGM: its loss by hand, the VAE that it is without the margin, and its label by name."""

from __future__ import annotations

import math

import pytest
import torch
from worlds.enumerated import same

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import Hinge

SMALL = {"data_dim": 6, "latent": 2, "hidden": (5, 4)}


def built(**settings):
    pair = zoo.build("mmdgm", seed=1, classes=3, **SMALL, **settings).double()
    with torch.no_grad():  # which start at zero
        pair.discriminant.weights.normal_(generator=torch.Generator().manual_seed(3))
        pair.discriminant.bias.normal_(generator=torch.Generator().manual_seed(4))
    return pair


def batches(regime: str, scale: int) -> list[Batch]:
    g = torch.Generator().manual_seed(2)
    made, counts = [], {"labelled": [4], "unlabelled": [7], "mixed": [4, 7]}[regime]
    observed = {"x": scale * sum(counts), "y": scale * 4 * (4 in counts)}
    for rows in counts:
        sites = {"x": torch.rand(rows, 6, generator=g, dtype=torch.float64)}
        if rows == 4:
            sites["y"] = torch.tensor([2, 0, 0, 1])
        made.append(Batch(sites, size=scale * rows, total=observed["x"], observed=observed))
    return made


def features_by_hand(pair, x):
    net = pair.guide.factors["z"].net
    first = torch.nn.functional.softplus(x @ net.first.weights["x"].T + net.first.bias)
    second = torch.nn.functional.softplus(net.rest[1](first))
    hidden = torch.cat([first, second], -1)
    return hidden if pair.config.features == "hidden" else net.rest[3](second)[:, :2]


@pytest.mark.parametrize("regime", ["labelled", "unlabelled", "mixed"])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("features", ["hidden", "mean"])
def test_the_loss_is_that_by_hand(regime, scale, features):
    """-sum ELBO + |Lambda|^2 / 2 sigma^2 + C (N / N_lab) sum hinge, for all rows."""
    pair = built(features=features, hinge=15.0, margin=3.0, prior_scale=0.5)
    parts = batches(regime, scale)
    torch.manual_seed(0)
    ours = pair.objective().differentiable_loss(pair.model, pair.guide, parts)
    torch.manual_seed(0)
    w, b = pair.discriminant.weights, pair.discriminant.bias
    hand = (w.square().sum() + b.square().sum()) / (2 * 0.5**2)
    total = sum(batch.size for batch in parts)
    for batch in parts:
        x, noise = batch["x"], torch.randn(batch.count, 2, dtype=torch.float64)
        q = pair.guide.factor("z", batch).base_dist
        kl = 0.5 * (q.scale.square() + q.loc.square() - 1).sum(-1) - q.scale.log().sum(-1)
        p = pair.decoder(z=q.loc + q.scale * noise).sigmoid()
        hand = hand + scale * (kl - (x * p.log() + (1 - x) * (1 - p).log()).sum(-1)).sum()
        if "y" in batch:
            scores = features_by_hand(pair, x) @ w.T + b
            known = scores[range(4), batch["y"]]
            gaps = scores - known[:, None] + 3.0
            gaps[range(4), batch["y"]] = 0.0
            hand = hand + 15.0 * total / (scale * 4) * scale * gaps.max(-1).values.sum()
    same(ours, hand, pair, tol=1e-8)


@pytest.mark.parametrize("labels", [True, False])
def test_without_the_margin_it_is_a_vae_bit_for_bit(labels):
    g = torch.Generator().manual_seed(0)
    rows = data.Table("t", {"x": torch.rand(90, 6, generator=g), "y": torch.arange(90) % 3})
    options = {"seed": 5, "epochs": 5, "batch_size": 25, "learning_rate": 0.01, "progress": False}
    weights = []
    for name, settings in (("mmdgm", {"hinge": 0.0, "classes": 3}), ("vae", {})):
        pair = zoo.build(name, seed=1, **SMALL, **settings)
        before = [p.clone() for p in pair.decoder.parameters()]
        seen = rows if labels and name == "mmdgm" else rows.only("x")
        inference.fit(pair, seen, **options)  # 20 steps
        assert not torch.equal(before[0], next(pair.decoder.parameters()))
        nets = (pair.decoder, pair.guide.factors["z"])
        weights.append([p for net in nets for p in net.parameters()])
    for ours, theirs in zip(*weights, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("features", ["hidden", "mean"])
def test_rows_with_a_satisfied_margin_leave_the_encoder_alone(features):
    pair = built(features=features)
    (batch,) = batches("unlabelled", 1)
    scores = pair.discriminant(batch["x"]).detach()
    y = scores.argmax(-1)
    won = scores.topk(2).values.diff().abs().flatten()
    margin = 0.5 * float(won.median() + won.max())
    seen = Batch({"x": batch["x"], "y": y})
    hinge = Hinge("y", 15.0, margin).per_datum(pair.model, pair.guide, seen)
    encoder = list(pair.guide.factors["z"].parameters())
    for row in range(7):
        grads = torch.autograd.grad(hinge[row], encoder, retain_graph=True, allow_unused=True)
        moved = any(g is not None and bool(g.any()) for g in grads)
        assert moved == (float(won[row]) < margin)
    assert 0 < int((hinge > 0).sum()) < 7


def test_the_label_comes_out_by_name_and_is_the_best_score():
    g = torch.Generator().manual_seed(0)
    pair = built(features="mean")
    x, y = torch.rand(30, 6, generator=g, dtype=torch.float64), torch.arange(30) % 3
    rows = data.Table("t", {"x": x, "y": y}, classes={"y": ("a", "b", "c")})
    scores = pair.discriminant(x)
    error = float((scores.argmax(-1) != y).double().mean())
    assert inference.error(pair, rows) == pytest.approx(error, abs=1e-12)
    run = inference.fit(pair, rows, epochs=1, learning_rate=0.0, progress=False)
    idata = run.posterior(rows)
    assert list(idata.variational["y_class"].values) == ["a", "b", "c"]
    probs = torch.from_numpy(idata.variational["y_probs"].values).squeeze()
    expected = scores.softmax(-1).detach().to(probs.dtype)
    torch.testing.assert_close(probs, expected, rtol=1e-5, atol=1e-6)
    assert "z" in idata.posterior


def test_the_bound_of_rows_without_label_is_the_vaes():
    """The label's own density cancels, so that every bound of x is comparable."""
    pair, (batch,) = built(), batches("unlabelled", 1)
    values = []
    for objective in (inference.EnumeratedELBO(), inference.LeftOut(inference.ELBO(), "y")):
        torch.manual_seed(0)
        values.append(objective.per_datum(pair.model, pair.guide, batch))
    torch.testing.assert_close(*values, rtol=1e-12, atol=1e-12)
    known = batch.replace({**batch, "y": torch.arange(7) % 3})
    torch.manual_seed(0)
    joint = inference.EnumeratedELBO().per_datum(pair.model, pair.guide, known)
    log_y = pair.discriminant(batch["x"]).log_softmax(-1)[range(7), known["y"]]
    torch.testing.assert_close(joint, values[0] - log_y, rtol=1e-12, atol=1e-12)


def test_a_label_set_by_hand_changes_no_data():
    pair, (batch,) = built(), batches("unlabelled", 1)
    torch.manual_seed(0)
    found = pair.intervene(batch, y=2)
    torch.testing.assert_close(found["x"], batch["x"])
    assert found["y"].tolist() == [2] * 7
    assert math.isfinite(float(found["z"].sum()))
