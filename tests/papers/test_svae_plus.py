"""sVAE+: masks summed out against the closed form, baselines, controls, and cells of a file."""

from __future__ import annotations

import math

import h5py
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from scipy import integrate, stats
from torch.distributions import kl_divergence
from torch.testing import assert_close
from worlds.whole_life import whole_life

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.bio.svae_plus import SVAEPlus, SVAEPlusConfig
from ppl_models.parts.counts import NegativeBinomial
from ppl_models.prior_rows import some_rows

A, G, L, ROWS = 5, 7, 3, 12
EXACT = {
    torch.float64: {"rtol": 1e-10, "atol": 1e-10},
    torch.float32: {"rtol": 2e-4, "atol": 2e-4},
}
VARIANTS = {
    "plain": {},
    "strict": {"sparsity": 200.0},
    "batches": {"batches": 2},
    "iVAE": {"masks": "ones"},
    "VAE": {"masks": "zeros"},
}
WORLD = {"perturbations": A, "cells": 30, "latents": L, "genes": G, "validation": 20, "test": 20}


def built(dtype=torch.float64, **settings) -> SVAEPlus:
    torch.manual_seed(0)
    pair = SVAEPlus(
        SVAEPlusConfig(data_dim=G, perturbations=A, latent=L, hidden=(6, 5), **settings)
    ).to(dtype)
    if pair.shifts.learnt:
        torch.nn.init.normal_(pair.shifts.logits)
    return pair


def rows(dtype=torch.float64, scale=1) -> Batch:
    draw = torch.Generator().manual_seed(1)
    x = torch.poisson(torch.full((ROWS, G), 9.0, dtype=dtype), generator=draw)
    row = torch.arange(ROWS)
    sites = {"x": x, "perturbation": row % A, "batch": row % 2, "library": x.sum(1, keepdim=True)}
    return Batch(sites, size=scale * ROWS)


def divergences(pair, batch):
    """KL of each latent at gamma = 1 and gamma = 0 ``(B, L)``."""
    loc, scale = pair.guide.moments(batch["x"])
    q, one = dist.Normal(loc, scale), torch.ones_like(loc)
    mu = pair.shifts.mu[batch["perturbation"]] if hasattr(pair.shifts, "mu") else 0 * loc
    return kl_divergence(q, dist.Normal(mu, one)), kl_divergence(q, dist.Normal(0 * loc, one))


def by_hand(pair, batch, weight):
    """The loss of the data set in closed form, at the draw of this seed."""
    c, counts = pair.config, pair.counts
    loc, scale = pair.guide.moments(batch["x"])
    z = dist.Normal(loc.mT, scale.mT).rsample().mT
    given = {"batch": batch["batch"]} if c.batches else {}
    mean = batch["library"] * counts.net(z=z, **given).softmax(-1)
    theta, x = counts.log_theta.exp(), batch["x"]
    log_p = (
        torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)
        + theta * (theta / (theta + mean)).log() + x * (mean / (theta + mean)).log()
    ).sum(-1)  # fmt: skip
    shifted, still = divergences(pair, batch)
    prior = 0.0
    if c.masks == "summed":
        pi = pair.shifts.logits.sigmoid()
        q = pi[batch["perturbation"]]
        prior = -(math.log(c.sparsity) + (c.sparsity - 1) * (-pi).log1p()).sum()
    else:
        q = 1.0 if c.masks == "ones" else 0.0
    kl = (q * shifted + (1 - q) * still).sum(-1)
    return batch.scale * (weight * kl - log_p).sum() + weight * prior


