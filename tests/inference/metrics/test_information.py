"""Information of codes and factors, MIG, modularity, MED: golden values and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import entropy
from sklearn.metrics import mutual_info_score
from worlds.code_tables import CODES, VALUES, golden, independent_factors

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import information


def drawn(rows=300, codes=6, seed=0):
    """Codes that lean on two factors, a factor of many values that are far apart, and a skewed."""
    source = np.random.default_rng(seed)
    factors = np.stack(
        [
            source.integers(0, 3, rows),
            source.integers(0, 40, rows) * 250_000,
            source.binomial(1, 0.05, rows),
        ],
        axis=1,
    )
    z = source.normal(size=(rows, codes))
    z[:, 0] += factors[:, 0]
    z[:, 1] += 1e-5 * factors[:, 1]
    return z, factors


def cut(codes, bins):
    """Bins as they are usually written with numpy, one code after the other."""
    edges = (np.histogram(column, bins)[1] for column in codes.T)
    return np.stack(
        [np.digitize(c, e[:-1]) - 1 for c, e in zip(codes.T, edges, strict=True)], axis=1
    )


def information_by_sklearn(codes, factors, bins):
    binned = cut(codes, bins)
    return np.array([[mutual_info_score(b, y) for y in factors.T] for b in binned.T])


@pytest.mark.parametrize("name", CODES)
def test_golden_values(name):
    table, _ = golden(name)
    wanted = VALUES[name]
    found = metrics.mig(table)
    assert float(found.mig) == pytest.approx(wanted["mig"], abs=1e-6)
    np.testing.assert_allclose(found.mig_per_factor, wanted["mig_per_factor"], atol=1e-6)
    assert float(metrics.modularity(table).modularity) == pytest.approx(
        wanted["modularity"], abs=1e-6
    )
    of_med = metrics.med(table)
    for what, values in (
        (wanted["med"]["disentanglement"], (of_med.med, of_med.med_top_k)),
        (wanted["med"]["completeness"], (of_med.med_completeness, of_med.med_top_k_completeness)),
    ):
        both = [float(values[0]), *map(float, values[1])]
        assert both == pytest.approx(what, abs=1e-6)
    if "mutual_information" in wanted:
        nats = metrics.mutual_information(table).mutual_information
        np.testing.assert_allclose(nats, wanted["mutual_information"], atol=1e-6)


@pytest.mark.parametrize("held", [1, 1 << 21])
@pytest.mark.parametrize("bins", [2, 20, 300])
def test_information_is_sklearns(held, bins, monkeypatch):
    """However many codes are counted at a time, and with more bins than a byte holds."""
    monkeypatch.setattr(information, "CELLS", held)
    codes, factors = drawn()
    found = metrics.mutual_information(metrics.from_arrays(codes, factors), bins)
    wanted = information_by_sklearn(codes, factors, bins)
    np.testing.assert_allclose(found.mutual_information, wanted, atol=1e-12)
    shares = [np.unique(y, return_counts=True)[1] / len(y) for y in factors.T]
    np.testing.assert_allclose(found.factor_entropy, [entropy(p) for p in shares], atol=1e-12)


def test_single_precision_is_read_as_it_is():
    codes, factors = drawn()
    single = torch.tensor(codes, dtype=torch.float32, requires_grad=True)
    found = metrics.mutual_information(metrics.from_arrays(single, torch.tensor(factors)))
    wanted = information_by_sklearn(single.detach().numpy().astype(np.float64), factors, 20)
    np.testing.assert_allclose(found.mutual_information, wanted, atol=1e-12)


def test_the_gap_and_modularity_by_loops():
    codes, factors = drawn()
    nats = information_by_sklearn(codes, factors, 20)
    entropies = [mutual_info_score(y, y) for y in factors.T]
    gaps = []
    for of_factor, h in zip(nats.T, entropies, strict=True):
        second, first = sorted(of_factor)[-2:]
        gaps.append((first - second) / h)
    table = metrics.from_arrays(codes, factors)
    np.testing.assert_allclose(metrics.mig(table).mig_per_factor, gaps, atol=1e-12)
    scores = []
    for line in nats:
        best = int(np.argmax(line))
        others = sum(v**2 for k, v in enumerate(line) if k != best)
        scores.append(1 - others / (line[best] ** 2 * (len(line) - 1)))
    np.testing.assert_allclose(metrics.modularity(table).modularity_per_code, scores, atol=1e-9)


def med_by_loops(nats, k):
    """MED and completeness of the codes kept, in the order of the paper's code; and which."""
    shares = nats / nats.sum(0)
    focus = [1 - entropy(line + 1e-11, base=len(line)) for line in shares]
    kept, left = [], [len(nats) if k is None else k] * nats.shape[1]
    for code in sorted(range(len(nats)), key=lambda d: -focus[d]):
        factor = int(np.argmax(shares[code]))
        if left[factor]:
            left[factor] -= 1
            kept.append(code)
    part = shares[sorted(kept)]
    weights, columns = part.sum(1) / part.sum(), part.sum(0) / part.sum()
    disentangled = [1 - entropy(line + 1e-11, base=part.shape[1]) for line in part]
    complete = [1 - entropy(column + 1e-11, base=len(part)) for column in part.T]
    return weights @ disentangled, columns @ complete, sorted(kept)


