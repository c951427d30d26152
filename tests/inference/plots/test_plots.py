"""Plots: what their axes hold is what the run and the posterior hold."""

from __future__ import annotations

import arviz as az
import matplotlib
import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import confusion_matrix
from torch.distributions import constraints
from worlds import inner_plates
from worlds.exact_guides import exact, table_of

from ppl_models import inference
from ppl_models.inference import plots
from ppl_models.inference.diagnostics import calibration, row_scores
from ppl_models.inference.plots.fit_checks import scalars
from ppl_models.inference.plots.kernel_density import kernel_density
from ppl_models.inference.plots.samples import images
from ppl_models.inference.plots.traversals import _inside
from ppl_models.inference.posterior.export import posterior
from ppl_models.inference.posterior.groups import groups_of, with_groups
from ppl_models.spherical import sphere

matplotlib.use("Agg")


@pytest.fixture(autouse=True)
def closed():
    yield
    matplotlib.pyplot.close("all")


@pytest.fixture(scope="module")
def world():
    """An exact guide, 60 rows, a curve of two stages."""
    pair = exact()
    history = {"step": [0, 10, 20, 30], "stage": [0, 0, 1, 1], "loss": [9.0, 8.0, 5.0, 4.0],
               "seconds": [0.0, 1.0, 2.0, 3.0]}  # fmt: skip
    run = inference.Run(pair, "test", history=history, validation={"step": [5], "loss": [7.0]})
    return run, run.posterior(table_of(pair, 60), draws=100, prior_draws=300)


def lines(ax):
    return [line.get_xydata() for line in ax.get_lines()]


def test_training_curve_is_the_history(world):
    run, idata = world
    curve, checked = lines(plots.training_curve(run, stage=1))
    np.testing.assert_array_equal(curve, [[20, 5], [30, 4]])
    np.testing.assert_array_equal(checked, [[5, 7]])
    curve, end = lines(plots.training_curve(idata))
    np.testing.assert_array_equal(curve[:, 1], run.history["loss"])
    assert set(end[:, 0]) == {10}  # the last step of the first stage
    with pytest.raises(ValueError, match=r"stage is 2, expected one of \[0, 1\]"):
        plots.training_curve(run, stage=2)


@pytest.mark.parametrize(
    "parts",
    [
        {"bound": [8.0, 7.0, 4.0, 3.5]},
        {"bound": [8.0, 7.0, 4.0, 3.5], "distillation": [1.0, 1.0, 1.0, 0.5]},
        {"estimate": [8.0, 7.0, 4.0, 3.5], "hinge(y)": [np.nan, np.nan, 1.0, 0.5]},
    ],
)
@pytest.mark.parametrize("stage", [None, 0, 1])
def test_parts_of_the_loss_are_drawn_by_name(world, parts, stage):
    run = inference.Run(world[0].pair, "test", history={**world[0].history, **parts})
    idata = run.posterior(table_of(run.pair, 5), draws=5, prior_draws=0)
    at = slice(None) if stage is None else slice(2 * stage, 2 * stage + 2)
    for source in (run, idata):
        figure = plots.training_curve(source, stage).figure
        drawn = {
            line.get_label(): line.get_xydata() for ax in figure.axes for line in ax.get_lines()
        }
        told = {n: np.array(v)[at] for n, v in {"training": run.history["loss"], **parts}.items()}
        told = {n: v[~np.isnan(v)] for n, v in told.items() if not np.isnan(v).all()}
        if set(told) <= {"training", "bound", "estimate"}:  # the loss itself
            told = {"training": told["training"]}
        assert {name for name in drawn if not name.startswith("_")} == set(told)
        for name, values in told.items():
            np.testing.assert_array_equal(drawn[name][:, 1], values)
        legend = figure.axes[0].get_legend()
        assert [t.get_text() for t in legend.get_texts()] == list(told) if len(told) > 1 else True


def test_khat_is_sorted_and_has_the_threshold(world):
    shapes = np.where(np.arange(60) < 5, -np.inf, np.linspace(1, -0.2, 60))
    judged = groups_of(world[1])["diagnostics"].assign(khat=("datum", shapes))
    ax = plots.khat(with_groups(world[1], diagnostics=judged))
    drawn = np.ma.filled(ax.collections[0].get_offsets()[:, 1], np.nan)
    assert np.isnan(drawn[:5]).all()  # constant weights
    np.testing.assert_allclose(drawn[5:], np.sort(shapes[5:]))
    assert set(lines(ax)[0][:, 1]) == {0.5}  # min(1 - 1/log10(100), 0.7)


