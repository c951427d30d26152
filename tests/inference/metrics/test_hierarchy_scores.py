"""Scores of codes of a hierarchy of factors, and the regression trees that they are made of."""

from __future__ import annotations

import functools

import numpy as np
import pytest
from scipy.stats import entropy
from sklearn.ensemble import GradientBoostingRegressor

from ppl_models.inference import metrics
from ppl_models.inference.metrics.disentanglement import hierarchy_scores, regression_trees
from ppl_models.inference.metrics.disentanglement.boosting import presorted
from ppl_models.inference.metrics.disentanglement.regression_trees import regressed

NAMES = ("parent", "size", "first", "second")
CHILDREN = ("first", "second")
SCORES = [
    f"hierarchical_dci_{kind}_{what}"
    for kind in ("child", "overall")
    for what in ("disentanglement", "completeness")
]


@pytest.fixture
def few_rounds(monkeypatch):
    """Trees of 4 rounds: what is asked does not depend on how many there are."""
    fewer = functools.partial(regression_trees.regressed, rounds=4)
    monkeypatch.setattr(hierarchy_scores, "regressed", fewer)


def hierarchy(seed: int = 0, rows: int = 300):
    """Factors ``(N, 4)``: two children about a parent, and a size; the parent has 4 values."""
    draw = np.random.default_rng(seed)
    parent, size = draw.integers(4, size=rows), draw.integers(3, size=rows)
    children = parent[:, None] + draw.integers(3, size=(rows, 2))
    return np.concatenate([parent[:, None], size[:, None], children], 1)


def table(codes, factors):
    return metrics.from_arrays(codes.astype(float), factors, factor_names=NAMES)


def mixed(seed: int = 0, rows: int = 300):
    """Four codes that mix the factors, with noise."""
    factors = hierarchy(seed, rows)
    mixing = np.random.default_rng(9).normal(size=(4, 4))
    noise = np.random.default_rng(seed + 1).normal(size=(rows, 4))
    return table(factors @ mixing + 0.3 * noise, factors)


@pytest.mark.parametrize("kind", ["continuous", "discrete"])
@pytest.mark.parametrize("numbers", [1, 2])
def test_trees_equal_scikit_learn(kind, numbers):
    draw = np.random.default_rng(0)
    codes = draw.uniform(-1, 1, size=(600, 4))
    if kind == "discrete":
        codes = np.round(3 * codes)
    told = codes[:, :numbers] + np.sin(3 * codes[:, 2:3]) + 0.2 * draw.normal(size=(600, numbers))
    asked = draw.uniform(-1, 1, size=(100, 4))
    ours = regressed(presorted(codes), told, np.random.default_rng(0), 4)
    gain = np.zeros(4)
    for column in range(numbers):
        theirs = GradientBoostingRegressor(n_estimators=4, random_state=0)
        theirs.fit(codes, told[:, column])
        for rows, found in ((codes, ours.fitted), (asked, ours.scores(asked))):
            np.testing.assert_allclose(found[:, column], theirs.predict(rows), atol=1e-10)
        trees = [tree.tree_ for tree in theirs.estimators_[:, 0]]
        gain += 600 * np.sum([t.compute_feature_importances(normalize=False) for t in trees], 0)
    np.testing.assert_allclose(ours.gain, gain, rtol=1e-8)
    assert ours.importance.sum() == pytest.approx(1)


LEFT = 0.81**4  # each round takes a tenth of the error, where a tree tells every value apart


def test_codes_that_are_the_factors_score_1(few_rounds):
    # independent, so that no code tells another factor
    grid = np.stack(np.meshgrid(*map(np.arange, (4, 3, 5, 4)), indexing="ij"), -1).reshape(-1, 4)
    found = metrics.hierarchical_dci(table(grid, grid), table(grid, grid), CHILDREN)
    np.testing.assert_allclose(found.hierarchical_dci_importance, np.eye(4), atol=1e-12)
    assert found.hierarchical_dci_child_code.values.tolist() == [0, 0, 1, 1]
    for name in SCORES:
        assert float(found[name]) == pytest.approx(1, abs=1e-8)
    np.testing.assert_allclose(found.hierarchical_dci_r2_test_per_factor, 1 - LEFT, atol=1e-12)
    assert float(found.hierarchical_dci_r2_train) == pytest.approx(1 - LEFT, abs=1e-12)
    assert found[SCORES[0]].attrs["children"] == "first, second"


def test_codes_of_the_other_factors_alone_are_no_child_codes(few_rounds):
    grid = np.stack(np.meshgrid(*map(np.arange, (4, 3, 5, 4)), indexing="ij"), -1).reshape(-1, 4)
    rows = table(grid[:, :2], grid)
    found = metrics.hierarchical_dci(rows, rows, CHILDREN)
    assert found.hierarchical_dci_child_code.values.tolist() == [0, 0]
    assert [float(found[name]) for name in SCORES[:2]] == [0, 0]
    assert [float(found[name]) for name in SCORES[2:]] == pytest.approx([1, 1], abs=1e-8)
    r2 = found.hierarchical_dci_r2_test_per_factor
    np.testing.assert_allclose(r2, [1 - LEFT, 1 - LEFT, 0, 0], atol=1e-12)


