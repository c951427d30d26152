"""Hiding labels, for semi-supervised learning."""

from __future__ import annotations

import torch
from torch import Tensor

from ppl_models.data.seeds import MASK, generator


def hide_labels(
    y: Tensor, labelled: int, classes: int, seed: int, balanced: bool = True
) -> Tensor:
    """Choose the rows that keep their label.

    Args:
        y: Labels ``(N,)`` in ``0 .. classes-1``; rows with -1 have none to keep.
        labelled: Number of rows that keep their label, over all classes.
        classes: Number of classes C.
        seed: Seed of the choice.
        balanced: Keep ``labelled / C`` rows of each class; where that is no whole number the
            seed decides which classes keep one more. Otherwise any rows are kept.

    Returns:
        Mask ``(N,)``, True where the label stays.

    Raises:
        ValueError: If ``labelled`` is less than the number of classes, or more than the rows
            that are there.
    """
    if labelled < classes:
        raise ValueError(
            f"labelled is {labelled}, expected at least one row per class ({classes})"
        )
    draw = generator(seed, MASK)
    candidates = torch.randperm(len(y), generator=draw)
    candidates = candidates[y[candidates] >= 0]
    if labelled > len(candidates):
        raise ValueError(f"labelled is {labelled}, but only {len(candidates)} rows have a label")
    if balanced:
        kept = torch.full((classes,), labelled // classes)
        kept[torch.randperm(classes, generator=draw)[: labelled % classes]] += 1
        there = torch.bincount(y[candidates], minlength=classes)
        if bool((there < kept).any()):
            c = int((there < kept).nonzero()[0])
            raise ValueError(
                f"labelled is {labelled}, which asks for {int(kept[c])} rows of class {c}, but "
                f"there are {int(there[c])}"
            )
        # Rows of one class side by side, in random order: its first rows are kept.
        candidates = candidates[y[candidates].argsort(stable=True)]
        place = torch.arange(len(candidates)) - (there.cumsum(0) - there)[y[candidates]]
        candidates = candidates[place < kept[y[candidates]]]
    mask = torch.zeros(len(y), dtype=torch.bool)
    mask[candidates[:labelled]] = True
    return mask