def test_confusion_is_that_of_sklearn(world):
    idata = world[1]
    probs = idata.variational["y_probs"].values
    counts = confusion_matrix(idata.constant_data["y_true"], probs.argmax(1), labels=range(4))
    ax = plots.confusion(idata)
    np.testing.assert_allclose(ax.images[0].get_array() ** 2, counts)
    shown = {t.get_position()[::-1]: int(t.get_text()) for t in ax.texts}
    assert shown == {place: n for place, n in np.ndenumerate(counts) if n}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["a", "b", "c", "d"]


def test_reliability_and_calibration_are_those_of_the_bins(world):
    found = row_scores.labels(world[1])
    told = calibration.calibration_error(found.probs, found.truth, simulations=10)
    assert row_scores.calibration(found).mean() == pytest.approx(float(told["ece"]), abs=1e-12)
    dots = plots.reliability(world[1]).collections[-1].get_offsets()
    full = told["share"].values > 0
    np.testing.assert_allclose(dots[:, 0], told["bin_confidence"].values[full])
    np.testing.assert_allclose(dots[:, 1], told["bin_accuracy"].values[full])


def test_vectors_are_bands_of_the_draws(world):
    idata = world[1]
    data = idata.observed_data["x"].values
    ax = plots.reconstructions(idata, rows=[7, 3])
    median, dots = lines(ax)[:2]
    spread = data.std(0)
    np.testing.assert_allclose(dots[:, 1] * spread + data.mean(0), data[7])
    draws = idata.posterior_predictive["x"].values[0, :, 7]
    np.testing.assert_allclose(median[:, 1] * spread + data.mean(0), np.median(draws, 0))
    assert ax.get_legend().get_texts()[0].get_text() == "row 107"
    real, made = lines(plots.predictive(idata, "prior"))
    np.testing.assert_allclose(real[:, 1] * spread + data.mean(0), np.median(data, 0), atol=1e-12)
    prior = idata.prior_predictive["x"].values[0]
    np.testing.assert_allclose(made[:, 1] * spread + data.mean(0), np.median(prior, 0))
    with pytest.raises(
        ValueError, match=r"row 60 is not in the posterior, expected positions in 0\.\.59"
    ):
        plots.reconstructions(idata, rows=[60])
    with pytest.raises(ValueError, match=r"truth values of shape \(2,\), expected \(60,\)"):
        plots.reconstructions(idata, rows=[True, False])


def test_densities_are_those_of_the_draws_and_of_the_data(world):
    idata = world[1]
    ax = plots.density(idata)
    *draws, together, data = lines(ax)
    assert len(draws) == 50
    drawn = idata.posterior_predictive["x"].values[0]
    shown = drawn[np.linspace(0, 99, 50).astype(int)]
    for line, values in ((draws[0], drawn[0]), (draws[-1], drawn[-1]), (together, shown),
                         (data, idata.observed_data["x"].values)):  # fmt: skip
        place, height = line.T
        assert place[0] - values.min() == pytest.approx((place[1] - place[0]) / 2)
        assert height.sum() * (place[1] - place[0]) == pytest.approx(1)
        # Kernels of width 0.4 move a share of about 0.02 over a point, and some draws more.
        below = [height[place < at].sum() * (place[1] - place[0]) for at in (-1, 0, 1)]
        np.testing.assert_allclose(below, [(values < at).mean() for at in (-1, 0, 1)], atol=0.04)
    assert ax.get_xlabel() == "x"
    words = [text.get_text() for text in ax.get_legend().get_texts()]
    assert words == ["draws", "draws together", "data"]


