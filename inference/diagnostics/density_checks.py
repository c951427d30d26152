r"""What can be checked where rows have no evidence: of contrastive stories and generators.

What needs an evidence (k-hat, effective draws, the gap of the bound, LOO, the decoder) is left out
and said so. In its place:

- **Spread** of codes: the variance of a code over rows as a share of its mean square, below 1 %
  (:data:`SPREAD`) where all rows have one embedding: complete collapse.
- **Rank**: the effective rank of the codes' covariance, exp of the entropy of its eigenvalues'
  shares (Roy and Vetterli 2007). Below 1.1 (:data:`RANK`) all codes lie on a line: collapse of
  dimensions (Jing et al. 2022, arXiv 2110.09348). Two classes alone already span more.
- **Probe**: accuracy of a logistic regression from codes to each label that is known, by
  five-fold cross-validation; it must beat the most frequent class by 3 standard errors.
- **Coverage** of attributes, of generators: the share of an attribute's ten bins, each with a
  tenth of the rows, that draws from the prior reach. Attributes are the numbers of the data, or
  their first five principal components where there are more than ten. Below 0.8
  (:data:`COVERED`) modes are missing; 100 right draws miss one bin in 4,000.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.inference.diagnostics.finding import Finding
from ppl_models.inference.metrics.few_shot import probe
from ppl_models.inference.posterior.groups import Array

SPREAD, RANK, COVERED = 0.01, 1.1, 0.8
ROWS, LEAST, FOLDS = 1000, 50, 5  # rows looked at, and the least of them; folds of the probe
BINS, FEW, COMPONENTS, DRAWS = 10, 10, 5, 100


def density_checks(groups: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> list[Finding]:
    """Checks of a posterior whose rows have no evidence, or no weights; none where they have both.

    Args:
        groups: With ``posterior``; ``constant_data`` for labels, ``observed_data`` and
            ``prior_predictive`` for what is generated.
        attrs: Of the posterior; ``no_evidence`` says why there is none, ``points`` where the
            guide has points, whose draws have no weights.
    """
    reason, points = str(attrs.get("no_evidence", "")), str(attrs.get("points", ""))
    if not reason and points:
        told = f"{points} is a point in the guide: k-hat, effective draws and the gap are left out"
        return [Finding("weights", True, told, "", left_out=True)]
    if not reason:
        return []
    found = [
        Finding(
            "evidence", True,
            f"{reason}: k-hat, effective draws, the gap, LOO and the decoder are left out", "",
            left_out=True,
        )
    ]  # fmt: skip
    found += _of_codes(groups) if attrs.get("density") == "codes" else []
    return [*found, *_of_data(groups)]


def code_spread(codes: Array) -> tuple[float, float]:
    """Whether codes of rows tell the rows apart.

    Args:
        codes: ``(N, K)``.

    Returns:
        Their variance over rows as a share of their mean square, 0 where all are alike, and the
        effective rank of their covariance, 1 to K.
    """
    codes = np.asarray(codes, float)
    apart = codes - codes.mean(0)
    square = float((codes**2).sum(1).mean())
    share = float((apart**2).sum(1).mean()) / square if square else 0.0
    values = np.linalg.svd(apart, compute_uv=False) ** 2
    if not values.sum():
        return 0.0, 1.0
    shares = values[values > 0] / values.sum()
    return share, float(np.exp(-(shares * np.log(shares)).sum()))


def probe_accuracy(codes: Array, labels: Array, folds: int = FOLDS) -> tuple[float, float]:
    """How well a linear probe tells a label from codes, on rows that it was not fitted on.

    Args:
        codes: ``(N, K)``.
        labels: ``(N,)``; classes in fewer rows than there are folds are left out.
        folds: Of the cross-validation.

    Returns:
        Its accuracy, and the share of the most frequent class.

    Raises:
        ValueError: If fewer than two classes are left.
    """
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    names, counts = np.unique(labels, return_counts=True)
    kept = np.isin(labels, names[counts >= folds])
    if (counts >= folds).sum() < 2:
        raise ValueError(f"labels have {len(names)} classes, expected two of {folds} rows each")
    x, y = np.asarray(codes, float)[kept], labels[kept]
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    told = cross_val_predict(probe(), x, y, cv=split)
    return float((told == y).mean()), float(counts[counts >= folds].max() / len(y))


def attribute_coverage(real: Array, generated: Array, bins: int = BINS) -> Array:
    """Share of each attribute's bins that generated rows reach.

    Args:
        real: Attributes of real rows ``(N, A)``, such as the thickness of a digit; or ``(N,)``.
        generated: The same of generated rows.
        bins: Bins of each attribute, with as many real rows each; the outer ones are open.

    Returns:
        ``(A,)``; NaN for an attribute of one value only.
    """
    real, generated = (np.asarray(v, float).reshape(len(v), -1) for v in (real, generated))
    found = np.full(real.shape[1], np.nan)
    for place, (own, made) in enumerate(zip(real.T, generated.T, strict=True)):
        edges = np.unique(np.quantile(own, np.linspace(0, 1, bins + 1)[1:-1]))
        there = np.unique(np.searchsorted(edges, own, side="right"))
        if len(there) > 1:
            reached = np.unique(np.searchsorted(edges, made, side="right"))
            found[place] = np.isin(there, reached).mean()
    return found


def _of_codes(groups: Mapping[str, xr.Dataset]) -> Iterator[Finding]:
    posterior = groups.get("posterior", xr.Dataset())
    for name, draws in posterior.data_vars.items():
        if draws.dtype.kind != "f" or "datum" not in draws.dims or draws.sizes["datum"] < LEAST:
            continue
        if str(name).endswith("_probs"):
            continue
        count = draws.sizes["datum"]
        rows = np.unique(np.linspace(0, count - 1, min(count, ROWS)).astype(int))
        mean = draws[{"chain": 0, "datum": rows}].mean("draw").transpose("datum", ...)
        codes = mean.values.reshape(len(rows), -1)
        yield from _spread(str(name), codes)
        yield from _probes(str(name), codes, groups.get("constant_data", xr.Dataset()), rows)


def _spread(name: str, codes: Array) -> Iterator[Finding]:
    share, rank = code_spread(codes)
    advice = (
        "stop the gradient of one view, predict it by a network of its own, or ask for variance: "
        "the codes have collapsed"
    )
    yield Finding(
        "spread", share >= SPREAD,
        f"the variance of {name} over rows is {share:.2%} of its mean square (at least "
        f"{SPREAD:.0%})", advice, name, share, SPREAD,
    )  # fmt: skip
    if codes.shape[1] > 1:
        yield Finding(
            "rank", rank >= RANK,
            f"the effective rank of {name} is {rank:.2f} of {codes.shape[1]} (at least {RANK})",
            advice, name, rank, RANK,
        )  # fmt: skip


def _probes(name: str, codes: Array, constant: xr.Dataset, rows: Array) -> Iterator[Finding]:
    for label in [str(n)[: -len("_true")] for n in constant if str(n).endswith("_true")]:
        truth = constant[f"{label}_true"].values[rows]
        known = truth >= 0
        if known.sum() < LEAST:
            continue
        try:
            right, frequent = probe_accuracy(codes[known], truth[known])
        except ValueError:
            continue  # of one class there is nothing to tell
        limit = frequent + 3 * math.sqrt(frequent * (1 - frequent) / int(known.sum()))
        yield Finding(
            "probe", right > limit,
            f"a linear probe tells {label} from {name} in {right:.1%} of {int(known.sum())} rows "
            f"(more than {limit:.1%}: the most frequent class and 3 standard errors)",
            f"train longer, or use views that keep {label}", label, right, limit,
        )  # fmt: skip


def _of_data(groups: Mapping[str, xr.Dataset]) -> Iterator[Finding]:
    observed = groups.get("observed_data", xr.Dataset())
    made = groups.get("prior_predictive", xr.Dataset())
    for name, values in observed.data_vars.items():
        if name not in made or values.dtype.kind not in "fiu" or "datum" not in values.dims:
            continue
        real = values.transpose("datum", ...)[:ROWS].values.reshape(
            min(values.sizes["datum"], ROWS), -1
        )
        drawn = made[name].stack(sample=("chain", "draw")).transpose("sample", ...).values
        drawn = drawn.reshape(len(drawn), -1)
        if len(real) < LEAST or len(drawn) < DRAWS:
            continue
        what = "numbers"
        if real.shape[1] > FEW:
            axes = np.linalg.svd(real - real.mean(0), full_matrices=False)[2][:COMPONENTS].T
            real, drawn, what = real @ axes, drawn @ axes, "principal components"
        shares = attribute_coverage(real, drawn)
        if np.isnan(shares).all():
            continue
        worst = int(np.nanargmin(shares))
        yield Finding(
            "coverage", bool(shares[worst] >= COVERED),
            f"generated rows reach {shares[worst]:.0%} of the bins of attribute {worst} of {name} "
            f"(at least {COVERED:.0%} of each of {len(shares)} {what})",
            "train longer, or another objective: modes of the data are missing",
            str(name), float(shares[worst]), COVERED,
        )  # fmt: skip
