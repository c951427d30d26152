"""Whether training came to its end: by the slope of its loss, and by the steps of its plan.

The **slope** is that of the loss over the last fifth of the last stage, or its last 40 points
(:data:`POINTS`) where there are fewer, at most half: training was too short if the loss falls by
more than 3 standard errors and by more than 1 % (:data:`SLOPE_SHARE`) of all that the stage
gained. A plateau that training would leave later cannot be told from its end.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr

from ppl_models.inference.diagnostics.finding import Finding

SLOPE_SHARE = 0.01
POINTS, FEW = 40, 20
CURVE = {"chain", "step"}


def training_checks(groups: Mapping[str, xr.Dataset], attrs: Mapping[Any, Any]) -> list[Finding]:
    """Checks of training curves, one for each chain.

    Args:
        groups: With ``training``.
        attrs: Of the posterior; ``training_status`` and ``training_steps`` (taken and planned)
            are looked at.
    """
    training = groups.get("training", xr.Dataset())
    if set(training.get("loss", xr.DataArray()).dims) != CURVE:
        return []
    chains = int(training.sizes["chain"])
    checks = [
        _slope(training.isel(chain=chain), f" of chain {chain}" if chains > 1 else "")
        for chain in range(chains)
    ]
    return [*_plan(attrs), *checks]


def _plan(attrs: Mapping[Any, Any]) -> list[Finding]:
    """Whether all steps were taken that were wanted.

    Runs that stopped by their validation rows are finished; who stops one by a callback wants no
    more steps.
    """
    status, steps = attrs.get("training_status"), np.atleast_1d(attrs.get("training_steps", ()))
    if status is None or steps.shape != (2,) or steps.dtype.kind not in "iu":
        return []
    taken, planned = map(int, steps)
    of = f"{taken} of {planned} planned steps" if planned else f"{taken} steps"
    return [
        Finding(
            "plan", status in ("finished", "stopped"),
            f"training is {status} after {of} (expected finished or stopped)",
            "go on with it: --resume, or fit(..., resume=True)", figure=taken, limit=planned,
        )
    ]  # fmt: skip


def _slope(training: xr.Dataset, of: str) -> Finding:
    training = training.isel(step=~np.isnan(training["loss"].values))
    loss = training["loss"].values
    if "stage" in training and len(loss):
        stage = training["stage"].values
        loss = loss[stage == stage[-1]]
    loss = loss[np.isfinite(loss)]
    count = max(math.ceil(len(loss) / 5), min(POINTS, len(loss) // 2))
    if len(loss) < FEW:
        return Finding(
            "slope", True,
            f"the training curve{of} has {len(loss)} points, too few to tell its slope (at least "
            f"{FEW})", "train longer", "loss", len(loss), FEW,
        )  # fmt: skip
    last = loss[-count:]
    step = np.arange(count) - (count - 1) / 2
    slope = float(step @ last / (step @ step))
    residual = last - last.mean() - slope * step
    error = math.sqrt(float(residual @ residual) / (count - 2) / float(step @ step)) * count
    change = slope * count
    gained = float(loss[:count].mean() - last.mean())
    limit = max(3 * error, SLOPE_SHARE * abs(gained))
    return Finding(
        "slope", abs(change) <= limit,
        f"the training loss{of} changed by {change:.3g} nats over its last {count} points (at "
        f"most {limit:.2g}: 3 standard errors, or 1 % of the {abs(gained):.3g} gained before)",
        "train longer" if change < 0 else "use a smaller learning rate: the loss rises",
        "loss", change, limit,
    )  # fmt: skip
