"""The prior over a pair's labels, as one setting and one module for every pair that has it.

A config gets the setting ``label_prior = label_prior("uniform")``, ``__init__`` a
``LabelPrior(config.label_prior, {"y": classes})``, and the story draws ``y`` from
``self.label_prior("y")``. :func:`ppl_models.build` turns ``"frequencies"`` into the numbers that
they come to in its data, which the config then holds: a saved run needs no data to come back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from ppl_models.config import setting, unknown

KINDS = ("uniform", "frequencies", "learnt")
NEAR = 1e-6  # by which the probabilities that are given may miss 1


def label_prior(
    default: str | tuple[float, ...] = "uniform", of: str = "y", symbol: str = ""
) -> Any:
    """The setting: uniform, frequencies of the labelled rows, learnt, or given.

    Args:
        default: The paper's: one of :data:`KINDS`, or a probability for each class, those of
            several labels one after the other.
        of: Name of the label, or of the field that lists the labels.
        symbol: The paper's, ``p(<of>)`` if empty.
    """
    without = ", uniform if built without data" if default == "frequencies" else ""
    doc = (
        f"{symbol or f'p({of})'}; frequencies are those of the labelled training rows{without}; "
        "or a number per class"
    )
    return setting(default, doc, choices=KINDS, prior_of=of)


class LabelPrior(nn.Module):
    """p(y) of each label, called with the label's name.

    Args:
        given: ``"uniform"``; ``"learnt"``, which starts uniform; probabilities; or
            ``"frequencies"``, which only a table can tell and are uniform without.
        classes: Number of classes by label, in the order in which probabilities are given.

    Attributes:
        logits: Of the labels' classes, one label after the other.

    Raises:
        ValueError: If there is no such kind, or probabilities are too few or too many, are not
            positive, or those of a label do not sum to 1.
    """

    logits: Tensor

    def __init__(self, given: str | tuple[float, ...], classes: Mapping[str, int]) -> None:
        super().__init__()
        if isinstance(given, str) and given not in KINDS:
            raise ValueError(unknown("label prior", given, KINDS))
        self.places: dict[str, slice] = {}
        last = 0
        for site, count in classes.items():
            self.places[site] = slice(last, last := last + count)
        self.given = None if isinstance(given, str) else given
        if self.given is not None:
            _check(self.given, self.places)
        start = torch.zeros(last) if self.given is None else self._given()
        if given == "learnt":
            self.logits = nn.Parameter(start)
        else:
            self.register_buffer("logits", start, persistent=False)

    def forward(self, site: str) -> dist.Categorical:
        """The distribution over the classes of a label."""
        return dist.Categorical(logits=self.logits[self.places[site]])

    def _given(self, **like: Any) -> Tensor:
        assert self.given is not None
        return torch.tensor([math.log(p) for p in self.given], **like)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LabelPrior:
        """Move or cast; what was given is not rounded to the type that it had before."""
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.given is not None:
            self.logits = self._given(dtype=self.logits.dtype, device=self.logits.device)
        return self


def _check(given: tuple[float, ...], places: Mapping[str, slice]) -> None:
    sizes = {site: place.stop - place.start for site, place in places.items()}
    if len(given) != sum(sizes.values()):
        told = ", ".join(f"{count} of {site}" for site, count in sizes.items())
        raise ValueError(
            f"label_prior has {len(given)} numbers, expected {sum(sizes.values())}, one per "
            f"class: {told}"
        )
    for site, place in places.items():
        own = given[place]
        for code, probability in enumerate(own):
            if not 0 < probability < math.inf:
                raise ValueError(
                    f"label_prior gives class {code} of {site} the probability {probability:g}, "
                    "expected one above 0"
                )
        if not abs((total := math.fsum(own)) - 1) <= NEAR:
            raise ValueError(
                f"label_prior gives {site} probabilities that sum to {total:g}, expected 1"
            )
