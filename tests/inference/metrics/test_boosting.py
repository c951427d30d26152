"""Boosted trees equal scikit-learn's, and every split is the best there is."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier

from ppl_models.inference.metrics.disentanglement.boosting import CLOSE, RATE, boosted, presorted


def rows(kind: str, count: int = 800, dims: int = 5):
    """Codes and what tells classes apart; with 800 rows no two splits are equally good."""
    draw = np.random.default_rng(3)
    codes = draw.normal(size=(count, dims))
    if kind == "discrete":
        codes = np.round(codes)
    elif kind == "tied":
        codes = np.round(codes, 1)
    elif kind == "constant":
        codes[:, [0, 3]] = 0, 1.5
    elif kind == "mixed":
        codes[:, ::2] = np.round(codes[:, ::2])
    elif kind == "small":
        codes *= 2e-6  # values are close to the width that is not split
    scale = codes / np.maximum(codes.std(0), 1e-12)
    told = scale[:, 1] + 0.5 * scale[:, 2] - 0.4 * scale[:, 4] * scale[:, 1]
    return codes, told + 0.5 * draw.normal(size=count)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("kind", ["continuous", "discrete", "tied", "constant", "mixed"])
def test_equal_to_scikit_learn(kind, classes, dtype):
    codes, told = rows(kind)
    codes = codes.astype(dtype)
    labels = 3 + 2 * np.digitize(told, np.linspace(-1, 1, classes - 1))
    rounds = 4
    theirs = GradientBoostingClassifier(n_estimators=rounds, random_state=0).fit(codes, labels)
    ours = boosted(presorted(codes), labels, np.random.default_rng(0), rounds)
    staged = list(theirs.staged_decision_function(codes))
    for stage in (1, rounds):
        fewer = boosted(presorted(codes), labels, np.random.default_rng(0), stage)
        of_stage = np.reshape(staged[stage - 1], fewer.fitted.shape)
        np.testing.assert_allclose(fewer.fitted, of_stage, atol=1e-10)
        np.testing.assert_allclose(fewer.scores(codes), fewer.fitted, atol=1e-12)
    # of 10 random states of scikit-learn 1e-14 apart
    np.testing.assert_allclose(ours.importance, theirs.feature_importances_, atol=1e-10)
    np.testing.assert_allclose(ours.probabilities(codes), theirs.predict_proba(codes), atol=1e-10)
    assert (ours.predict(codes) == theirs.predict(codes)).all()
    assert (ours.predict_fitted() == theirs.predict(codes)).all()


def test_new_rows_are_told_as_by_scikit_learn():
    codes, told = rows("continuous")
    labels = np.digitize(told, [-0.7, 0.7])
    theirs = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(codes, labels)
    ours = boosted(presorted(codes), labels, np.random.default_rng(0), 10)
    asked = np.random.default_rng(4).normal(size=(200, 5))
    np.testing.assert_allclose(ours.scores(asked), theirs.decision_function(asked), atol=1e-10)


def best_gain(codes, gradient):
    """By brute force: every cut of every code, between values that are far enough apart."""
    best = -1.0
    for column in codes.T:
        order = np.argsort(column, kind="stable")
        values, g = column[order], gradient[order] - gradient.mean()
        for n in range(1, len(g)):
            if values[n] > values[n - 1] + CLOSE:
                left, right = g[:n], g[n:]
                best = max(best, len(left) * left.mean() ** 2 + len(right) * right.mean() ** 2)
    return best


@pytest.mark.parametrize("kind", ["continuous", "tied", "mixed", "small"])
def test_every_split_is_the_best_and_every_leaf_a_newton_step(kind):
    codes, told = rows(kind, 120, 5)
    labels = np.digitize(told, [-0.7, 0.7])
    rounds, single = 2, codes.astype(np.float32)
    ours = boosted(presorted(codes), labels, np.random.default_rng(0), rounds)
    scores, gains = np.tile(ours.prior, (len(codes), 1)), np.zeros(codes.shape[1])
    for at in range(rounds):
        p = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
        for tree in range(3):
            gradient = (labels == tree) - p[:, tree]
            inside = {0: np.arange(len(codes))}
            for node in range(7):
                here, code = inside[node], ours.code[at, tree, node]
                right = single[here, code] > ours.threshold[at, tree, node]
                inside[2 * node + 1], inside[2 * node + 2] = here[~right], here[right]
                if not right.any():  # not split: pure, of one row, or of equal rows
                    if len(here) > 1 and gradient[here].var() > 1e-15:
                        assert best_gain(single[here], gradient[here]) == -1
                    continue
                g = gradient[here] - gradient[here].mean()
                gain = sum(side.size * side.mean() ** 2 for side in (g[~right], g[right]))
                assert gain == pytest.approx(best_gain(single[here], gradient[here]), rel=1e-9)
                gains[code] += gain
            for leaf in range(8):
                here = inside[7 + leaf]
                if len(here):
                    curve = (p[here, tree] * (1 - p[here, tree])).sum()
                    value = RATE * 2 / 3 * gradient[here].sum() / curve
                    assert ours.leaf[at, tree, leaf] == pytest.approx(value, rel=1e-9, abs=1e-12)
        for tree in range(3):
            node = np.zeros(len(codes), int)
            for _ in range(3):
                asked = single[np.arange(len(codes)), ours.code[at, tree, node]]
                node = 2 * node + 1 + (asked > ours.threshold[at, tree, node])
            scores[:, tree] += ours.leaf[at, tree, node - 7]
    np.testing.assert_allclose(ours.fitted, scores, atol=1e-12)
    np.testing.assert_allclose(ours.importance, gains / gains.sum(), atol=1e-12)


def test_neighbours_in_single_precision_are_split():
    """Above 2 they are further apart than 1e-7, and their middle rounds to one of them."""
    step = np.random.default_rng(5).integers(0, 300, 800)
    codes = (2 + step * 2 * np.finfo(np.float32).eps).astype(np.float32)[:, None]
    labels = (np.sin(step / 20) + np.random.default_rng(6).normal(size=800) > 0).astype(int)
    theirs = GradientBoostingClassifier(n_estimators=10, random_state=0).fit(codes, labels)
    ours = boosted(presorted(codes), labels, np.random.default_rng(0), 10)
    scores = theirs.decision_function(codes)
    np.testing.assert_allclose(ours.fitted.ravel(), scores, atol=1e-10)
    np.testing.assert_allclose(ours.scores(codes).ravel(), scores, atol=1e-10)


def test_constant_codes_are_never_split():
    codes, labels = np.full((40, 2), 1.5), np.arange(40) % 3
    codes[:, 1] += np.linspace(0, 5e-8, 40)  # within what is not split
    ours = boosted(presorted(codes), labels, np.random.default_rng(0), 3)
    assert ours.importance.tolist() == [0, 0]
    theirs = GradientBoostingClassifier(n_estimators=3).fit(codes, labels)
    assert theirs.feature_importances_.tolist() == [0, 0]
    np.testing.assert_allclose(ours.probabilities(codes), theirs.predict_proba(codes), atol=1e-12)


def test_equal_codes_share_what_they_tell_by_the_seed():
    codes, told = rows("continuous")
    codes, labels = np.repeat(codes[:, 1:2], 2, 1), np.digitize(told, [0.0])
    codes[:, 1] *= 3
    runs = [boosted(presorted(codes), labels, np.random.default_rng(s), 30) for s in (0, 0, 1)]
    shares = [run.importance for run in runs]
    assert shares[0].tolist() == shares[1].tolist() != shares[2].tolist()
    assert all(0.1 < share[0] < 0.9 for share in shares)
    np.testing.assert_allclose(runs[0].fitted, runs[2].fitted, atol=1e-9)


def test_one_class_is_refused():
    with pytest.raises(ValueError, match="labels are all 4, expected two classes or more"):
        boosted(presorted(np.ones((3, 1))), np.full(3, 4), np.random.default_rng(0))
