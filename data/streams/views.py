"""Views: rows of a batch seen in several ways, each with fresh draws."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ppl_models.batch import Batch
from ppl_models.config import image_shape, names
from ppl_models.data.streams.row_steps import Step


@dataclass(frozen=True)
class Views:
    """Makes views of a site of each batch; a stage's ``prepare``.

    Attributes:
        site: The site that is seen.
        into: Sites of the views.
        steps: Steps of each view, in order.
        shape: (H, W, C) of images that are stored flat; None for rows of any other kind.
        keep: Whether the site itself stays in the batch.
    """

    site: str
    into: tuple[str, ...]
    steps: tuple[tuple[Step, ...], ...]
    shape: tuple[int, int, int] | None = None
    keep: bool = True

    def __call__(self, batch: Batch) -> Batch:
        """The batch with its views.

        Raises:
            ValueError: In one line, if the batch lacks the site or has one called as a view, or
                rows have another size than the shape.
        """
        if self.site not in batch:
            raise ValueError(f"views of site {self.site!r}, but the batch has {list(batch)}")
        taken = [name for name in self.into if name in batch and name != self.site]
        if taken:
            raise ValueError(
                f"a view of site {self.site!r} is called {taken[0]!r}, as a site of the batch is"
            )
        seen = batch[self.site]
        kept = {n: v for n, v in batch.items() if self.keep or n != self.site}
        made = {n: self._view(seen, steps) for n, steps in zip(self.into, self.steps, strict=True)}
        observed = {n: k for n, k in batch.observed.items() if n in kept}
        observed |= dict.fromkeys(made, batch.observed[self.site])
        return Batch(
            {**kept, **made}, batch.rows, size=batch.size, total=batch.total, observed=observed
        )

    def _view(self, seen: Tensor, steps: Sequence[Step]) -> Tensor:
        if not seen.is_floating_point():
            raise ValueError(
                f"views of site {self.site!r}, whose values are {seen.dtype}, expected "
                "floating numbers"
            )
        value = seen
        if self.shape is not None:
            if math.prod(seen.shape[1:]) != math.prod(self.shape):
                raise ValueError(
                    f"views of site {self.site!r}: its rows have shape {tuple(seen.shape[1:])}, "
                    f"expected {' x '.join(map(str, self.shape))} numbers"
                )
            value = seen.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        for step in steps:
            value = step(value)
        if self.shape is not None:
            value = value.permute(0, 2, 3, 1).reshape(seen.shape)
        return value.contiguous()


def views(
    site: str,
    into: Sequence[str],
    steps: Sequence[Step] | Sequence[Sequence[Step]],
    shape: Sequence[int] | None = None,
    keep: bool = True,
) -> Views:
    """Two or more views of a site, as sites of the batch: ``Stage(prepare=views(...))``.

    All draws come from torch's generator, row by row: those of a resumed run are those of one
    that was never stopped, and processes that share a batch draw what one would have drawn.

    Args:
        site: The site that is seen.
        into: Names of the views; the site's own name replaces it.
        steps: Steps of every view, each with draws of its own; or a list for each view.
        shape: (H, W, C) of images that are stored flat, or (H, W), such as ``table.shapes["x"]``;
            None for rows of any other kind.
        keep: Whether the site itself stays in the batch, beside its views.

    Raises:
        ValueError: In one line, if names repeat, the lists are not as many as the views, or a
            step does not fit the shape.
    """
    named = names(f"into of views of site {site!r}", into)
    if not named or len(set(named)) < len(named):
        raise ValueError(f"views of site {site!r} are called {named}, expected names that differ")
    lists: Any = [s for s in steps if isinstance(s, list | tuple)]
    if lists and (len(lists) < len(steps) or len(lists) != len(named)):
        raise ValueError(
            f"views of site {site!r} have {len(steps)} lists of steps, expected one for each of "
            f"{', '.join(named)}, or steps that all share"
        )
    each: Any = tuple(map(tuple, lists)) if lists else (tuple(steps),) * len(named)
    sides = None if shape is None else image_shape(f"shape of site {site!r}", shape)
    for step in (s for part in each for s in part):
        if isinstance(step, type) or not callable(step):
            name = step.__name__ if isinstance(step, type) else repr(step)
            raise ValueError(f"a step of site {site!r} is {name}, expected a call such as Flip()")
        refusal = getattr(step, "refusal", lambda shape: "")(sides)
        if refusal:
            raise ValueError(f"{type(step).__name__} of site {site!r}: {refusal}; got {sides}")
    return Views(site, named, each, sides, keep)
