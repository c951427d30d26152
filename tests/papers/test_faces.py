"""Faces: how light falls, and what labels weigh."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import ppl_models as zoo
from ppl_models import Batch, data, inference
from ppl_models.inference import Classification, EnumeratedELBO, SelfNormalisedELBO
from ppl_models.semisupervised.faces import Lambertian

SMALL = {"data_dim": 5, "identities": 3, "hidden": (4,)}


def test_light_falls_by_the_cosine():
    """Facing the light a pixel shows its albedo, askew the cosine of it, behind a twentieth."""
    torch.manual_seed(0)
    face = Lambertian(2, 3).double()
    normals = torch.tensor([[0.0, 0.0, 2.0], [0.0, 3.0, 0.0], [0.0, 0.0, -1.0]]).double()
    face.raw_normals.data[1] = normals
    albedo = torch.tensor([0.2, 0.5, 0.9]).double()
    face.raw_albedo.data[1] = albedo.logit()
    light = torch.tensor([[0.0, 0.6, 0.8]]).double()
    seen = face(torch.tensor([1]), light)
    assert_close(seen, albedo * torch.tensor([[0.8, 0.6, -0.05 * 0.8]]).double())


def test_every_person_under_every_rows_light():
    """Enumerated identities meet the rows' lights without a loop."""
    face = Lambertian(3, 5).double()
    light = torch.randn(4, 3).double()
    every = face(torch.arange(3).unsqueeze(-1), light)
    assert every.shape == (3, 4, 5)
    for person in range(3):
        assert_close(every[person], face(torch.full((4,), person), light))


@pytest.mark.parametrize("observed", [(), ("identity",), ("light",), ("identity", "light")])
@pytest.mark.parametrize("scale", [1, 10])
def test_the_loss_is_the_weighted_bound_and_both_classifiers(observed, scale):
    """Labels stand first in the guide, so that all weights are equal."""
    torch.manual_seed(1)
    pair = zoo.build("faces", gamma=3.0, identity_weight=2.0, light_weight=0.5, **SMALL).double()
    sites = {
        "x": torch.rand(6, 5).double(),
        "identity": torch.arange(6) % 3,
        "light": torch.randn(6, 3).double(),
    }
    size = 6 * scale
    counts = {"x": size, "identity": 6, "light": 3}
    batch = Batch(sites, size=size, total=size, observed=counts).only("x", *observed)
    torch.manual_seed(2)
    loss = pair.objective().differentiable_loss(pair.model, pair.guide, batch)
    torch.manual_seed(2)
    bound = EnumeratedELBO().differentiable_loss(pair.model, pair.guide, batch)
    expected = bound * (3.0 if observed else 1.0)
    # N / N_labelled: each labelled row stands for that many, and each row for `scale`.
    for site, weight in (("identity", 2.0), ("light", 0.5)):
        if site in observed:
            log_q = pair.guide.factor(site, batch).log_prob(batch[site])
            expected = expected - weight * size / counts[site] * scale * log_q.sum()
    assert_close(loss, expected)
    printed = repr(pair.objective())
    for term in (SelfNormalisedELBO(1, gamma=3.0), Classification("identity", 2.0)):
        assert repr(term) in printed


def test_both_decoders_have_the_same_guide():
    a, b = (zoo.build("faces", decoder=d, **SMALL) for d in ("lambertian", "free"))
    shapes = [{n: p.shape for n, p in pair.guide.named_parameters()} for pair in (a, b)]
    assert shapes[0] == shapes[1]


def test_sites_come_out_by_name():
    rows = data.load("faces", train=40, validation=10, test=20, side=4, identities=3)
    pair = zoo.build("faces", rows, hidden=(4,))
    run = inference.fit(pair, rows, epochs=1, progress=False)
    idata = run.posterior(rows.test, draws=20)
    assert idata.posterior["light"].shape[-1] == 3
    assert set(idata.posterior.data_vars) >= {"identity", "light"}
    assert list(idata.variational["identity_probs"].coords["identity_class"].values) == list("012")
