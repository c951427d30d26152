"""The bound with clusters summed out in three ways, the start of clusters, and the VAE before."""

from __future__ import annotations

import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal
from torch.testing import assert_close
from worlds.processes import together
from worlds.whole_life import whole_life

from ppl_models import build, data, inference
from ppl_models.batch import Batch
from ppl_models.parts.latent_mixtures import FLOOR, LatentMixture
from ppl_models.testing import PairContract
from ppl_models.testing.fixed_draws import FixedDraws

SMALL = {"clusters": 3, "latent": 2, "hidden": (6,), "likelihood": "normal"}
B, D = 5, 4


def pair_of(**settings):
    return build("cluster_ica", data_dim=D, seed=0, **{**SMALL, **settings}).double()


def by_hand(pair, batch, draws, way):
    """Minus the bound of each row at given draws of its codes."""
    x = batch["x"]
    rows = pair.likelihood(pair.decoder(**draws)).log_prob(x)
    for z, label in pair.clusters.items():
        value, mixture = draws[z], pair.mixtures[z]
        log_pi = mixture.logits.log_softmax(0)
        scale = (0.5 * mixture.log_variance).exp()
        each = Normal(mixture.loc, scale).log_prob(value[:, None]).sum(-1)  # B x K
        joint = log_pi + each
        rows = rows - pair.guide.factor(z, batch).log_prob(value)
        if label in batch:
            rows = rows + joint.gather(1, batch[label][:, None])[:, 0]
        elif way == "mixture":
            normals = Independent(Normal(mixture.loc, scale), 1)
            density = MixtureSameFamily(Categorical(logits=mixture.logits), normals)
            rows = rows + density.log_prob(value)
        else:  # E_q(c|x)[log p(z|c) + log p(c) - log q(c|x)] at q(c|x) = p(c|z)
            log_q = joint.log_softmax(1)
            rows = rows + (log_q.exp() * (each + log_pi - log_q)).sum(1)
    return -rows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1, 10])
@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({}, [False]),
        ({"facets": 2}, [False]),
        ({"prior": "given"}, [True]),
        ({"prior": "given"}, [False]),
        ({"prior": "given"}, [True, False]),
    ],
)
def test_three_forms_of_the_bound_are_one(settings, known, scale, dtype) -> None:
    """Enumerated, as a mixture's density, and with five terms at q(c | x) = p(c | z)."""
    pair = pair_of(**settings).to(dtype)
    with torch.no_grad():
        for parameter in pair.mixtures.parameters():
            parameter.normal_(0, 1, generator=torch.Generator().manual_seed(1))
    g = torch.Generator().manual_seed(2)
    batches = []
    for seen in known:
        sites = {"x": torch.randn(B, D, generator=g, dtype=dtype)}
        labels = {"y": torch.arange(B) % 3} if seen else {}
        batches.append(Batch({**sites, **labels}, size=B * scale, total=B * scale * len(known)))
    draws = {z: torch.randn(B, 2, generator=g, dtype=dtype) for z in pair.clusters}
    model, guide = (FixedDraws(f, draws) for f in (pair.model, pair.guide))
    rtol = 1e-10 if dtype == torch.float64 else 1e-5
    found = pair.objective().differentiable_loss(model, guide, batches)
    parameters = list(pair.parameters())
    grads = torch.autograd.grad(found, parameters)
    for way in ("mixture", "five terms"):
        expected = sum(scale * by_hand(pair, batch, draws, way).sum() for batch in batches)
        assert_close(found, expected, rtol=rtol, atol=0)
        hand = torch.autograd.grad(expected, parameters)
        assert_close(grads, hand, rtol=100 * rtol, atol=scale * rtol)
    pyros = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    theirs = sum(pyros.differentiable_loss(pair.model, guide, batch) for batch in batches)
    assert_close(found, theirs, rtol=rtol, atol=0)


def test_clusters_far_from_a_code_are_no_trouble() -> None:
    """A responsibility that underflows is no nan, in value or gradient."""
    pair = pair_of()
    with torch.no_grad():
        pair.mixtures["z"].loc.copy_(torch.tensor([[0.0, 0.0], [1e3, 0.0], [0.0, -1e4]]))
    batch = Batch({"x": torch.ones(B, D).double()}, size=B, total=B)
    draws = {"z": torch.randn(B, 2, generator=torch.Generator().manual_seed(2)).double()}
    model, guide = (FixedDraws(f, draws) for f in (pair.model, pair.guide))
    found = pair.objective().differentiable_loss(model, guide, [batch])
    expected = by_hand(pair, batch, draws, "mixture").sum()
    assert_close(found, expected, rtol=1e-10, atol=0)
    priors = list(pair.mixtures.parameters())
    ours, hand = (torch.autograd.grad(v, priors) for v in (found, expected))
    assert_close(ours, hand, rtol=1e-8, atol=1e-10)