def test_densities_are_those_of_scipy_inside():
    values = np.random.default_rng(0).normal(3, 2, size=(40, 50))
    place, height = kernel_density(values)
    width = 0.9 * min(values.std(), stats.iqr(values) / 1.34) * values.size**-0.2
    theirs = stats.gaussian_kde(values.ravel(), width / values.std(ddof=1))(place)
    inside = (place > place[0] + 4 * width) & (place < place[-1] - 4 * width)
    assert inside.mean() > 0.5
    # A number lies anywhere in its bin: an error of variance bin^2 / 12 in a kernel's place, by
    # the kernel's slope, whose square integrates to 1 / (4 sqrt(pi) width^3).
    bins = (place[1] - place[0]) ** 2 / 12
    error = np.sqrt(theirs.max() / values.size * bins / (4 * np.sqrt(np.pi) * width**3))
    np.testing.assert_allclose(height[inside], theirs[inside], rtol=0, atol=4.5 * error)


@pytest.mark.parametrize("values", [[5.0, 5.0], [5.0, np.nan, np.inf], [1e8, 1e8 + 1e-8 * 2]])
def test_densities_of_numbers_that_hardly_differ(values):
    _, height = kernel_density(np.array(values))
    finite = np.array(values)[np.isfinite(values)]
    assert height.mean() * (np.ptp(finite) or 1) == pytest.approx(1)
    assert kernel_density(np.array([np.nan]))[0].size == 0


def test_images_stand_where_their_ticks_are(world):
    seen = groups_of(world[1])["observed_data"]
    seen = seen.assign(x=(("datum", "x_dim"), np.linspace(0, 1, 180).reshape(60, 3)))
    idata = with_groups(world[1], observed_data=seen)
    idata.attrs = {**idata.attrs, "x_shape": [1, 3]}
    ax = plots.reconstructions(idata, rows=[5, 50], draws=1)
    page = ax.images[0].get_array()
    assert page.shape == (3 * 2 + 1, 2 * 4 + 1, 3)
    assert [t.get_text() for t in ax.get_yticklabels()] == ["data", "mean", "draw"]
    across = int(ax.get_xticks()[1])  # the middle pixel of the second row's image
    seen = page[int(ax.get_yticks()[0]), across - 1 : across + 2, 0]
    np.testing.assert_array_equal(seen, np.rint(255 * idata.observed_data["x"].values[50]))
    draws = idata.posterior_predictive["x"].values[0, :, 50].mean(0).clip(0, 1)
    mean = page[int(ax.get_yticks()[1]), across - 1 : across + 2, 0]
    np.testing.assert_array_equal(mean, np.rint(255 * draws))
    assert images(np.zeros((5, 24)), (2, 4, 3)).shape == (5, 2, 4, 3)
    assert images(np.zeros((5, 24)), (2, 3, 4)).shape == (5, 6, 4)  # a set of two
    bands = np.arange(24.0).reshape(1, 24)  # more channels than a screen has: their mean
    assert images(bands, (3, 4, 2))[0].tolist() == (bands.reshape(3, 4, 2).mean(-1)).tolist()
    assert images(bands, (4, 6, 1))[0].tolist() == bands.reshape(4, 6).tolist()


def test_traversal_moves_data_as_the_model_says(world):
    """x = A z + m_y: moving z from one end to the other moves the mean of x along A."""
    run, idata = world
    ax = plots.traversal(run.pair, idata, dims=[1, 0])
    z = idata.posterior["z"].values.reshape(-1, 2)
    ends = np.quantile(z, (0.025, 0.975), axis=0)
    A = run.pair.A.detach().numpy()
    data = idata.observed_data["x"].values
    change = (A * (ends[1] - ends[0])).T / data.std(0)
    np.testing.assert_allclose(ax.images[0].get_array(), change[[1, 0]], rtol=1e-6)
    ax = plots.traversal(run.pair, idata, "y")
    m = run.pair.means.detach().numpy()
    np.testing.assert_allclose(
        ax.images[0].get_array(), (m - m.mean(0)) / data.std(0), rtol=1e-6, atol=1e-9
    )
    for wrong, words in (
        ({"site": "w"}, "latent site 'w'"),
        ({"dims": [2]}, "dims has 2"),
        ({"row": 60}, "row is 60"),
        ({"data": "v"}, "data site 'v'"),
    ):
        with pytest.raises(ValueError, match=words):
            plots.traversal(run.pair, idata, **wrong)


