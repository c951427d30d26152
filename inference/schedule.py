"""Numbers that change over training, as functions of its progress in [0, 1]."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Anneal:
    """Goes linearly from ``first`` to ``last`` between two moments of training.

    Args:
        first: Value up to ``start``.
        last: Value from ``end`` on.
        start: Share of the training steps after which the change begins.
        end: Share after which it is complete; equal to ``start`` for a jump.
    """

    first: float
    last: float
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        """Check the two moments."""
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(
                f"Anneal runs from {self.start} to {self.end}, expected 0 <= start <= end <= 1"
            )

    def __call__(self, progress: float) -> float:
        """The value when this share of the steps is done."""
        if progress < self.start:
            return self.first
        if progress >= self.end:
            return self.last
        share = (progress - self.start) / (self.end - self.start)
        return self.first + share * (self.last - self.first)

    def __str__(self) -> str:
        """E.g. ``1 -> 0``."""
        return f"{self.first:g} -> {self.last:g}"
