r"""Whether a guide's posteriors are right on average: simulation-based calibration, and of labels.

**Simulation.** Latent values and data drawn from the model, and the guide asked for the latents
given the data: if its posteriors are exact, the rank of the true value of any quantity among the
guide's is uniform (Talts et al. 2018, arXiv 1804.06788). Ranks here are the randomised

.. math:: u = (\#\{f_s < f\} + V (\#\{f_s = f\} + 1)) / (S + 1), \quad V \sim U(0, 1),

over the S draws, exactly uniform for any S, ties and thus labels included. The quantities f are

- every entry of a code, and every label in the order of its classes;
- ``q(y)``, the guide's own probability of the label: sees labels that are too sure or too unsure
  whatever their order;
- ``log_joint``, the log joint density of latents and data: looks at the data, and so sees a guide
  that ignores them, which the others let pass (Modrák et al. 2023, arXiv 2211.02383).

Nothing is fitted again, because an amortised guide serves new rows as well as old ones. Rows of
the model are not the rows of a data set: a guide can be exact there and fail here, where the model
is wrong, which k-hat and the gaps tell.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import at_least, unknown
from ppl_models.covariates import empty
from ppl_models.data.tables.table import Table
from ppl_models.inference.diagnostics import uniform_bands
from ppl_models.inference.posterior.density import check_evidence
from ppl_models.inference.posterior.draws import draw_data, draw_guide, score
from ppl_models.inference.posterior.groups import Array, entry_name, host
from ppl_models.inference.posterior.prediction import label_probabilities
from ppl_models.inference.posterior.rows import Sites, conditioned, undisturbed
from ppl_models.inference.posterior.support import as_fitted
from ppl_models.inference.posterior.target import rows_at_a_time, rows_of, sites_of_rows
from ppl_models.pair import Pair

LEAST_ROWS = 20  # below which a curve has no shape
LEVELS = (0.5, 0.8, 0.9, 0.95)
BINS = 15  # of probabilities, for calibration errors


def sbc(
    pair: Pair,
    rows: int = 1000,
    *,
    draws: int = 100,
    given: Sequence[str] | None = None,
    covariates: Mapping[str, Any] | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> xr.Dataset:
    """Simulation-based calibration of the guide, labels included.

    Args:
        pair: The pair; its mode and parameters stay as they were.
        rows: Rows drawn from the model.
        draws: Draws of the guide for each.
        given: Sites to condition on, labels too if they are to be known; the card's data sites
            by default.
        covariates: Values that the rows are drawn at, by covariate: one for all, or those of some
            rows, of which random ones are taken.
        level: Probability with which an exact guide passes, all quantities together (at least;
            quantities are corrected for by Bonferroni).
        seed: Seed; the global random state stays as it was.

    Returns:
        Over ``quantity`` (``z[0]``, ``y``, ``q(y)``, ``log_joint``):

        - ``u`` (..., ``row``): the randomised ranks.
        - ``ecdf`` (..., ``point``), the share of them below each point, and ``low`` and ``high``
          (``point``), the bands that all curves stay in at once.
        - ``p_value`` of each curve, and ``passed``: whether it stays within the bands.
        - ``bias``: (mean of u - 1/2) in standard errors. Above 0 the guide's values are too low.
        - ``spread``: (variance about 1/2 - 1/12) in standard errors. Above 0 the guide is too
          narrow, below 0 too wide.
        - ``coverage`` (..., ``level``): share of rows whose true value the guide's central
          interval holds, with standard error ``coverage_error``.

        Attributes: ``passed`` (0 or 1, all quantities), ``level``, ``draws``, ``given``,
        ``seed``.

    Raises:
        ValueError: If an option is out of range, a site stands outside the data plate, or rows
            have no evidence, so that no posterior is there to be compared with.
    """
    rows, draws = at_least(rows=(rows, LEAST_ROWS), draws=(draws, 1))
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, expected a number between 0 and 1")
    with undisturbed(pair, seed), torch.no_grad():
        table, truth = simulated(pair, rows, given, covariates)
        check_evidence(pair, rows_of(table, pair))
        sites = sites_of_rows(pair, table)
        step = rows_at_a_time(pair, sites, sites.labels, draws)
        parts = [
            _ranks(pair, table.rows(block), sites, {n: v[block] for n, v in truth.items()}, draws)
            for block in torch.arange(rows).split(step)
        ]
    names = list(parts[0])
    u = np.stack([np.concatenate([part[name] for part in parts]) for name in names])
    found = _judged(u, level)
    found = found.assign_coords(quantity=names)
    given = ", ".join(table.sites)
    return found.assign_attrs(level=level, draws=draws, given=given, seed=seed)


def simulated(
    pair: Pair,
    rows: int,
    given: Sequence[str] | None = None,
    covariates: Mapping[str, Any] | None = None,
) -> tuple[Table, dict[str, Tensor]]:
    """Rows drawn from the model.

    Args:
        pair: The pair.
        rows: Their number.
        given: Sites that the table holds; the card's data sites by default.
        covariates: See :func:`ppl_models.covariates.empty`.

    Returns:
        The table, and the values ``(N, *event)`` of all other sites.

    Raises:
        ValueError: If the model has no such site, draws a value outside its own support, or has
            plates within its rows.
    """
    if pair.plate_nesting > 1:
        raise ValueError(
            f"{pair.card.name} has plates within its rows, which differ in number from row to "
            "row and are not ranked; expected a pair whose rows have the data plate alone"
        )
    known = empty(pair, rows, covariates)
    drawn = {name: value[0] for name, value in draw_data(pair.model, known, {}, 1).items()}
    names = tuple(pair.card.data) if given is None else tuple(given)
    for name in names:
        if name not in drawn:
            raise ValueError(f"{pair.card.name}: {unknown('site', name, drawn)}")
    sites = {**{name: drawn[name] for name in names}, **known}
    classes = {} if pair.schema is None else pair.schema.sites
    table = Table(
        f"{pair.card.name}/simulated",
        sites,
        classes={n: classes[n].classes for n in known if n in classes and classes[n].classes},
    )
    seen = conditioned(pair, table, names, torch.arange(rows))
    return seen, {name: value for name, value in drawn.items() if name not in names}


def _quantities(
    pair: Pair, batch: Batch, sites: Sites, values: dict[str, Tensor], probs: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Scalar functions ``(S, B)``, by name, of all latent values ``(S, B, *event)`` and data."""
    draws = len(next(iter(values.values())))
    found: dict[str, Tensor] = {}
    for name, site in sites.latents.items():
        value = site.stored(values[name]).expand(draws, batch.count, *site.shape)
        flat = value.reshape(draws, batch.count, -1)
        for entry in range(flat.shape[-1]):
            found[entry_name(name, site.shape, entry)] = flat[..., entry]
        if name in probs:
            table = probs[name].expand(draws, *probs[name].shape)
            found[f"q({name})"] = table.gather(-1, flat)[..., 0]
    found["log_joint"] = score(pair.model, batch, values, (), draws).marginal()
    return found


