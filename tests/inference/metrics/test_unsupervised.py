"""Scores without factors, and UDR: golden values, closed forms and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import spearmanr
from sklearn.linear_model import Lasso
from sklearn.metrics import mutual_info_score
from sklearn.preprocessing import scale
from torch.distributions import Normal, kl_divergence
from worlds.code_tables import CODES, VALUES, golden, models_of_one_set
from worlds.given_codes import covariance_of, rows_with

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import unsupervised

SCORES = (
    *("gaussian_total_correlation", "gaussian_wasserstein"),
    *("gaussian_wasserstein_normalised", "mutual_information_score"),
)


@pytest.mark.parametrize("name", [n for n in CODES if n != "constant_codes"])
def test_golden_values(name):
    found = metrics.unsupervised_scores(golden(name)[0])
    scores = [float(found[score]) for score in SCORES]
    assert scores == pytest.approx(VALUES[name]["unsupervised"], abs=1e-6)


def test_golden_values_beside_constant_codes():
    with pytest.warns(UserWarning, match="5 of 10 codes are constant, so that the Gaussian total"):
        found = metrics.unsupervised_scores(golden("constant_codes")[0])
    scores = [float(found[score]) for score in SCORES]
    assert np.isnan(scores[0]) and VALUES["constant_codes"]["unsupervised"][0] is None
    assert scores[1:] == pytest.approx(VALUES["constant_codes"]["unsupervised"][1:], abs=1e-6)
    active = float(found.gaussian_total_correlation_active)
    assert active == pytest.approx(0.004757747906, abs=1e-6)


def with_covariance(covariance, rows=200):
    """A table whose sample covariance, over N - 1, is exactly this."""
    size = len(covariance)
    values = rows_with(torch.zeros(size, dtype=torch.float64), covariance, rows)
    return metrics.from_arrays(
        values * np.sqrt((rows - 1) / rows) + 3, torch.zeros(rows, 1, dtype=int)
    )


@pytest.mark.parametrize("size", [2, 5])
def test_gaussian_scores_in_closed_form(size):
    covariance = covariance_of(size)
    found = metrics.unsupervised_scores(with_covariance(covariance))
    diagonal = torch.diag(covariance.diagonal())
    correlation = float(covariance.diagonal().log().sum() - covariance.logdet()) / 2
    assert float(found.gaussian_total_correlation) == pytest.approx(correlation, abs=1e-9)
    root = np.real(np.trace(sqrtm((diagonal @ covariance).numpy())))
    distance = 2 * float(covariance.trace()) - 2 * root
    assert float(found.gaussian_wasserstein) == pytest.approx(distance, abs=1e-9)
    normalised = distance / float(covariance.trace())
    assert float(found.gaussian_wasserstein_normalised) == pytest.approx(normalised, abs=1e-9)


def test_codes_that_follow_from_others():
    codes = with_covariance(covariance_of(3)).codes
    table = metrics.from_arrays(
        np.concatenate([codes, codes @ [[1.0], [2.0], [-1.0]]], 1), np.zeros((200, 1), int)
    )
    found = metrics.unsupervised_scores(table)
    assert float(found.gaussian_total_correlation) == np.inf
    assert 0 < float(found.gaussian_wasserstein_normalised) < 2


def test_the_mean_information_of_two_codes_is_sklearns(monkeypatch):
    monkeypatch.setattr(unsupervised, "AT_ONCE", 3)  # blocks that end within the codes
    table, _ = golden("redundant")
    table = table.rows(range(300)).with_codes(range(8))
    edges = (np.histogram(column, 20)[1][:-1] for column in table.codes.T)
    binned = [np.digitize(c, e) for c, e in zip(table.codes.T, edges, strict=True)]
    pairs = unsupervised.code_pairs(table)
    for i, j in itertools.product(range(8), repeat=2):
        wanted = 0.0 if i == j else mutual_info_score(binned[i], binned[j])
        assert pairs[i, j] == pytest.approx(wanted, abs=1e-12)
    score = metrics.unsupervised_scores(table).mutual_information_score
    assert float(score) == pytest.approx(pairs.sum() / 56)


@pytest.mark.parametrize(("kind", "within"), [("lasso", 1e-3), ("spearman", 1e-6)])
def test_golden_values_of_several_models(kind, within):
    tables, kl = models_of_one_set()
    found = metrics.udr(tables, kl, kind)
    wanted = VALUES["udr"][kind]
    np.testing.assert_allclose(found[f"udr_{kind}"], wanted["model_scores"], atol=within)
    pairwise = found[f"udr_{kind}_pairwise"].values
    assert np.isnan(np.diag(pairwise)).all()
    off = ~np.eye(4, dtype=bool)
    np.testing.assert_allclose(pairwise[off], np.array(wanted["pairwise"])[off], atol=within)


def models(seed=0):
    """Three models of 4, 3 and 4 codes of the same rows; one code of the first is unused."""
    source = np.random.default_rng(seed)
    factors = source.integers(0, 4, (200, 3))
    made = []
    for size in (4, 3, 4):
        codes = factors @ source.normal(size=(3, size)) + source.normal(size=(200, size))
        spread = source.uniform(0.05, 0.3, (200, size))
        if not made:
            codes[:, 2], spread[:, 2] = 0.01 * codes[:, 2], 1.0
        made.append(metrics.from_arrays(codes, factors, scale=spread))
    return made


@pytest.mark.parametrize("kind", ["lasso", "spearman"])
def test_udr_by_loops(kind):
    tables = models()
    used = []
    for table in tables:
        q = Normal(torch.tensor(table.codes), torch.tensor(table.scale))
        used.append((kl_divergence(q, Normal(0.0, 1.0)).mean(0) > 0.01).numpy())
    assert [int(of.sum()) for of in used] == [3, 3, 4]
    wanted = np.full((3, 3), np.nan)
    for i, j in itertools.permutations(range(3), 2):
        one, other = (scale(tables[n].codes) * used[n] for n in (i, j))
        if kind == "lasso":
            matrix = abs(Lasso(alpha=0.1).fit(one, other).coef_.T)
        else:
            matrix = np.array(
                [
                    [abs(spearmanr(a, b)[0]) if a.any() and b.any() else 0.0 for b in other.T]
                    for a in one.T
                ]
            )
        matrix = matrix[used[i]][:, used[j]]
        halves = []
        for lines in (matrix, matrix.T):
            halves.append(np.mean([r.max() ** 2 / r.sum() if r.sum() else 0.0 for r in lines]))
        wanted[i, j] = np.mean(halves)
    found = metrics.udr(tables, kind=kind)
    np.testing.assert_allclose(found[f"udr_{kind}_pairwise"], wanted, atol=1e-6)
    medians = [np.median(np.delete(wanted[:, j], j)) for j in range(3)]
    np.testing.assert_allclose(found[f"udr_{kind}"], medians, atol=1e-6)


def test_models_without_an_informative_code_agree_with_none():
    tables = models()
    kl = [np.zeros(4), np.ones(3), np.ones(4)]
    found = metrics.udr(tables, kl, "spearman").udr_spearman_pairwise
    assert (found[0, 1:] == 0).all() and (found[1:, 0] == 0).all() and found[1, 2] > 0.1


def test_what_udr_refuses():
    one, two, three = models()
    with pytest.raises(ValueError, match="unknown kind 'pearson': did you mean 'spearman'"):
        metrics.udr([one, two], kind="pearson")
    with pytest.raises(ValueError, match="1 table of codes, expected at least 2"):
        metrics.udr([one])
    with pytest.raises(ValueError, match="table 1 is of other rows than table 0, expected the sa"):
        metrics.udr([one, two.rows(slice(0, 100))])
    bare = metrics.from_arrays(two.codes, two.factors)
    with pytest.raises(ValueError, match="table 1 has no scale, expected one, or kl of each code"):
        metrics.udr([one, bare, three])
    with pytest.raises(
        ValueError, match=r"kl has shapes \[\(4,\), \(4,\)\], expected \[\(4,\), \("
    ):
        metrics.udr([one, two], [np.ones(4), np.ones(4)])
    with pytest.raises(ValueError, match="1 row of codes, expected at least 2 for a covariance"):
        metrics.unsupervised_scores(one.rows([0]))
