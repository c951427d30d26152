"""One check of a posterior: a figure, what it is held against, and what to try where it fails."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name: Name of the check, such as ``"k-hat"`` or ``"calibration"``.
        ok: Whether it passed.
        fact: A clause with the figure and the threshold.
        advice: What to try where it failed.
        variable: The site or variable it is about; empty for the posterior as a whole.
        figure: The figure.
        limit: The threshold; the nearer of the two where there are two.
        left_out: Whether the check was not made, for the reason that the fact says.
        unjudged: Whether nothing is held against the figure: what is good depends on the purpose.
    """

    name: str
    ok: bool
    fact: str
    advice: str
    variable: str = ""
    figure: float = float("nan")
    limit: float = float("nan")
    left_out: bool = False
    unjudged: bool = False

    @property
    def sentence(self) -> str:
        """The fact, and after a failed check the advice, as every page and command shows it."""
        return f"{self.fact}." if self.ok else f"{self.fact}. To try: {self.advice}."

    def plain(self) -> dict[str, Any]:
        """As plain values, with the sentence; figures that are not finite are None."""
        told = {**dataclasses.asdict(self), "sentence": self.sentence}
        for name in ("figure", "limit"):
            told[name] = told[name] if math.isfinite(told[name]) else None
        return told


def among(names: Sequence[str], most: int = 3) -> str:
    """Some names in quotation marks, and how many more there are."""
    shown = ", ".join(repr(str(name)) for name in names[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")
