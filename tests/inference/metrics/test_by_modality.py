"""What modalities tell one by one, against the measures called by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import ppl_models as zoo
from ppl_models import data, guides, inference
from ppl_models.inference import metrics
from ppl_models.inference.posterior.export import load
from ppl_models.inference.posterior.groups import groups_of, with_groups

ROWS = 120
SIZES = {"s": 6, "t": 4, "u": 3}


def table(gaps: bool = False, seed: int = 0, rows: int = ROWS):
    """Three modalities of one class, of which a row may lack some."""
    draw = np.random.default_rng(seed)
    y = draw.integers(3, size=rows)
    sites = {n: y[:, None] + draw.normal(size=(rows, d)) for n, d in SIZES.items()}
    if gaps:
        for place, name in enumerate(SIZES):
            sites[name][place::5] = np.nan
    return data.from_arrays(
        **{n: v.astype("float32") for n, v in sites.items()}, y=y, splits=np.full(rows, "train")
    ).train


def fitted(name: str, rows, **options):
    kinds = ("normal",) * len(SIZES)
    return zoo.build(
        name, rows, modalities=tuple(SIZES), kinds=kinds, scales=(0.5,) * 3, latent=2,
        hidden=(8,), seed=1, **options,
    )  # fmt: skip


def alone(pair, rows, site: str):
    """Mean and deviation of q(z | site) in the rows that have it, and which they are."""
    mask = rows.observed.get(site, torch.ones(len(rows), dtype=torch.bool))
    with torch.no_grad():
        q = pair.guide.factor("z", {site: rows.sites[site][mask]})
    return q.mean.double(), q.variance.sqrt().double(), mask


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("name", ["mvae", "mmvae", "mopoe"])
def test_scores_are_those_of_the_measures(name, gaps):
    rows = table(gaps)
    pair, y = fitted(name, rows), rows.sites["y"]
    idata = inference.Run(pair, "").posterior(rows, draws=5, prior_draws=0)
    scores = metrics.modality_scores(idata)
    assert list(scores) == ["canonical", "relatedness", "accuracy"]
    for site in SIZES:
        loc, scale, mask = alone(pair, rows, site)
        kept = idata.modalities.sel(modality=site)
        assert np.isnan(kept.z_loc.values[~mask.numpy()]).all()
        for part, value in (("z_loc", loc), ("z_scale", scale)):
            np.testing.assert_allclose(kept[part].values[mask.numpy()], value, rtol=1e-5)
        exact = metrics.latent_accuracy(loc[::2], y[mask][::2], loc[1::2], y[mask][1::2])
        assert float(scores.accuracy.sel(modality=site)) == pytest.approx(exact, abs=1e-9)
    for a, b in itertools.permutations(SIZES, 2):
        one, other = alone(pair, rows, a), alone(pair, rows, b)
        both = one[2] & other[2]
        first, second = one[0][both[one[2]]], other[0][both[other[2]]]
        space = metrics.canonical_space(first[::2], second[::2])
        pairs = float(space.pair_scores(first[1::2], second[1::2]).mean())
        at = {"modality": a, "other": b}
        assert float(scores.canonical.sel(at)) == pytest.approx(pairs, rel=1e-4)
        far = metrics.wasserstein(one[0], one[1], other[0], other[1])
        exact = metrics.relatedness(far, y[one[2]], y[other[2]])
        assert float(scores.relatedness.sel(at)) == pytest.approx(exact, abs=1e-4)
    for values in (scores.canonical, scores.relatedness):
        assert np.isnan(np.diagonal(values)).all()


def test_oracles_see_what_each_modality_makes_of_another(tmp_path):
    """Shares are those of cross_coherence, but for other draws: 500 of them here."""
    rows = table(True, rows=600)
    pair = fitted("mvae", rows)
    asked = []

    def oracle(x):
        asked.append(x)
        return (2 * torch.sigmoid(5 * x[:, 0])).round()

    path = tmp_path / "rows.nc"
    run = inference.Run(pair, "")
    idata = run.posterior(rows, draws=5, oracle={"t": oracle}, path=path, block=512)
    assert [len(x) for x in asked] == [512, 512, 512, 88, 88, 88]
    told = idata.modalities.t_told
    assert told.dims == ("modality", "datum")
    assert (
        told.values[0][:512] == np.where(asked_of(rows, "s")[:512], oracle(asked[0]), -1)
    ).all()
    scores = metrics.modality_scores(load(path))
    assert np.isnan(scores.coherence.sel(other="s")).all()
    for given in SIZES:
        there = rows.where_observed(given)
        exact = metrics.cross_coherence(pair, there, oracle, given, "t", draws=500)
        found = float(scores.coherence.sel(modality=given, other="t"))
        assert abs(found - exact) < 4 * 0.5 / len(there) ** 0.5


def asked_of(rows, site):
    return rows.observed[site].numpy()


def test_an_export_without_oracle_draws_as_one_with():
    rows = table(True)
    run = inference.Run(fitted("mopoe", rows), "")
    plain = run.posterior(rows, draws=5)
    told = run.posterior(rows, draws=5, oracle={"s": lambda x: x[:, 0] > 0})
    for group, values in groups_of(plain).items():
        assert values.drop_attrs().equals(groups_of(told)[group][list(values)].drop_attrs())


def test_lines_of_a_check_are_told_and_not_judged():
    rows = table()
    run = inference.Run(fitted("mvae", rows), "")
    options = {"draws": 30, "oracle": {"u": lambda x: x[:, 0] > 1}}
    found = run.check(rows, **options)
    scores = metrics.modality_scores(run.posterior(rows, **options))
    lines = {finding.name: finding for finding in found.findings if finding.unjudged}
    assert list(lines) == ["canonical", "relatedness", "accuracy", "coherence"]
    for name, line in lines.items():
        values = scores[name]
        if name == "coherence":
            values = values.where(values.modality != values.other)
        assert line.figure == pytest.approx(float(values.min()))
        assert line.ok and not line.advice and np.isnan(line.limit)
    assert str(found).count("told  ") == 4


def test_what_cannot_be_told_is_not_told():
    rows = table()
    run = inference.Run(fitted("mvae", rows), "")
    few = metrics.modality_scores(run.posterior(rows, draws=2, rows=range(4)))
    assert np.isnan(few.canonical).all()  # two rows for four directions
    one = run.posterior(rows, draws=2, given=("s",))
    assert "modalities" not in groups_of(one) and not metrics.modality_scores(one).data_vars
    bare = run.posterior(rows.without("y"), draws=2)
    assert list(metrics.modality_scores(bare)) == ["canonical"]
    with pytest.raises(ValueError, match="unknown label of the export 'x'"):
        metrics.modality_scores(bare, "x")
    with pytest.raises(ValueError, match="oracle: unknown modality 'v'"):
        run.posterior(rows, draws=2, oracle={"v": lambda x: x})


def test_guides_that_need_all_modalities_tell_of_none():
    rows = table()
    pair = fitted("mvae", rows)
    pair.guide = guides.Factored(z=guides.Normal(2, SIZES, (8,)))
    run = inference.Run(pair, "")
    assert "modalities" not in groups_of(run.posterior(rows, draws=2))
    with pytest.raises(ValueError, match="factor 'z' is given"):
        run.posterior(rows, draws=2, oracle={"t": lambda x: x[:, 0]})


def test_codes_without_means_leave_what_an_oracle_sees():
    rows = table()
    idata = inference.Run(fitted("mvae", rows), "").posterior(
        rows, draws=2, oracle={"t": lambda x: x[:, 0] > 1}
    )
    told = groups_of(idata)["modalities"].drop_vars(("z_loc", "z_scale"))
    scores = metrics.modality_scores(with_groups(idata, modalities=told))
    own = metrics.modality_scores(idata)
    assert scores.coherence.equals(own.coherence) and scores.coherence.notnull().any()
    assert all(scores[name].isnull().all() for name in ("canonical", "relatedness", "accuracy"))


def test_chains_have_codes_of_their_own():
    rows = table()
    first, second = (inference.Run(fitted("mvae", rows), "") for _ in range(2))
    with torch.no_grad():
        for value in second.pair.parameters():
            value.mul_(1.5)
    both = first.posterior(rows, draws=2, restarts=[second])
    assert both.modalities.z_loc.dims == ("chain", "modality", "datum", "z_dim")
    for chain, run in enumerate((first, second)):
        own = run.posterior(rows, draws=2).modalities.z_loc
        np.testing.assert_array_equal(both.modalities.z_loc.values[chain], own.values)
    one = metrics.modality_scores(first.posterior(rows, draws=2))
    assert metrics.modality_scores(both).equals(one)