@pytest.mark.parametrize("name", ["med", "med_miller_madow"])
def test_med_by_loops(name):
    codes, factors = drawn(codes=9)
    table = metrics.from_arrays(codes, factors)
    nats = information_by_sklearn(codes, factors, 20)
    if name == "med_miller_madow":
        for d, binned in enumerate(cut(codes, 20).T):
            for k, y in enumerate(factors.T):
                cells = len({*zip(binned, y, strict=True)})
                bias = (cells - len({*binned}) - len({*y}) + 1) / (2 * len(y))
                nats[d, k] = max(0.0, nats[d, k] - bias)
    found = getattr(metrics, name)(table, top_k=(1, 2, 4))
    everything = med_by_loops(nats, None)
    assert float(found[name]) == pytest.approx(everything[0], abs=1e-9)
    assert float(found[f"{name}_completeness"]) == pytest.approx(everything[1], abs=1e-9)
    for k in (1, 2, 4):
        one, other, kept = med_by_loops(nats, k)
        assert float(found[f"{name}_top_k"].sel(top_k=k)) == pytest.approx(one, abs=1e-9)
        assert float(found[f"{name}_top_k_completeness"].sel(top_k=k)) == pytest.approx(other)
        assert np.flatnonzero(found[f"{name}_kept"].sel(top_k=k)).tolist() == kept


def test_the_bias_of_codes_that_tell_nothing():
    """(B - 1)(S - 1) / 2N of the plug-in estimate; Miller and Madow take off as much."""
    source = np.random.RandomState(0)
    factors = independent_factors(source, 2_000, (6,) * 200)
    codes = source.uniform(size=(2_000, 1))
    table = metrics.from_arrays(codes, factors)
    found = information.code_information(table)
    # 12 seeds: 0.02406 (0.00022) beside 0.02375, which is its term of first order.
    assert found.nats.mean() == pytest.approx(19 * 5 / 4_000, abs=0.0015)
    np.testing.assert_allclose(found.bias, 19 * 5 / 4_000)


def test_bins_are_numpys():
    source = np.random.default_rng(1)
    codes = np.stack(
        [source.normal(size=500), source.integers(0, 21, 500), 1e6 + source.uniform(size=500)], 1
    )
    table = metrics.from_arrays(codes, np.zeros((500, 1), int))
    np.testing.assert_array_equal(information.binned_codes(table).values.T, cut(codes, 20))


def test_what_several_metrics_need_is_made_once(monkeypatch):
    codes, factors = drawn()
    table = metrics.from_arrays(codes, factors)
    calls = []
    original = information.information_between
    monkeypatch.setattr(
        information, "information_between", lambda *a: calls.append(1) or original(*a)
    )
    for metric in (metrics.mig, metrics.modularity, metrics.med, metrics.med_miller_madow):
        metric(table)
    assert len(calls) == 1
    assert metrics.mig(table, bins=5).mig.attrs["bins"] == 5
    assert len(calls) == 2


@pytest.mark.parametrize("metric", ["mutual_information", "mig", "modularity", "med"])
def test_bins_that_cannot_be(metric):
    table = metrics.from_arrays(*drawn())
    with pytest.raises(ValueError, match="bins is 1, expected at least 2"):
        getattr(metrics, metric)(table, bins=1)


def test_numbers_of_codes_that_cannot_be_kept():
    with pytest.raises(ValueError, match="top_k is 0, expected at least 1"):
        metrics.med(metrics.from_arrays(*drawn()), top_k=(1, 0))
    with pytest.raises(ValueError, match=r"top_k is 1, expected whole numbers, such as \(1, 2\)"):
        metrics.med(metrics.from_arrays(*drawn()), top_k=1)
