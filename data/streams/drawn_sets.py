"""Sets drawn anew for each batch: a row has a pool of elements, and training sees some of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import image_shape, whole
from ppl_models.data.streams.colour_steps import Colour, DropChannels, Grey
from ppl_models.data.streams.row_steps import Step
from ppl_models.elements import THERE, filled, present

OF_SINGLE = (Colour, DropChannels, Grey)  # what they do hangs on the channels of one image


@dataclass(frozen=True)
class DrawnSets:
    """Draws elements of a set in each batch; a stage's ``prepare``.

    Attributes:
        site: The set.
        sizes: Least and greatest number of elements.
        steps: Steps that all elements of a set share.
        shape: (H, W, C) of elements that are images stored flat; None for any other kind.
        binary: Whether each number, taken as a probability, is replaced by a draw of 0 or 1.
    """

    site: str
    sizes: tuple[int, int]
    steps: tuple[Step, ...] = ()
    shape: tuple[int, int, int] | None = None
    binary: bool = False

    def __call__(self, batch: Batch) -> Batch:
        """The batch with some of each row's elements, in random order.

        Raises:
            ValueError: In one line, if the batch lacks the set, or its elements have another size
                than the shape.
        """
        if self.site not in batch:
            raise ValueError(f"drawn sets of site {self.site!r}, but the batch has {list(batch)}")
        values = batch[self.site]
        if values.dim() < 3:
            raise ValueError(
                f"drawn sets of site {self.site!r}, whose rows have shape "
                f"{tuple(values.shape[1:])}, expected elements first"
            )
        rows, pool = values.shape[:2]
        there = present(batch, self.site, pool, rows)
        least, most = (min(size, pool) for size in self.sizes)
        # Of all draws row numbers come first, so that processes that share a batch share them.
        noise = torch.rand((rows, pool + 1), dtype=torch.float64, device=values.device)
        ranks = torch.where(there, noise[:, 1:], 2.0).argsort(1)[:, :most]
        size = least + (noise[:, 0] * (most - least + 1)).long().clamp(max=most - least)
        size = torch.minimum(size, there.sum(1))
        drawn = torch.arange(most, device=values.device) < size[:, None]
        index = ranks.reshape(rows, most, *[1] * (values.dim() - 2))
        kept = values.gather(1, index.expand(-1, -1, *values.shape[2:]))
        kept = filled(self._changed(kept), drawn)
        return batch.replace({**batch, self.site: kept, self.site + THERE: drawn.to(kept.dtype)})

    def _changed(self, sets: Tensor) -> Tensor:
        """Elements ``(B, M, ...)`` after the steps, which are drawn once for each set."""
        value = sets
        if self.shape is not None:
            if math.prod(sets.shape[2:]) != math.prod(self.shape):
                raise ValueError(
                    f"drawn sets of site {self.site!r}: its elements have shape "
                    f"{tuple(sets.shape[2:])}, expected {' x '.join(map(str, self.shape))} numbers"
                )
            # Elements as channels of one image: a step moves all channels of an image alike.
            value = sets.unflatten(2, self.shape).permute(0, 1, 4, 2, 3).flatten(1, 2)
        for step in self.steps:
            value = step(value)
        if self.shape is not None:
            value = value.unflatten(1, (-1, self.shape[2])).permute(0, 1, 3, 4, 2)
            value = value.reshape(sets.shape)
        if self.binary:
            value = (torch.rand_like(value) < value).to(value.dtype)
        return value


def drawn_sets(
    site: str = "x",
    size: int | Sequence[int] = 5,
    steps: Sequence[Step] = (),
    shape: Sequence[int] | None = None,
    binary: bool = False,
) -> DrawnSets:
    """Sets of some of each row's elements, drawn anew in each batch without replacement.

    ``Stage(prepare=drawn_sets("x", 5))``. A row with fewer elements gives all of them. All draws
    come from torch's generator, row by row: those of a resumed run are those of one that was
    never stopped.

    Args:
        site: The set, with which of its elements there are beside it where rows differ in size.
        size: Elements of a set; or the least and the greatest number, uniform between.
        steps: Steps of augmentation, of which each set has draws of its own and all its elements
            the same: a concept that is turned stays one concept.
        shape: (H, W, C) or (H, W) of elements that are images stored flat; None for others.
        binary: Draw each number anew as 0 or 1 with the probability that it is: once per batch,
            so that story and guide see the same.

    Raises:
        ValueError: In one line, if a size is below 1, or a step does not fit.
    """
    ends = (size, size) if isinstance(size, int) else tuple(size)
    if len(ends) != 2 or ends[0] > ends[1]:
        raise ValueError(
            f"size of drawn sets of site {site!r} is {size!r}, expected a number or (least, most)"
        )
    low, high = (whole(f"size of drawn sets of site {site!r}", end, 1) for end in ends)
    sides = None if shape is None else image_shape(f"shape of site {site!r}", shape)
    for step in steps:
        if isinstance(step, type) or not callable(step):
            raise ValueError(f"a step of site {site!r} is {step!r}, expected a call like Flip()")
        refusal = getattr(step, "refusal", lambda shape: "")(sides)
        if isinstance(step, OF_SINGLE):
            refusal = "expected a step that does the same to every channel"
        if refusal:
            raise ValueError(f"{type(step).__name__} of site {site!r}: {refusal}; got {sides}")
    return DrawnSets(site, (low, high), tuple(steps), sides, binary)
