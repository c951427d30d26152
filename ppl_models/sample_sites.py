"""What a sample site of Pyro is: a plate's own, a row's own, and its distribution."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist

DATA = "data"  # name of the plate over rows


def is_plate(site: Any) -> bool:
    """Whether a site is a plate's choice of rows."""
    return type(site["fn"]).__name__ == "_Subsample"


def is_local(site: Any) -> bool:
    """Whether a site stands inside the data plate."""
    return any(frame.name == DATA for frame in site["cond_indep_stack"])


def base_of(fn: Any) -> Any:
    """The distribution whose copies make up a vector of independent ones, or that is expanded."""
    while isinstance(fn, dist.Independent | dist.ExpandedDistribution):
        fn = fn.base_dist
    return fn