def gradients(pair, loss):
    named = dict(pair.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return dict(zip(named, found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("progress", [0.05, 1.0])
@pytest.mark.parametrize("variant", VARIANTS)
def test_summed_masks_are_the_closed_form(variant, progress, scale, dtype):
    pair, batch = built(dtype, **VARIANTS[variant]), rows(dtype, scale)
    objective = pair.objective()
    objective.at(progress)
    torch.manual_seed(3)
    loss = objective.differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(3)
    exact = by_hand(pair, batch, min(1, progress / pair.config.ramp))
    assert_close(loss, exact, rtol=EXACT[dtype]["rtol"], atol=0)
    found, wanted = gradients(pair, loss), gradients(pair, exact)
    for name, value in wanted.items():
        assert_close(found[name], value, **EXACT[dtype], msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize("sparsity", [1.0, 20.0, 200.0])
def test_gradient_of_masks(sparsity, scale):
    """(KL_1 - KL_0) q (1 - q) summed over a perturbation's cells, and (K - 1) q of the prior."""
    pair, batch = built(sparsity=sparsity), rows(scale=scale)
    objective = pair.objective()
    objective.at(1.0)
    loss = objective.differentiable_loss(pair.model, pair.guide, batch)
    with torch.no_grad():
        shifted, still = divergences(pair, batch)
        q = pair.shifts.logits.sigmoid()
        gap = torch.zeros(A, L).double().index_add(0, batch["perturbation"], shifted - still)
        wanted = scale * gap * q * (1 - q) + (sparsity - 1) * q
    assert_close(gradients(pair, loss)["shifts.logits"], wanted, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"sparsity": 200.0}, {"batches": 2}])
def test_the_bound_is_that_of_pyro(settings):
    pair, batch = built(**settings), rows()
    torch.manual_seed(4)
    ours = inference.EnumeratedELBO(plate_nesting=2).differentiable_loss(
        pair.model, pair.guide, batch
    )
    torch.manual_seed(4)
    # Its checks want x, which does not hang on gamma, before gamma.
    with pyro.validation_enabled(False):
        theirs = TraceEnum_ELBO(max_plate_nesting=2).differentiable_loss(
            pair.model, config_enumerate(pair.guide), batch
        )
    assert_close(ours, theirs, rtol=1e-10, atol=0)
    found, wanted = gradients(pair, ours), gradients(pair, theirs)
    for name, value in wanted.items():
        assert_close(found[name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("logit", [-1.0, 0.0, 2.0])
def test_masks_of_the_gumbel_estimator(logit):
    """Draws are Bernoulli's; gradients those of the relaxed draw, and not of the expectation."""
    torch.manual_seed(0)
    pair, many = built(masks="gumbel"), 60_000
    with torch.no_grad():
        pair.shifts.logits.fill_(logit)
    cause = torch.zeros(many, dtype=torch.long)
    gamma = pair.shifts.sample_masks(pair.shifts.point(), cause, ())
    q = 1 / (1 + math.exp(-logit))
    assert set(gamma.unique().tolist()) == {0.0, 1.0}
    draws = gamma.numel()
    assert abs(float(gamma.detach().mean()) - q) < 5 * math.sqrt(q * (1 - q) / draws)
    (slope,) = torch.autograd.grad(gamma.mean(1).sum(), pair.shifts.logits)

    def relaxed(u):
        soft = 1 / (1 + math.exp(-logit - math.log(u / (1 - u))))
        return soft * (1 - soft)

    wanted = integrate.quad(relaxed, 0, 1)[0]
    assert_close(
        slope[0].mean(), torch.tensor(wanted).double(), rtol=0, atol=5 * 0.09 / math.sqrt(draws)
    )


def test_the_gumbel_loss_is_the_summed_one_on_average():
    pair, drawn = built(), built(masks="gumbel")
    drawn.load_state_dict(pair.state_dict())
    many = Batch(
        {name: value.repeat(200, *[1] * (value.dim() - 1)) for name, value in rows().items()}
    )
    losses = []
    with torch.no_grad():
        for seed in range(16):
            for each in (pair, drawn):
                objective = each.objective()
                objective.at(1.0)
                torch.manual_seed(seed)
                losses.append(objective.differentiable_loss(each.model, each.guide, many))
    gap = torch.stack(losses).reshape(-1, 2).diff(dim=1)
    assert abs(float(gap.mean())) < 5 * float(gap.std()) / math.sqrt(len(gap))
    # Masks that were all on, or all off, would be off by more than that noise.
    shifted, still = (float(kl.detach().sum()) for kl in divergences(pair, many))
    assert float(gap.std()) < 0.1 * abs(shifted - still)


def test_counts_are_scipys_negative_binomials():
    torch.manual_seed(0)
    counts = NegativeBinomial({"z": L}, (4,), G).double()
    z, library = torch.randn(6, L).double(), torch.full((6, 1), 50.0).double()
    x = torch.arange(6 * G).reshape(6, G) % 11
    with torch.no_grad():
        fn = counts(library, z=z)
        mean = library * counts.net(z=z).softmax(-1)
        theta = counts.log_theta.exp()
        wanted = stats.nbinom(theta.numpy(), (theta / (theta + mean)).numpy()).logpmf(x).sum(1)
        np.testing.assert_allclose(fn.log_prob(x.double()), wanted, rtol=1e-10)
        assert_close(fn.mean, mean)
        assert_close(fn.variance, mean + mean**2 / theta)


def test_the_encoder_sees_log_counts_about_their_means():
    """Not centred, half of its units would say the same of every cell."""
    cells = data.load("perturb_sim", **WORLD)
    pair = zoo.build("svae_plus", cells, latent=L, hidden=(64,), seed=0)
    (batch,) = cells.train.batches()
    first, logs = pair.guide.net.net.first, batch["x"].log1p()

    def settled(x):
        on = (first(x=x) > 0).float().mean(0)
        return float(((on < 0.01) | (on > 0.99)).float().mean())

    (stage,) = pair.stages()
    stage.start(batch)
    assert_close(pair.guide.net.centre, logs.mean(0))
    assert settled(logs) > 0.3 > 0.05 > settled(logs - pair.guide.net.centre)
    alone = pair.guide.net(batch["x"][:1])
    stage.start(next(cells.test.batches()))  # weights hang on the first
    assert torch.equal(pair.guide.net(batch["x"][:1]), alone)
    assert_close(alone, pair.guide.net.net(x=logs[:1] - logs.mean(0)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_cell_without_a_count_costs_nothing(dtype):
    """Nor teaches it anything; that another has no count has probability theta over theta + mu."""
    torch.manual_seed(0)
    counts = NegativeBinomial({"z": L}, (4,), G).to(dtype)
    z, none = torch.randn(2, L, dtype=dtype), torch.zeros(2, G, dtype=dtype)
    log_p = counts(torch.tensor([[0.0], [5.0]], dtype=dtype), z=z).log_prob(none)
    theta, mu = counts.log_theta.exp(), 5 * counts.net(z=z[1]).softmax(-1)
    exact = (theta * (theta / (theta + mu)).log()).sum()
    assert_close(log_p, torch.stack((0 * exact, exact)), rtol=1e-5, atol=1e-5)
    weights = list(counts.parameters())
    grads = (torch.autograd.grad(v, weights, retain_graph=True) for v in (log_p.sum(), exact))
    for one, other in zip(*grads, strict=True):
        assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_controls_shift_nothing():
    cells = data.load("perturb_sim", **WORLD, controls=30)
    pair = zoo.build("svae_plus", cells, latent=L, hidden=(8,), controls=("control", "p1"))
    probs = pair.shifts.probabilities(pair.class_names("perturbation"))
    assert (probs[[1, A]] == 0).all() and (probs[[0, 2, 3, 4]] > 0.99).all()
    code = torch.tensor([0, 1, A])
    pi = pair.shifts.point()
    gamma = pair.shifts.sample_masks(pi, code, pair.class_names("perturbation"))
    means = pair.shifts.means(gamma, code)
    assert (means[:, 1:] == 0).all() and (means[:, 0] != 0).any()
    # The bound does not see their shifts.
    batch = next(iter(cells.test.batches()))
    objective = pair.objective()
    objective.at(1.0)
    loss = objective.differentiable_loss(pair.model, pair.guide, batch)
    slope = gradients(pair, loss)["shifts.mu"]
    assert slope[[1, A]].abs().max() < 1e-4 < slope[[0, 2, 3, 4]].abs().amin(0).max()


def test_an_unknown_control_is_one_line():
    cells = data.load("perturb_sim", **WORLD)
    pair = zoo.build("svae_plus", cells, latent=L, controls=("p9",))
    with pytest.raises(ValueError, match="shifts nothing 'p9': expected one of p0, p1") as told:
        inference.fit(pair, cells, steps=1, progress=False)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masks", ["summed", "gumbel", "ones", "zeros"])
def test_rows_of_the_prior_are_of_the_pairs_type_and_masks_settle(masks, dtype):
    pair = built(dtype, masks=masks)
    trace = pyro.poutine.trace(pair.model).get_trace(some_rows(pair, ROWS))
    assert {trace.nodes[site]["value"].dtype for site in ("z", "x")} == {dtype}
    pair.shifts.settle(unseen=torch.tensor([A - 1]))
    for _, value in pair.structure().values():
        assert value.dtype == dtype
    if masks != "zeros":
        assert (pair.shifts.mu[-1] == 0).all() and (pair.shifts.mu[:-1] != 0).all()


def test_transfer_fits_the_shifts_of_unseen_perturbations_alone():
    cells = data.load("perturb_sim", **WORLD, unseen=2)
    pair = zoo.build("svae_plus", cells, latent=L, hidden=(8,))
    with torch.no_grad():
        pair.shifts.logits.normal_()
    found = pair.shifts.probabilities(pair.class_names("perturbation")) > 0.5
    pair.shifts.settle(unseen=torch.tensor([3, 4]))
    probs = pair.shifts.probabilities(pair.class_names("perturbation"))
    assert torch.equal(probs[:3] > 0.5, found[:3]) and (probs[3:] > 0.5).all()
    assert ((probs < 1e-6) | (probs > 1 - 1e-6)).all()
    assert (pair.shifts.mu[3:] == 0).all()
    before = {name: value.clone() for name, value in pair.state_dict().items()}
    stage = inference.Stage(pair.objective(), freeze=("counts", "guide", "shifts.logits"))
    inference.fit(pair, cells.test, stages=(stage,), steps=5, progress=False)
    changed = {n for n, value in pair.state_dict().items() if not torch.equal(value, before[n])}
    assert changed == {"shifts.mu"}
    assert (pair.shifts.mu[3:] != 0).all()


def write(path, counts, perturbation, batch):
    with h5py.File(path, "w") as file:
        file["X"] = counts.astype(np.float32)
        for name, (codes, kinds) in {"perturbation": perturbation, "batch": batch}.items():
            file[f"obs/{name}/codes"] = codes.astype(np.int8)
            file[f"obs/{name}/categories"] = np.array(kinds, dtype="S")
        for table, size in (("obs", len(counts)), ("var", counts.shape[1])):
            names = [f"{table}{n}" for n in range(size)]
            file[f"{table}/_index"] = np.array(names, dtype="S")
            file[table].attrs["_index"] = "_index"


@pytest.fixture
def cells(tmp_path):
    draw = np.random.default_rng(0)
    codes = np.arange(90) % 3
    counts = 1 + draw.poisson(5 + 20 * np.eye(4)[codes])
    path = tmp_path / "cells.h5ad"
    write(path, counts, (codes, ("KLF1", "ctrl", "GATA1")), (codes // 2, ("b", "a")))
    return data.load(str(path), covariates="perturbation,batch", library="library")


def test_cells_of_a_file_come_out_by_name(cells, tmp_path):
    pair = zoo.build("svae_plus", cells, latent=2, hidden=(8,), batches=2, controls=("ctrl",))
    run = inference.fit(pair, cells, steps=3, progress=False, out=tmp_path / "run")
    idata = run.posterior(cells.test, draws=4, prior_draws=3)
    found = idata.structure
    assert found.target_probs.dims == found.shifts.dims == ("perturbation", "latent")
    assert list(found.perturbation.values) == ["KLF1", "ctrl", "GATA1"]
    assert (found.target_probs.sel(perturbation="ctrl") == 0).all()
    np.testing.assert_allclose(found.shifts, pair.shifts.mu.detach())
    assert idata.posterior.z.dims == ("chain", "draw", "datum", "latent")
    assert list(idata.posterior_predictive.x_dim.values) == ["var0", "var1", "var2", "var3"]
    assert list(idata.constant_data.perturbation_class.values) == ["KLF1", "ctrl", "GATA1"]


@pytest.mark.long
@pytest.mark.parametrize("masks", ["summed", "gumbel"])
def test_a_whole_life(masks, tmp_path):
    cells = data.load("perturb_sim", **WORLD)

    def made():
        return zoo.build("svae_plus", cells, latent=L, hidden=(8,), masks=masks)

    _, idata = whole_life(made, cells, tmp_path, epochs=3, batch_size=64)
    assert idata.structure.sizes == {"perturbation": A, "latent": L}
