"""Several posteriors of the same rows, side by side, with standard errors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import arviz as az
import numpy as np

from ppl_models.inference.diagnostics import row_scores
from ppl_models.inference.posterior.groups import Array, groups_of

# Scores of which the largest is best; of all others it is the smallest.
EVIDENCE, LOO = "log evidence", "LOO"
LARGEST = (EVIDENCE, LOO)
BAD_KHAT = 0.7


@dataclass(frozen=True)
class Score:
    """A mean over rows.

    Attributes:
        value: The mean.
        error: Its standard error.
        difference: The mean difference from the best posterior in this score; 0 for the best.
        difference_error: Its standard error, row against the same row.
    """

    value: float
    error: float
    difference: float
    difference_error: float


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found.

    Attributes:
        data: Where the rows are from.
        rows: Number of rows.
        scores: By name of the score, by posterior, in the order given; ``log evidence`` and
            ``LOO`` in nats per row, errors and calibration errors as shares of the rows.
        notes: What to keep in mind when reading them.
    """

    data: str
    rows: int
    scores: dict[str, dict[str, Score]]
    notes: list[str]

    def __str__(self) -> str:
        """A table of the scores, one of the differences from the best, and the notes."""
        names = list(dict.fromkeys(name for column in self.scores.values() for name in column))
        blocks = [f"{self.rows} rows of {self.data}, means and standard errors"]
        for title, parts in (
            ("", ("value", "error")),
            ("less the best", ("difference", "difference_error")),
        ):
            lines = [[title, *(_head(score) for score in self.scores)]]
            for name in names:
                cells = [name]
                for score, column in self.scores.items():
                    found = [getattr(column[name], part) for part in parts if name in column]
                    cells.append(_cell(score, *found) if found else "-")
                lines.append(cells)
            blocks.append(_table(lines))
        return "\n\n".join([*blocks, *self.notes])

    def plain(self) -> dict[str, Any]:
        """The same as values that JSON can hold."""
        return {
            "data": self.data,
            "rows": self.rows,
            "scores": {
                score: {name: vars(entry) for name, entry in column.items()}
                for score, column in self.scores.items()
            },
            "notes": self.notes,
        }


def compare(posteriors: Mapping[str, az.InferenceData]) -> Comparison:
    """Compare posteriors of the same rows.

    Args:
        posteriors: By name; each from ``run.posterior``, MCMC, or a file of theirs.

    Returns:
        ``log evidence`` (the bound log 1/S sum_s w_s, where there are weights), ``LOO``,
        ``error of y`` and ``calibration of y`` for each label with a known truth; see
        :mod:`ppl_models.inference.diagnostics.row_scores`. A posterior that lacks what a score
        needs is left out of that score.

    Raises:
        ValueError: If there are fewer than two, their rows, data or labels differ, or they
            share no score.
    """
    if len(posteriors) < 2:
        raise ValueError(f"got {len(posteriors)} posteriors, expected at least two to compare")
    names = list(posteriors)
    first = posteriors[names[0]]
    for name in names:
        _check_same(names[0], first, name, posteriors[name])
    if _numbers(first).size < 2:
        raise ValueError(f"{names[0]} is of one row, expected at least two for a standard error")
    rows: dict[str, dict[str, Array]] = {}
    notes = []
    for name, idata in posteriors.items():
        found, remarks = _rows(name, idata)
        for score, values in found.items():
            rows.setdefault(score, {})[name] = values
        notes += remarks
    if not rows:
        raise ValueError(
            f"{' and '.join(names)} have no score in common: neither weights, log-likelihoods "
            "nor labels with a known truth"
        )
    draws = {n: int(i.posterior.sizes["draw"]) for n, i in posteriors.items() if EVIDENCE in rows}
    if len({draws[n] for n in rows.get(EVIDENCE, {})}) > 1:
        counts = ", ".join(f"{n} {draws[n]}" for n in rows[EVIDENCE])
        notes.append(f"more draws make a higher bound of the evidence: {counts}")
    data = str(first.attrs.get("data", "unknown data"))
    if data.endswith("/train"):
        notes.append("these rows were trained on: nothing here is held out")
    table = {score: _scores(score, column) for score, column in rows.items()}
    return Comparison(data, _numbers(first).size, table, notes)


def _rows(name: str, idata: az.InferenceData) -> tuple[dict[str, Array], list[str]]:
    found: dict[str, Array] = {}
    notes = []
    evidence = row_scores.log_evidence(idata)
    if evidence is not None:
        found[EVIDENCE] = evidence
    left_out = row_scores.loo(idata)
    if left_out is not None:
        found[LOO], shapes = left_out
        share = float((~(shapes <= BAD_KHAT)).mean())  # NaN: too few draws to tell
        if share > 0:
            notes.append(
                f"{name}: LOO is not reliable in {share:.1%} of the rows (k-hat above {BAD_KHAT})"
            )
    for site in row_scores.label_sites(idata):
        labels = row_scores.labels(idata, site)
        found[f"error of {site}"] = labels.wrong
        found[f"calibration of {site}"] = row_scores.calibration(labels)
    for score, values in found.items():
        if not np.isfinite(values).all():
            bad = int((~np.isfinite(values)).sum())
            notes.append(f"{name}: {score} is not finite in {bad} rows")
    return found, notes


def _scores(score: str, rows: Mapping[str, Array]) -> dict[str, Score]:
    values = {name: float(each.mean()) for name, each in rows.items()}
    pick = max if score in LARGEST else min
    best = pick(values, key=lambda name: values[name])
    return {
        name: Score(
            values[name], _error(each), values[name] - values[best], _error(each - rows[best])
        )
        for name, each in rows.items()
    }


def _error(values: Array) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _numbers(idata: az.InferenceData) -> Array:
    """Row numbers; the first ones are those with draws."""
    ours = "datum" in groups_of(idata).get("diagnostics", {})
    group = "diagnostics" if ours else "posterior"
    numbers: Array = idata[group]["datum"].values
    return numbers


def _check_same(one: str, a: az.InferenceData, other: str, b: az.InferenceData) -> None:
    """Raise unless two posteriors are of the same rows of the same data."""
    if "posterior" not in groups_of(b) or "datum" not in b.posterior.dims:
        raise ValueError(f"{other} holds no posterior of rows")
    if a.attrs.get("data") != b.attrs.get("data"):
        raise ValueError(
            f"{one} is of {a.attrs.get('data')}, {other} of {b.attrs.get('data')}; export both "
            "for the same split of the same data"
        )
    if not np.array_equal(_numbers(a), _numbers(b)):
        raise ValueError(
            f"{one} has {_numbers(a).size} rows, {other} has {_numbers(b).size}, not the same "
            "ones; export both with the same --split, --rows and data seed"
        )
    for group in ("observed_data", "constant_data"):
        if group not in groups_of(a) or group not in groups_of(b):
            continue
        for site in set(a[group].data_vars) & set(b[group].data_vars):
            left, right = a[group][site], b[group][site]
            if left.shape != right.shape or not np.array_equal(left.values, right.values):
                raise ValueError(f"{one} and {other} have other values of {site!r} in their rows")


def _head(score: str) -> str:
    return f"{score}, nats" if score in LARGEST else f"{score}, %"


def _cell(score: str, value: float, error: float) -> str:
    if score in LARGEST:
        return f"{value:.3f} +- {error:.3f}"
    return f"{100 * value:.2f} +- {100 * error:.2f}"


def _table(lines: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
