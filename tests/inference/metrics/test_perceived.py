"""Distances that losses perceive: closed forms of squares, loops over pairs, a picture of them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
from scipy.stats import spearmanr

from ppl_models import data
from ppl_models.data.factors.grid import FactorData
from ppl_models.inference import metrics, plots

matplotlib.use("Agg")


VALUES = np.array([0.0, 0.1, 0.3, 0.35, 1.0], np.float32)


def line(cells=None):
    """A pixel of five greys, and a second factor that does not show."""

    def draw(classes, generator):
        return {"x": VALUES[classes[:, :1], None]}

    greys = tuple(map(float, VALUES))
    return FactorData("line", {"grey": greys, "hidden": (0.0, 1.0)}, draw, cells=cells)


def absolute(made, image):
    return (made - image).abs().sum((1, 2, 3))


@pytest.mark.parametrize("spacing", [8, 4, 1])
def test_squares_differ_in_the_pixels_that_they_do_not_share(spacing) -> None:
    report = metrics.perceived_distances(data.factor_data("xysquare", spacing=spacing), "mse", 3)
    apart = [2 * 8 * min(8, spacing * step) for step in range(1, 8)]
    for factor in ("x_place", "y_place"):
        found = report.distance.sel(factor=factor).values
        assert np.isnan(found[0]) and found[1:].tolist() == apart
    ranks = report.factor_spearman.values
    if spacing == 8:
        assert np.isnan(ranks).all() and float(report.spearman) < 0.5
    elif spacing == 1:
        assert ranks == pytest.approx(1) and float(report.spearman) > 0.9


def test_the_overlap_loss_finds_near_squares_near() -> None:
    squares = data.factor_data("xysquare")
    report = metrics.perceived_distances(squares, "overlap", 2, pairs=200)
    assert (np.diff(report.distance.values[:, 1:], axis=1) > 0).all()
    assert (report.factor_spearman > 0.9).all() and float(report.spearman) > 0.85


def test_losses_are_those_of_a_loop_over_pairs_of_cells_that_exist() -> None:
    """No cell has the fourth grey, and one of the hidden factor's two is missing at another."""
    report = metrics.perceived_distances(line(np.array([0, 1, 2, 4, 5, 8, 9])), absolute, 6)
    by_step = {}
    for a, b in ((0, 1), (0, 2), (0, 4), (1, 2), (1, 4), (2, 4)):
        by_step.setdefault(b - a, []).append(float(VALUES[b] - VALUES[a]))
    whole = line(np.array([0, 2, 4, 8]))  # hidden is 0 throughout
    found = metrics.perceived_distances(whole, absolute, 3).distance.sel(factor="grey").values
    expected = [np.mean(by_step[k]) if k in by_step else np.nan for k in range(5)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    pairs = [(k, v) for k, values in by_step.items() for v in values]
    rank = float(metrics.perceived_distances(whole, absolute, 3).factor_spearman[0])
    assert rank == pytest.approx(spearmanr(*zip(*pairs, strict=True))[0])
    assert float(report.distance.sel(factor="hidden", steps=1)) == 0
    assert np.isnan(report.distance.sel(factor="hidden", steps=slice(2, None))).all()
    assert np.isnan(float(report.factor_spearman.sel(factor="hidden")))
    assert report.attrs["loss"] == "absolute" and report.attrs["data"] == "line"


def test_the_cross_entropy_is_of_the_first_image_as_the_others_reconstruction() -> None:
    few = line(np.array([2, 4]))  # greys 0.1 and 0.3
    found = metrics.perceived_distances(few, "bce", 1).distance.sel(factor="grey", steps=1)
    assert float(found) == pytest.approx(-(0.3 * np.log(0.1) + 0.7 * np.log(0.9)), rel=1e-6)
    black = metrics.perceived_distances(line(np.array([0, 8])), "bce", 1)
    assert float(black.distance.sel(factor="grey", steps=4)) == 100


def test_each_factor_has_its_line() -> None:
    report = metrics.perceived_distances(line(), "mse", 2)
    ax = plots.perceived_distances(report)
    assert [line.get_label() for line in ax.lines] == [
        f"grey, {float(report.factor_spearman[0]):.2f}", "hidden, nan",
    ]  # fmt: skip
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 3, 4]
    np.testing.assert_allclose(ax.lines[0].get_ydata(), report.distance.values[0, 1:])
    assert ax.get_xlabel() == "steps of the factor" and "mse" in ax.get_ylabel()
    with pytest.raises(ValueError, match=r"the report has \['spearman'\], expected what"):
        plots.perceived_distances(report[["spearman"]])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"loss": "mae"}, "unknown loss 'mae'"),
        ({"traversals": 0}, "traversals is 0, expected at least 1"),
        ({"pairs": 2}, "pairs is 2, expected at least 3"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_what_is_out_of_range_is_refused(options, words) -> None:
    with pytest.raises(ValueError, match=words):
        metrics.perceived_distances(line(), **options)
