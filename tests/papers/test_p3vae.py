"""p3VAE's objective row by row by hand, its gradient stop, its physics, its sites by name."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Beta, Dirichlet, kl_divergence
from torch.testing import assert_close

from ppl_models import build, data, inference
from ppl_models.batch import Batch
from ppl_models.inference import EnumeratedELBO
from ppl_models.testing.fixed_draws import FixedDraws

B, D, C, A = 5, 7, 3, 4
SMALL = {"data_dim": D, "classes": C, "endmembers": A, "hidden": (6,)}
WEIGHTS = {
    "temperature": 0.02,
    "angle": 0.7,
    "label_entropy": 0.05,
    "mix_entropy": 0.03,
    "norms": 0.04,
}


@pytest.fixture
def pair():
    return build("p3vae", **SMALL, **WEIGHTS).double()


def batches(regime, scale):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(2 * B, D, generator=g, dtype=torch.float64)
    y = torch.tensor([2, 0, 1, 1, 2])
    made = {"labelled": {"x": x[:B], "y": y}, "unlabelled": {"x": x[B:]}}
    kinds = ["labelled", "unlabelled"] if regime == "mixed" else [regime]
    total = scale * B * len(kinds)
    observed = {"x": total} | ({"y": scale * B} if "labelled" in kinds else {})
    return [Batch(made[k], size=scale * B, total=total, observed=observed) for k in kinds]


def draws(batch):
    """Values of z_P and z_A, for every label where it is missing."""
    g = torch.Generator().manual_seed(1)
    shape = (B,) if "y" in batch else (C, 1, B)
    z_P = 0.05 + 0.9 * torch.rand(shape, generator=g, dtype=torch.float64)
    return {"z_P": z_P, "z_A": torch.rand(*shape, A, generator=g, dtype=torch.float64).softmax(-1)}


def by_hand(pair, batch):
    """Loss times beta as the paper writes it, a loop over rows and labels."""
    c, x, z = pair.config, batch["x"], draws(batch)
    cosine = math.cos(math.radians(c.sun))
    priors = (
        Beta(torch.ones(()).double(), (1 - cosine) / cosine),
        Dirichlet(torch.ones(A).double()),
    )
    log_q = pair.guide.factor("y", batch).logits.log_softmax(-1)
    light = (z["z_P"][..., None] + (z["z_P"][..., None] + 0.2) * pair.decoder.light.r0) / (
        cosine + pair.decoder.light.r0
    )
    networks = pair.decoder.common, pair.decoder.own
    rows = []
    for b in range(B):

        def cost(k, b=b):
            at = (b,) if "y" in batch else (k, 0, b)
            y = torch.tensor(k)
            rho = z["z_A"][at] @ networks[1](y=y).sigmoid().reshape(A, D)
            f = networks[0](y=y).sigmoid() * rho * light[at]
            angle = torch.acos((f @ x[b]) / f.norm() / x[b].norm())
            q = [pair.guide.factor(n, {"x": x[b], "y": y}) for n in ("z_P", "z_A")]
            kl = sum(kl_divergence(a, p) for a, p in zip(q, priors, strict=True))
            return ((f - x[b]) ** 2).mean() + c.angle * angle + c.temperature * kl

        if "y" in batch:
            k = int(batch["y"][b])
            share = z["z_A"][b]
            entropy = -(share * share.log()).sum()
            row = cost(k) - log_q[b, k] + c.mix_entropy * entropy
            constant = c.temperature * math.log(C)  # of p(y)
        else:
            q = log_q[b].exp()
            row = sum(q[k] * cost(k) for k in range(C)) + c.label_entropy * (q * log_q[b]).sum()
            constant = c.label_entropy * math.log(C)
        rows.append(row + constant)
    weights = [p for n, p in pair.named_parameters() if "factors.y." in n and p.dim() == 2]
    norms = sum(sum(w.norm() for w in matrix) / len(matrix) for matrix in weights) / len(weights)
    return sum(rows) / B, c.norms * norms


def gradients(loss, pair):
    grads = torch.autograd.grad(loss, list(pair.parameters()), allow_unused=True)
    zero = [
        torch.zeros_like(p) if g is None else g
        for p, g in zip(pair.parameters(), grads, strict=True)
    ]
    return {n: g for (n, _), g in zip(pair.named_parameters(), zero, strict=True)}


@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("regime", ["labelled", "unlabelled", "mixed"])
def test_the_objective_is_the_papers_loss_over_beta(regime, scale, stop):
    pair = build("p3vae", **SMALL, **WEIGHTS, stop=stop).double()
    made, total = batches(regime, scale), scale * B * (2 if regime == "mixed" else 1)
    objective, expected = pair.objective(), dict.fromkeys(dict(pair.named_parameters()), 0.0)
    loss, hand = 0.0, 0.0
    for batch in made:
        guide = FixedDraws(pair.guide, draws(batch))
        loss = loss + objective.differentiable_loss(pair.model, guide, batch)
        # Each kind of rows is a mean of its own; the norms stand once beside them.
        row, norms = by_hand(pair, batch)
        part = total / pair.config.temperature * (row + norms / len(made))
        hand = hand + part
        for name, grad in gradients(part, pair).items():
            stopped = stop and "y" not in batch and name.startswith("decoder.")
            expected[name] = expected[name] + (0 if stopped else 1) * grad
    assert_close(loss, hand, rtol=1e-9, atol=0)
    for name, grad in gradients(loss, pair).items():
        assert_close(grad, expected[name], rtol=1e-7, atol=1e-8, msg=name)


@pytest.mark.parametrize("light", ["physics", "free"])
def test_a_step_on_unlabelled_rows_leaves_the_decoder_bit_for_bit(light):
    pair = build("p3vae", **SMALL, light=light)
    (batch,) = batches("unlabelled", 10)
    before = {n: p.detach().clone() for n, p in pair.named_parameters()}
    optimiser = torch.optim.Adam(pair.parameters(), 1e-2)
    torch.manual_seed(0)
    loss = pair.objective().differentiable_loss(pair.model, pair.guide, batch.to(torch.float32))
    loss.backward()
    optimiser.step()
    for name, parameter in pair.named_parameters():
        same = torch.equal(parameter, before[name])
        assert same == name.startswith("decoder."), name


def test_swapped_bounds_keep_stop_balance_and_terms(pair):
    (batch,) = batches("unlabelled", 10)
    loss = pair.objective(inference.IWELBO(4)).differentiable_loss(pair.model, pair.guide, batch)
    grads = gradients(loss, pair)
    assert not any(g.any() for n, g in grads.items() if n.startswith("decoder."))
    assert any(g.any() for n, g in grads.items() if n.startswith("guide.factors.z_P"))


def test_missing_materials_cost_no_copy_of_their_spectra(pair):
    shapes = []
    layer = pair.decoder.own.rest[-1]
    layer.register_forward_hook(lambda module, given, out: shapes.append(out.shape))
    (batch,) = batches("unlabelled", 1)
    for bound in (None, inference.IWELBO(2)):
        pair.objective(bound).differentiable_loss(pair.model, pair.guide, batch)
    assert {shape.numel() for shape in shapes} == {C * A * D}


def test_flat_sunlit_ground_has_its_reflectance_and_shade_is_blue():
    pair = build("p3vae")
    torch.manual_seed(0)
    y, z_A = torch.arange(5), Dirichlet(torch.ones(4)).sample((5,))
    rho = pair.decoder.reflectance(y, z_A)
    flat = torch.full((5,), pair.cos_theta)
    lit = pair.decoder(y, z_A, z_P=flat, omega=torch.ones(5))
    assert float((lit - rho).abs().max().detach()) <= 1e-6
    shade = pair.decoder(y, z_A, z_P=torch.zeros(5)) / rho
    r0 = [0.156 * w**-1.915 for w in (0.4530, 2.3135)]  # first and last band, over cos(theta_s)
    expected = [0.2 * r / (1 + r) for r in r0]
    assert_close(shade[:, [0, -1]], torch.tensor([expected] * 5), rtol=1e-5, atol=0)
    assert expected[0] / expected[1] > 5


def test_the_prior_is_flat_ground_in_the_sun_on_average():
    from pyro import poutine

    torch.manual_seed(0)
    rows = Batch({}, torch.arange(40_000))
    pair = build("p3vae", **SMALL, sun=50.0)
    trace = poutine.trace(pair.model).get_trace(rows)
    z_P, z_A = (trace.nodes[n]["value"].double() for n in ("z_P", "z_A"))
    m = math.cos(math.radians(50.0))
    b = (1 - m) / m
    variance = b / ((1 + b) ** 2 * (2 + b))
    assert abs(float(z_P.mean()) - m) < 4 * math.sqrt(variance / 40_000)
    # A share of Dirichlet(1, 1, 1, 1) has mean 1/4 and variance 3/80.
    assert bool(((z_A.mean(0) - 0.25).abs() < 4 * math.sqrt(3 / 80 / 40_000)).all())
    assert_close(z_A.sum(-1), torch.ones(40_000).double(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sun": 90.0}, r"sun is 90\.0, expected a zenith angle between 0 and 90"),
        ({"wavelengths": (0.5, 0.6)}, r"wavelengths are \(0\.5, 0\.6\), expected 7 positive"),
        ({"temperature": 0.0}, "temperature is 0.0, expected at least"),
        ({"light": "lamp"}, "unknown light 'lamp'"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        build("p3vae", **{**SMALL, **options})


def test_wavelengths_decide_how_blue_shade_is():
    bands = tuple(0.4 + 0.1 * k for k in range(D))
    pair = build("p3vae", **SMALL, wavelengths=bands, sun=60.0)
    expected = 0.5 * 0.156 * torch.tensor(bands) ** -1.915
    assert_close(pair.decoder.light.r0, expected)


# ---- what comes out --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted():
    rows = data.load("spectra", labelled=30, unlabelled=30, validation=4, test=8)
    pair = build("p3vae", rows, hidden=(8,))
    return inference.fit(pair, rows, epochs=1, batch_size=30, progress=False), rows


def test_every_variable_comes_out_by_name(fitted):
    run, rows = fitted
    idata = run.posterior(rows.test, draws=20, prior_draws=5)
    posterior = idata.posterior
    assert {"y", "z_P", "z_A"} <= set(posterior.data_vars)
    assert posterior["z_P"].dims == ("chain", "draw", "datum")
    assert posterior["z_A"].dims == ("chain", "draw", "datum", "z_A_dim")
    assert posterior["z_A"].shape == (1, 20, 8, 4)
    assert float(posterior["z_P"].min()) > 0 and float(posterior["z_P"].max()) < 1
    assert idata.variational["y_class"].values.tolist() == list(rows.test.classes["y"])
    assert idata.constant_data["y_true"].values.tolist() == rows.test.sites["y"].tolist()


def test_an_intervention_on_the_light_keeps_material_and_mixture(fitted):
    run, rows = fitted
    (batch,) = rows.test.only("x").batches()
    for sun in (0.0, 0.5, 1.0):
        torch.manual_seed(0)
        found = run.pair.intervene(batch, z_P=sun)
        expected = run.pair.decoder(found["y"], found["z_A"], z_P=torch.full((8,), sun))
        assert_close(found["x"], expected.detach())
    torch.manual_seed(0)
    dark = run.pair.intervene(batch, z_P=0.0)
    assert torch.equal(dark["y"], found["y"]) and torch.equal(dark["z_A"], found["z_A"])


def test_annealed_evidence_is_that_of_weighted_draws():
    # Sites with bounds: both densities share the change of variables.
    table = data.Table("rows", {"x": batches("unlabelled", 1)[0]["x"].float()})
    pair = build("p3vae", **SMALL, temperature=0.2)
    idata = inference.log_evidence(pair, table, rows=range(2), draws=50)
    found, error = (idata[n].values for n in ("log_evidence", "log_evidence_error"))
    weighted = inference.importance(pair, table, rows=range(2), draws=5000).diagnostics
    gap = found - weighted["log_evidence"].values
    assert (abs(gap) < 4 * (error + weighted["log_evidence_error"].values)).all(), (gap, error)
    assert (error < 0.2).all()


def test_the_bound_is_below_the_evidence(pair):
    (batch,) = batches("unlabelled", 1)
    torch.manual_seed(0)
    with torch.no_grad():
        elbo = -EnumeratedELBO(particles=200).per_datum(pair.model, pair.guide, batch)
        many = -inference.IWELBO(4000, lam=0).per_datum(pair.model, pair.guide, batch)
    assert bool((elbo < many).all())
