"""Chroma-VAE: its bound by hand, a VAE without labels, and where the label's gradient goes."""

from __future__ import annotations

import math

import pytest
import torch
from pyro import poutine
from torch.distributions import Normal
from worlds.enumerated import same

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import IWELBO, Emphasis, EnumeratedELBO, Evaluation

SMALL = {
    "data_dim": 6,
    "classes": 3,
    "shortcut": 2,
    "rest": 4,
    "hidden": (5,),
    "classifier": (4,),
    "pixel_sigma": 0.5,
}
ROWS = 5


def built(**settings):
    return zoo.build("chroma_vae", seed=1, **SMALL, **settings).double()


def rows(labelled: bool, scale: int = 1) -> Batch:
    g = torch.Generator().manual_seed(2)
    sites = {"x": torch.rand(ROWS, 6, generator=g, dtype=torch.float64)}
    if labelled:
        sites["y"] = torch.arange(ROWS) % 3
    return Batch(sites, size=scale * ROWS)


def by_hand(pair, batch, particles):
    """log p(z, x) - log q(z | x) and log p(y | z1) of every class, ``(K, B)`` and ``(K, B, C)``.

    Draws are those that come next; the encoder is used as one network of all outputs.
    """
    w = Evaluation(pair.model, pair.guide, batch).weights(particles)
    draw = {s: w.guide.nodes[s]["value"].reshape(particles, ROWS, -1) for s in ("z1", "z2")}
    raw = pair.guide.shared["codes"](x=batch["x"])
    first, second = raw[:, :4], raw[:, 4:]
    log_w = torch.zeros(particles, ROWS, dtype=torch.float64)
    for site, out in (("z1", first), ("z2", second)):
        loc, log_variance = out.chunk(2, -1)
        log_w = log_w + Normal(0.0, 1.0).log_prob(draw[site]).sum(-1)
        q = Normal(loc, (log_variance / 2).exp())
        log_w = log_w - q.log_prob(draw[site]).sum(-1)
    loc = pair.decoder(z1=draw["z1"], z2=draw["z2"])
    log_w = log_w + Normal(loc, 0.5).log_prob(batch["x"]).sum(-1)
    return log_w, pair.classifier(z1=draw["z1"]).log_softmax(-1)


def loss(objective, pair, batch, model=None):
    torch.manual_seed(0)
    return objective.differentiable_loss(model or pair.model, pair.guide, batch)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("lam", [1.0, 50.0])
@pytest.mark.parametrize("particles", [1, 5])
def test_the_bound_is_that_by_hand(labelled, scale, lam, particles):
    pair, batch = built(label=lam), rows(labelled, scale)
    bound = EnumeratedELBO() if particles == 1 else IWELBO(particles)
    ours = loss(pair.objective(bound), pair, batch)
    torch.manual_seed(0)
    log_w, log_y = by_hand(pair, batch, particles)
    extra = torch.zeros(())
    if labelled:
        of_label = log_y.gather(-1, batch["y"].expand(particles, ROWS).unsqueeze(-1)).squeeze(-1)
        log_w = log_w + of_label
        extra = of_label.mean(0)  # beyond the once of the bound, at the same draws
    else:
        log_w = torch.logsumexp(log_w.unsqueeze(-1) + log_y, -1)
    value = torch.logsumexp(log_w, 0) - math.log(particles) + (lam - 1) * extra
    same(ours, -scale * value.sum(), pair, tol=1e-8)


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("bound", [EnumeratedELBO(), EnumeratedELBO(kl="analytic"), IWELBO(4)])
def test_rows_without_label_are_those_of_a_vae(scale, bound):
    pair, batch = built(), rows(False, scale)
    plain = poutine.block(pair.model, hide=["y"])
    same(loss(pair.objective(bound), pair, batch), loss(bound, pair, batch, plain), pair)


def test_with_weight_0_labelled_rows_are_those_of_a_vae_too():
    pair, batch = built(label=0.0), rows(True)
    plain = poutine.block(pair.model, hide=["y"])
    same(loss(pair.objective(), pair, batch), loss(EnumeratedELBO(), pair, batch, plain), pair)


