"""What a sample site of Pyro is: a plate's own, a row's own, and its distribution."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import constraints

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


def support_words(support: Any) -> str:
    """What a support allows, in words and in one line."""
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    low, high = (_bound(getattr(support, f"{end}_bound", None)) for end in ("lower", "upper"))
    kind = "whole numbers" if support.is_discrete else "numbers"
    if low and high:
        return f"{kind} from {low} to {high}"
    if low or high:
        strict = isinstance(support, constraints.greater_than | constraints.less_than)
        if low:
            return f"{kind} {'above' if strict else 'of at least'} {low}"
        return f"{kind} {'below' if strict else 'of at most'} {high}"
    known = {
        "Boolean()": "0 or 1",
        "Real()": "finite numbers",
        "Simplex()": "shares that add up to 1",
        "OneHot()": "one 1 among zeros",
        "Sphere()": "vectors of length 1",
    }
    return known.get(str(support), " ".join(str(support).split()))


def _bound(bound: Any) -> str:
    """An end of an interval, which may differ from entry to entry; empty without one."""
    if bound is None:
        return ""
    ends = torch.as_tensor(bound, dtype=torch.float64).unique().tolist()
    return f"{ends[0]:g}" if len(ends) == 1 else f"[{ends[0]:g} ... {ends[-1]:g}]"
