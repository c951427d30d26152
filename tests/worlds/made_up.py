"""InferenceData of made-up arrays, for checks that look at nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from ppl_models.inference.posterior.groups import as_inference_data
from ppl_models.inference.posterior.importance_weights import per_row


def made_up(
    weights: Any = None,
    loss: Any = None,
    stage: Any = None,
    attrs: dict[str, Any] | None = None,
    **groups: xr.Dataset,
) -> Any:
    """A guide's posterior.

    Args:
        weights: Log weights ``(draw, datum)``.
        loss: Training curve ``(step,)`` or ``(chain, step)``.
        stage: Stage of each of its points.
        attrs: Attributes.
        groups: Further groups.
    """
    if weights is not None:
        dims = ("chain", "draw", "datum")
        groups["sample_stats"] = xr.Dataset({"log_weight": (dims, weights[None])})
        found = per_row(weights)
        groups["diagnostics"] = xr.Dataset({n: (("datum",), v) for n, v in found.items()})
    if loss is not None:
        curve = {"loss": (("chain", "step"), np.atleast_2d(loss))}
        if stage is not None:
            curve["stage"] = (("chain", "step"), np.atleast_2d(stage))
        known = groups.get("training", xr.Dataset())
        groups["training"] = xr.merge([xr.Dataset(curve), known])
    return as_inference_data(groups, {"inference_method": "svi", **(attrs or {})})