def _ranks(
    pair: Pair, table: Table, sites: Sites, truth: dict[str, Tensor], draws: int
) -> dict[str, Array]:
    batch = rows_of(table, pair)
    own = [name for name in sites.labels if name not in sites.guided]
    q = draw_guide(pair.guide, batch, sites, draws)
    values = dict(q.values)
    if own:
        places = score(pair.model, batch, values, own, draws).draw()
        values |= {name: sites.latents[name].values()[places[name]] for name in own}
    # Draws apart from those that are ranked: ranks among draws that made the yardstick are off.
    probs = draw_guide(pair.guide, batch, sites, draws).probs
    ours = _quantities(pair, batch, sites, values, probs)
    true = {name: truth[name][None] for name in sites.latents}
    theirs = _quantities(pair, batch, sites, true, probs)
    found = {}
    for name, value in ours.items():
        less = (value < theirs[name]).sum(0).double()
        equal = (value == theirs[name]).sum(0).double()
        noise = torch.rand_like(less)
        found[name] = host((less + noise * (equal + 1)) / (draws + 1))
    return found


def _judged(u: Array, level: float) -> xr.Dataset:
    count, rows = u.shape
    low, high = uniform_bands.band(rows, 1 - (1 - level) / count)
    below = uniform_bands.below(u)
    passed = ((below >= np.rint(low * rows)) & (below <= np.rint(high * rows))).all(-1)
    off = u - 0.5
    levels = np.array(LEVELS)
    coverage = (2 * np.abs(off)[..., None] <= levels).mean(1)
    data = {
        "u": (("quantity", "row"), u),
        "ecdf": (("quantity", "point"), below / rows),
        "low": (("point",), low),
        "high": (("point",), high),
        "p_value": (("quantity",), uniform_bands.p_value(u)),
        "passed": (("quantity",), passed),
        "bias": (("quantity",), off.mean(1) * math.sqrt(12 * rows)),
        "spread": (("quantity",), ((off**2).mean(1) - 1 / 12) * math.sqrt(180 * rows)),
        "coverage": (("quantity", "level"), coverage),
        "coverage_error": (("level",), np.sqrt(levels * (1 - levels) / rows)),
    }
    coords = {"point": uniform_bands.points(rows), "level": levels}
    return xr.Dataset(data, coords, {"passed": int(passed.all())})


