"""Which supports a Normal can be carried to."""

from __future__ import annotations

from typing import Any

from torch.distributions import constraints

# Supports without bounds that could depend on other sites.
SUPPORTS = {
    "positive": constraints.positive,
    "nonnegative": constraints.nonnegative,
    "unit_interval": constraints.unit_interval,
    "simplex": constraints.simplex,
}


def support_of(name: str, fn: Any) -> str | None:
    """Name in ``SUPPORTS`` of a site's support; None if it is all real numbers or vectors.

    Args:
        name: Name of the site, for the message.
        fn: Its distribution.

    Raises:
        ValueError: Naming the site, if its support is discrete or its bounds could vary.
    """
    support = fn.support
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    if isinstance(support, type(constraints.real)):
        return None
    for known, constraint in SUPPORTS.items():
        if support is constraint:
            return known
    raise ValueError(
        f"site {name!r} has support {support}, to which no Normal is carried here; expected "
        f"real numbers, {', '.join(SUPPORTS)}"
    )