def test_ranks_are_the_curves_and_name_those_that_fail():
    from worlds.exact_guides import FAULTS

    found = calibration.sbc(exact(FAULTS["narrow"]), 300)
    ax = plots.ranks(found)
    for curve, line in zip(found["ecdf"].values, lines(ax), strict=False):
        np.testing.assert_allclose(line[:, 1], curve - found["point"].values)
    failed = found["quantity"].values[~found["passed"].values]
    assert {"z[0]", "z[1]"} <= set(failed)
    assert [t.get_text() for t in ax.get_legend().get_texts()] == list(failed)


def test_trace_shows_the_numbers_that_mixed_worst():
    pair = exact()
    idata = inference.nuts(pair, table_of(pair, 2), draws=60, warmup=60, progress=False)
    posterior = groups_of(idata)["posterior"].copy(deep=True)
    posterior["z"][1, :, 1, 0] += 5  # a chain elsewhere
    idata = with_groups(idata, posterior=posterior)
    chosen = scalars(idata, 3)
    first = next(iter(chosen.data_vars))
    assert first == "z[datum 101, z_dim 0]"
    rhat = az.rhat(posterior[["z"]])["z"].values[1, 0]
    assert chosen[first].attrs["rhat"] == pytest.approx(rhat) and rhat > 1.5
    np.testing.assert_array_equal(chosen[first].values, idata.posterior["z"].values[:, :, 1, 0])
    axes = plots.trace(idata, 3)
    assert axes.shape == (3, 2)
    for drawn, chain in zip(lines(axes[0, 1]), chosen[first].values, strict=True):
        np.testing.assert_array_equal(drawn[:, 1], chain)
    for drawn, chain in zip(lines(axes[0, 0]), chosen[first].values, strict=True):
        np.testing.assert_array_equal(drawn, np.stack(kernel_density(chain), 1))
    assert axes[0, 0].get_title() == axes[0, 1].get_title() == first
    with pytest.raises(ValueError, match=r"ax has shape \(2, 2\), expected \(3, 2\)"):
        plots.trace(idata, 3, axes[:2])
    found = row_scores.labels(idata)
    np.testing.assert_allclose(found.probs, idata.posterior["y_probs"].values.mean((0, 1)))
    for plot in (plots.khat, plots.training_curve, plots.predictive):
        with pytest.raises(ValueError, match=r"this posterior has no"):
            plot(idata)


@pytest.mark.parametrize("entry", range(3))
@pytest.mark.parametrize("kind", ["direction", "shares", "number"])
def test_a_moved_entry_leaves_the_others_where_the_support_ends(kind, entry):
    """Directions keep length 1 and shares their sum; the others keep their proportions."""
    start = torch.tensor([0.6, 0.0, 0.8]) if kind == "direction" else torch.tensor([0.5, 0.2, 0.3])
    moved = start.repeat(5, 2, 1)
    low = -1.0 if kind == "direction" else 0.0
    moved[:, 1, entry] = torch.linspace(low, 1, 5)
    supports = {"direction": sphere, "shares": constraints.simplex, "number": constraints.real}
    found = _inside(constraints.independent(supports[kind], 1), moved, 3 + entry)
    assert torch.equal(found[:, 0], moved[:, 0])
    assert torch.equal(found[:, 1, entry], moved[:, 1, entry])
    if kind == "number":
        assert torch.equal(found, moved)
        return
    power = 2 if kind == "direction" else 1
    assert torch.allclose((found[:, 1].abs() ** power).sum(-1), torch.ones(5))
    others = [place for place in range(3) if place != entry]
    turned = found[:, 1, others[0]] * start[others[1]] - found[:, 1, others[1]] * start[others[0]]
    assert torch.allclose(turned, torch.zeros(5), atol=1e-6)


@pytest.mark.parametrize("site", ["c", "s", "z"])
def test_traversals_of_sets(site):
    """A label moves in all elements at once: the mean of each of them goes from b_0 to b_1."""
    pair, table = inner_plates.built(torch.float32, labels=True), inner_plates.table()
    idata = posterior(pair, table, draws=10, prior_draws=0)
    shown = plots.traversal(pair, idata, site).images[0].get_array()
    if site == "s":
        real = idata.observed_data.x.values
        ends = np.diff(np.array(shown), axis=0)[0] * (np.nanstd(real, 0) + 1e-12)
        np.testing.assert_allclose(ends, np.diff(inner_plates.SHIFTS)[0], rtol=1e-4)
