"""Combinations of which a few are tried by default."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest


def in_turn(*axes: Sequence[Any]) -> list[Any]:
    """All combinations of values, as parameters of a test.

    By default every combination of the shorter axes is tried, with the values of the longest in
    turn, so that each value meets each of another axis; the others are long.
    """
    most = max(map(len, axes))
    return [
        pytest.param(
            *(axis[at] for axis, at in zip(axes, place, strict=True)),
            marks=() if sum(place) % most == 0 else pytest.mark.long,
        )
        for place in product(*(range(len(axis)) for axis in axes))
    ]