def test_scores_by_hand(few_rounds):
    found = metrics.hierarchical_dci(mixed(), mixed(5), CHILDREN)
    matrix = found.hierarchical_dci_importance.values
    np.testing.assert_allclose(matrix.sum(0), 1)
    child = matrix[:, 2:].max(1) >= matrix[:, :2].max(1)
    assert found.hierarchical_dci_child_code.values.tolist() == child.tolist()
    assert 2 <= child.sum() <= 3  # of both kinds there are codes; which, is the mixing's matter
    wanted = []
    for part in (matrix[child][:, 2:], matrix[~child][:, :2]):
        shares = part / part.sum()
        rows = [1 - entropy(row, base=2) for row in part]
        columns = [1 - entropy(column, base=len(part)) for column in part.T]
        wanted += [shares.sum(1) @ rows, shares.sum(0) @ columns]
    found_scores = [float(found[name]) for name in SCORES]
    np.testing.assert_allclose(found_scores, wanted, atol=1e-8)


def test_order_and_scale_of_codes_change_nothing(few_rounds):
    train, test = mixed(), mixed(5)
    order, by = np.array([2, 0, 3, 1]), np.array([4.0, -0.5, 1.0, 8.0])
    moved = [
        metrics.from_arrays(by * t.codes[:, order], t.factors, factor_names=NAMES)
        for t in (train, test)
    ]
    plain = metrics.hierarchical_dci(train, test, CHILDREN)
    other = metrics.hierarchical_dci(*moved, CHILDREN)
    for name in SCORES:
        assert float(other[name]) == pytest.approx(float(plain[name]), abs=1e-9)
    np.testing.assert_allclose(
        other.hierarchical_dci_importance, plain.hierarchical_dci_importance[order], atol=1e-9
    )


def test_a_hue_is_told_the_same_wherever_its_classes_begin(few_rounds):
    draw = np.random.default_rng(2)
    hue, size = draw.integers(8, size=400), draw.integers(3, size=400)
    angle = np.pi / 4 * (hue + draw.uniform(-0.4, 0.4, 400))
    codes = np.stack([np.cos(angle), np.sin(angle), size + 0.3 * draw.normal(size=400)], 1)
    circles, lines = [], []
    for turn in (0, 2):  # by 2 of 8, cosine and sine change places
        rows = metrics.from_arrays(codes, {"hue": (hue + turn) % 8, "size": size})
        circles.append(metrics.hierarchical_dci(rows, rows, ("hue",), {"hue": 8}))
        lines.append(metrics.hierarchical_dci(rows, rows, ("hue",)))
    for name in ("hierarchical_dci_importance", "hierarchical_dci_r2_test_per_factor"):
        np.testing.assert_allclose(circles[0][name], circles[1][name], atol=1e-9)
    importance = [of.hierarchical_dci_importance.values[0, 0] for of in lines]
    assert abs(importance[0] - importance[1]) > 0.3  # where the line is cut decides
    assert circles[0].hierarchical_dci_importance.attrs["periods"] == "hue 8"


def test_edge_cases(few_rounds):
    rows = mixed()
    constant = table(np.ones((300, 2)), rows.factors)
    found = metrics.hierarchical_dci(constant, constant, CHILDREN)
    assert not found.hierarchical_dci_importance.values.any()
    assert [float(found[name]) for name in SCORES] == pytest.approx([0] * 4, abs=1e-12)
    assert float(found.hierarchical_dci_r2_test) == pytest.approx(0, abs=1e-12)
    one = rows.with_codes(np.array([0]))
    found = metrics.hierarchical_dci(one, one, CHILDREN)
    # the code has all of R: a tie, so it is a child code
    assert found.hierarchical_dci_child_code.values.tolist() == [1]
    assert np.isnan(found[SCORES[1]]) and float(found[SCORES[0]]) == pytest.approx(0, abs=1e-8)
    same = rows.factors.copy()
    same[:, 2:] = 1
    found = metrics.hierarchical_dci(*[table(rows.codes, same)] * 2, CHILDREN)
    assert np.isnan([float(found[name]) for name in SCORES[:2]]).all()
    assert found.attrs["excluded_factors"] == "first, second"
    single = rows.with_factors(np.array([0, 2, 3]))
    found = metrics.hierarchical_dci(single, single, CHILDREN)
    assert np.isnan(found[SCORES[2]])  # of one factor


def test_trees_are_kept_with_the_table(few_rounds, monkeypatch):
    rows = mixed()
    first = metrics.hierarchical_dci(rows, rows, CHILDREN, seed=3)
    monkeypatch.setattr(hierarchy_scores, "regressed", lambda *a: pytest.fail("fitted again"))
    again = metrics.hierarchical_dci(rows, rows, ("first",), seed=3)
    assert (first.hierarchical_dci_importance == again.hierarchical_dci_importance).all()


@pytest.mark.parametrize(
    ("children", "options", "message"),
    [
        (("frist",), {}, "unknown child factor 'frist': did you mean 'first'"),
        ("first", {}, r"children is 'first', expected a tuple such as \('first',\)"),
        ((), {}, r"children are \(\), expected some of the factors parent, size"),
        (NAMES, {}, "expected some of the factors parent, size, first, second and not all"),
        (CHILDREN, {"periods": {"hue": 3}}, "unknown factor in periods 'hue'"),
        (CHILDREN, {"periods": {"size": 2.5}}, "the period of size is 2.5, expected a whole"),
        (CHILDREN, {"periods": {"size": 2}}, r"size has the class 2, expected 0..1 of a circle"),
        (CHILDREN, {"seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_asked_is_one_line(children, options, message):
    with pytest.raises(ValueError, match=message) as told:
        metrics.hierarchical_dci(mixed(), mixed(), children, **options)
    assert "\n" not in str(told.value)


def test_other_codes_are_refused():
    with pytest.raises(ValueError, match="the test table has 2 codes, expected 4"):
        metrics.hierarchical_dci(mixed(), mixed().with_codes(np.array([0, 1])), CHILDREN)