# ---- labels of real rows ------------------------------------------------------------------


def label_calibration(
    pair: Pair,
    table: Table,
    site: str = "y",
    *,
    particles: int = 0,
    bins: int = BINS,
    simulations: int = 1000,
    seed: int = 0,
) -> xr.Dataset:
    """Whether the probabilities of labels are right, on rows whose labels are known.

    Args:
        pair: The pair.
        table: Rows; those in which the label is hidden are left out.
        site: The label site.
        particles: 0 asks q(y | x), a number the model, as in
            :func:`ppl_models.inference.label_probabilities`.
        bins: As for :func:`calibration_error`.
        simulations: As for :func:`calibration_error`.
        seed: Seed of the draws; the global random state stays as it was.

    Returns:
        As :func:`calibration_error`.

    Raises:
        ValueError: If an option is out of range, or no row's label is known.
    """
    known = as_fitted(pair, table).where_observed(site)
    probs = label_probabilities(pair, known, site, particles, seed)
    return calibration_error(
        host(probs), host(known.sites[site][:]), bins=bins, simulations=simulations, seed=seed
    )


def calibration_error(
    probs: Array, labels: Array, *, bins: int = BINS, simulations: int = 1000, seed: int = 0
) -> xr.Dataset:
    """Expected calibration error of label probabilities, and what chance alone would give.

    The error is the mean over rows of the distance between confidence (probability of the most
    probable label) and the share of right labels, in bins of equal width by confidence (Guo et
    al. 2017, arXiv 1706.04599). It is never zero on finitely many rows: it is compared with
    errors of labels that are drawn from the probabilities themselves (Bröcker and Smith 2007).

    Args:
        probs: ``(N, C)``, rows of sum one.
        labels: ``(N,)``, places among the C classes.
        bins: Number of bins.
        simulations: Sets of labels drawn.
        seed: Seed of those draws.

    Returns:
        Scalars ``ece``, ``by_chance`` (mean error of right probabilities), ``p_value``
        (probability that right probabilities have an error as large), ``accuracy``,
        ``confidence``, ``overconfidence`` (confidence - accuracy, in standard errors of the
        accuracy that the probabilities imply); over ``bin``: ``share`` of rows, mean
        ``bin_confidence`` and ``bin_accuracy`` (NaN where there is no row).

    Raises:
        ValueError: If shapes disagree, an option is out of range, or a row is no distribution.
    """
    bins, simulations = at_least(bins=(bins, 1), simulations=(simulations, 1))
    probs, labels = np.asarray(probs, dtype=np.float64), np.asarray(labels)
    if probs.ndim != 2 or labels.shape != probs.shape[:1] or not len(labels):
        raise ValueError(
            f"probs has shape {probs.shape} and labels {labels.shape}, expected (N, C) and (N,)"
        )
    bad = (abs(probs.sum(1) - 1) > 1e-3) | (probs < 0).any(1)
    if bad.any():
        row = int(bad.argmax())
        raise ValueError(f"probs sum to {probs[row].sum():g} in row {row}, expected 1")
    if ((labels < 0) | (labels >= probs.shape[1])).any():
        raise ValueError(f"labels lie in {labels.min()}..{labels.max()}, expected "
                         f"0..{probs.shape[1] - 1}")  # fmt: skip
    confidence, right = probs.max(1), probs.argmax(1) == labels
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    order = np.eye(bins)[place]  # (N, bins)
    rows = len(labels)

    def errors(hits: Array) -> Array:
        excess: Array = np.abs((hits - confidence) @ order).sum(-1) / rows
        return excess

    ece = float(errors(right[None].astype(float))[0])
    random = np.random.default_rng(seed)
    chance = np.concatenate(
        [errors((random.random((1, rows)) < confidence).astype(float)) for _ in range(simulations)]
    )
    count = order.sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        told = {
            "bin_confidence": confidence @ order / count,
            "bin_accuracy": right @ order / count,
        }
    implied = math.sqrt(float((confidence * (1 - confidence)).sum())) / rows
    over = float(confidence.mean() - right.mean())
    return xr.Dataset(
        {
            "ece": ece,
            "by_chance": chance.mean(),
            "p_value": (1 + (chance >= ece - 1e-12).sum()) / (1 + simulations),
            "accuracy": right.mean(),
            "confidence": confidence.mean(),
            "overconfidence": over / implied if implied else math.copysign(math.inf, over)
            if over else 0.0,
            "share": ("bin", count / rows),
            **{name: ("bin", value) for name, value in told.items()},
        },
        {"bin": (np.arange(bins) + 0.5) / bins},
    )  # fmt: skip