def test_the_label_moves_the_classifier_and_the_shortcut_alone():
    pair, batch = built(), rows(True)
    named = dict(pair.named_parameters())
    term = loss(Emphasis("y", 2.0), pair, batch)
    found = torch.autograd.grad(term, list(named.values()), allow_unused=True)
    grads = dict(zip(named, found, strict=True))
    assert all(grads[n] is None for n in named if n.startswith("decoder."))
    assert all(bool(grads[n].any()) for n in named if n.startswith("classifier."))
    last = "guide.shared.codes.rest.1"  # 4 outputs for z1, then 8 for z2
    for grad in (grads[f"{last}.weight"], grads[f"{last}.bias"]):
        assert bool((grad[:4] != 0).any(-1).all())
        assert not bool(grad[4:].any())


def test_one_run_of_the_encoder_serves_both_parts():
    pair = built()
    encoder, seen = pair.guide.shared["codes"], []
    hook = encoder.register_forward_hook(lambda module, args, out: seen.append(out))
    pair.guide(rows(False))
    hook.remove()
    assert len(seen) == 1
    x = rows(False)["x"]
    raw = encoder(x=x)
    for site, start, end in (("z1", 0, 4), ("z2", 4, 12)):
        q = pair.guide.factor(site, {"x": x}).base_dist
        torch.testing.assert_close(torch.cat([q.loc, 2 * q.scale.log()], -1), raw[:, start:end])


def test_the_label_is_predicted_by_the_story():
    """Its classifier at the mean of z1; or at weighted draws."""
    pair, batch = built(), rows(False)
    table = data.Table("t", {"x": batch["x"], "y": torch.arange(ROWS) % 3})
    with torch.no_grad():
        means = pair.classifier(z1=pair.guide.factor("z1", batch).mean).softmax(-1)
    torch.testing.assert_close(inference.label_probabilities(pair, table), means)
    wrong = (means.argmax(-1) != table.sites["y"]).double().mean()
    assert inference.error(pair, table) == float(wrong)

    # Self-normalised importance sampling with many draws agrees within its standard error.
    torch.manual_seed(3)
    with torch.no_grad():
        log_w, log_y = by_hand(pair, batch, 4000)
    share = log_w.softmax(0).unsqueeze(-1)
    exact = (share * log_y.exp()).sum(0)
    error = (share * (log_y.exp() - exact)).square().sum(0).sqrt()
    got = inference.label_probabilities(pair, table, particles=4000)
    assert bool(((got - exact).abs() < 5 * 2**0.5 * error).all())
    assert bool((error < 0.05).all())


def test_the_shortcut_can_be_set_and_exchanged():
    pair = built()
    batch = rows(False)
    found = pair.intervene(batch, z1=torch.tensor([1.0, -2.0]))
    assert bool((found["z1"] == torch.tensor([1.0, -2.0]).double()).all())
    with torch.no_grad():
        x = pair.decoder(z1=found["z1"], z2=found["z2"])
    torch.testing.assert_close(found["x"], x)
    torch.manual_seed(4)
    swapped = pair.transfer(Batch({"x": batch["x"].flip(0)}), batch, ["z1"])
    torch.manual_seed(4)
    with torch.no_grad():
        source, own = pair.guide(Batch({"x": batch["x"].flip(0)})), pair.guide(batch)
        x = pair.decoder(z1=source["z1"], z2=own["z2"])
    torch.testing.assert_close(swapped["x"], x)


def test_every_part_comes_out_by_name():
    digits = data.load("patch_digits", train=40, validation=8, test=8, labelled=20)
    pair = zoo.build("chroma_vae", digits, hidden=(5,), shortcut=2, rest=3)
    run = inference.fit(pair, digits, epochs=1, progress=False)
    found = run.posterior(digits.test, draws=50)
    assert found.posterior["z1"].dims == ("chain", "draw", "datum", "z1_dim")
    assert found.posterior["z2"].sizes["z2_dim"] == 3
    # The label is drawn from p(y | z1) at each draw of z1.
    with torch.no_grad():
        p = pair.classifier(z1=torch.from_numpy(found.posterior["z1"].values)).softmax(-1)[..., 1]
    y = torch.from_numpy(found.posterior["y"].values).double()
    error = float((p * (1 - p)).sum().sqrt()) / p.numel()
    assert float(y.mean()) == pytest.approx(float(p.mean()), abs=4 * error)
    x = torch.as_tensor(digits.test.sites["x"])
    mean = pair.guide.factor("z2", {"x": x}).mean.detach()
    torch.testing.assert_close(torch.from_numpy(found.variational["z2_loc"].values), mean)
    assert found.posterior["datum"].values.tolist() == digits.test.numbers.tolist()