def test_the_decoder_runs_once_whatever_the_clusters() -> None:
    pair, seen = pair_of(clusters=7), []
    pair.decoder.register_forward_hook(lambda _, args, out: seen.append(out.numel()))
    pair.objective().loss(pair.model, pair.guide, Batch({"x": torch.ones(B, D).double()}))
    assert seen == [B * D]


def test_clusters_of_a_row_are_told_by_its_code() -> None:
    rows = data.load("ica_segments", train=20, validation=2, test=9, segments=2)
    pair = build("cluster_ica", rows, seed=0, **SMALL)
    found = inference.label_probabilities(pair, rows.test, "c")
    z, mixture = pair.guide.factor("z", {"x": rows.test.sites["x"]}).mean, pair.mixtures["z"]
    joint = mixture(torch.arange(3)[:, None]).log_prob(z) + mixture.logits[:, None]
    assert_close(found, joint.softmax(0).T)


def test_a_mixture_begins_at_groups_of_codes() -> None:
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, -8.0]])
    counts = torch.tensor([10, 20, 30])
    noise = torch.randn(60, 2, generator=torch.Generator().manual_seed(0)) * 0.3
    codes = centres.repeat_interleave(counts, 0) + noise
    mixture = LatentMixture(3, 2)
    mixture.begin(codes)
    order = mixture.logits.argsort()
    groups = codes.split(counts.tolist())
    assert_close(mixture.weights().probs[order], counts / 60.0, rtol=1e-4, atol=0)
    for k, group in zip(order, groups, strict=True):
        assert_close(mixture.loc[k], group.mean(0), rtol=1e-4, atol=1e-4)
        variance = group.var(0, correction=0) + FLOOR
        assert_close(mixture.log_variance[k].exp(), variance, rtol=1e-4, atol=0)
    with pytest.raises(ValueError, match="2 rows for 3 clusters to begin at, expected at least"):
        mixture.begin(codes[:2])


def test_the_warm_up_is_a_vae_to_the_bit_and_clusters_begin_at_its_codes() -> None:
    rows = data.load("ica_segments", train=60, validation=2, test=2, segments=3, labelled=6)
    how = {"batch_size": 20, "seed": 3, "progress": False}

    def fitted(prior, facets=2, **options):
        pair = build("cluster_ica", rows, seed=0, prior=prior, facets=facets, **SMALL)
        return inference.fit(pair, rows, **how, **options)

    found = fitted("mixture", steps=(5, 1), learning_rate=(1e-2, 0.0))
    vae = fitted("normal", steps=5, learning_rate=1e-2)
    own, theirs = found.pair.state_dict(), vae.pair.state_dict()
    assert {name for name in own if name not in theirs} == {
        f"mixtures.{z}.{name}"
        for z in ("z_1", "z_2")
        for name in ("logits", "loc", "log_variance")
    }
    assert all(torch.equal(own[name], value) for name, value in theirs.items())
    assert found.history["loss"][:5] == vae.history["loss"]
    for z in ("z_1", "z_2"):
        begun = LatentMixture(3, 2)
        begun.begin(vae.pair.guide.factor(z, {"x": rows.train.sites["x"]}).mean)
        # The rows come in another order.
        assert_close(begun.loc.sort(0).values, found.pair.mixtures[z].loc.sort(0).values)


def test_facets_have_no_given_label() -> None:
    with pytest.raises(ValueError, match="facets is 2, expected 1 where prior is 'given'"):
        pair_of(prior="given", facets=2)


@pytest.mark.long
class TestGiven(PairContract):
    pair = "cluster_ica"
    settings = {"prior": "given"}  # noqa: RUF012


@pytest.mark.long
class TestFacets(PairContract):
    pair = "cluster_ica"
    settings = {"facets": 2}  # noqa: RUF012
    # It tries every prior, and a given label has no facets.
    test_prior_draws_have_the_datas_shape_and_support = None


@pytest.mark.long
@pytest.mark.parametrize("settings", [{"facets": 2}, {"prior": "given"}])
def test_the_whole_life(settings, tmp_path) -> None:
    rows = data.load("ica_segments", train=60, validation=12, test=12, segments=3, labelled=30)
    run, idata = whole_life(
        lambda: build("cluster_ica", rows, seed=0, **SMALL, **settings),
        rows, tmp_path, batch_size=20, learning_rate=1e-2, epochs=2,
    )  # fmt: skip
    for z, label in run.pair.clusters.items():
        assert idata.posterior[z].shape[-1] == 2 and label in idata.posterior


@pytest.mark.long
def test_two_processes(tmp_path) -> None:
    rows = data.load("ica_segments", train=60, validation=2, test=2, segments=3)

    def curve(rank=0):
        pair = build("cluster_ica", rows, seed=0, **SMALL)
        run = inference.fit(
            pair, rows, seed=0, epochs=2, batch_size=20, progress=False, device="cpu"
        )
        return {"loss": torch.tensor(run.history["loss"]), **pair.state_dict()}

    one = curve()
    for outcome in together(2, tmp_path, curve):
        assert not outcome.error, outcome.error
        for name, values in one.items():
            assert_close(outcome.value[name], values, rtol=1e-4, atol=1e-5)
