"""Distances that losses perceive: closed forms of squares, loops over pairs, a picture of them."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from ppl_models import data
from ppl_models.data.factors.grid import FactorData
from ppl_models.inference import metrics, plots

matplotlib.use("Agg")


def dots(cells=None, noise=False):
    """One lit pixel of 6 that moves, in one of two greys, on noise."""

    def draw(classes, generator):
        x = np.zeros((len(classes), 6, 1), np.float32)
        x[np.arange(len(classes)), classes[:, 1]] = (0.5 + 0.5 * classes[:, :1])[:, :, None][:, 0]
        return {"x": x}

    return FactorData("dots", {"grey": (0.5, 1.0), "place": tuple(map(float, range(6)))}, draw,
                      cells=cells)  # fmt: skip


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
    """The cell (grey 1, place 3) does not exist."""
    kept = np.array([n for n in range(12) if n != 9])
    factors = dots(kept)

    def entropy(made, image):
        made = made.clamp(1e-38, 1)
        logs = image * made.log().clamp(-100) + (1 - image) * (1 - made).log().clamp(-100)
        return -logs.sum((1, 2, 3))

    for loss, function in (("bce", entropy), (entropy, entropy)):
        report = metrics.perceived_distances(factors, loss, traversals=200, pairs=4, seed=5)
        draw = np.random.default_rng(0)
        grey = factors.render(np.array([[0, 0], [1, 0]]), draw)[..., None]
        expected = function(*torch.from_numpy(grey).split(1))
        assert float(report.distance.sel(factor="grey", steps=1)) == pytest.approx(float(expected))
        pairs = []  # of both greys, in which the traversals begin as often as cells exist
        for shade, places in ((0, range(6)), (1, (0, 1, 2, 4, 5))):
            for a in places:
                for b in (p for p in places if p > a):
                    x = torch.from_numpy(factors.render(np.array([[shade, a], [shade, b]]), draw))
                    pairs.append((shade, b - a, float(function(*x[..., None].split(1)))))
        for step in range(1, 6):
            means = [np.mean([v for s, k, v in pairs if (s, k) == (shade, step)]) for shade in (0, 1)]
            found = float(report.distance.sel(factor="place", steps=step))
            assert min(means) - 1e-3 <= found <= max(means) + 1e-3
    own = metrics.perceived_distances(factors, lambda made, image: image.flatten(1)[:, 0] + 1)
    assert own.attrs["loss"] == "<lambda>" and own.attrs["data"] == "dots"


def test_the_rank_correlation_is_that_of_steps_and_losses() -> None:
    report = metrics.perceived_distances(
        dots(), lambda made, image: (image.argmax(1) - made.argmax(1)).flatten().float() ** 3, 5
    )
    assert float(report.factor_spearman.sel(factor="place")) == pytest.approx(1)
    assert np.isnan(float(report.factor_spearman.sel(factor="grey")))
    steps, losses = zip(*[(b - a, float(b + a)) for a in range(6) for b in range(a + 1, 6)],
                        strict=True)  # fmt: skip
    report = metrics.perceived_distances(
        dots(), lambda made, image: (image.argmax(1) + made.argmax(1)).flatten().float(), 1
    )
    found = float(report.factor_spearman.sel(factor="place"))
    assert found == pytest.approx(spearmanr(steps, losses)[0])


def test_each_factor_has_its_line() -> None:
    report = metrics.perceived_distances(dots(), "mse", 2)
    ax = plots.perceived_distances(report)
    assert [line.get_label() for line in ax.lines] == ["grey, nan", "place, nan"]
    assert ax.lines[1].get_xdata().tolist() == [1, 2, 3, 4, 5]
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
        metrics.perceived_distances(dots(), **options)
